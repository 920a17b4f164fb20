"""Correlated fault maps: weak rows, columns and blocks of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.fault_maps import Cells, FaultMap, Layout, Rates, by_word, word_cells
from joulewise.errors import check_count, check_in_range, refuse

__all__ = ["CorrelatedMap"]


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
    accuracy (MoRS, arXiv 2110.05855). Drawing a chip takes time in proportion to cells, not faults.

    The bits of a word lie in one row and, if adjacent, in one block and so share R and K: moments
    integrate over ``sqrt(row) R + sqrt(cluster) K`` with 64-node Gauss-Hermite quadrature. For
    rates from 2.8e-6 to 0.5, the relative error of the probability that one, two or three given
    cells of a word fail is below 1e-10 up to ``row + cluster = 0.6``, 1e-7 up to 0.7, 1e-4 up to
    0.8, 0.5 % up to 0.9. With the interleaved layout the bits of a word lie in different blocks.

    Args:
        row: Fraction of the variance common to a row, 0 or more.
        column: Fraction of the variance common to a column, 0 or more.
        cluster: Fraction of the variance common to a block, 0 or more; the three add up to at most
            0.9.
        columns: Cells in a row of an array; a multiple of the word's bits.
        cluster_rows: Rows in a block.
        cluster_columns: Columns in a block; a multiple of the word's bits if those are adjacent, at
            most the words in a row if they are interleaved.
        rows: Rows of an array, each array with columns of its own; None for one array of any size.
        layout: ``"adjacent"`` or ``"interleaved"``; see `Layout`.
    """

    row: float = 0.0
    column: float = 0.0
    cluster: float = 0.0
    columns: int = 256
    cluster_rows: int = 16
    cluster_columns: int = 16
    rows: int | None = None
    layout: Layout = "adjacent"

    def __post_init__(self) -> None:
        for field in ("row", "column", "cluster"):
            check_in_range(field, getattr(self, field), 0.0, 0.9)
        check_in_range("row + column + cluster", self.row + self.column + self.cluster, 0.0, 0.9)
        for field in ("columns", "cluster_rows", "cluster_columns"):
            check_count(field, getattr(self, field), 1, 1 << 20)
        if self.rows is not None:
            check_count("rows", self.rows, 1, 1 << 20)
        if self.layout not in get_args(Layout):
            refuse("layout", repr(self.layout), " or ".join(get_args(Layout)))

    def check(self, bits: int) -> None:
        """Refuse a word width at which words would straddle rows or blocks.

        Raises:
            InputError: naming the field.
        """
        words = len(word_cells(bits, self.columns, self.layout)) // bits
        straddled = self.cluster_columns % bits > 0
        allowed = f"a multiple of the word's {bits} bits: words may not straddle blocks"
        if self.layout == "interleaved":
            straddled = self.cluster > 0 and self.cluster_columns > words
            allowed = f"at most the {words} words of a row, whose bits are interleaved"
        if straddled:
            refuse("cluster_columns of the fault map", self.cluster_columns, allowed)

    def failing(self, words: int, rates: Rates, chip: Chip) -> tuple[Cells, Cells]:
        """Failing cells of one chip; see `FaultMap.failing`."""
        bits = rates.shape[-1]
        latent = self._latent(words * bits, chip)
        latent = latent[:, np.argsort(word_cells(bits, self.columns, self.layout))]
        latent = latent.reshape(-1, bits)[:words]
        on_zero, on_one = (np.flatnonzero(latent < by_word(ndtri(p), words)) for p in rates)
        return on_zero, on_one

    def _latent(self, cells: int, chip: Chip) -> Rates:
        """Draw the standard normal margin z of at least that many cells: ``[rows, columns]``."""
        generator = chip.generator("faults")
        rows = -(-cells // self.columns)
        arrays = -(-rows // (self.rows or rows))
        blocks = (-(-rows // self.cluster_rows), -(-self.columns // self.cluster_columns))
        # One draw for each cell, row, column of an array and block; the last two are repeated over
        # the cells that share them.
        own = 1.0 - self.row - self.column - self.cluster
        z: Rates = np.sqrt(own) * generator.standard_normal((rows, self.columns))
        z += np.sqrt(self.row) * generator.standard_normal((rows, 1))
        effect = generator.standard_normal((arrays, self.columns))
        z += np.sqrt(self.column) * np.repeat(effect, self.rows or rows, axis=0)[:rows]
        effect = np.repeat(generator.standard_normal(blocks), self.cluster_rows, axis=0)[:rows]
        effect = np.repeat(effect, self.cluster_columns, axis=1)[:, : self.columns]
        z += np.sqrt(self.cluster) * effect
        return z

    def mixture(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One component for each node of the quadrature over the effects that cells share."""
        shared = self.row + (self.cluster if self.layout == "adjacent" else 0.0)
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        latent = torch.from_numpy(nodes).reshape(-1, 1, 1)
        # Clamped, since the quantile is infinite at 0 and 1 and has no gradient.
        threshold = torch.special.ndtri(rates.clamp(1e-300, 1 - 1e-16))
        # Given the shared effect s, the rest of the margin has variance 1 - shared.
        given = torch.special.ndtr((threshold - shared**0.5 * latent) / (1 - shared) ** 0.5)
        return torch.from_numpy(weights / weights.sum()), given
