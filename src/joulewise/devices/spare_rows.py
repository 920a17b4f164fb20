"""Row redundancy: spare rows that replace rows with failing cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.fault_maps import Cells, FaultMap, IndependentMap, Rates, word_cells
from joulewise.errors import check_count

__all__ = ["SpareRows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareRows(FaultMap):
    """Row repair: the spare rows of each array replace the first rows that have a failing cell.

    Cells fail independently before repair. Rows are tested and replaced at the operating point. A
    cell that fails at some rate also fails at every higher one: more failing rows never free a
    spare. A spare row has no faults. A tensor begins at a row that is drawn uniformly; other rows
    of its first and last array hold other data.

    Args:
        spares: Spare rows of each array, 1 or more.
        rows: Rows of an array, more than ``spares``.
        columns: Cells in a row; a multiple of the word's bits.
    """

    spares: int = 2
    rows: int = 256
    columns: int = 256

    def __post_init__(self) -> None:
        check_count("spares", self.spares, 1, 1 << 20)
        check_count("rows", self.rows, self.spares + 1, 1 << 20)
        check_count("columns", self.columns, 1, 1 << 20)

    @property
    def channels(self) -> bool:
        """False: rows before and after a tensor fail at its one rate."""
        return False

    def check(self, bits: int) -> None:
        """Refuse a word width at which words would straddle rows.

        Raises:
            InputError: naming the field.
        """
        word_cells(bits, self.columns, "adjacent")

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip after repair; see `FaultMap.failing`."""
        bits = rates.shape[-1]
        start = int(chip.generator("first row").integers(self.rows)) * self.columns
        size = self.rows * self.columns
        arrays = -(-(start + words * bits) // size)
        on_zero, on_one = IndependentMap().failing(arrays * size // bits, rates, chip)
        # In whole arrays, from a row drawn for the tensor: its neighbours' faults use spares, too.
        struck = np.unique(np.concatenate([on_zero, on_one]) // self.columns)
        array = struck // self.rows
        # Position of each struck row among those of its array.
        rank = np.arange(len(struck)) - np.searchsorted(array, array)
        left = struck[rank >= self.spares]

        def after_repair(cells: Cells) -> Cells:
            cells = cells[np.isin(cells // self.columns, left)] - start
            inside: Cells = cells[(cells >= 0) & (cells < words * bits)]
            return inside

        return after_repair(on_zero), after_repair(on_one)

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Two components: words of rows that are replaced if they fail, and of others.

        A row stays if ``spares`` or more of the rows before it fail, whatever its own cells do.
        Averaged over the rows of an array, that is the expected number of failing rows that are
        left, ``E max(N - spares, 0)``, over that of all failing rows, ``E N``, with a binomial N.
        """
        cells = rates.max(0).values  # a cell that fails holding 0 or 1 marks its row
        # Logarithms, which keep small rates and have finite gradients up to rates of 1.
        words = self.columns // rates.shape[1]
        whole = words * torch.log1p(-cells.clamp(max=1 - 1e-12)).sum()  # no cell of a row fails
        struck = torch.log(-torch.expm1(whole.clamp(max=-1e-300)))
        failing = torch.arange(self.spares + 1, self.rows + 1, dtype=torch.float64)
        others = self.rows - failing
        # Chance of j failing rows of n: C(n, j) exp(j struck + (n - j) whole); E N: n exp(struck).
        ways = -torch.lgamma(failing + 1) - torch.lgamma(others + 1) + math.lgamma(self.rows + 1)
        chances = (ways + (failing - 1) * struck + others * whole).exp()
        stays = ((failing - self.spares) / self.rows * chances).sum().clamp(max=1)
        return torch.stack([stays, 1 - stays]), torch.stack([rates, torch.zeros_like(rates)])

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        own = {"spares": self.spares, "rows": self.rows, "columns": self.columns}
        return {"fault_map": "spare rows", **own}
