"""Fault maps: the positions of failing cells on a chip.

Cells are numbered along the words: cell ``word * bits + k`` holds bit k. A map gives the failing
cells of one chip (`failing`) and their distribution over chips (`mixture`). Faults are nested: a
cell that fails at some bit error rate fails at every higher one on the same chip.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.tables import read_csv
from joulewise.errors import TableError, check_count, check_in_range, check_kind, refuse

__all__ = ["CorrelatedMap", "FaultMap", "IndependentMap", "MeasuredMap", "starts_run"]

Cells = NDArray[np.int64]
Rates = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FaultMap(ABC):
    """Interface of a fault map."""

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

    def check(self, bits: int) -> None:
        """Refuse a word width at which words would straddle rows or blocks.

        Raises:
            InputError: naming the field.
        """
        for field in ("columns", "cluster_columns"):
            columns = getattr(self, field, bits)
            if columns % bits:
                allowed = f"a multiple of the word's {bits} bits: words may not straddle rows"
                refuse(f"{field} of the fault map", columns, allowed)

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
        plane = cells % bits
        if rates.ndim > 2:  # planes of channels: an equal number of words, one after the other
            plane += cells // (words // rates.shape[1] * bits) * bits

        def failing_while(held: int) -> Cells:
            hit = cells[times <= horizons[held].reshape(-1)[plane]]
            if certain[held].any():
                hit = np.concatenate([hit, np.flatnonzero(_by_word(certain[held], words))])
            return _each_once(hit)

        on_zero = failing_while(0)
        return on_zero, on_zero if np.array_equal(rates[0], rates[1]) else failing_while(1)

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component: the rates themselves."""
        return torch.ones(1, dtype=torch.float64), rates[None]


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


