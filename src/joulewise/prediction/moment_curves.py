"""Sums over classes of words as functions of a scalar operating point, from tables over the knob.

Where every tensor, or output channel, has its own point, the moments of all classes at hundreds of
points take too long to compute for each plan. Only a few sums of them are needed, smooth functions
of one number: they are tabulated with their slopes at some levels of the knob, 0 at its least and 1
at its most reliable end, and interpolated by cubic Hermite polynomials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices import Knob

__all__ = ["MomentCurves"]

# An interval is halved until the cubic at its middle agrees with the function to this, relatively;
# then the middle joins the table, and the error left is a tenth or less. At a kink the number of
# halvings limits how close levels get.
_TOLERANCE, _FIRST, _HALVINGS = 5e-6, 32, 12
# Beyond so many levels the function has hundreds of kinks, as sums over classes have on a measured
# table of conductances, and a larger difference is allowed.
_MANY, _OF_MANY = 512, 1e-4
# Values below this fraction of a curve's largest value count as 0.
_NEGLIGIBLE = 1e-13
# Numbers of a table that are computed at a time.
_AT_A_TIME = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MomentCurves:
    """Tabulated functions of an operating point; see `tabulate`.

    Args:
        knob: The knob.
        levels: Levels of the table, ascending from 0 to 1, float64 ``[levels]``.
        values: Values there, ``[levels, curves]``.
        slopes: Derivatives with respect to the level, ``[levels, curves]``.
    """

    knob: Knob
    levels: Tensor
    values: Tensor
    slopes: Tensor

    @classmethod
    def tabulate(
        cls, knob: Knob, function: Callable[[Tensor], Tensor], numbers: int
    ) -> MomentCurves:
        """Tabulate functions to a relative error of 1e-6, of 1e-4 where there are many kinks.

        Args:
            knob: The knob of the points.
            function: All curves at one point, float64 ``[curves]`` from a scalar; twice
                differentiable.
            numbers: Numbers that one call of ``function`` works on, which bounds the memory.
        """

        def both(levels: Tensor) -> tuple[Tensor, Tensor]:
            some = torch.split(levels, max(1, _AT_A_TIME // numbers))
            parts = [_with_slopes(knob, function, part) for part in some]
            values, slopes = zip(*parts, strict=True)
            return torch.cat(values), torch.cat(slopes)

        with torch.no_grad():
            levels = torch.linspace(0, 1, _FIRST + 1, dtype=torch.float64)
            values, slopes = both(levels)
            unsettled = torch.ones(_FIRST, dtype=torch.bool)  # intervals, by their left end
            for _ in range(_HALVINGS):
                curves = cls(knob=knob, levels=levels, values=values, slopes=slopes)
                left = unsettled.nonzero()[:, 0]
                middles = (levels[left] + levels[left + 1]) / 2
                found, steep = both(middles)
                which = torch.arange(values.shape[1])
                off = (curves._at(middles[:, None].expand(-1, len(which)), which) - found).abs()
                tolerance = _TOLERANCE if len(levels) < _MANY else _OF_MANY
                near = tolerance * found.abs() + _NEGLIGIBLE * values.abs().amax(0)
                wrong = (off > near).any(1)
                order = torch.cat([levels, middles]).argsort()
                values = torch.cat([values, found])[order]
                slopes = torch.cat([slopes, steep])[order]
                levels = torch.cat([levels, middles])[order]
                if not bool(wrong.any()):
                    break
                below = levels[torch.searchsorted(levels, middles[wrong]) - 1]
                unsettled = torch.isin(levels[:-1], torch.cat([middles[wrong], below]))
        return cls(knob=knob, levels=levels, values=values, slopes=slopes)

    def at(self, points: Tensor, which: Tensor) -> Tensor:
        """Curves at points, differentiable; ``which`` is the index of the curve of each."""
        return self._at(self.knob.levels(points), which)

    def _at(self, levels: Tensor, which: Tensor) -> Tensor:
        place = torch.searchsorted(self.levels, levels.detach().contiguous(), right=True)
        right = place.clamp(1, len(self.levels) - 1)
        left = right - 1
        step = self.levels[right] - self.levels[left]
        t = (levels - self.levels[left]) / step
        from_left, from_right = (1 + 2 * t) * (1 - t).square(), (3 - 2 * t) * t.square()
        total = from_left * self.values[left, which] + from_right * self.values[right, which]
        bulge = t * (1 - t) * step
        slope = (1 - t) * self.slopes[left, which] - t * self.slopes[right, which]
        return total + bulge * slope


def _with_slopes(
    knob: Knob, function: Callable[[Tensor], Tensor], levels: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and slopes at some levels, ``[levels, curves]`` each."""
    with torch.enable_grad():
        at = levels.detach().requires_grad_()
        values = torch.func.vmap(function)(knob.points(at))
        if not values.requires_grad:
            return values, torch.zeros_like(values)
        if values.shape[1] == 1:
            (slopes,) = torch.autograd.grad(values.sum(), at)
            return values.detach(), slopes[:, None]
        # Forward-mode derivatives by two backward passes: the first is linear in its cotangent, and
        # its coefficients are the slopes of all curves.
        cotangent = torch.ones_like(values, requires_grad=True)
        (back,) = torch.autograd.grad(values, at, cotangent, create_graph=True)
        (slopes,) = torch.autograd.grad(back.sum(), cotangent)
    return values.detach(), slopes
