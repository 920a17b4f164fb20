"""Fault maps: where on a chip the failing cells are.

Cells are numbered along the words: cell ``word * bits + k`` holds bit k. A map answers twice, for
one chip (`failing`) and over all chips (`mixture`), and its faults are nested: the cells that fail
at a bit error rate also fail at every higher one on the same chip.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.errors import InputError, TableError, check_in_range, refuse

__all__ = ["Correlated", "FaultMap", "Independent", "Measured"]

Cells = NDArray[np.int64]
Rates = NDArray[np.float64]


class FaultMap(Protocol):
    """What an SRAM asks of a fault map."""

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """The failing cells of one chip.

        Args:
            words: Words in this part of the chip.
            rates: Shape ``[2, bits]``: the rate at which a cell of each bit plane fails when it
                holds 0, and 1. Or ``[2, channels, bits]``, where the words are those of one
                channel after the other, as many for each.
            chip: The chip, at the part in question.

        Returns:
            Ascending cell numbers, each once: those that fail holding 0, and holding 1.
        """

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """The law of one word over all chips, as a mixture in which its cells are independent.

        Args:
            rates: Shape ``[2, bits]``.

        Returns:
            Weights of shape ``[components]`` that sum to 1, and rates ``[components, 2, bits]``.
        """

    def check(self, bits: int) -> None:
        """Refuse a word width that does not fit the map."""

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""


@dataclass(frozen=True, slots=True)
class Independent:
    """Every cell fails on its own; a draw costs by the number of faults, not of cells.

    Faults arrive as a Poisson process in ``t = -log(1 - rate)``, each at a cell chosen uniformly,
    and a cell has failed once it was hit. By Poisson splitting the time of the first hit of each
    cell is exponential and independent of all others, so a cell has failed by ``t`` with
    probability ``1 - exp(-t) = rate``, exactly, and a lower supply only adds arrivals.
    """

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """See `FaultMap.failing`."""
        rate = float(rates.max())
        if float(rates.min()) == rate < 1.0:
            _, cells = _arrivals(words * rates.shape[-1], -math.log1p(-rate), chip)
            failing = _each_once(cells)
            return failing, failing
        certain = rates >= 1.0  # no finite time: such planes fail whole, and cost no arrivals
        horizons = -np.log1p(-np.where(certain, 0.0, rates))
        times, cells = _arrivals(words * rates.shape[-1], float(horizons.max()), chip)

        def failing_while(held: int) -> Cells:
            hit = _before(times, cells, horizons[held], words)
            return _with_whole_planes(hit, certain[held], words)

        on_zero = failing_while(0)
        same = np.array_equal(rates[0], rates[1])
        return on_zero, on_zero if same else failing_while(1)

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component: the rates themselves."""
        return torch.ones(1, dtype=torch.float64), rates[None]

    def check(self, bits: int) -> None:
        """Any width fits."""

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"fault_map": "independent"}


