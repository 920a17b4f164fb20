"""Measured law of a memory: bit error rate and access energy at some supply voltages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.reliability_laws import Leakage, ReliabilityLaw
from joulewise.devices.tables import interpolate, read_csv
from joulewise.errors import TableError, check_in_range, check_kind, refuse

__all__ = ["VoltageRow", "VoltageTable"]

# One minus the confidence of the upper bound (Clopper-Pearson) on a rate of no failure in n bits.
_UNSEEN = 0.05
# Columns of voltage tables in other units.
_UNITS = {
    "v_dd_mv": ("v_dd", 1e3),
    "energy_per_bit_pj": ("energy_per_bit_j", 1e12),
    "energy_per_bit_fj": ("energy_per_bit_j", 1e15),
}
# A thousand times that of off-chip DRAM: more is a number in pJ or fJ.
_MOST_J = 1e-8


@dataclass(frozen=True, slots=True)
class VoltageRow:
    """One measurement at one supply voltage.

    Args:
        v_dd: Supply voltage, above 0.
        energy_per_bit_j: Joules per access to one bit, above 0.
        bit_error_rate: Fraction of the bits that failed, 0 to 1.
        measured_bits: Bits that the rate was measured on; needed where none failed.
    """

    v_dd: float
    energy_per_bit_j: float
    bit_error_rate: float
    measured_bits: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageTable(ReliabilityLaw):
    """Measured law: log bit error rate and energy, each piecewise linear in the supply voltage.

    There is no extrapolation: the range is that of the rows. ``eta`` is energy over that of the
    highest voltage, so 1 is the most reliable measured point. A row where none of n bits failed
    counts with the upper end of the one-sided 95 % interval of its rate, ``1 - 0.05^(1/n)``
    (Clopper and Pearson; about 3 / n), but no more than the rate of the next lower voltage.

    Args:
        rows: At least two, in order of ascending voltage; energy increases with voltage and the
            bit error rate does not.
        source: Origin of the figures, and the device that was measured.
        voltage_unit: Unit of the voltages; for tables without absolute volts for instance
            ``"Vmin"``, multiples of the lowest error-free voltage.
        v_nominal: Nominal supply, in ``voltage_unit``; None if not known.
        v_min: Lowest supply without errors, in ``voltage_unit``; None if not known.
        leakage: Leakage of a cell; None if it is not known.

    Raises:
        TableError: if the rows are not as above, ``v_min`` is at or below a supply with errors, or
            ``v_nominal`` below the lowest measured one or ``v_min``.

    Example:
        >>> table = VoltageTable(
        ...     rows=(VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.7, 2e-14, 1e-4)), source="made up"
        ... )
        >>> eta = table.eta(torch.tensor(0.6, dtype=torch.float64))
        >>> float(eta), round(float(table.bit_error_rate(eta)), 6)
        (0.75, 0.001)
    """

    rows: tuple[VoltageRow, ...]
    source: str
    voltage_unit: str = "V"
    v_nominal: float | None = None
    v_min: float | None = None
    leakage: Leakage | None = None

    def __post_init__(self) -> None:
        check_kind("rows", self.rows, tuple, "a tuple of VoltageRow", TableError)
        for row in self.rows:
            check_kind("a row", row, VoltageRow, "a VoltageRow", TableError)
        if len(self.rows) < 2:
            refuse("the voltage table", f"{len(self.rows)} row(s)", "two rows or more", TableError)
        places = [f"row {number}" for number in range(1, len(self.rows) + 1)]
        _check_rows(self.rows, places, self.voltage_unit)
        failed = max((row.v_dd for row in self.rows if row.bit_error_rate), default=0.0)
        if self.v_min is not None:
            check_in_range("v_min", self.v_min, self.rows[0].v_dd, 100.0, error=TableError)
            if self.v_min <= failed:
                allowed = f"above {failed:g}, the highest supply with errors in the table"
                refuse("v_min", self.v_min, allowed, TableError)
        if self.v_nominal is not None:
            least = self.v_min or self.rows[0].v_dd
            check_in_range("v_nominal", self.v_nominal, least, 100.0, error=TableError)
        check_kind("leakage", self.leakage, Leakage | None, "a Leakage, or None", TableError)
        if self.leakage is not None and self.voltage_unit != "V":
            allowed = "None, since the supplies of the table are not in volts"
            refuse("leakage", "given", allowed, TableError)

    @classmethod
    def from_csv(
        cls, path: str | Path, *, v_nominal: float | None = None, v_min: float | None = None
    ) -> VoltageTable:
        """Read a CSV file of ``v_dd,energy_per_bit_j,bit_error_rate[,measured_bits]``.

        Also read are columns ``v_dd_mv``, ``energy_per_bit_pj`` and ``energy_per_bit_fj``, and
        rates such as ``0.1 %``; other columns are ignored. Lines that start with ``#`` are
        comments, and kept as the source. Rows may be in any order. ``v_nominal`` and ``v_min``
        are those of the class.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        columns = ("v_dd", "energy_per_bit_j", "bit_error_rate")
        source, found = read_csv(
            path,
            columns,
            "voltage table",
            optional=["measured_bits"],
            units=_UNITS,
            fractions=["bit_error_rate"],
        )
        found.sort(key=lambda row: row[1][0])
        rows = tuple(VoltageRow(*numbers) for _, numbers in found)
        _check_rows(rows, [place for place, _ in found], "V")  # whose messages name the line
        return cls(rows=rows, source=source or Path(path).name, v_nominal=v_nominal, v_min=v_min)

    def _column(self, name: str) -> Tensor:
        return torch.tensor([getattr(row, name) for row in self.rows], dtype=torch.float64)

    def ends(self, knob: str) -> tuple[float, float]:
        """Least and most reliable point: those of the first and the last row."""
        if knob == "eta":
            return self.rows[0].energy_per_bit_j / self.rows[-1].energy_per_bit_j, 1.0
        column = self._column("v_dd") if knob == "v_dd" else self._rates()
        return float(column[0]), float(column[-1])

    def _rates(self) -> Tensor:
        """Bit error rate of each row, float64 ``[rows]``, above 0."""
        rates: list[float] = []
        for row in self.rows:
            rate = row.bit_error_rate
            if not rate and row.measured_bits is not None:
                bound = -math.expm1(math.log(_UNSEEN) / row.measured_bits)
                rate = min([bound, *rates[-1:]])  # kept monotone
            rates.append(rate)
        return torch.tensor(rates, dtype=torch.float64)

    def v_dd(self, eta: Tensor) -> Tensor:
        """Supply voltage at ``eta``, in the table's unit."""
        energies = self._column("energy_per_bit_j")
        return interpolate(self.energy_per_bit_j(eta), energies, self._column("v_dd"))

    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """Bit error rate, its logarithm interpolated over the voltage."""
        logs = torch.log(self._rates())
        return torch.exp(interpolate(self.v_dd(eta), self._column("v_dd"), logs))

    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """``eta`` times the energy at the highest voltage."""
        return self.rows[-1].energy_per_bit_j * eta

    def eta(self, v_dd: Tensor) -> Tensor:
        """Energy at a voltage, interpolated, over that at the highest voltage."""
        energies = self._column("energy_per_bit_j")
        return interpolate(v_dd, self._column("v_dd"), energies) / energies[-1]

    @property
    def reference_supplies(self) -> dict[str, float]:
        """See `ReliabilityLaw`."""
        named = {"nominal supply": self.v_nominal, "V_min": self.v_min}
        return {name: v_dd for name, v_dd in named.items() if v_dd is not None}

    def cheapest_eta(self, bit_error_rate: Tensor) -> Tensor:
        """Energy at the lowest voltage whose bit error rate is at most the one given."""
        logs, supplies = torch.log(self._rates()).flip(0), self._column("v_dd").flip(0)
        if logs[-1] == logs[-2]:  # a plateau at the end: add a point at its lowest voltage
            logs, supplies = torch.cat([logs, logs[-1:] + 1]), torch.cat([supplies, supplies[-1:]])
        return self.eta(interpolate(torch.log(bit_error_rate), logs, supplies, last=True))

    def describe(self) -> dict[str, Any]:
        """Plain data for records; rates of 0 with the bound that they count with."""
        rows = zip(self.rows, self._rates().tolist(), strict=True)
        described: dict[str, Any] = {
            "law": "voltage table",
            "source": self.source,
            "voltage_unit": self.voltage_unit,
            "law_rows": [[row.v_dd, row.energy_per_bit_j, rate] for row, rate in rows],
        }
        if any(row.measured_bits is not None for row in self.rows):
            described["measured_bits"] = [row.measured_bits for row in self.rows]
        return described | ({"leakage": asdict(self.leakage)} if self.leakage else {})


