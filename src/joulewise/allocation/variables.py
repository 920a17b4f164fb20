"""Variables: which operating points an allocation may choose, one by one or together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from joulewise.devices import KnobRange, Point
from joulewise.devices.operating_point import as_point
from joulewise.errors import InputError, check_in_range, check_whole, refuse
from joulewise.placement import Placed, Placement

__all__ = ["Granularity", "Per", "Variables"]

Per = Literal["network", "role", "tensor", "channel"]
"""What has a point of its own: all, the weights and the activations, each tensor or channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granularity:
    """What has an operating point of its own, and which points there are.

    Args:
        per: ``"network"``, ``"role"`` (weights, activations), ``"tensor"``, or ``"channel"``: each
            output channel of a weight, the first axis, and each activation as a whole. Points of
            memories of different ranges that go together are at the same share of each.
        bit_planes: Whether each bit plane of a word has a point, too.
        rails: How many points may be in use, 1 or more, to be chosen; None for any number.
        levels: The only points that may be used, on the device's knob; empty for all.

    Raises:
        InputError: if a field is outside its range, or rails and levels are both given.
    """

    per: Per = "tensor"
    bit_planes: bool = False
    rails: int | None = None
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields once."""
        if self.per not in get_args(Per):
            refuse("per", repr(self.per), f"one of {', '.join(get_args(Per))}")
        if self.per == "channel" and self.bit_planes:
            refuse("bit_planes", "True, beside per='channel'", "one of the two")
        if self.rails is not None:
            check_in_range("rails", self.rails, 1, 10**6)
            check_whole("rails", self.rails)
            if self.levels:
                refuse("rails", f"{self.rails}, beside levels", "one of the two")

    def check(self, placement: Placement) -> None:
        """Refuse a placement whose memories cannot be given points so.

        Args:
            placement: What is stored where.

        Raises:
            InputError: as `Variables.of` says it.
        """
        Variables.of(placement, self)

    def shares(self, placement: Placement) -> tuple[float, ...]:
        """The levels as shares of the range of the knob, ascending.

        Raises:
            InputError: if there are levels or rails, and memories of different ranges.
        """
        return tuple(sorted(self.listed(placement)))

    def listed(self, placement: Placement) -> dict[float, float]:
        """The levels by their share of the range of the knob.

        Raises:
            InputError: as `shares` says it.
        """
        restricted = "levels" if self.levels else "rails"
        if not self.levels and self.rails is None:
            return {}
        knobs = {(p.device.knob, KnobRange.of(p.device)) for p in placement.placed}
        if len(knobs) > 1:
            allowed = "none, or one kind of memory"
            refuse(restricted, "given for memories of different knobs or ranges", allowed)
        device = placement.placed[0].device
        points = [float(device.point(**{device.knob: float(level)})) for level in self.levels]
        return {KnobRange.of(device).share(point): point for point in points}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variables:
    """The shares of the ranges of all knobs that are chosen, as one vector.

    Args:
        ranges: The range of each placed tensor's knob.
        index: For each placed tensor, which variable its point is, in the shape of the point: no
            axes, ``[bits]`` for bit planes, ``[channels, 1]`` for output channels.
        count: How many variables there are.
        listed: Points that were given as levels, by their share: they come back as they were.
    """

    ranges: Mapping[str, KnobRange]
    index: Mapping[str, Tensor]
    count: int
    listed: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, placement: Placement, granularity: Granularity) -> Variables:
        """The variables of a placement.

        Args:
            placement: What is stored where.
            granularity: What has points of its own.

        Raises:
            InputError: if bit planes or channels are to have points, and a device has none; or as
                `Granularity.shares` says it.
        """
        first: dict[tuple[str, torch.Size], int] = {}
        index, count = {}, 0
        for placed in placement.placed:
            own = torch.tensor(0)
            if granularity.bit_planes:
                own = torch.arange(_planes(placed))
            elif granularity.per == "channel" and placed.channels is not None:
                own = torch.arange(_channels(placed))[:, None]
            key = (_owner(placed, granularity.per), own.shape)
            if key not in first:
                first[key], count = count, count + own.numel()
            index[placed.name] = first[key] + own
        ranges = {p.name: KnobRange.of(p.device) for p in placement.placed}
        listed = granularity.listed(placement)
        return cls(ranges=ranges, index=index, count=count, listed=listed)

    def plan(self, shares: Tensor) -> dict[str, Point]:
        """The plan at some shares, differentiable.

        Args:
            shares: float64 ``[count]``, 0 to 1.
        """
        alike: dict[tuple[KnobRange, torch.Size], list[str]] = {}
        for name, index in self.index.items():
            alike.setdefault((self.ranges[name], index.shape), []).append(name)
        plan: dict[str, Point] = {}
        for (limits, _), names in alike.items():  # one operation for all of one range: searches
            index = torch.stack([self.index[name] for name in names])
            plan.update(zip(names, limits.differentiable(shares[index]), strict=True))
        return {name: plan[name] for name in self.index}

    def exact_plan(self, shares: Tensor) -> dict[str, Point]:
        """The same, within the range whatever rounding does; plain numbers for scalar points."""
        plan: dict[str, Point] = {}
        for name, index in self.index.items():
            limits = self.ranges[name]
            own = [float(share) for share in shares[index].reshape(-1)]
            points = [self.listed[s] if s in self.listed else limits.point(s) for s in own]
            several = torch.tensor(points, dtype=torch.float64).reshape(index.shape)
            plan[name] = several if index.ndim else points[0]
        return plan

    def shares(self, plan: Mapping[str, Point]) -> Tensor:
        """The shares of a plan; where several points share a variable, their mean."""
        total, met = (torch.zeros(self.count, dtype=torch.float64) for _ in range(2))
        for name, index in self.index.items():
            points = as_point(plan[name]).detach().expand(index.shape).reshape(-1)
            found = [self.ranges[name].share(float(point)) for point in points]
            total.index_add_(0, index.reshape(-1), torch.tensor(found, dtype=torch.float64))
            met.index_add_(0, index.reshape(-1), torch.ones(len(found), dtype=torch.float64))
        return total / met


def _owner(placed: Placed, per: Per) -> str:
    if per == "network":
        return ""
    return placed.role if per == "role" else placed.name


def _channels(placed: Placed) -> int:
    assert placed.channels is not None
    if not placed.device.channel_points:
        raise InputError(
            f"per is 'channel' and {placed.name} lies on a {type(placed.device).__name__}, which "
            "takes one point for a whole tensor; allowed: network, role or tensor"
        )
    loads = placed.traffic.loads if placed.traffic is not None else ()
    if placed.device.computes and any(load.channels() is None for load in loads):
        raise InputError(
            f"per is 'channel' and the first axis of {placed.name} runs over the rows of a matrix, "
            f"whose columns have points on a {type(placed.device).__name__}; allowed: network, "
            "role or tensor"
        )
    return placed.channels


def _planes(placed: Placed) -> int:
    if placed.device.planes is None:
        raise InputError(
            f"bit_planes is True and {placed.name} lies on a {type(placed.device).__name__}, which "
            "has no bit planes; allowed: False, or an SRAM"
        )
    return placed.device.planes
