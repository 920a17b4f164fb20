"""Operating points: values on the knob of a device, and their levels within its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from joulewise.devices.device import Device

__all__ = ["KnobRange", "PlainPoint", "Point", "as_point", "from_plain", "plain_point"]

Point = float | Tensor
"""An operating point: a value on the device's knob, or several, where the device takes them.

``[bits]`` is one for each bit plane, ``[channels, 1]`` one for each output channel (the first axis
of a weight), ``[channels, bits]`` one for each bit plane of each channel.
"""

PlainPoint = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""An operating point as plain data: a number, or the rows of a table."""

# Ranges whose ends have this ratio or a larger one have a logarithmic scale.
_DECADE = 10.0


def as_point(point: Point) -> Tensor:
    """Convert an operating point to a float64 tensor; gradients flow back to a tensor argument."""
    return torch.as_tensor(point, dtype=torch.float64)


def plain_point(point: Point) -> PlainPoint:
    """Convert an operating point to plain data, for records."""
    point = point.detach() if isinstance(point, Tensor) else point
    if isinstance(point, Tensor) and point.ndim > 1:
        return tuple(tuple(float(p) for p in row) for row in point)
    if isinstance(point, Tensor) and point.ndim:
        return tuple(float(p) for p in point)
    return float(point)


def from_plain(point: PlainPoint) -> Point:
    """Convert plain data to an operating point; the inverse of `plain_point`."""
    return torch.tensor(point, dtype=torch.float64) if isinstance(point, tuple) else point


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRange:
    """Range of a knob; levels run from 0, the least reliable point, to 1, the most reliable one.

    Levels are logarithmic in the knob if its range spans a decade or more and excludes 0, as for
    ``g_max`` and ``seconds``; else linear, as for ``eta``, in which the logarithm of the bit error
    rate is about linear. Equal steps in level then change the noise by about equal factors.

    Args:
        least: The least reliable operating point, on the knob.
        most: The most reliable one.

    Example:
        >>> siemens = KnobRange(least=1e-7, most=1e-3)
        >>> round(siemens.share(1e-5), 6), round(siemens.point(0.25) * 1e6, 6)
        (0.5, 1.0)
    """

    least: float
    most: float

    @classmethod
    def of(cls, device: Device[Any]) -> KnobRange:
        """The range of a device's knob."""
        return cls(least=device.least_reliable, most=device.most_reliable)

    @property
    def logarithmic(self) -> bool:
        """True if levels are linear in the logarithm of the knob."""
        low, high = sorted((self.least, self.most))
        return low > 0 and high >= _DECADE * low

    def share(self, point: float) -> float:
        """Level of a point, clipped to [0, 1]."""
        least, most, at = self.least, self.most, point
        if self.logarithmic:
            least, most, at = math.log(least), math.log(most), math.log(at)
        return min(max((at - least) / (most - least), 0.0), 1.0)

    def shares(self, points: Tensor) -> Tensor:
        """Levels of points, not clipped; float64, differentiable."""
        least, most, at = self.least, self.most, points.double()
        if self.logarithmic:
            least, most, at = math.log(least), math.log(most), at.log()
        return (at - least) / (most - least)

    def point(self, share: float) -> float:
        """Point at a level; exactly the ends at 0 and 1, and never outside the range."""
        if share in (0.0, 1.0):
            return self.most if share else self.least
        low, high = sorted((self.least, self.most))
        at = float(self.differentiable(torch.tensor(share, dtype=torch.float64)))
        return min(max(at, low), high)

    def differentiable(self, share: Tensor) -> Tensor:
        """Points at levels, not clipped; float64, differentiable."""
        if self.logarithmic:
            return self.least * torch.exp(share * math.log(self.most / self.least))
        return self.least + share * (self.most - self.least)