def _check_rows(rows: Sequence[VoltageRow], places: Sequence[str], unit: str) -> None:
    """Refuse rows that are out of range or not monotone; ``places`` name them in messages."""
    highest = {"v_dd": 100.0, "energy_per_bit_j": _MOST_J, "bit_error_rate": 1.0}
    for row, place in zip(rows, places, strict=True):
        for field, high in highest.items():
            value, where = getattr(row, field), f"{place}: {field}"
            if field == "bit_error_rate" and value == 0:
                if row.measured_bits is None:
                    allowed = "above 0 to 1, or 0 beside the number of bits that were read, in a "
                    refuse(where, 0, allowed + "further column measured_bits", TableError)
                continue
            check_in_range(where, value, 0.0, high, open_low=True, error=TableError)
        if row.measured_bits is not None:
            where = f"{place}: measured_bits"
            check_in_range(where, row.measured_bits, 1, 1e18, error=TableError)
    for lower, upper, place in zip(rows, rows[1:], places[1:], strict=False):
        if upper.v_dd <= lower.v_dd:
            got = f"{upper.v_dd:g} {unit} after {lower.v_dd:g} {unit}"
            refuse(f"{place}: v_dd", got, "one row for each voltage, ascending", TableError)
        if upper.energy_per_bit_j <= lower.energy_per_bit_j:
            got = f"{upper.energy_per_bit_j:g} J, not above that of {lower.v_dd:g} {unit}"
            refuse(f"{place}: energy_per_bit_j", got, "energy that rises with voltage", TableError)
        if upper.bit_error_rate > lower.bit_error_rate:
            got = f"{upper.bit_error_rate:g}, above that of {lower.v_dd:g} {unit}"
            refuse(f"{place}: bit_error_rate", got, "a rate that falls with voltage", TableError)
