"""SRAM under voltage scaling: words whose cells fail more often as the supply is lowered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.device import Device
from joulewise.devices.fault_kinds import FaultKind, Mask
from joulewise.devices.fault_maps import FaultMap, IndependentMap
from joulewise.devices.faulty_words import FaultyWords, samples_are_dense
from joulewise.devices.measured_map import MeasuredMap
from joulewise.devices.moments import ReadMoments, WordClasses
from joulewise.devices.operating_point import Knob, Point, as_point
from joulewise.devices.reliability_laws import ExponentialLaw, ReliabilityLaw
from joulewise.errors import OperatingPointError, check_kind, refuse
from joulewise.words import FixedPoint, Words, check_storable

__all__ = ["SRAM"]

_KNOBS = ("eta", "v_dd", "bit_error_rate")
_LAWS = "ExponentialLaw(), law('a profile') or VoltageTable.from_csv('a table')"


@dataclass(frozen=True, slots=True, kw_only=True)
class SRAM(Device[Words]):
    """SRAM of two's complement words under voltage scaling.

    ``eta`` is the energy of an access over that of a reliable access. An operating point may be
    given as ``eta``, as ``v_dd`` (volts, or the unit of the law's table) or as ``bit_error_rate``,
    then the lowest ``eta`` that achieves it; results state it in the unit of ``knob``. Faults are
    static and nested: a chip has weak cells, the same at every read, and a cell that fails at some
    ``eta`` fails at every lower one.

    Args:
        bits: Bits in a word, 2 to 16.
        law: Bit error rate and energy as functions of ``eta``.
        fault: Effect of a failing cell on its word: `Mask`, `Flip` or `Stuck`.
        fault_map: Positions of failing cells: `IndependentMap`, `CorrelatedMap` or `MeasuredMap`.
        channel_dim: The axis along which each index has a separate scale (0: output channels); None
            for one scale per tensor.
        limit: The largest magnitude to represent; None takes the largest in the tensor.
        knob: Quantity of operating points in plans and results: ``"eta"``, ``"v_dd"`` or
            ``"bit_error_rate"``; kept as a `Knob`.

    Raises:
        InputError: if a field is outside its range, or the law has no voltages for ``"v_dd"``.

    Example:
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

    bits: int = 8
    law: ReliabilityLaw = field(default_factory=ExponentialLaw)
    fault: FaultKind = field(default_factory=Mask)
    fault_map: FaultMap = field(default_factory=IndependentMap)
    channel_dim: int | None = None
    limit: float | None = None
    knob: Any = "eta"  # a str as given, a Knob after __post_init__

    def __post_init__(self) -> None:
        check_kind("law", self.law, ReliabilityLaw, _LAWS)
        check_kind("fault", self.fault, FaultKind, "Mask(), Flip() or Stuck()")
        allowed = "IndependentMap(), CorrelatedMap(...) or a MeasuredMap"
        check_kind("fault_map", self.fault_map, FaultMap, allowed)
        check_kind("channel_dim", self.channel_dim, int | None, "an axis, such as 0, or None")
        self._format(None)
        self.fault_map.check(self.bits)
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
            channels=True,
        )
        object.__setattr__(self, "knob", knob)

    @property
    def independent_words(self) -> bool:
        """True for an `IndependentMap`; others have weak rows, columns or positions."""
        return isinstance(self.fault_map, IndependentMap)

    @property
    def smooth(self) -> bool:
        """False for a `MeasuredMap`, whose moments are step functions of the point."""
        return not isinstance(self.fault_map, MeasuredMap)

    @property
    def reliable_bit_j(self) -> float:
        """Joules per bit at the most reliable operating point."""
        return float(self.law.energy_per_bit_j(self._eta(self.knob.most_reliable)))

    @property
    def supply_ratios(self) -> dict[str, float]:
        """Those of the law; see `Device.supply_ratios`."""
        return self.law.supply_ratios

    def _eta(self, point: Point) -> Tensor:
        return self.law.eta_at(self.knob.name, as_point(point))

    def bit_error_rate(self, point: Point) -> Tensor:
        """Probability that a cell fails; float64, the shape of ``point``."""
        return self.law.bit_error_rate(self._eta(point))

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Words:
        """Round a tensor to words."""
        format = self._format(limit)
        check_storable(tensor, name, format.channel_dim)
        return format.encode(tensor.detach())

    def ideal(self, stored: Words) -> Tensor:
        """The values rounded to words."""
        return stored.values.to(stored.dtype)

    def read(self, stored: Words, point: Point, chip: Chip) -> Tensor:
        """The values as read on one chip, at the part that holds this tensor."""
        self._check_channels(point, stored.values)
        faulty = self._faulty_words(stored.values.numel(), point, chip)
        values = stored.values.clone()
        faulty.replace_in(values[None], stored.scale, self.fault, self.bits)
        return values.to(stored.dtype)

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch of activations and read it back; see `Device.round_trip`."""
        self._check_channels(point, None)
        # One scale: ``channel_dim`` is an axis of weights, and axis 0 is the batch here.
        format = replace(self._format(limit), channel_dim=None)
        held = format.encode(inputs.detach())
        values = held.values if samples_are_dense(held.values) else held.values.contiguous()
        if chip is not None:
            used = values[0].numel()
            faulty = self._faulty_words(max(words or used, used), point, chip).first(used)
            faulty.replace_in(values, held.scale, self.fault, self.bits)
        return values.to(inputs.dtype)

    def moments(self, stored: Words, point: Point) -> ReadMoments:
        """Element-wise mean and variance of `read` over chips; differentiable in ``point``.

        Exact for an `IndependentMap` and a `MeasuredMap`; for a `CorrelatedMap` up to the
        quadrature error that the class states.
        """
        self._check_channels(point, stored.values)
        scale, index, points = stored.scale, self._index(stored), as_point(point)
        if points.ndim < 2:
            mean, var = (of_code.to(scale).take(index) for of_code in self.code_moments(point))
        else:
            which = torch.arange(len(points))
            if not points.requires_grad:  # equal points are worked out once
                points, which = torch.unique(points, dim=0, return_inverse=True)
            mean, var = (
                torch.stack(of_code)[which].to(scale).gather(1, index.flatten(1)).view_as(index)
                for of_code in zip(*map(self.code_moments, points), strict=True)
            )
        # In the precision of the scale: squares would underflow in half precision.
        return ReadMoments(mean=mean * scale, var=var * scale**2)

    def word_classes(self, stored: Words) -> WordClasses:
        """One class for each code."""
        return WordClasses(
            index=self._index(stored),
            scale=stored.scale,
            count=1 << self.bits,
            moments=self.code_moments,
        )

    def _index(self, stored: Words) -> Tensor:
        """Index of the code of each word in ``all_codes(bits)``."""
        return stored.codes + (1 << (self.bits - 1))

    def code_moments(self, point: Point) -> tuple[Tensor, Tensor]:
        """Mean and variance of the code that is read, for each stored code.

        ``point`` is one number, or one for each bit plane; the moments are two float64 tensors
        ``[2**bits]``, in the order of ``all_codes(bits)``.
        """
        rate = self.bit_error_rate(point).expand(self.bits)
        weights, rates = self.fault_map.mixture(self.fault.rates(rate))
        parts = [self.fault.moments(component, self.bits) for component in rates]
        if len(parts) == 1:
            return parts[0]
        means, variances = (torch.stack(part) for part in zip(*parts, strict=True))
        # Law of total variance, Var = E[Var] + Var[E], in a form without cancellation.
        mean = weights @ means
        return mean, weights @ (variances + (means - mean) ** 2)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: words accessed times joules per word, mean over channels."""
        return (traffic.reads + traffic.writes) * self._word_j(point).mean()

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each channel: equal accesses, each at its channel's point."""
        accesses = (traffic.reads + traffic.writes) / channels
        return accesses * self._word_j(point).expand(channels)

    def _word_j(self, point: Point) -> Tensor:
        """Joules per access to a word: one number, or one for each channel."""
        return self._in_planes(self.law.energy_per_bit_j(self._eta(point))).sum(-1)

    def _in_planes(self, figures: Tensor) -> Tensor:
        """Expand a function of the point to all bit planes: ``[bits]`` or ``[channels, bits]``."""
        return figures.expand(*figures.shape[:-1], self.bits)

    def _check_channels(self, point: Point, weight: Tensor | None) -> None:
        """Refuse points of another number of channels than the weight has; activations have 0."""
        channels = len(weight) if weight is not None and weight.ndim else 0
        if isinstance(point, float) or as_point(point).ndim < 2 or len(point) == channels:
            return
        allowed = f"one number, or one for each of {channels} output channels"
        if not channels:
            allowed = "one number, or one for each bit plane: only weights have output channels"
        refuse(self.knob.name, f"for {len(point)} channels", allowed, OperatingPointError)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "device": "sram",
            "bits": self.bits,
            "channel_dim": self.channel_dim,
            "limit": self.limit,
            **self.fault.describe(),
            **self.fault_map.describe(),
            **self.law.describe(),
        }

    def _format(self, limit: float | None) -> FixedPoint:
        # The limit of the device takes precedence over the observed one.
        chosen = limit if self.limit is None else self.limit
        channel_dim = self.channel_dim if chosen is None else None
        return FixedPoint(bits=self.bits, limit=chosen, channel_dim=channel_dim)

    def _faulty_words(self, words: int, point: Point, chip: Chip) -> FaultyWords:
        """Draw the words with failing cells among ``words`` words of one part of a chip."""
        if isinstance(point, float):
            rates = _common_rates(self.law, self.fault, self.bits, self.knob.name, point)
        else:
            rate = self._in_planes(self.bit_error_rate(point).detach())
            rates = self.fault.rates(rate).cpu().numpy()
        on_zero, on_one = self.fault_map.failing(words, rates, chip)
        on_zero = self.fault.select(on_zero, 0, chip)
        return FaultyWords.of_cells(on_zero, self.fault.select(on_one, 1, chip), self.bits)


@lru_cache(maxsize=1024)
def _common_rates(
    law: ReliabilityLaw, fault: FaultKind, bits: int, knob: str, point: float
) -> NDArray[np.float64]:
    """Failure rates of cells at one point, cached: each chip of a sweep needs them."""
    rate = law.bit_error_rate(law.eta_at(knob, as_point(point))).expand(bits)
    rates: NDArray[np.float64] = fault.rates(rate).numpy()
    rates.setflags(write=False)
    return rates
