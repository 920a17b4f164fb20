"""Fault maps: the positions of failing cells on a chip, independent ones among them.

Cells are numbered along the words: cell ``word * bits + k`` holds bit k. A map gives the failing
cells of one chip (`failing`) and their distribution over chips (`mixture`). Faults are nested: a
cell that fails at some bit error rate fails at every higher one on the same chip.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.errors import refuse

__all__ = ["FaultMap", "IndependentMap", "Layout", "by_word", "rate_of", "starts_run", "word_cells"]

Cells = NDArray[np.int64]
Rates = NDArray[np.float64]

Layout = Literal["adjacent", "interleaved"]
"""Columns of the words that share a row of an array: those of one word side by side, or those of
one bit side by side, as with column multiplexing, where neighbours belong to different words."""


@dataclass(frozen=True, slots=True)
class FaultMap(ABC):
    """Interface of a fault map."""

    @property
    def channels(self) -> bool:
        """True if channels of a tensor may fail at rates of their own."""
        return True

    @property
    def rows_alike(self) -> bool:
        """True if words of a row have the rates of one component of `mixture`, all of them."""
        return False

    @abstractmethod
    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """The failing cells of one chip.

        Args:
            words: Words in this part of the chip.
            rates: Failure rates of each bit plane for cells that hold 0, then for those that hold
                1: ``[2, bits]``; or ``[2, channels, bits]`` for words stored channel by channel, an
                equal number in each.
            chip: The chip, at the part that holds the words.

        Returns:
            Ascending cell numbers, each once: cells that fail holding 0, and holding 1; the same
            object if they are equal.
        """

    @abstractmethod
    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution of a word's faults over chips, as a mixture of independent cells.

        Args:
            rates: ``[2, bits]``.

        Returns:
            Weights ``[components]``, which sum to 1, and rates ``[components, 2, bits]``.
        """

    @abstractmethod
    def check(self, bits: int) -> None:
        """Refuse a word width that does not fit the map.

        Raises:
            InputError: naming the field.
        """

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"fault_map": type(self).__name__.removesuffix("Map").lower(), **asdict(self)}


@dataclass(frozen=True, slots=True)
class IndependentMap(FaultMap):
    """Cells that fail independently; a draw takes time by faults, not by cells.

    Faults arrive as a Poisson process in ``t = -log(1 - rate)``, each at a uniformly drawn cell,
    and a cell fails from its first arrival on. By Poisson splitting, first arrivals at cells are
    independent and exponential: a cell has failed by ``t`` with probability
    ``1 - exp(-t) = rate`` exactly. A lower supply only adds arrivals.
    """

    def check(self, bits: int) -> None:
        """Accept any word width."""

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`."""
        bits, highest = rates.shape[-1], float(rates.max())
        if float(rates.min()) == highest < 1.0:
            _, cells = _arrivals(words * bits, -math.log1p(-highest), chip)
            failing = _each_once(cells)
            return failing, failing
        certain = rates >= 1.0  # t is infinite: all cells of such planes fail, without arrivals
        horizons = -np.log1p(-np.where(certain, 0.0, rates))
        times, cells = _arrivals(words * bits, float(horizons.max()), chip)
        plane = rate_of(cells, words, rates)

        def failing_while(held: int) -> Cells:
            hit = cells[times <= horizons[held].reshape(-1)[plane]]
            if certain[held].any():
                hit = np.concatenate([hit, np.flatnonzero(by_word(certain[held], words))])
            return _each_once(hit)

        on_zero = failing_while(0)
        return on_zero, on_zero if np.array_equal(rates[0], rates[1]) else failing_while(1)

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component: the rates themselves."""
        return torch.ones(1, dtype=torch.float64), rates[None]


def rate_of(cells: Cells, words: int, rates: Rates) -> Cells:
    """Index of the rate of each cell among those for cells that hold 0; see `FaultMap.failing`."""
    bits = rates.shape[-1]
    plane: Cells = cells % bits
    if rates.ndim > 2:  # planes of channels: an equal number of words, one after the other
        plane += cells // (words // rates.shape[1] * bits) * bits
    return plane


def _arrivals(cells: int, horizon: float, chip: Chip) -> tuple[Rates, Cells]:
    """Arrivals of faults on one chip up to time ``horizon``: ascending times, and their cells.

    Block sizes follow a fixed series, so that a shorter horizon gives a prefix of the arrivals.
    """
    generator = chip.generator("faults")
    now, block = 0.0, 1024
    times, places = [], []
    while now <= horizon:
        gaps = generator.standard_exponential(block)
        times.append(now + np.cumsum(gaps) / cells)
        places.append(generator.integers(cells, size=block))
        now = float(times[-1][-1])
        block = min(2 * block, 1 << 20)
    time = np.concatenate(times)
    count = int(np.searchsorted(time, horizon, side="right"))
    return time[:count], np.concatenate(places)[:count]


def by_word(planes: NDArray[Any], words: int) -> NDArray[Any]:
    """Expand ``[bits]`` or ``[channels, bits]`` to ``[words, bits]``."""
    table = planes.reshape(-1, planes.shape[-1])
    return np.repeat(table, words // len(table), axis=0)


def _each_once(cells: Cells) -> Cells:
    """Sort and remove repeats; `numpy.unique` hashes, which is ten times slower here."""
    ordered = np.sort(cells)
    return ordered[starts_run(ordered)]


def word_cells(bits: int, columns: int, layout: Layout) -> Cells:
    """Cell number, along the words of a row, of each column of an array: ``[columns]``.

    Raises:
        InputError: if words would straddle rows.

    Example:
        >>> word_cells(2, 4, "adjacent").tolist(), word_cells(2, 4, "interleaved").tolist()
        ([0, 1, 2, 3], [0, 2, 1, 3])
    """
    if columns % bits:
        allowed = f"a multiple of the word's {bits} bits: words may not straddle rows"
        refuse("columns of the fault map", columns, allowed)
    cells = np.arange(columns)
    return cells if layout == "adjacent" else cells.reshape(-1, bits).T.reshape(-1)


def starts_run(ordered: Cells) -> NDArray[np.bool_]:
    """Mask of the entries that differ from the one before."""
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first
