"""Operating points, and the knob of a device: its name, range, levels and accepted shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import (
    InputError,
    OperatingPointError,
    check_count,
    check_in_range,
    check_kind,
    refuse,
)

__all__ = [
    "Knob",
    "PlainPoint",
    "Point",
    "as_point",
    "checked_ends",
    "fixed_point",
    "from_plain",
    "plain_point",
]

Point = float | Tensor
"""An operating point: a value on the device's knob, or several, where the device takes them.

``[bits]`` is one for each bit plane, ``[channels, 1]`` one for each output channel (the first axis
of a weight), ``[channels, bits]`` one for each bit plane of each channel.
"""

PlainPoint = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""An operating point as plain data: a number, or the rows of a table."""


def checked_ends(field: str, ends: Any, low: float, high: float, unit: str) -> tuple[float, float]:
    """A range of operating points: two numbers from ``low`` to ``high``, ascending.

    Raises:
        InputError: if it is something else.
    """
    allowed = f"two numbers of {unit}, ascending, {low:g} to {high:g}"
    check_kind(field, ends, tuple | list, allowed)
    if len(ends) != 2:
        refuse(field, ends, allowed)
    for end in ends:
        check_in_range(field, end, low, high, open_low=low == 0)
    if not ends[0] < ends[1]:
        refuse(field, ends, allowed)
    return float(ends[0]), float(ends[1])


def as_point(point: Point | PlainPoint) -> Tensor:
    """Convert an operating point to a float64 tensor; gradients flow back to a tensor argument."""
    return torch.as_tensor(point, dtype=torch.float64)


def fixed_point(point: Point, device: str) -> float:
    """A point as a number, for a device whose figures have no gradient in it.

    Raises:
        InputError: if the point requires a gradient.
    """
    if isinstance(point, Tensor) and point.requires_grad:
        raise InputError(
            f"{device} has no gradient in its operating point; allowed: a plan without gradients, "
            "Granularity(levels=...) to allocate"
        )
    return float(point)


def plain_point(point: Point) -> PlainPoint:
    """Convert an operating point to plain data, for records."""
    numbers = point.detach().double().tolist() if isinstance(point, Tensor) else float(point)
    if isinstance(numbers, float):
        return numbers
    return tuple(tuple(row) if isinstance(row, list) else row for row in numbers)


