"""DRAM: cells that leak between refreshes, or fail at a reduced supply."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.aged_memory import check_step
from joulewise.devices.chip import Traffic
from joulewise.devices.fault_kinds import FaultKind, Stuck
from joulewise.devices.operating_point import Knob, Point, as_point, checked_ends
from joulewise.devices.retention import DDR3L_70C, Retention
from joulewise.devices.voltage_table import VoltageTable
from joulewise.devices.word_memory import WordMemory
from joulewise.errors import check_in_range, check_kind, refuse

__all__ = ["DRAM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DRAM(WordMemory):
    """DRAM of two's complement words; the knob is its refresh interval or its supply.

    A cell whose retention time is below the refresh interval loses its charge: a true cell (charge
    stands for 1) then reads 0, an anti-cell reads 1. Words, their faults and the other fields are
    those of `WordMemory`; every word is read at the end of an interval, when most cells have
    failed. The defaults combine the retention of a DDR3L module with the energies of DDR4.

    Args:
        retention: Distribution of retention times.
        law: Bit error rate and access energy over the supply, where the knob is ``"v_dd"``; else
            None. Refresh energy is then proportional to access energy.
        knob: ``"refresh_s"``, the interval, or ``"v_dd"``; kept as a `Knob`.
        refresh_s: Refresh interval where the knob is the supply, seconds.
        refresh_range: Shortest and longest interval, seconds, where that is the knob.
        access_j: Joules per access to one bit, without the interface: 8.8e-12 for DDR4, 13.2e-12
            for DDR3, 5.3e-12 for LPDDR4.
        refresh_j: Joules to refresh one bit once: 44e-15 for DDR4, 156e-15 for DDR3, 24e-15 for
            LPDDR4.
        step_s: Seconds of a decoding step, where the interval is the knob; see `EDRAM`.
        fault: Effect of a failing cell; by default stuck at its discharged value, half of the cells
            being true cells.
        latency_s: Seconds of an inference, over which refresh energy is counted. At 1 ms and a
            64 ms interval it is about 1e-4 of the energy of one access to every word.

    References:
        Retention: see `DDR3L_70C`. Energies are derived from currents in data sheets, as DRAMPower
        states them (MICRON_4Gb_DDR4-2400_8bit_A, MICRON_2Gb_DDR3-1600_16bit_D,
        MICRON_6Gb_LPDDR4-3200_32bit_A): (IDD5 - IDD3N) V tRFC over the bits of a refresh command,
        and (IDD4R - IDD3N) V over the bandwidth.

    Example:
        >>> memory = DRAM()
        >>> [f"{float(memory.bit_error_rate(t)):.1e}" for t in (1.0, 10.0, 30.0)]
        ['2.8e-09', '7.6e-05', '2.4e-03']
    """

    retention: Retention = DDR3L_70C
    law: VoltageTable | None = None
    knob: Any = "refresh_s"  # a str as given, a Knob after __post_init__
    refresh_s: float = 0.064
    refresh_range: tuple[float, float] = (0.064, 300.0)
    access_j: float = 8.8e-12
    refresh_j: float = 44e-15
    step_s: float | None = None
    fault: FaultKind = field(default_factory=lambda: Stuck(at_one=0.5))
    latency_s: float = 1e-3

    def __post_init__(self) -> None:
        check_kind("retention", self.retention, Retention, "a Retention")
        check_kind("law", self.law, VoltageTable | None, "a VoltageTable, or None")
        WordMemory.__post_init__(self)  # super() would fail: slots make a new class
        ends = checked_ends("refresh_range", self.refresh_range, 0.0, 1e6, "seconds")
        object.__setattr__(self, "refresh_range", ends)
        check_in_range("refresh_s", self.refresh_s, 0.0, 1e6, open_low=True)
        check_in_range("access_j", self.access_j, 0.0, 1.0, open_low=True)
        check_in_range("refresh_j", self.refresh_j, 0.0, 1.0)
        name = self.knob.name if isinstance(self.knob, Knob) else self.knob
        if name not in ("refresh_s", "v_dd"):
            refuse("knob", repr(name), "refresh_s or v_dd")
        most, least = self.refresh_range
        if (name == "v_dd") != (self.law is not None):
            got = "None" if self.law is None else "given"
            refuse("law", got, "a VoltageTable where the knob is v_dd, else None")
        if self.law is not None:
            least, most = self.law.ends("v_dd")
        knob = Knob(
            name=name,
            least_reliable=least,
            most_reliable=most,
            bit_planes=self.bits,
            channels=self._channels,
        )
        object.__setattr__(self, "knob", knob)
        check_step(self)

    def _at(self, point: Point) -> tuple[Tensor, Tensor, Tensor]:
        """Refresh interval, bit error rate by the supply, and access energy over `access_j`."""
        at = as_point(point)
        if self.law is None:
            return at, at * 0, at * 0 + 1  # with gradients of 0
        eta = self.law.eta(at)
        relative = self.law.energy_per_bit_j(eta) / self.law.access_j_at(self._nominal)
        return torch.full_like(at, self.refresh_s), self.law.bit_error_rate(eta), relative

    @property
    def _nominal(self) -> float:
        """The supply at which `access_j` is stated, or the highest measured one."""
        assert self.law is not None
        return self.law.v_nominal or self.law.rows[-1].v_dd

    def reference_energies(self, traffic: Traffic) -> dict[str, float]:
        """Joules per inference at the references of the law of the supply, if that is the knob."""
        if self.law is None:
            return {}
        found = {}
        for name, v_dd in self.law.reference_supplies.items():
            relative = self.law.access_j_at(v_dd) / self.law.access_j_at(self._nominal)
            access, watts = self.access_j * relative, self.refresh_j * relative / self.refresh_s
            found[name] = float(self._joules(traffic, as_point(access), as_point(watts)))
        return found

    def bit_error_rate(self, point: Point) -> Tensor:
        """Probability that a cell has lost its charge, or fails at the supply."""
        interval, rate, _ = self._at(point)
        lost = self.retention.failed_fraction(interval)
        return lost + (1 - lost) * rate

    def access_bit_j(self, point: Point) -> Tensor:
        """Joules per access to one bit."""
        return self.access_j * self._at(point)[2]

    def holding_bit_w(self, point: Point) -> Tensor:
        """Watts to refresh one bit."""
        interval, _, relative = self._at(point)
        return self.refresh_j * relative / interval

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        own = {
            "retention": asdict(self.retention),
            "refresh_s": self.refresh_s,
            "access_j": self.access_j,
            "refresh_j": self.refresh_j,
            "refresh_range": list(self.refresh_range),
        }
        law = {}
        if self.law is not None:
            law = {**self.law.describe(), "v_nominal": self.law.v_nominal}
        return {"device": "dram", **WordMemory.describe(self), **own, **law}
