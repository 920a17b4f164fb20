"""Operating points as shares of the range of their knob, on a scale that suits it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from joulewise.devices.device import Device

__all__ = ["KnobRange", "PlainPoint", "Point", "as_point", "plain_point"]

Point = float | Tensor
"""An operating point on the device's own knob: a number, or several, where the device takes them.

One for each bit plane is ``[bits]``, one for each output channel (the first axis of a weight)
``[channels, 1]``, and one for each bit plane of each channel ``[channels, bits]``.
"""

PlainPoint = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""An operating point as plain data: a number, or the rows of a table."""

# From this ratio of its ends on, a range is measured in logarithms.
_DECADE = 10.0


def as_point(point: Point) -> Tensor:
    """An operating point as a float64 tensor, through which gradients flow back to the caller."""
    return torch.as_tensor(point, dtype=torch.float64)


def plain_point(point: Point) -> PlainPoint:
    """An operating point as plain data, for records."""
    if isinstance(point, Tensor) and point.ndim > 1:
        return tuple(tuple(float(p) for p in row) for row in point)
    if isinstance(point, Tensor) and point.ndim:
        return tuple(float(p) for p in point)
    return float(point)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRange:
    """What a device allows, from its least reliable point at 0 to its most reliable one at 1.

    Logarithmic where the range spans a decade or more, without 0: a ``g_max``, ``seconds``. Linear
    elsewhere: an ``eta``, in which the logarithm of the bit error rate is about linear. So a step
    of a share changes the noise by about the same factor wherever it starts.

    Args:
        least: The least reliable point, on the knob.
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
        """The range of a device."""
        return cls(least=device.least_reliable, most=device.most_reliable)

    @property
    def logarithmic(self) -> bool:
        """Whether shares are of the logarithm of the knob."""
        low, high = sorted((self.least, self.most))
        return low > 0 and high >= _DECADE * low

    def share(self, point: float) -> float:
        """The share of a point, 0 to 1."""
        least, most, at = self.least, self.most, point
        if self.logarithmic:
            least, most, at = math.log(least), math.log(most), math.log(at)
        return min(max((at - least) / (most - least), 0.0), 1.0)

    def shares(self, points: Tensor) -> Tensor:
        """The same of many points, float64, differentiable; of points beyond the ends, beyond."""
        least, most, at = self.least, self.most, points.double()
        if self.logarithmic:
            least, most, at = math.log(least), math.log(most), at.log()
        return (at - least) / (most - least)

    def point(self, share: float) -> float:
        """The point at a share: at 0 and 1 the ends themselves, and never outside the range."""
        if share in (0.0, 1.0):
            return self.most if share else self.least
        low, high = sorted((self.least, self.most))
        at = float(self.differentiable(torch.tensor(share, dtype=torch.float64)))
        return min(max(at, low), high)

    def differentiable(self, share: Tensor) -> Tensor:
        """The same as tensors, float64."""
        if self.logarithmic:
            return self.least * torch.exp(share * math.log(self.most / self.least))
        return self.least + share * (self.most - self.least)
