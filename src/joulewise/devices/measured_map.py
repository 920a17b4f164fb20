"""Measured fault maps: cells of manufactured arrays that failed, drawn anew for each chip."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.fault_maps import (
    Cells,
    FaultMap,
    Layout,
    Rates,
    check_cells,
    rate_of,
    read_cells,
    word_cells,
)
from joulewise.devices.tables import as_numbers
from joulewise.errors import TableError, refuse

__all__ = ["MeasuredMap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMap(FaultMap):
    """Fault maps of equal arrays measured on silicon: the bit error rate at which a cell fails.

    Words fill arrays row by row. A chip is a bootstrap sample: each array that a tensor needs is
    one of those measured, drawn with replacement, and the first word lies at a position in its
    array that is drawn uniformly. With one measured array, chips differ in their starting position
    alone. A word's distribution over chips is the frequency of fault patterns over all measured
    words.

    Args:
        rows: Rows of an array.
        columns: Cells in a row; a multiple of the word's bits.
        cells: Numbers of the cells that failed, ascending:
            ``(array * rows + row) * columns + column``.
        thresholds: For each of them, the lowest bit error rate at which it fails, above 0 to 1.
        arrays: Arrays that were measured.
        layout: ``"adjacent"`` or ``"interleaved"``; see `Layout`.

    Raises:
        TableError: if cells are outside the arrays or not in order, or thresholds are out of range.
    """

    rows: int
    columns: int
    cells: tuple[int, ...]
    thresholds: tuple[float, ...]
    arrays: int = 1
    layout: Layout = "adjacent"

    def __post_init__(self) -> None:
        check_cells(self.cells, self.rows, self.columns, self.arrays)
        allowed = f"above 0 to 1, one for each of {len(self.cells)} cells, in a tuple"
        rates = as_numbers("thresholds", self.thresholds, allowed)
        if rates.shape != (len(self.cells),):
            refuse("thresholds", f"of shape {rates.shape}", allowed, TableError)
        if not ((rates > 0) & (rates <= 1)).all():
            refuse("thresholds", "out of range", allowed, TableError)
        if self.layout not in get_args(Layout):
            refuse("layout", repr(self.layout), " or ".join(get_args(Layout)))

    def __hash__(self) -> int:
        """Hash of a few cells: each read looks its map up, and maps may have millions."""
        return hash((self.rows, self.columns, len(self.cells), self.cells[:8], self.thresholds[:8]))

    @classmethod
    def from_thresholds(cls, thresholds: ArrayLike, layout: Layout = "adjacent") -> MeasuredMap:
        """Map from the bit error rate at which each cell starts to fail.

        Args:
            thresholds: ``[rows, columns]`` or ``[arrays, rows, columns]``; infinity for a cell that
                never failed.
            layout: See `Layout`.

        Raises:
            TableError: if they are not such numbers.
        """
        allowed = "an array of numbers, [rows, columns] or [arrays, rows, columns]"
        try:
            table = np.asarray(thresholds, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor with a gradient, too
            raise TableError(f"thresholds cannot be read ({error}); allowed: {allowed}") from error
        if table.ndim not in (2, 3):
            refuse("thresholds", f"of shape {table.shape}", allowed, TableError)
        *arrays, rows, columns = table.shape
        cells = np.flatnonzero(table != np.inf)
        return cls(
            rows=rows,
            columns=columns,
            cells=tuple(cells.tolist()),
            thresholds=tuple(table.reshape(-1)[cells].tolist()),
            arrays=arrays[0] if arrays else 1,
            layout=layout,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        rows: int,
        columns: int,
        arrays: int = 1,
        layout: Layout = "adjacent",
    ) -> MeasuredMap:
        """Read the weak cells of ``rows`` by ``columns`` arrays.

        Args:
            path: A CSV file with the columns ``row,column,bit_error_rate[,array]``: zero-based
                position of a cell, and the bit error rate of the array at which the cell first
                failed (0.001 for one of the weakest thousandth). Lines that start with ``#`` are
                comments.
            rows: Rows of an array.
            columns: Columns of an array.
            arrays: Arrays that were measured.
            layout: See `Layout`.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        size = {"rows": rows, "columns": columns, "arrays": arrays}
        _, cells, thresholds = read_cells(path, "bit_error_rate", 1.0, **size)
        return cls(**size, cells=cells, thresholds=thresholds, layout=layout)

    def check(self, bits: int) -> None:
        """Refuse a word width at which words would straddle rows.

        Raises:
            InputError: naming the field.
        """
        word_cells(bits, self.columns, self.layout)

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`.

        Drawing a chip takes time in proportion to faults, not cells.
        """
        bits = rates.shape[-1]
        weak, thresholds, first = _weak_cells(self, bits)
        generator, size = chip.generator("faults"), self.rows * self.columns
        start = int(generator.integers(size // bits)) * bits
        # Arrays are numbered as they are drawn; the first words of the first are not used.
        used = -(-(start + words * bits) // size)
        drawn = generator.integers(self.arrays, size=used)
        # Weak cells of array k are weak[first[k] : first[k + 1]]: the indices of those of all drawn
        # arrays at once, without a loop.
        counts = first[drawn + 1] - first[drawn]
        ends = np.cumsum(counts)
        index = np.arange(ends[-1]) + np.repeat(first[drawn] - ends + counts, counts)
        cells = np.repeat(np.arange(used) * size, counts) + weak[index] - start
        inside = (cells >= 0) & (cells < words * bits)
        cells, thresholds = cells[inside], thresholds[index][inside]
        plane = rate_of(cells, words, rates)
        on_zero, on_one = (cells[thresholds <= p.reshape(-1)[plane]] for p in rates)
        return on_zero, on_one

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component for each pattern of faults in the words of the map.

        A step function of the operating point: its gradient is 0 wherever it exists.
        """
        bits = rates.shape[1]
        cells, thresholds, first = _weak_cells(self, bits)
        array = np.repeat(np.arange(self.arrays), np.diff(first))
        word, place = np.unique(
            (array * self.rows * self.columns + cells) // bits, return_inverse=True
        )
        fails = np.zeros((len(word) + 1, 2, bits), dtype=bool)  # and a word without weak cells
        fails[place, :, cells % bits] = (
            thresholds[:, None] <= rates.detach().numpy().T[cells % bits]
        )
        patterns, index = np.unique(fails, axis=0, return_inverse=True)
        counts = np.bincount(index.reshape(-1), minlength=len(patterns)).astype(np.float64)
        total = self.arrays * self.rows * self.columns // bits
        # The last pattern is that of words without weak cells, which is most of them.
        counts[index.reshape(-1)[-1]] += total - len(fails)
        given = torch.from_numpy(patterns.astype(np.float64))
        # A gradient of 0, where autograd would have none.
        return torch.from_numpy(counts / total), given + 0.0 * rates

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        content = np.array([self.cells, self.thresholds], dtype="<f8").tobytes()
        return {
            "fault_map": "measured",
            "arrays": self.arrays,
            "rows": self.rows,
            "columns": self.columns,
            "layout": self.layout,
            "weak_cells": len(self.cells),
            "cells_blake2b": hashlib.blake2b(content, digest_size=8).hexdigest(),
        }


@lru_cache(maxsize=16)
def _weak_cells(
    found: MeasuredMap, bits: int
) -> tuple[Cells, NDArray[np.float64], NDArray[np.int64]]:
    """Weak cells numbered along the words of their array, ascending; rates; first of each array."""
    size = found.rows * found.columns
    array, place = np.divmod(np.asarray(found.cells), size)
    row, column = np.divmod(place, found.columns)
    cells = row * found.columns + word_cells(bits, found.columns, found.layout)[column]
    order = np.argsort(array * size + cells)
    first = np.searchsorted(array, np.arange(found.arrays + 1))
    return cells[order], np.asarray(found.thresholds, dtype=np.float64)[order], first
