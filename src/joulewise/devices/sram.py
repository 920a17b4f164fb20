"""SRAM under voltage scaling: words whose cells fail more often as the supply is lowered."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from joulewise.devices.chip import Traffic
from joulewise.devices.operating_point import Knob, Point, as_point
from joulewise.devices.reliability_laws import ExponentialLaw, ReliabilityLaw
from joulewise.devices.word_memory import WordMemory
from joulewise.errors import check_kind, refuse

__all__ = ["SRAM"]

_KNOBS = ("eta", "v_dd", "bit_error_rate")
_LAWS = "ExponentialLaw(), law('a profile') or VoltageTable.from_csv('a table')"


@dataclass(frozen=True, slots=True, kw_only=True)
class SRAM(WordMemory):
    """SRAM of two's complement words under voltage scaling.

    ``eta`` is the energy of an access over that of a reliable access. An operating point may be
    given as ``eta``, as ``v_dd`` (volts, or the unit of the law's table) or as ``bit_error_rate``,
    then the lowest ``eta`` that achieves it; results state it in the unit of ``knob``. Words, their
    faults and the other fields are those of `WordMemory`.

    Args:
        law: Bit error rate, energy and leakage as functions of ``eta``.
        knob: Quantity of operating points in plans and results: ``"eta"``, ``"v_dd"`` or
            ``"bit_error_rate"``; kept as a `Knob`.

    Raises:
        InputError: if a field is outside its range, the law has no voltages for ``"v_dd"``, or no
            leakage for a ``latency_s`` above 0.

    Example:
        >>> import torch
        >>> from joulewise.devices import Chip
        >>> memory = SRAM(bits=8)
        >>> stored = memory.store(torch.linspace(-1, 1, 1000))
        >>> a = memory.read(stored, 0.3, Chip(seed=1))
        >>> bool((a == memory.read(stored, 0.3, Chip(seed=1))).all())
        True
        >>> float(memory.energy(Traffic(words=1000, reads=1000, writes=0), 0.5))  # joules
        1.25e-09

    References:
        G. B. Hacene et al., "Training modern deep neural networks for memory-fault robustness",
        ISCAS 2019, arXiv 1911.10287.
    """

    law: ReliabilityLaw = field(default_factory=ExponentialLaw)
    knob: Any = "eta"  # a str as given, a Knob after __post_init__

    def __post_init__(self) -> None:
        check_kind("law", self.law, ReliabilityLaw, _LAWS)
        WordMemory.__post_init__(self)  # super() would fail: slots make a new class
        if self.latency_s and self.law.leakage is None:
            refuse("latency_s", self.latency_s, "0, since the law states no leakage")
        name = self.knob.name if isinstance(self.knob, Knob) else self.knob
        if name not in _KNOBS:
            refuse("knob", repr(name), f"one of {', '.join(_KNOBS)}")
        least, most = self.law.ends(name)
        others = [other for other in _KNOBS if other != name]
        knob = Knob(
            name=name,
            least_reliable=least,
            most_reliable=most,
            aliases={other: partial(self.law.converted, other, name) for other in others},
            bit_planes=self.bits,
            channels=self._channels,
        )
        object.__setattr__(self, "knob", knob)

    def _eta(self, point: Point) -> Tensor:
        return self.law.eta_at(self.knob.name, as_point(point))

    def bit_error_rate(self, point: Point) -> Tensor:
        """Probability that a cell fails; float64, the shape of ``point``."""
        return self.law.bit_error_rate(self._eta(point))

    def access_bit_j(self, point: Point) -> Tensor:
        """Joules per access to one bit."""
        return self.law.energy_per_bit_j(self._eta(point))

    def holding_bit_w(self, point: Point) -> Tensor:
        """Leakage of one bit, W."""
        assert self.law.leakage is not None  # or latency_s is 0
        return self.law.leakage.power_w(self.law.v_dd(self._eta(point)))

    def reference_energies(self, traffic: Traffic) -> dict[str, float]:
        """Joules per inference at the nominal supply and at V_min, if the law states them."""
        found = {}
        for name, v_dd in self.law.reference_supplies.items():
            access, watts = as_point(self.law.access_j_at(v_dd)), as_point(0.0)
            if self.latency_s and self.law.leakage is not None:
                watts = self.law.leakage.power_w(as_point(v_dd))
            found[name] = float(self._joules(traffic, access, watts))
        return found

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"device": "sram", **WordMemory.describe(self), **self.law.describe()}