def _arrivals(cells: int, horizon: float, chip: Chip) -> tuple[Rates, Cells]:
    """Times (ascending, up to ``horizon``) and cells of the faults that arrive on one chip.

    Blocks grow in a fixed series, so that a nearer horizon sees a prefix of the same arrivals.
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


def _before(times: Rates, cells: Cells, horizons: Rates, words: int) -> Cells:
    """The cells that were hit before the horizon of their bit plane, ascending, each once."""
    first = horizons.flat[0]
    if (horizons == first).all():
        count = int(np.searchsorted(times, first, side="right"))
        return _each_once(cells[:count])
    bits = horizons.shape[-1]
    own = cells % bits
    if horizons.ndim > 1:
        own += cells // (words // len(horizons) * bits) * bits
    return _each_once(cells[times <= horizons.reshape(-1)[own]])


def _with_whole_planes(cells: Cells, certain: NDArray[np.bool_], words: int) -> Cells:
    """``cells`` and every cell of the bit planes that are ``certain`` to fail."""
    if not certain.any():
        return cells
    whole = np.flatnonzero(_by_word(certain, words))
    return _each_once(np.concatenate([cells, whole]))


def _by_word(planes: NDArray[Any], words: int) -> NDArray[Any]:
    """Figures of bit planes, or of those of each channel, for every word: ``[words, bits]``."""
    table = planes.reshape(-1, planes.shape[-1])
    return np.repeat(table, words // len(table), axis=0)


def _each_once(cells: Cells) -> Cells:
    """Ascending, without repeats; `numpy.unique` hashes, which is ten times slower here."""
    ordered = np.sort(cells)
    fresh = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlated:
    """Weak rows, weak columns and weak neighbourhoods: a Gaussian random-effects law.

    Each cell has a standard normal margin

        z = sqrt(row) R + sqrt(column) C + sqrt(cluster) K + sqrt(1 - row - column - cluster) e

    where R is shared by the cells of a row, C by those of a column, K by those of a block of
    ``cluster_rows`` rows by ``cluster_columns`` columns, and e is the cell's own. The cell fails
    where ``Phi(z) < rate``. Every cell still fails at exactly the given rate over chips, faults are
    nested, and two cells of a row have latent correlation ``row`` (and so on). This is a threshold
    voltage with within-die components; measured maps show such structure, and ignoring it can
    misjudge accuracy (MoRS, arXiv 2110.05855). A draw costs by cells, not by faults.

    The bits of a word are neighbours in a row, so they share R and K: the moments integrate over
    that shared part with 64-node Gauss-Hermite quadrature. For rates from 2.8e-6 to 0.5, the
    relative error of the probability that one, two or three given cells of a word fail is below
    1e-10 up to ``row + cluster = 0.6``, 1e-7 up to 0.7, 1e-4 up to 0.8 and 0.5 % up to 0.9.

    Args:
        row: Share of variance common to a row, 0 or more.
        column: Share of variance common to a column, 0 or more.
        cluster: Share of variance common to a block, 0 or more; the three sum to at most 0.9.
        columns: Cells in a row of the array; a multiple of the word's bits.
        cluster_rows: Rows in a block.
        cluster_columns: Columns in a block; a multiple of the word's bits.

    Raises:
        InputError: if a field is outside its range.
    """

    row: float = 0.0
    column: float = 0.0
    cluster: float = 0.0
    columns: int = 256
    cluster_rows: int = 16
    cluster_columns: int = 16

    def __post_init__(self) -> None:
        """Check the fields once."""
        for field in ("row", "column", "cluster"):
            check_in_range(field, getattr(self, field), 0.0, 0.9)
        check_in_range("row + column + cluster", self.row + self.column + self.cluster, 0.0, 0.9)
        for field in ("columns", "cluster_rows", "cluster_columns"):
            check_in_range(field, getattr(self, field), 1, 1 << 20)

    def check(self, bits: int) -> None:
        """Words may not straddle rows or blocks.

        Raises:
            InputError: if ``columns`` or ``cluster_columns`` is not a multiple of ``bits``.
        """
        for field in ("columns", "cluster_columns"):
            if getattr(self, field) % bits:
                raise InputError(
                    f"{field} of the fault map is {getattr(self, field)}; allowed: a multiple of "
                    f"the word's {bits} bits, so that no word straddles a row or a block"
                )

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """See `FaultMap.failing`."""
        bits = rates.shape[-1]
        latent = self._latent(words * bits, chip).reshape(words, bits)
        margins = (_by_word(ndtri(planes), words) for planes in rates)
        on_zero, on_one = (np.flatnonzero(latent < margin) for margin in margins)
        return on_zero, on_one

    def _latent(self, cells: int, chip: Chip) -> Rates:
        """The standard normal z of each cell."""
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
        """Conditional on what a word's cells share, they are independent."""
        shared = self.row + self.cluster
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        latent = torch.from_numpy(nodes).reshape(-1, 1, 1)
        # Away from 0 and 1, where the quantile is infinite and has no gradient.
        threshold = torch.special.ndtri(rates.clamp(1e-300, 1 - 1e-16))
        given = torch.special.ndtr((threshold - shared**0.5 * latent) / (1 - shared) ** 0.5)
        return torch.from_numpy(weights / weights.sum()), given

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        fields = ("row", "column", "cluster", "columns", "cluster_rows", "cluster_columns")
        return {"fault_map": "correlated", **{field: getattr(self, field) for field in fields}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A fault map that was measured on silicon: which cells fail, and from which rate on.

    The array is filled row by row, and repeats where a tensor is larger than it. Chips differ in
    the word of the array at which a tensor starts, chosen uniformly; so a word's law over chips is
    the frequency of fault patterns over the words of the map.

    Args:
        columns: Cells in a row of the array.
        thresholds: For each cell, row by row, the bit error rate from which on it fails: it fails
            where the law's rate at the operating point is at least this; infinity for a cell that
            never failed.

    Raises:
        InputError: if the array is empty or not rectangular.
    """

    columns: int
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the fields once.

        Raises:
            InputError: if the array is empty or not rectangular.
        """
        check_in_range("columns", self.columns, 1, 1 << 20)
        if not self.thresholds or len(self.thresholds) % self.columns:
            raise InputError(
                f"the measured map has {len(self.thresholds)} cells; allowed: a multiple of its "
                f"{self.columns} columns, and at least one row"
            )

    @classmethod
    def from_csv(cls, path: str | Path, *, rows: int, columns: int) -> Measured:
        """Read the weak cells of a ``rows`` by ``columns`` array.

        Args:
            path: A CSV file with the columns ``row,column,bit_error_rate``: a cell's place, from 0,
                and the array's bit error rate when it was first seen to fail (0.001 for a cell that
                was among the weakest thousandth). Lines that start with ``#`` are comments.
            rows: Rows of the array.
            columns: Columns of the array.

        Raises:
            TableError: if the file is not there or a line is malformed; the message names the line.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"fault map {path} cannot be read: {error}") from error
        thresholds = np.full((rows, columns), np.inf)
        numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
        if not numbered or numbered[0][1].replace(" ", "") != "row,column,bit_error_rate":
            refuse(str(path), "without its header", "row,column,bit_error_rate", TableError)
        for number, line in numbered[1:]:
            row, column, rate = _parse_cell(line, f"{path}, line {number}", rows, columns)
            if np.isfinite(thresholds[row, column]):
                where = f"{path}, line {number}: cell {row},{column}"
                refuse(where, "named twice", "one line for each cell", TableError)
            thresholds[row, column] = rate
        if not np.isfinite(thresholds).any():
            refuse(str(path), "without any weak cell", "at least one, or no cell fails", TableError)
        return cls(columns=columns, thresholds=tuple(thresholds.reshape(-1).tolist()))

    def check(self, bits: int) -> None:
        """Words may not straddle rows.

        Raises:
            InputError: if ``columns`` is not a multiple of ``bits``.
        """
        if self.columns % bits:
            raise InputError(
                f"columns of the measured map is {self.columns}; allowed: a multiple of the "
                f"word's {bits} bits, so that no word straddles a row"
            )

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """See `FaultMap.failing`."""
        array = np.asarray(self.thresholds).reshape(-1, rates.shape[-1])
        start = int(chip.generator("faults").integers(len(array)))
        thresholds = array[(start + np.arange(words)) % len(array)]
        on_zero, on_one = (np.flatnonzero(thresholds <= _by_word(p, words)) for p in rates)
        return on_zero, on_one

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component for each pattern of faults that a word of the map shows.

        A step function of the operating point: its gradient is 0 wherever it exists.
        """
        array = np.asarray(self.thresholds).reshape(-1, rates.shape[1])
        fails = array[:, None, :] <= rates.detach().numpy()[None]
        patterns, counts = np.unique(fails, axis=0, return_counts=True)
        weights = torch.from_numpy(counts / counts.sum())
        given = torch.from_numpy(patterns.astype(np.float64))
        return weights, given + 0.0 * rates  # the gradient is 0, not missing

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


def _parse_cell(line: str, where: str, rows: int, columns: int) -> tuple[int, int, float]:
    cells = next(csv.reader([line]))
    try:
        row, column, rate = int(cells[0]), int(cells[1]), float(cells[2])
    except (ValueError, IndexError):
        refuse(where, repr(line), "row, column and bit error rate", TableError)
    check_in_range(f"{where}: row", row, 0, rows - 1, error=TableError)
    check_in_range(f"{where}: column", column, 0, columns - 1, error=TableError)
    check_in_range(f"{where}: bit_error_rate", rate, 0, 1, open_low=True, error=TableError)
    return row, column, rate
