"""Spending: the energy of a plan, over that of the most reliable one, at the speed of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from torch import Tensor

from joulewise.devices import KnobRange, Point
from joulewise.devices.device import as_point
from joulewise.errors import refuse
from joulewise.placement import Placed, Placement

__all__ = ["Spending", "common_share"]

# Points at which the energy of a memory that computes is worked out; between them its logarithm is
# interpolated, to about 0.1 %.
_TABLE = 25
# A channel that no product uses has an energy, too, if only in logarithms.
_NOTHING_J = 1e-300


class Spending:
    """Energy of the placed tensors as a function of the plan.

    The energy of a memory that computes takes long to work out, so it is tabulated. What is
    reported of a plan in the end is worked out by `joulewise.placement.energy`.

    Args:
        placement: Traced.

    Raises:
        InputError: if accesses are not known, or a knob is not there to be set.
    """

    def __init__(self, placement: Placement) -> None:
        if not placement.traced:
            refuse("placement", "without access counts", "place(..., inputs=a batch)")
        for placed in placement.placed:
            if not placed.device.adjustable:
                refuse(
                    f"the knob of {placed.name}",
                    f"{placed.device.knob}, which nobody sets",
                    "a memory whose operating point trades energy for reliability",
                )
        self._of = {placed.name: _energy_of(placed) for placed in placement.placed}
        most = placement.plan_at_most_reliable()
        self.reliable_j = float(sum(self._of[name](as_point(most[name])) for name in most))

    def normalised(self, plan: Mapping[str, Point]) -> Tensor:
        """Energy over that of the most reliable plan; float64, differentiable."""
        parts = [energy(as_point(plan[name])) for name, energy in self._of.items()]
        return torch.stack(parts).sum() / self.reliable_j

    def of(self, name: str, point: Tensor) -> Tensor:
        """What one tensor spends at a point, in the same unit."""
        return self._of[name](point) / self.reliable_j


def common_share(
    energy: Callable[[float], float], budget: float, levels: Sequence[float] = ()
) -> float:
    """The largest share that all points may have within an energy, or the least there is.

    Args:
        energy: Of a common share; rises with it.
        budget: In its unit.
        levels: The only shares that may be chosen; empty for all from 0 to 1.

    Example:
        >>> common_share(lambda share: 2 * share, 0.5)
        0.25
        >>> common_share(lambda share: 2 * share, 0.5, levels=(0.1, 0.2, 0.3))
        0.2
    """
    if levels:
        within = [level for level in levels if energy(level) <= budget]
        return max(within, default=min(levels))
    if energy(0.0) >= budget:
        return 0.0
    if energy(1.0) <= budget:
        return 1.0
    return float(brentq(lambda share: energy(share) - budget, 0.0, 1.0))


def _energy_of(placed: Placed) -> Callable[[Tensor], Tensor]:
    device, traffic = placed.device, placed.traffic
    assert traffic is not None
    if not device.computes:
        return lambda point: device.energy(traffic, point)
    limits = KnobRange.of(device)
    shares = np.linspace(0, 1, _TABLE)
    joules = [float(device.energy(traffic, limits.point(share))) for share in shares]
    whole = _Curve(limits, PchipInterpolator(shares, np.log(joules)))

    @cache
    def by_channel() -> _ChannelCurves:
        channels = placed.channels or 1
        points = [limits.point(share) for share in shares]
        table = [device.energy_by_channel(traffic, point, channels) for point in points]
        logarithms = np.log(torch.stack(table).cpu().clamp(min=_NOTHING_J).numpy())
        return _ChannelCurves(limits, PchipInterpolator(shares, logarithms))

    return lambda point: by_channel().at(point) if point.ndim else whole.at(point)


class _ChannelCurves:
    """Tabulated energies of the channels of a tensor, over the share of the range of the knob."""

    def __init__(self, limits: KnobRange, logarithms: PchipInterpolator) -> None:
        self._limits = limits
        self._shares = torch.from_numpy(logarithms.x)
        self._powers = torch.from_numpy(logarithms.c)  # [4, pieces, channels], cubes first

    def at(self, point: Tensor) -> Tensor:
        """What all channels spend at their points ``[channels, 1]``."""
        share = self._limits.shares(point.reshape(-1))
        right = torch.searchsorted(self._shares, share.detach(), right=True)
        piece = right.clamp(1, len(self._shares) - 1) - 1
        powers = self._powers[:, piece, torch.arange(len(piece))]
        away = share - self._shares[piece]
        logarithm = ((powers[0] * away + powers[1]) * away + powers[2]) * away + powers[3]
        return logarithm.exp().sum()


class _Curve:
    """A tabulated energy, over the share of the range of the knob."""

    def __init__(self, limits: KnobRange, logarithm: PchipInterpolator) -> None:
        self._limits, self._logarithm = limits, logarithm
        self._slope = logarithm.derivative()

    def at(self, point: Tensor) -> Tensor:
        share = self._limits.share(float(point.detach()))
        value = torch.tensor(float(self._logarithm(share)), dtype=torch.float64).exp()
        if not point.requires_grad:
            return value
        # The value is a number; its slope comes back by one step of the chain rule.
        low = torch.tensor(share, dtype=torch.float64, requires_grad=True)
        (stretch,) = torch.autograd.grad(self._limits.differentiable(low), low)
        slope = value * float(self._slope(share)) / stretch
        return value + slope * (point - point.detach())
