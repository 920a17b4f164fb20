"""Measured faults of memory arrays over the supply: reading them, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from joulewise.devices.fault_maps import Layout, check_cells, read_cells
from joulewise.devices.measured_map import MeasuredMap
from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J
from joulewise.devices.tables import as_numbers
from joulewise.devices.voltage_table import VoltageRow, VoltageTable
from joulewise.errors import TableError, check_count, check_in_range, check_kind, refuse

__all__ = ["FaultMeasurement"]

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMeasurement:
    """Cells of equal memory arrays that failed at some supply.

    A cell counts as failing at every supply up to the highest one at which it failed, so that
    faults are nested. Marginal cells that were read correctly at a lower supply are `recovered`.

    Args:
        rows: Rows of an array.
        columns: Cells in a row.
        arrays: Arrays that were read.
        supplies_v: Supplies at which they were read, ascending.
        cells: Numbers of the cells that failed, ascending:
            ``(array * rows + row) * columns + column``.
        first_failure_v: For each of them, the highest supply at which it failed, one of
            ``supplies_v``.
        layout: Columns of words that share a row; see `Layout`.
        recovered: Reads without a fault of cells that had failed at a higher supply.
        positions: Place of each array on the die, ``(x, y)``; empty if not known.
        source: Origin of the measurement.

    Raises:
        TableError: if a field is out of range.
    """

    rows: int
    columns: int
    arrays: int
    supplies_v: tuple[float, ...]
    cells: tuple[int, ...]
    first_failure_v: tuple[float, ...]
    layout: Layout = "adjacent"
    recovered: int = 0
    positions: tuple[tuple[float, float], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        check_cells(self.cells, self.rows, self.columns, self.arrays)
        supplies = self.supplies_v
        check_kind("supplies_v", supplies, tuple, "a tuple of supplies", TableError)
        for v_dd in supplies:
            check_in_range("supplies_v", v_dd, 0.0, 100.0, open_low=True, error=TableError)
        if not supplies or list(supplies) != sorted(set(supplies)):
            refuse("supplies_v", f"{supplies}", "supplies that ascend", TableError)
        allowed = f"one of supplies_v for each of {len(self.cells)} cells, in a tuple"
        first = as_numbers("first_failure_v", self.first_failure_v, allowed)
        if first.shape != (len(self.cells),) or not np.isin(first, supplies).all():
            refuse("first_failure_v", "of other numbers, or too many or few", allowed, TableError)
        check_count("recovered", self.recovered, 0)
        if self.layout not in get_args(Layout):
            refuse("layout", repr(self.layout), " or ".join(get_args(Layout)), TableError)
        allowed = f"{self.arrays} pairs of finite numbers (x, y), or none"
        places = as_numbers("positions", self.positions, allowed)
        if places.shape not in ((0,), (self.arrays, 2)) or not np.isfinite(places).all():
            refuse("positions", f"of shape {places.shape}, or not finite", allowed, TableError)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        rows: int,
        columns: int,
        arrays: int = 1,
        supplies_v: Sequence[float] | None = None,
        layout: Layout = "adjacent",
    ) -> FaultMeasurement:
        """Read weak cells of arrays and the highest supply at which each failed.

        Args:
            path: A CSV file with the columns ``row,column,v_dd[,array]``, zero-based; lines that
                start with ``#`` are comments, and kept as the source.
            rows: Rows of an array.
            columns: Columns of an array.
            arrays: Arrays that were read.
            supplies_v: Supplies at which they were read; None for those in the file.
            layout: See `Layout`.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        if supplies_v is not None:
            allowed = "a sequence of supplies, or None"
            check_kind("supplies_v", supplies_v, Sequence, allowed, TableError)
            as_numbers("supplies_v", tuple(supplies_v), allowed)
        source, cells, first_failure_v = read_cells(
            path, "v_dd", 100.0, rows=rows, columns=columns, arrays=arrays
        )
        return cls(
            rows=rows,
            columns=columns,
            arrays=arrays,
            supplies_v=tuple(sorted(set(first_failure_v) if supplies_v is None else supplies_v)),
            cells=cells,
            first_failure_v=first_failure_v,
            layout=layout,
            source=source or Path(path).name,
        )

    @property
    def num_cells(self) -> int:
        """Cells that were read."""
        return self.arrays * self.rows * self.columns

    @property
    def counts(self) -> dict[float, int]:
        """Failing cells at each supply."""
        first = np.asarray(self.first_failure_v)
        return {v_dd: int(np.count_nonzero(first >= v_dd)) for v_dd in self.supplies_v}

    def failing_per(self, group: Literal["array", "column"], v_dd: float) -> Counts:
        """Failing cells at a supply, of each array ``[arrays]`` or column ``[arrays * columns]``.

        Raises:
            TableError: if arrays were not read at that supply, or for another group.
        """
        if group not in ("array", "column"):
            refuse("group", repr(group), "array or column", TableError)
        if v_dd not in self.supplies_v:
            refuse("v_dd", v_dd, f"one of {', '.join(map(str, self.supplies_v))}", TableError)
        cells = np.asarray(self.cells)[np.asarray(self.first_failure_v) >= v_dd]
        array, place = np.divmod(cells, self.rows * self.columns)
        if group == "array":
            return np.bincount(array, minlength=self.arrays)
        column = array * self.columns + place % self.columns
        return np.bincount(column, minlength=self.arrays * self.columns)

    def fault_map(self) -> MeasuredMap:
        """The map of these cells, for ``SRAM(fault_map=..., law=...)`` with the law of `law`.

        At each measured supply exactly the measured cells fail. Between two of them the cells that
        are added fail from the middle on, in the logarithm of the bit error rate.
        """
        rates = {v_dd: count / self.num_cells for v_dd, count in self.counts.items()}
        descending, before = sorted(rates, reverse=True), 0.0
        threshold: dict[float, float] = {}
        for v_dd in descending:
            # Halfway in the logarithm: at a measured supply exactly the measured cells fail,
            # however its rate is rounded; the first rate has no neighbour.
            threshold[v_dd] = math.sqrt(before * rates[v_dd]) or rates[v_dd] * (1 - 1e-9)
            before = rates[v_dd]
        return MeasuredMap(
            rows=self.rows,
            columns=self.columns,
            cells=self.cells,
            thresholds=tuple(threshold[v_dd] for v_dd in self.first_failure_v),
            arrays=self.arrays,
            layout=self.layout,
        )

    def law(
        self,
        *,
        v_nominal: float | None = None,
        v_min: float | None = None,
        energy_per_bit_j: float = HOROWITZ_SRAM_BIT_J,
    ) -> VoltageTable:
        """Bit error rate over the supply, with an access energy of ``C V^2``.

        Args:
            v_nominal: Nominal supply, V.
            v_min: Lowest supply without an error, V.
            energy_per_bit_j: Joules per access to one bit at the nominal supply, or at the highest
                measured one if that is not known.

        Raises:
            TableError: if fewer than two supplies had a fault, or a figure is out of range.
        """
        check_in_range("energy_per_bit_j", energy_per_bit_j, 0.0, 1.0, open_low=True)
        if v_nominal is not None:
            check_in_range("v_nominal", v_nominal, self.supplies_v[0], 100.0, error=TableError)
        reference = v_nominal or self.supplies_v[-1]
        rows = tuple(
            VoltageRow(v_dd, energy_per_bit_j * (v_dd / reference) ** 2, count / self.num_cells)
            for v_dd, count in self.counts.items()
            if count
        )
        source = f"{self.source}; energy C V^2, {energy_per_bit_j:.3g} J a bit at {reference:g} V"
        return VoltageTable(rows=rows, source=source, v_nominal=v_nominal, v_min=v_min)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "source": self.source,
            "arrays": self.arrays,
            "rows": self.rows,
            "columns": self.columns,
            "layout": self.layout,
            "faults": {f"{v_dd:g}": count for v_dd, count in self.counts.items()},
            "recovered": self.recovered,
        }
