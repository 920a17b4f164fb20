"""Selective write-verify: a fraction of the weights is programmed iteratively, with read-back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.conductance_pairs import Pairs
from joulewise.devices.crossbar import Crossbar
from joulewise.devices.device import Device
from joulewise.devices.moments import ReadMoments
from joulewise.devices.operating_point import Knob, Point, fixed_point
from joulewise.errors import check_in_range, check_kind, refuse

__all__ = ["WriteVerify", "WrittenPairs"]

# Fields in which a crossbar may differ before and after verification.
_NOISE = ("sigma", "variability", "read_noise", "programming")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenPairs:
    """A tensor on a crossbar, and the order in which its weights are verified.

    Args:
        pairs: The tensor.
        rank: Fraction of the weights that are verified before each one, in its shape: 0 to 1.
    """

    pairs: Pairs
    rank: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WriteVerify(Device[WrittenPairs]):
    """A crossbar of which a fraction of the weights is written with verification.

    The operating point ``verified_fraction`` is that fraction, of each tensor. The weights of the
    highest scores come first: `joulewise.verification_scores` orders them by their effect on the
    outputs. `allocate` with ``Granularity(levels=...)`` then chooses this fraction for each tensor.

    Args:
        unverified: The crossbar as programmed by single pulses, without verification.
        verified: The same crossbar with verification: equal, but for its noise.
        g_max: Operating point of both, siemens.
        scores: By the name of a placed tensor, a score for each weight; other tensors are verified
            from the largest weight down. `joulewise.place` refuses names that no tensor has.
        pulses: Pulses for each weight without and with verification, above 0, ascending.
        pulse_j: Joules of one pulse and its verification, 0 to 1.
        inferences: Inferences from one programming to the next, 1 or more, which share its energy.

    Raises:
        InputError: if the two crossbars differ in more than their noise, or a field is out of
            range.

    References:
        Z. Yan, X. S. Hu, Y. Shi, "SWIM: Selective write-verify for computing-in-memory neural
        accelerators", DAC 2022, arXiv 2202.08395. Ten pulses on average are the order of magnitude
        that is reported there and for ReRAM; the energy of a pulse is illustrative.
    """

    unverified: Crossbar
    verified: Crossbar
    g_max: float
    scores: Mapping[str, Tensor] | None = None
    pulses: tuple[float, float] = (1.0, 10.0)
    pulse_j: float = 1e-12
    inferences: float = 1e6

    def __post_init__(self) -> None:
        for name in ("unverified", "verified"):
            check_kind(name, getattr(self, name), Crossbar, "a Crossbar(...)")
        for name in (field.name for field in fields(Crossbar) if field.name not in _NOISE):
            if getattr(self.unverified, name) != getattr(self.verified, name):
                refuse(f"{name} of verified", getattr(self.verified, name), "that of unverified")
        if self.unverified.lowest != self.verified.lowest:
            allowed = f"that of unverified, {self.unverified.lowest:g}, by g_min of both"
            refuse("the lowest conductance of verified", self.verified.lowest, allowed)
        check_in_range("g_max", self.g_max, 0.0, 1.0)  # one number; its range is the knob's
        for device in (self.unverified, self.verified):
            device.point(g_max=self.g_max)
        check_kind("scores", self.scores, Mapping | None, "tensors by name, or None")
        for name, scores in (self.scores or {}).items():
            check_kind(f"the scores of {name}", scores, Tensor, "a tensor of real numbers")
            if scores.is_complex():
                refuse(f"the scores of {name}", scores.dtype, "a tensor of real numbers")
        check_kind("pulses", self.pulses, tuple | list, "two numbers")
        if len(self.pulses) != 2:
            refuse("pulses", self.pulses, "two numbers")
        low, high = self.pulses
        check_in_range("pulses[0]", low, 0.0, 1e9, open_low=True)
        check_in_range("pulses[1]", high, low, 1e9, open_low=True)
        check_in_range("pulse_j", self.pulse_j, 0.0, 1.0)
        check_in_range("inferences", self.inferences, 1.0, 1e30)

    @property
    def array(self) -> Array:  # type: ignore[override]
        """Arrays and converters of the crossbar."""
        return self.unverified.array

    @property
    def tensors(self) -> Collection[str]:
        """Those of `scores`."""
        return tuple(self.scores or ())

    @property
    def knob(self) -> Knob:
        """``verified_fraction``, the fraction of the weights."""
        return Knob(name="verified_fraction", least_reliable=0.0, most_reliable=1.0)

    @property
    def smooth(self) -> bool:
        """False: weights are verified one by one."""
        return False

    @property
    def fresh(self) -> bool:
        """True if there is read noise."""
        return self.unverified.fresh or self.verified.fresh

    def store(
        self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor"
    ) -> WrittenPairs:
        """Store on the crossbar, and rank the weights by their scores.

        Raises:
            InputError: if there are scores of another shape.
        """
        pairs = self.unverified.store(tensor, limit=limit, name=name)
        scores = (self.scores or {}).get(name, pairs.targets)
        if scores.shape != pairs.weights.shape:
            allowed = f"{tuple(pairs.weights.shape)}"
            refuse(f"the scores of {name}", tuple(scores.shape), allowed)
        if bool(scores.isnan().any()):
            refuse(f"the scores of {name}", "not all numbers", "numbers, without NaN")
        order = scores.detach().flatten().argsort(descending=True, stable=True)
        rank = torch.empty(len(order), dtype=torch.float64, device=pairs.weights.device)
        places = torch.arange(len(order), dtype=torch.float64, device=rank.device)
        # Below a fraction of f lie the first f n weights of the order: masks are nested over f.
        rank[order.to(rank.device)] = places / max(len(order), 1)
        return WrittenPairs(pairs=pairs, rank=rank.view_as(pairs.weights))

    def ideal(self, stored: WrittenPairs) -> Tensor:
        """The weights, rounded to levels."""
        return self.unverified.ideal(stored.pairs)

    def read(self, stored: WrittenPairs, point: Point, chip: Chip) -> Tensor:
        """The tensor as read on one chip."""
        unverified = self.unverified.read(stored.pairs, self.g_max, chip)
        verified = self.verified.read(stored.pairs, self.g_max, chip)
        return torch.where(stored.rank < self._fraction(point), verified, unverified)

    def moments(self, stored: WrittenPairs, point: Point) -> ReadMoments:
        """Mean and variance over chips and reads, those of the crossbar of each weight."""
        unverified, verified = (
            device.moments(stored.pairs, self.g_max) for device in (self.unverified, self.verified)
        )
        chosen = stored.rank < self._fraction(point)
        return ReadMoments(
            mean=torch.where(chosen, verified.mean, unverified.mean),
            var=torch.where(chosen, verified.var, unverified.var),
        )

    def _fraction(self, point: Point) -> float:
        return fixed_point(point, type(self).__name__)

    def pulses_per_weight(self, point: Point) -> float:
        """Mean pulses for a weight."""
        low, high = self.pulses
        return low + (high - low) * self._fraction(point)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: read-out, and its share of programming."""
        programming = traffic.words * self.pulses_per_weight(point) * self.pulse_j
        return self.verified.energy(traffic, self.g_max) + programming / self.inferences

    def converter_energy(self, traffic: Traffic) -> float:
        """Joules per inference of converters."""
        return self.verified.converter_energy(traffic)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "device": "write verify",
            "g_max": self.g_max,
            "pulses": list(self.pulses),
            "pulse_j": self.pulse_j,
            "inferences": self.inferences,
            "scores_blake2b": self._digest(),
            "unverified": self.unverified.describe(),
            "verified": self.verified.describe(),
        }

    def _digest(self) -> str:
        """Digest of the scores, by name; empty without any."""
        if not self.scores:
            return ""
        state = hashlib.blake2b(digest_size=8)
        for name, scores in sorted(self.scores.items()):
            state.update(name.encode() + scores.detach().double().cpu().numpy().tobytes())
        return state.hexdigest()