def _by_word(planes: NDArray[Any], words: int) -> NDArray[Any]:
    """Expand ``[bits]`` or ``[channels, bits]`` to ``[words, bits]``."""
    table = planes.reshape(-1, planes.shape[-1])
    return np.repeat(table, words // len(table), axis=0)


def _each_once(cells: Cells) -> Cells:
    """Sort and remove repeats; `numpy.unique` hashes, which is ten times slower here."""
    ordered = np.sort(cells)
    return ordered[starts_run(ordered)]


def starts_run(ordered: Cells) -> NDArray[np.bool_]:
    """Mask of the entries that differ from the one before."""
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelatedMap(FaultMap):
    """Weak rows, columns and blocks of cells: a Gaussian random-effects model.

    Each cell has a standard normal margin

        z = sqrt(row) R + sqrt(column) C + sqrt(cluster) K + sqrt(1 - row - column - cluster) e

    where R is common to a row, C to a column, K to a block of ``cluster_rows`` rows by
    ``cluster_columns`` columns, and e is independent between cells. A cell fails if
    ``Phi(z) < rate``. Over chips every cell fails at exactly the given rate, faults are nested, and
    two cells of a row have latent correlation ``row`` (and so on). z models a threshold voltage
    with within-die components; measured maps have such structure, and ignoring it can misjudge
    accuracy (MoRS, arXiv 2110.05855). A draw takes time by cells, not by faults.

    The bits of a word lie in one row and one block and so share R and K: moments integrate over
    ``sqrt(row) R + sqrt(cluster) K`` with 64-node Gauss-Hermite quadrature. For rates from 2.8e-6
    to 0.5, the relative error of the probability that one, two or three given cells of a word fail
    is below 1e-10 up to ``row + cluster = 0.6``, 1e-7 up to 0.7, 1e-4 up to 0.8, 0.5 % up to 0.9.

    Args:
        row: Fraction of the variance common to a row, 0 or more.
        column: Fraction of the variance common to a column, 0 or more.
        cluster: Fraction of the variance common to a block, 0 or more; the three add up to at most
            0.9.
        columns: Cells in a row of the array; a multiple of the word's bits.
        cluster_rows: Rows in a block.
        cluster_columns: Columns in a block; a multiple of the word's bits.
    """

    row: float = 0.0
    column: float = 0.0
    cluster: float = 0.0
    columns: int = 256
    cluster_rows: int = 16
    cluster_columns: int = 16

    def __post_init__(self) -> None:
        for field in ("row", "column", "cluster"):
            check_in_range(field, getattr(self, field), 0.0, 0.9)
        check_in_range("row + column + cluster", self.row + self.column + self.cluster, 0.0, 0.9)
        for field in ("columns", "cluster_rows", "cluster_columns"):
            check_count(field, getattr(self, field), 1, 1 << 20)

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`."""
        latent = self._latent(words * rates.shape[-1], chip).reshape(words, -1)
        on_zero, on_one = (np.flatnonzero(latent < _by_word(ndtri(p), words)) for p in rates)
        return on_zero, on_one

    def _latent(self, cells: int, chip: Chip) -> Rates:
        """Draw the standard normal margin z of each cell."""
        generator = chip.generator("faults")
        rows = -(-cells // self.columns)
        blocks = (-(-rows // self.cluster_rows), -(-self.columns // self.cluster_columns))
        own = 1.0 - self.row - self.column - self.cluster
        z = np.sqrt(own) * generator.standard_normal((rows, self.columns))
        z += np.sqrt(self.row) * generator.standard_normal((rows, 1))
        z += np.sqrt(self.column) * generator.standard_normal((1, self.columns))
        effect = np.repeat(generator.standard_normal(blocks), self.cluster_rows, axis=0)[:rows]
        effect = np.repeat(effect, self.cluster_columns, axis=1)[:, : self.columns]
        z += np.sqrt(self.cluster) * effect
        latent: Rates = z.reshape(-1)[:cells]
        return latent

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component for each node of the quadrature over the effects that cells share."""
        shared = self.row + self.cluster
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        latent = torch.from_numpy(nodes).reshape(-1, 1, 1)
        # Clamped, since the quantile is infinite at 0 and 1 and has no gradient.
        threshold = torch.special.ndtri(rates.clamp(1e-300, 1 - 1e-16))
        given = torch.special.ndtr((threshold - shared**0.5 * latent) / (1 - shared) ** 0.5)
        return torch.from_numpy(weights / weights.sum()), given


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMap(FaultMap):
    """A fault map measured on silicon: for each cell, the bit error rate at which it first fails.

    Words fill the array row by row, and repeat it if a tensor is larger. Chips differ in the word
    of the array that a tensor starts at, drawn uniformly: a word's distribution over chips is the
    frequency of fault patterns over the words of the map.

    Args:
        columns: Cells in a row of the array.
        thresholds: For each cell, row by row, the lowest bit error rate at which it fails; infinity
            for a cell that never failed.

    Raises:
        InputError: if the array is empty or not rectangular.
    """

    columns: int
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        check_count("columns", self.columns, 1, 1 << 20)
        check_kind("thresholds", self.thresholds, tuple, "a tuple of bit error rates")
        cells = len(self.thresholds)
        if not cells or cells % self.columns:
            allowed = f"a multiple of its {self.columns} columns, and at least one row"
            refuse("the number of cells of the measured map", cells, allowed)

    @classmethod
    def from_csv(cls, path: str | Path, *, rows: int, columns: int) -> MeasuredMap:
        """Read the weak cells of a ``rows`` by ``columns`` array.

        Args:
            path: A CSV file with the columns ``row,column,bit_error_rate``: zero-based position of
                a cell, and the bit error rate of the array at which the cell first failed (0.001
                for one of the weakest thousandth). Lines that start with ``#`` are comments.
            rows: Rows of the array.
            columns: Columns of the array.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        thresholds = np.full((rows, columns), np.inf)
        names = ("row", "column", "bit_error_rate")
        for place, numbers in read_csv(path, names, "fault map")[1]:
            row, column, rate = numbers
            check_in_range(f"{place}: row", row, 0, rows - 1, error=TableError)
            check_in_range(f"{place}: column", column, 0, columns - 1, error=TableError)
            check_in_range(f"{place}: bit_error_rate", rate, 0, 1, open_low=True, error=TableError)
            if row % 1 or column % 1:
                refuse(place, f"cell {row:g},{column:g}", "whole row and column", TableError)
            cell = int(row), int(column)
            if np.isfinite(thresholds[cell]):
                where = f"{place}: cell {row:g},{column:g}"
                refuse(where, "named twice", "one line for each cell", TableError)
            thresholds[cell] = rate
        if not np.isfinite(thresholds).any():
            refuse(str(path), "without any weak cell", "at least one, or no cell fails", TableError)
        return cls(columns=columns, thresholds=tuple(thresholds.reshape(-1).tolist()))

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`."""
        array = np.asarray(self.thresholds).reshape(-1, rates.shape[-1])
        start = int(chip.generator("faults").integers(len(array)))
        thresholds = array[(start + np.arange(words)) % len(array)]
        on_zero, on_one = (np.flatnonzero(thresholds <= _by_word(p, words)) for p in rates)
        return on_zero, on_one

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component for each pattern of faults in the words of the map.

        A step function of the operating point: its gradient is 0 wherever it exists.
        """
        array = np.asarray(self.thresholds).reshape(-1, rates.shape[1])
        fails = array[:, None, :] <= rates.detach().numpy()[None]
        patterns, counts = np.unique(fails, axis=0, return_counts=True)
        weights = torch.from_numpy(counts / counts.sum())
        given = torch.from_numpy(patterns.astype(np.float64))
        return weights, given + 0.0 * rates  # a gradient of 0, where autograd would have none

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        thresholds = np.asarray(self.thresholds, dtype="<f8")
        return {
            "fault_map": "measured",
            "columns": self.columns,
            "cells": len(thresholds),
            "weak_cells": int(np.isfinite(thresholds).sum()),
            "thresholds_blake2b": hashlib.blake2b(thresholds.tobytes(), digest_size=8).hexdigest(),
        }
