"""Curves: figures of many scalar operating points at once, from tables over the knob.

Every tensor, or output channel, has a point of its own, and the moments of all classes of words at
hundreds of points take too long to work out for each plan. What is needed of them are a few sums,
smooth functions of one number: they are worked out at some shares of the knob's range, with their
slopes, and interpolated by cubics between. Shares lie as close as it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices import KnobRange

__all__ = ["Curves"]

# Cubics are compared with the figures half way between shares until they agree to so much; then
# these are known, too, and errors a tenth of that or less. Where a figure has a kink, shares around
# it are this close in the end.
_EXACT, _FIRST, _HALVINGS = 5e-6, 32, 12
# Next to the largest of a curve, numbers this small are 0.
_NOTHING = 1e-13
# Numbers of a table that are worked out at a time.
_AT_A_TIME = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Functions of a point, tabulated; see `tabulated`.

    Args:
        limits: The range of the knob.
        shares: Where they are known, ascending from 0 to 1, float64 ``[known]``.
        values: There, ``[known, curves]``.
        slopes: What they change by with the share, ``[known, curves]``.
    """

    limits: KnobRange
    shares: Tensor
    values: Tensor
    slopes: Tensor

    @classmethod
    def tabulated(
        cls, limits: KnobRange, figures: Callable[[Tensor], Tensor], numbers: int
    ) -> Curves:
        """Tabulate figures to a relative 1e-6, but for kinks.

        Args:
            limits: The range of the knob.
            figures: The curves at one point, float64 ``[curves]``, from a scalar; twice
                differentiable.
            numbers: How many numbers one call of ``figures`` looks at, for the memory.
        """

        def both(shares: Tensor) -> tuple[Tensor, Tensor]:
            at_a_time = max(1, _AT_A_TIME // numbers)
            parts = [_with_slopes(limits, figures, part) for part in torch.split(shares, at_a_time)]
            values, slopes = zip(*parts, strict=True)
            return torch.cat(values), torch.cat(slopes)

        with torch.no_grad():
            shares = torch.linspace(0, 1, _FIRST + 1, dtype=torch.float64)
            values, slopes = both(shares)
            open_ends = torch.ones(_FIRST, dtype=torch.bool)
            for _ in range(_HALVINGS):
                curves = cls(limits=limits, shares=shares, values=values, slopes=slopes)
                left = open_ends.nonzero()[:, 0]
                middles = (shares[left] + shares[left + 1]) / 2
                found, steep = both(middles)
                off = (curves._between(middles) - found).abs()
                near = _EXACT * found.abs() + _NOTHING * values.abs().amax(0)
                wrong = (off > near).any(1)
                order = torch.cat([shares, middles]).argsort()
                values = torch.cat([values, found])[order]
                slopes = torch.cat([slopes, steep])[order]
                shares = torch.cat([shares, middles])[order]
                if not bool(wrong.any()):
                    break
                below = shares[torch.searchsorted(shares, middles[wrong]) - 1]
                again = torch.cat([middles[wrong], below])
                open_ends = torch.isin(shares[:-1], again)
        return cls(limits=limits, shares=shares, values=values, slopes=slopes)

    def _between(self, shares: Tensor) -> Tensor:
        """All curves at each share, ``[shares, curves]``."""
        row = torch.arange(self.values.shape[1])
        return self.at_shares(shares[:, None].expand(-1, len(row)), row)

    def at(self, points: Tensor, which: Tensor) -> Tensor:
        """Curves at points, differentiable.

        Args:
            points: float64, any shape.
            which: The curve of each, int64, of a shape that broadcasts.
        """
        return self.at_shares(self.limits.shares(points), which)

    def at_shares(self, shares: Tensor, which: Tensor) -> Tensor:
        """The same, of shares of the range."""
        place = torch.searchsorted(self.shares, shares.detach().contiguous(), right=True)
        right = place.clamp(1, len(self.shares) - 1)
        left = right - 1
        step = self.shares[right] - self.shares[left]
        t = (shares - self.shares[left]) / step
        from_left, from_right = (1 + 2 * t) * (1 - t).square(), (3 - 2 * t) * t.square()
        total = from_left * self.values[left, which] + from_right * self.values[right, which]
        bent = t * (1 - t) * step
        bend = (1 - t) * self.slopes[left, which] - t * self.slopes[right, which]
        return total + bent * bend


def _with_slopes(
    limits: KnobRange, figures: Callable[[Tensor], Tensor], shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Figures at some shares and their slopes, ``[shares, curves]`` each."""
    with torch.enable_grad():
        at = shares.detach().requires_grad_()
        values = torch.func.vmap(figures)(limits.differentiable(at))
        if not values.requires_grad:
            return values, torch.zeros_like(values)
        # Backwards twice is forwards: the first pass is linear in what it is given, and what it is
        # multiplied by are the slopes of all curves.
        given = torch.ones_like(values, requires_grad=True)
        (back,) = torch.autograd.grad(values, at, given, create_graph=True)
        (slopes,) = torch.autograd.grad(back.sum(), given)
    return values.detach(), slopes
