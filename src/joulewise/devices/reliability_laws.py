"""Reliability laws: supply energy -> how many bits fail, and what an access costs.

A law answers two questions about ``eta``, the energy of an access divided by that of a reliable
access, and translates to and from a supply voltage where it has one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from joulewise.errors import OperatingPointError, TableError, check_in_range, refuse

__all__ = ["PROFILES", "ExponentialLaw", "ReliabilityLaw", "VoltageRow", "VoltageTable", "law"]

# Horowitz, ISSCC 2014, figure 1.1.9 (45 nm): a 64-bit access to a 32 kB cache costs 20 pJ.
HOROWITZ_SRAM_BIT_J = 20e-12 / 64


class ReliabilityLaw(Protocol):
    """What an SRAM asks of a law: a frozen, hashable value."""

    def __hash__(self) -> int: ...

    @property
    def eta_range(self) -> tuple[float, float]:
        """The lowest and the highest ``eta`` for which the law holds."""

    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """The probability that a cell fails, in [0, 1]; falls as ``eta`` grows."""

    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """Joules for one access to one bit."""

    def eta(self, v_dd: Tensor) -> Tensor:
        """The normalised energy at a supply voltage (in volts, unless the law says otherwise)."""

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialLaw:
    """The deck's law: ``bit_error_rate(eta) = exp(-a * eta)``, energy proportional to ``eta``.

    Args:
        a: Decay constant, above 0. 12.8 is the value in the public code of the group that uses the
            law (FaultyMemory, ``energy_consumption(a=12.8)``); then ``eta = 1`` is a bit error
            rate of 2.8e-6.
        nominal_energy_per_bit_j: Joules for one access to one bit at ``eta = 1``. The default is
            Horowitz's 20 pJ for 64 bits of a 32 kB cache in 45 nm.

    Raises:
        InputError: if a field is outside its range.

    Example:
        >>> law = ExponentialLaw()
        >>> round(float(law.bit_error_rate(torch.tensor(0.5, dtype=torch.float64))), 6)
        0.001662

    References:
        G. B. Hacene et al., "Training modern deep neural networks for
        memory-fault robustness", ISCAS 2019, arXiv 1911.10287 (the law). Horowitz, "Computing's
        energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9 (the joules).
    """

    a: float = 12.8
    nominal_energy_per_bit_j: float = HOROWITZ_SRAM_BIT_J

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("a", self.a, 0.0, 1e6, open_low=True)
        check_in_range(
            "nominal_energy_per_bit_j", self.nominal_energy_per_bit_j, 0.0, 1.0, open_low=True
        )

    @property
    def eta_range(self) -> tuple[float, float]:
        """0 (every cell fails) to 1 (reliable)."""
        return (0.0, 1.0)

    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """``exp(-a * eta)``."""
        return torch.exp(-self.a * eta)

    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """``eta`` times the nominal energy."""
        return self.nominal_energy_per_bit_j * eta

    def eta(self, v_dd: Tensor) -> Tensor:
        """Refused: this law has no voltage axis."""
        refuse(
            "v_dd",
            f"{float(v_dd.max()):g} V on the exponential law, which has no voltage axis",
            "eta from 0 to 1, or a measured voltage table",
            OperatingPointError,
        )

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "law": "exponential",
            "a": self.a,
            "nominal_energy_per_bit_j": self.nominal_energy_per_bit_j,
        }


@dataclass(frozen=True, slots=True)
class VoltageRow:
    """One measured point: supply, joules for one access to one bit, bit error rate above 0."""

    v_dd: float
    energy_per_bit_j: float
    bit_error_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VoltageTable:
    """A measured law: log bit error rate and energy, each piecewise linear in the supply voltage.

    Nothing is extrapolated: the range is that of the rows. ``eta`` is energy divided by that of the
    highest voltage, so 1 is the most reliable point that was measured.

    Args:
        rows: At least two, by ascending voltage; energy must rise and bit error rate must not rise
            with the voltage.
        source: Where the figures come from, and what they were measured on.
        voltage_unit: The unit of the voltages. Tables that publish no volts have another, for
            instance ``"Vmin"``: multiples of the lowest voltage without an error.

    Raises:
        TableError: if the rows are not as above.

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

    def __post_init__(self) -> None:
        """Check the rows once."""
        if len(self.rows) < 2:
            refuse("the voltage table", f"{len(self.rows)} row(s)", "two rows or more", TableError)
        for number, row in enumerate(self.rows, 1):
            _check_row(row, f"row {number}")
        for number, (lower, upper) in enumerate(zip(self.rows, self.rows[1:], strict=False), 2):
            _check_pair(lower, upper, f"row {number}", self.voltage_unit)

    @classmethod
    def from_csv(cls, path: str | Path) -> VoltageTable:
        """Read a table with the columns ``v_dd,energy_per_bit_j,bit_error_rate``.

        Lines that start with ``#`` say where the figures come from, and are kept as the source.
        Rows may come in either order of voltage.

        Args:
            path: A CSV file.

        Raises:
            TableError: if the file is not there or a line is malformed; the message names the line.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"voltage table {path} cannot be read: {error}") from error
        comments = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
        rows = sorted(_parse_rows(lines, path), key=lambda item: item[1].v_dd)
        for (_, lower), (number, upper) in zip(rows, rows[1:], strict=False):
            _check_pair(lower, upper, f"{path}, line {number}", "V")
        return cls(rows=tuple(row for _, row in rows), source=" ".join(comments) or str(path))

    def _column(self, name: str) -> Tensor:
        return torch.tensor([getattr(row, name) for row in self.rows], dtype=torch.float64)

    @property
    def eta_range(self) -> tuple[float, float]:
        """From the energy of the lowest voltage, normalised, to 1."""
        return (self.rows[0].energy_per_bit_j / self.rows[-1].energy_per_bit_j, 1.0)

    def v_dd(self, eta: Tensor) -> Tensor:
        """The supply voltage, in the table's unit, that spends ``eta``."""
        energies = self._column("energy_per_bit_j")
        return _interpolate(self.energy_per_bit_j(eta), energies, self._column("v_dd"))

    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """Interpolated in log bit error rate over the voltage."""
        logs = torch.log(self._column("bit_error_rate"))
        return torch.exp(_interpolate(self.v_dd(eta), self._column("v_dd"), logs))

    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """``eta`` times the energy at the highest voltage."""
        return self.rows[-1].energy_per_bit_j * eta

    def eta(self, v_dd: Tensor) -> Tensor:
        """Interpolated energy at a voltage, over that at the highest voltage."""
        for volts in v_dd.detach().reshape(-1).tolist():
            low, high = self.rows[0].v_dd, self.rows[-1].v_dd
            field = f"v_dd ({self.voltage_unit})"
            check_in_range(field, volts, low, high, error=OperatingPointError)
        energies = self._column("energy_per_bit_j")
        return _interpolate(v_dd, self._column("v_dd"), energies) / energies[-1]

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        rows = [[row.v_dd, row.energy_per_bit_j, row.bit_error_rate] for row in self.rows]
        return {
            "law": "voltage table",
            "source": self.source,
            "voltage_unit": self.voltage_unit,
            "rows": rows,
        }


