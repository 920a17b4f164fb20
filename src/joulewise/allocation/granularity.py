"""Granularity: the decision variables of an allocation, and which operating points they set.

A level is a normalised operating point: 0 is the least reliable end of a device's knob range, 1 the
most reliable, on a logarithmic scale where the range spans decades (see `Knob`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from joulewise.devices import Knob, Point
from joulewise.errors import InputError, check_count, refuse
from joulewise.placement import Placed, Placement

__all__ = ["DecisionVariables", "Granularity", "Per"]

Per = Literal["network", "role", "tensor", "channel"]
"""Unit that has an operating point; see `Granularity`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granularity:
    """Granularity and choice of operating points.

    Args:
        per: ``"network"``, ``"role"`` (weights, activations), ``"tensor"``, or ``"channel"``: each
            output channel of a weight, the first axis, and each activation as a whole. Memories of
            different knob ranges that share a variable are at the same level of each range.
        bit_planes: True if each bit plane of a word has an operating point, too.
        rails: Number of operating points in use, 1 or more, whose values are optimised; None for
            any number.
        levels: The only operating points that may be used, on the device's knob; empty for all.

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
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        if self.per == "channel" and self.bit_planes:
            refuse("bit_planes", "True, beside per='channel'", "one of the two")
        if self.rails is not None:
            check_count("rails", self.rails, 1, 10**6)
            if self.levels:
                refuse("rails", f"{self.rails}, beside levels", "one of the two")

    def check(self, placement: Placement) -> None:
        """Refuse a placement whose memories have no such operating points.

        Args:
            placement: The placement to be allocated.

        Raises:
            InputError: see `DecisionVariables.of`.
        """
        DecisionVariables.of(placement, self)

    def listed(self, placement: Placement) -> dict[float, float]:
        """The listed operating points by their level, ascending.

        Raises:
            InputError: if there are listed points or rails, and memories of different knob ranges.
        """
        if not self.levels and self.rails is None:
            return {}
        knobs = {p.device.knob.range for p in placement.placed}
        if len(knobs) > 1:
            allowed = "none, or one kind of memory"
            restricted = "levels" if self.levels else "rails"
            refuse(restricted, "given for memories of different knobs or ranges", allowed)
        device = placement.placed[0].device
        points = [float(device.point(**{device.knob.name: float(level)})) for level in self.levels]
        by_level = {device.knob.level(point): point for point in points}
        return dict(sorted(by_level.items()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecisionVariables:
    """The levels that are chosen, as one vector, and the plans that they stand for.

    Args:
        knobs: The knob of each placed tensor.
        index: The variables that set the operating point of each placed tensor, in the shape of the
            point: a scalar, ``[bits]`` for bit planes, ``[channels, 1]`` for output channels.
        count: Number of variables.
        listed: The only operating points that may be chosen by their level, ascending; empty for
            all. Plans have them bit for bit.
    """

    knobs: Mapping[str, Knob]
    index: Mapping[str, Tensor]
    count: int
    listed: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, placement: Placement, granularity: Granularity) -> DecisionVariables:
        """The variables of a placement.

        Args:
            placement: The placement to be allocated.
            granularity: The granularity of operating points.

        Raises:
            InputError: if a device has no operating points for bit planes or channels; see
                `Granularity.listed`.
        """
        first: dict[tuple[str, torch.Size], int] = {}
        index, count = {}, 0
        for placed in placement.placed:
            own = torch.tensor(0)
            if granularity.bit_planes:
                own = torch.arange(_planes(placed))
            elif granularity.per == "channel" and placed.channels is not None:
                own = torch.arange(_channels(placed))[:, None]
            # Only tensors of equal word length can share the variables of bit planes.
            shared = {"network": "", "role": placed.role}.get(granularity.per, placed.name)
            key = (shared, own.shape)
            if key not in first:
                first[key], count = count, count + own.numel()
            index[placed.name] = first[key] + own
        knobs = {p.name: p.device.knob for p in placement.placed}
        listed = granularity.listed(placement)
        return cls(knobs=knobs, index=index, count=count, listed=listed)

    @property
    def most_reliable(self) -> Tensor:
        """The most reliable levels that may be chosen, float64 ``[count]``."""
        return self.uniform(max(self.listed, default=1.0))

    @property
    def least_reliable(self) -> Tensor:
        """The least reliable levels that may be chosen, those of least energy."""
        return self.uniform(min(self.listed, default=0.0))

    def uniform(self, level: float) -> Tensor:
        """One level for all variables, float64 ``[count]``."""
        return torch.full((self.count,), level, dtype=torch.float64)

    def up_to(self, levels: Tensor) -> DecisionVariables:
        """The same variables, whose most reliable levels are the given ones.

        Tensors of several variables get the largest of their levels. Of listed points, those beyond
        are left out.

        Args:
            levels: float64 ``[count]``, above 0 to 1.
        """
        if self.listed:
            most = float(levels.max())
            kept = {level: point for level, point in self.listed.items() if level <= most}
            return replace(self, listed=kept)
        knobs = {
            name: replace(knob, most_reliable=knob.point(float(levels[self.index[name]].max())))
            for name, knob in self.knobs.items()
        }
        return replace(self, knobs=knobs)

    def points(self, levels: Tensor) -> dict[str, Point]:
        """The operating points of some levels, differentiable.

        Args:
            levels: float64 ``[count]``, 0 to 1.
        """
        alike: dict[tuple[Knob, torch.Size], list[str]] = {}
        for name, index in self.index.items():
            alike.setdefault((self.knobs[name], index.shape), []).append(name)
        points: dict[str, Point] = {}
        for (knob, _), names in alike.items():  # one operation for all: searches call this often
            index = torch.stack([self.index[name] for name in names])
            points.update(zip(names, knob.points(levels[index]), strict=True))
        return {name: points[name] for name in self.index}

    def exact_points(self, levels: Tensor) -> dict[str, Point]:
        """The points without rounding beyond the range or off the list; numbers where scalar."""
        found: dict[str, Point] = {}
        for name, index in self.index.items():
            own = [float(level) for level in levels[index].reshape(-1)]
            points = [self.listed.get(one, self.knobs[name].point(one)) for one in own]
            several = torch.tensor(points, dtype=torch.float64).reshape(index.shape)
            found[name] = several if index.ndim else points[0]
        return found


def _channels(placed: Placed) -> int:
    assert placed.channels is not None
    memory = type(placed.device).__name__
    matrix_inputs = placed.traffic.matrix_inputs if placed.traffic is not None else ()
    if not placed.device.knob.channels:
        reason = f"{placed.name} is stored on a {memory}, which takes one point for a whole tensor"
    elif placed.device.array and any(product.channels() is None for product in matrix_inputs):
        reason = (
            f"the first axis of {placed.name} runs over the rows of a matrix, whose columns have "
            f"points on a {memory}"
        )
    else:
        return placed.channels
    raise InputError(f"per is 'channel' and {reason}; allowed: network, role or tensor")


def _planes(placed: Placed) -> int:
    planes = placed.device.knob.bit_planes
    if planes is None:
        raise InputError(
            f"bit_planes is True and {placed.name} is stored on a {type(placed.device).__name__}, "
            "which has no bit planes; allowed: False, or an SRAM"
        )
    return planes
