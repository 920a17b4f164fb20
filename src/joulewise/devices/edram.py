"""Embedded DRAM: dynamic cells on the logic die, with retention of microseconds to milliseconds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from joulewise.devices.aged_memory import check_step
from joulewise.devices.fault_kinds import FaultKind, Stuck
from joulewise.devices.operating_point import Knob, Point, as_point, checked_ends
from joulewise.devices.retention import GAIN_CELL_65NM, Retention
from joulewise.devices.word_memory import WordMemory
from joulewise.errors import check_in_range, check_kind

__all__ = ["EDRAM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EDRAM(WordMemory):
    """Embedded DRAM of two's complement words; the knob is its refresh interval, ``refresh_s``.

    A cell fails if its retention time is below the age of the word when it is read: the refresh
    interval, or the lifetime of the data if that is shorter. Data with a lifetime below the
    interval are not refreshed. Words, their faults and the other fields are those of `WordMemory`.

    Args:
        retention: Distribution of retention times.
        lifetime_s: Seconds from the write of a word to its last read, for activations or a
            key-value cache; infinity for weights.
        refresh_range: Shortest and longest interval, seconds.
        access_j: Joules per access to one bit.
        refresh_j: Joules to refresh one bit once.
        step_s: Seconds of a decoding step, for a key-value cache: an entry that is read k steps
            after its write has the age ``k * step_s``, at most ``lifetime_s``. None for one age of
            all words.
        fault: Effect of a failing cell; by default stuck at its discharged value, 0.
        latency_s: Seconds of an inference, over which refresh energy is counted.

    References:
        F. Tu et al., "RANA: Towards efficient neural acceleration with refresh-optimized embedded
        DRAM", ISCA 2018 (refresh by the lifetime of data). Energies are illustrative, of the order
        of that paper's 65 nm memory: 10.6 pJ for 16 bits, 0.79 uJ to refresh 32 kB.

    Example:
        >>> memory = EDRAM(lifetime_s=1e-4)
        >>> [f"{float(memory.bit_error_rate(t)):.1e}" for t in (45e-6, 1e-4, 1e-3)]
        ['3.0e-06', '3.9e-04', '3.9e-04']
    """

    retention: Retention = GAIN_CELL_65NM
    lifetime_s: float = math.inf
    refresh_range: tuple[float, float] = (10e-6, 1e-3)
    access_j: float = 10.6e-12 / 16
    refresh_j: float = 0.79e-6 / (32 * 1024 * 8)
    step_s: float | None = None
    fault: FaultKind = field(default_factory=lambda: Stuck(at_one=0.0))
    latency_s: float = 1e-3

    def __post_init__(self) -> None:
        check_kind("retention", self.retention, Retention, "a Retention")
        WordMemory.__post_init__(self)  # super() would fail: slots make a new class
        if self.lifetime_s != math.inf:
            check_in_range("lifetime_s", self.lifetime_s, 0.0, 1e6, open_low=True)
        ends = checked_ends("refresh_range", self.refresh_range, 0.0, 1e6, "seconds")
        object.__setattr__(self, "refresh_range", ends)
        check_in_range("access_j", self.access_j, 0.0, 1.0, open_low=True)
        check_in_range("refresh_j", self.refresh_j, 0.0, 1.0)
        check_step(self)

    @property
    def knob(self) -> Knob:
        """``refresh_s`` within ``refresh_range``."""
        short, long = self.refresh_range
        return Knob(
            name="refresh_s",
            least_reliable=long,
            most_reliable=short,
            bit_planes=self.bits,
            channels=self._channels,
        )

    def bit_error_rate(self, point: Point) -> Tensor:
        """Probability that a cell has lost its charge when it is read."""
        return self.retention.failed_fraction(as_point(point).clamp(max=self.lifetime_s))

    def access_bit_j(self, point: Point) -> Tensor:
        """Joules per access to one bit."""
        return as_point(point) * 0 + self.access_j

    def holding_bit_w(self, point: Point) -> Tensor:
        """Watts to refresh one bit; 0 for intervals beyond the lifetime of the data."""
        interval = as_point(point)
        return self.refresh_j / interval * (interval < self.lifetime_s)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "device": "edram",
            **WordMemory.describe(self),
            "retention": asdict(self.retention),
            "lifetime_s": None if self.lifetime_s == math.inf else self.lifetime_s,
            "access_j": self.access_j,
            "refresh_j": self.refresh_j,
            "refresh_range": list(self.refresh_range),
        }