_COLUMNS = ["v_dd", "energy_per_bit_j", "bit_error_rate"]


def _parse_rows(lines: list[str], path: Path) -> list[tuple[int, VoltageRow]]:
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not numbered:
        raise TableError(f"{path} has no rows; allowed: a header {','.join(_COLUMNS)} and rows")
    number, header = numbered[0]
    if [cell.strip() for cell in header.split(",")] != _COLUMNS:
        refuse(f"{path}, line {number}: the header", header, ",".join(_COLUMNS), TableError)
    return [(number, _parse_row(line, f"{path}, line {number}")) for number, line in numbered[1:]]


def _parse_row(line: str, where: str) -> VoltageRow:
    cells = next(csv.reader([line]))
    if len(cells) != len(_COLUMNS):
        refuse(where, f"{len(cells)} cells ({line!r})", "3 cells", TableError)
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        refuse(where, repr(line), "three numbers", TableError)
    row = VoltageRow(*values)
    _check_row(row, where)
    return row


def _check_row(row: VoltageRow, where: str) -> None:
    for field, high in (("v_dd", 100.0), ("energy_per_bit_j", 1.0), ("bit_error_rate", 1.0)):
        value = getattr(row, field)
        check_in_range(f"{where}: {field}", value, 0.0, high, open_low=True, error=TableError)