def from_plain(point: PlainPoint) -> Point:
    """Convert plain data to an operating point; the inverse of `plain_point`."""
    return torch.tensor(point, dtype=torch.float64) if isinstance(point, tuple) else point


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """The controlled quantity of a device, ``eta`` or ``g_max``, whose values are operating points.

    Levels run from 0, the least reliable point, to 1, the most reliable one. They are logarithmic
    in the knob if its range spans a decade or more and excludes 0, as for ``g_max`` and
    ``seconds``; else linear, as for ``eta``, in which the logarithm of the bit error rate is about
    linear. Equal steps in level then change the noise by about equal factors.

    Args:
        name: Keyword of the operating point, for instance ``"eta"``.
        least_reliable: The operating point with the most noise, finite.
        most_reliable: The operating point with the least noise, finite; above or below the other.
        aliases: Other quantities that a point may be given in: by name, the function that converts
            float64 values to the knob and refuses those outside its domain.
        adjustable: True if a system designer sets the knob; False for the age of a memory.
        bit_planes: Bit planes that can have separate operating points; None if they cannot.
        channels: True if each output channel of a weight can have a separate operating point.

    Example:
        >>> siemens = Knob(name="g_max", least_reliable=1e-7, most_reliable=1e-3)
        >>> round(siemens.level(1e-5), 6), round(siemens.point(0.25) * 1e6, 6)
        (0.5, 1.0)
    """

    name: str
    least_reliable: float
    most_reliable: float
    aliases: Mapping[str, Callable[[Tensor], Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )
    adjustable: bool = True
    bit_planes: int | None = None
    channels: bool = False

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not name.isidentifier():
                refuse("the name of a knob", repr(name), "a Python identifier, such as 'eta'")
        ends = (self.least_reliable, self.most_reliable)
        if not all(math.isfinite(end) for end in ends) or ends[0] == ends[1]:
            refuse(f"the ends of {self.name}", ends, "two finite numbers that differ")
        if self.bit_planes is not None:
            check_count("bit_planes", self.bit_planes, 1, 64)

    @property
    def range(self) -> tuple[str, float, float]:
        """Name and ends: knobs that share them have the same levels."""
        return (self.name, self.least_reliable, self.most_reliable)

    @property
    def logarithmic(self) -> bool:
        """True if levels are linear in the logarithm of the knob."""
        low, high = sorted((self.least_reliable, self.most_reliable))
        return low > 0 and high >= 10 * low

    def level(self, point: float) -> float:
        """Level of a point, clipped to [0, 1]; exactly 0 and 1 at the ends."""
        if point in (self.least_reliable, self.most_reliable):
            return float(point == self.most_reliable)
        return min(max(float(self.levels(as_point(point))), 0.0), 1.0)

    def levels(self, points: Tensor) -> Tensor:
        """Levels of points, not clipped; float64, differentiable."""
        least, most, at = self.least_reliable, self.most_reliable, points.double()
        if self.logarithmic:
            least, most, at = math.log(least), math.log(most), at.log()
        return (at - least) / (most - least)

    def point(self, level: float) -> float:
        """Point at a level; exactly the ends at 0 and 1, and never outside the range."""
        if level in (0.0, 1.0):
            return self.most_reliable if level else self.least_reliable
        low, high = sorted((self.least_reliable, self.most_reliable))
        return min(max(float(self.points(as_point(level))), low), high)

    def points(self, levels: Tensor) -> Tensor:
        """Points at levels, not clipped; float64, differentiable."""
        least, most = self.least_reliable, self.most_reliable
        if self.logarithmic:
            return least * torch.exp(levels * math.log(most / least))
        return least + levels * (most - least)

    def checked(self, setting: Mapping[str, Point], device: str) -> Point:
        """Check a setting and convert it to the knob.

        Args:
            setting: One name, that of the knob or an alias, and its value.
            device: Name of the device in error messages.

        Returns:
            A float for a number; else a float64 tensor, with the gradient of a tensor argument.

        Raises:
            OperatingPointError: if the name is unknown, or the value is not a number, out of range,
                or of a shape that the device does not take; see `Point`.
        """
        names = (self.name, *self.aliases)
        if len(setting) != 1 or next(iter(setting)) not in names:
            got = ", ".join(setting) or "no setting"
            allowed = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
            raise OperatingPointError(f"{device} was given {got}; allowed: {allowed}")
        ((name, value),) = setting.items()
        try:
            kind = torch.as_tensor(value).dtype
        except (TypeError, ValueError, RuntimeError):
            kind = torch.bool
        if kind == torch.bool or kind.is_complex:
            got = f"{value!r:.60}, of type {type(value).__name__}"
            refuse(name, got, "a number, or a tensor of numbers", OperatingPointError)
        point = as_point(value)
        if not self._takes(point.shape):
            refuse(name, f"of shape {tuple(point.shape)}", self._shapes(), OperatingPointError)
        if name != self.name:
            point = self.aliases[name](point)
        low, high = sorted((self.least_reliable, self.most_reliable))
        for number in point.detach().reshape(-1).tolist():
            check_in_range(self.name, number, low, high, error=OperatingPointError)
        # Tensors keep their graph; floats are hashable keys of caches.
        return point if point.ndim or isinstance(value, Tensor) else float(point)

    def _takes(self, shape: torch.Size) -> bool:
        if 0 in shape or len(shape) > 2:
            return False
        by_plane = shape[-1:] == (self.bit_planes,)
        if len(shape) == 2:
            return self.channels and (by_plane or shape[1] == 1)
        return not shape or by_plane or (self.channels and self.bit_planes is None)

    def _shapes(self) -> str:
        """The shapes that the device takes, for error messages."""
        planes = self.bit_planes
        if planes is None:
            return "one number" + (", or one for each output channel" if self.channels else "")
        allowed = f"one number, or {planes}, one for each bit plane"
        if not self.channels:
            return allowed
        return f"{allowed}; or [channels, 1] or [channels, {planes}], for each output channel"
