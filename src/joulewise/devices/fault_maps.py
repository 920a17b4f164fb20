"""Fault maps: positions of failing cells on a chip; the interface, and independent cells.

Cells are numbered along the words: cell ``word * bits + k`` holds bit k. A map gives the failing
cells of one chip (`failing`) and their distribution over chips (`mixture`). Faults are nested: a
cell that fails at some bit error rate fails at every higher one on the same chip.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.tables import as_numbers, read_csv
from joulewise.errors import TableError, check_count, check_in_range, refuse

__all__ = [
    "FaultMap",
    "IndependentMap",
    "Layout",
    "by_word",
    "check_cells",
    "rate_of",
    "read_cells",
    "starts_run",
    "word_cells",
]

Cells = NDArray[np.int64]
Rates = NDArray[np.float64]

Layout = Literal["adjacent", "interleaved"]

# Time up to which faults of an `IndependentMap` are drawn one by one: a failure rate of 0.1.
_SPARSE = -math.log1p(-0.1)
"""Order of the columns in a row of an array: ``"adjacent"`` keeps the bits of a word side by side;
``"interleaved"`` keeps bit k of all words side by side (column multiplexing), so that neighbouring
columns belong to different words."""


@dataclass(frozen=True, slots=True)
class FaultMap(ABC):
    """Interface of a fault map."""

    @property
    def channels(self) -> bool:
        """True if channels of a tensor may fail at rates of their own."""
        return True

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
    """Cells that fail independently.

    Faults arrive as a Poisson process in ``t = -log(1 - rate)``, each at a uniformly drawn cell,
    and a cell fails from its first arrival on. By Poisson splitting, first arrivals at cells are
    independent and exponential: a cell has failed by ``t`` with probability
    ``1 - exp(-t) = rate`` exactly. A lower supply only adds arrivals.

    Up to a rate of 0.1, arrivals are drawn one by one: a chip takes time in proportion to faults,
    not cells. Exponential times have no memory, so for bit planes of higher rates the time from
    there to the first arrival is drawn for every cell.
    """

    def check(self, bits: int) -> None:
        """Accept any word width."""

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`."""
        bits = rates.shape[-1]
        with np.errstate(divide="ignore"):  # infinite where all cells fail
            horizons = -np.log1p(-rates)
        highest = float(horizons.max())
        times, cells = _arrivals(words * bits, min(highest, _SPARSE), chip)
        if float(horizons.min()) == highest <= _SPARSE:
            failing = _each_once(cells)
            return failing, failing
        plane = rate_of(cells, words, rates)
        beyond = (horizons - _SPARSE).reshape(2, -1, bits).astype(np.float32)
        later = {
            bit: chip.generator(f"faults of plane {bit}")
            .standard_exponential(words, dtype=np.float32)
            .reshape(beyond.shape[1], -1)
            for bit in np.flatnonzero(beyond.max((0, 1)) > 0)
        }

        def failing_while(held: int) -> Cells:
            hit = cells[times <= horizons[held].reshape(-1)[plane]]
            if not later:
                return _each_once(hit)
            found = np.zeros((words, bits), dtype=np.bool_)
            found.reshape(-1)[hit] = True
            for bit, time in later.items():
                found[:, bit] |= (time <= beyond[held, :, bit, None]).reshape(-1)
            return np.flatnonzero(found)

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


def check_cells(cells: tuple[int, ...], rows: int, columns: int, arrays: int) -> None:
    """Refuse cell numbers ``(array * rows + row) * columns + column`` that do not ascend.

    Raises:
        InputError: for those and for numbers outside the arrays.
    """
    for field, count in (("rows", rows), ("columns", columns), ("arrays", arrays)):
        check_count(field, count, 1, 1 << 30)
    most = arrays * rows * columns
    allowed = f"ascending numbers below {most}, at least one, in a tuple"
    numbers = as_numbers("cells", cells, allowed)
    listed = numbers.ndim == 1 and numbers.dtype.kind in "iu"
    inside = listed and numbers.min() >= 0 and numbers.max() < most
    if not inside or (np.diff(numbers) <= 0).any():
        refuse("cells", "empty, or out of order or range", allowed, TableError)


def read_cells(
    path: str | Path, figure: str, highest: float, *, rows: int, columns: int, arrays: int
) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
    """Read cells of arrays, with a figure for each, from a CSV file ``row,column,FIGURE[,array]``.

    Args:
        path: The file, with zero-based positions.
        figure: Name of the column of the figure, above 0.
        highest: Its largest value.
        rows: Rows of an array.
        columns: Columns of an array.
        arrays: Number of arrays.

    Returns:
        The comments; the numbers of the cells, ascending, as for `check_cells`; and their figures.

    Raises:
        TableError: if the file cannot be read or a line is malformed; the message names it.
    """
    source, lines = read_csv(path, ("row", "column", figure), "fault map", optional=["array"])
    sizes, found = {"row": rows, "column": columns, "array": arrays}, {}
    for name, size in sizes.items():
        check_count(f"{name}s", size, 1, 1 << 30)
    for place, (row, column, value, *rest) in lines:
        at = {"row": row, "column": column, "array": rest[0] if rest else 0}
        for name, number in at.items():
            if number % 1 or not 0 <= number < sizes[name]:
                allowed = f"a whole number below {sizes[name]}"
                refuse(f"{place}: {name}", f"{number:g}", allowed, TableError)
        check_in_range(f"{place}: {figure}", value, 0.0, highest, open_low=True, error=TableError)
        cell = int((at["array"] * rows + row) * columns + column)
        if cell in found:
            refuse(place, "a cell named twice", "one line for each cell", TableError)
        found[cell] = value
    if not found:
        refuse(str(path), "without any weak cell", "at least one, or no cell fails", TableError)
    cells = sorted(found)
    return source, tuple(cells), tuple(found[cell] for cell in cells)


def starts_run(ordered: Cells) -> NDArray[np.bool_]:
    """Mask of the entries that differ from the one before."""
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first