def _check_pair(lower: VoltageRow, upper: VoltageRow, where: str, unit: str) -> None:
    if upper.v_dd <= lower.v_dd:
        got = f"{upper.v_dd:g} {unit} after {lower.v_dd:g} {unit}"
        refuse(f"{where}: v_dd", got, "one row for each voltage, ascending", TableError)
    if upper.energy_per_bit_j <= lower.energy_per_bit_j:
        got = f"{upper.energy_per_bit_j:g} J, not above that of {lower.v_dd:g} {unit}"
        refuse(f"{where}: energy_per_bit_j", got, "energy that rises with voltage", TableError)
    if upper.bit_error_rate > lower.bit_error_rate:
        got = f"{upper.bit_error_rate:g}, above that of {lower.v_dd:g} {unit}"
        refuse(f"{where}: bit_error_rate", got, "a rate that falls with voltage", TableError)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through ``(xs, ys)``, ``xs`` ascending; the end pieces go on beyond.

    `torch.lerp` meets both ends of a piece exactly, so the highest voltage is ``eta = 1``.
    """
    upper = torch.searchsorted(xs, x.detach().contiguous()).clamp(1, len(xs) - 1)
    lower = upper - 1
    share = (x - _picked(xs, lower)) / (_picked(xs, upper) - _picked(xs, lower))
    return torch.lerp(_picked(ys, lower), _picked(ys, upper), share)


def _picked(numbers: Tensor, places: Tensor) -> Tensor:
    """``numbers[places]``, also where a lone place stands for many in `torch.func`."""
    return numbers[places.reshape(-1)].reshape(places.shape)


# Stutz et al., MLSys 2021, figure 1: V / Vmin, energy / energy(Vmin), bit error rate. Supply steps
# of Vmin / 24, and energies (V / Vmin)^2. The row of Vmin itself (1, 1, no error in 1,048,576 bits)
# has no logarithm.
_STUTZ_FIGURE_1 = (
    (0.750, 0.5625, 2.056e-1),
    (0.792, 0.626736111, 5.573e-2),
    (0.833, 0.694444444, 1.115e-2),
    (0.875, 0.765625, 1.29e-3),
    (0.917, 0.840277778, 6.86646e-5),
    (0.958, 0.918402778, 1.90735e-6),
)

_STUTZ_2021 = VoltageTable(
    rows=tuple(
        VoltageRow(volts, energy * HOROWITZ_SRAM_BIT_J, rate)
        for volts, energy, rate in _STUTZ_FIGURE_1
    ),
    source=(
        "D. Stutz, N. Chandramoorthy, M. Hein, B. Schiele, Bit Error Robustness for "
        "Energy-Efficient DNN Accelerators, MLSys 2021, figure 1. Bit error rates: measured on 32 "
        "14 nm SRAM arrays of 512 x 64 cells (1,048,576 bits); the rate at 0.958 Vmin rests on 2 "
        "failing bits, so it is weak. Voltages: relative to Vmin, the lowest without an error; no "
        "absolute volts are published. Vmin itself (0 errors) has no logarithm and is left out: "
        "eta = 1 is 0.958 Vmin, which spends 0.918 of the energy at Vmin. Energies: (V / Vmin)^2 "
        "as the authors plot them, not measured, leakage excluded. Joules: derived and "
        "illustrative, relative energy times 20 pJ / 64 bits (45 nm, Horowitz, ISSCC 2014, figure "
        "1.1.9)."
    ),
    voltage_unit="Vmin",
)

PROFILES: Mapping[str, ReliabilityLaw] = MappingProxyType(
    {"exponential": ExponentialLaw(), "stutz2021-14nm": _STUTZ_2021}
)
"""Reliability laws by name; read-only."""


def law(name: str) -> ReliabilityLaw:
    """The reliability law of a profile.

    Args:
        name: One of `PROFILES`.

    Returns:
        The law, for ``SRAM(law=...)``.

    Raises:
        InputError: if there is no such profile.

    Example:
        >>> low, high = law("stutz2021-14nm").eta_range  # 0.750 and 0.958 Vmin
        >>> round(low, 4), high
        (0.6125, 1.0)
    """
    if name not in PROFILES:
        refuse("the profile", repr(name), ", ".join(PROFILES))
    return PROFILES[name]
