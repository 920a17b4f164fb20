"""Spending: the energy of a plan, over that of the most reliable one, at the speed of a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from torch import Tensor

from joulewise.devices import Device, KnobRange, Point, Traffic
from joulewise.devices.operating_point import as_point
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

    The energy of a memory that computes takes long to work out, so it is tabulated; that of others
    is in proportion to accesses, so tensors on one device are worked out together. What is reported
    of a plan in the end is worked out by `joulewise.placement.energy`.

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
        self._kinds: list[_Kind] = []
        self._kind_of: dict[str, int] = {}
        for alike in _alike(placement.placed):
            self._kind_of |= {placed.name: len(self._kinds) for placed in alike}
            computes = alike[0].device.computes
            self._kinds.append(_Computing(alike) if computes else _Accessed(alike))
        self.reliable_j = float(self._joules(placement.plan_at_most_reliable()))

    def normalised(self, plan: Mapping[str, Point]) -> Tensor:
        """Energy over that of the most reliable plan; float64, differentiable."""
        return self._joules(plan) / self.reliable_j

    def _joules(self, plan: Mapping[str, Point]) -> Tensor:
        together: dict[tuple[int, torch.Size], dict[str, Tensor]] = {}
        for name, kind in self._kind_of.items():
            point = as_point(plan[name])
            together.setdefault((kind, point.shape), {})[name] = point
        parts = [
            self._kinds[kind].joules(list(points), torch.stack(list(points.values())))
            for (kind, _), points in together.items()
        ]
        return torch.cat([part.sum(1) for part in parts]).sum()

    def of(self, name: str, points: Tensor) -> Tensor:
        """What one tensor spends, in the same unit.

        Args:
            name: The tensor.
            points: Points to try, ``[tried, *point]``.

        Returns:
            float64 ``[tried, 1]``; ``[tried, channels]`` if each has a point of its own.
        """
        names = [name] * len(points)
        return self._kinds[self._kind_of[name]].joules(names, points) / self.reliable_j


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


class _Kind(ABC):
    """Placed tensors whose energies are worked out together."""

    @abstractmethod
    def joules(self, names: Sequence[str], points: Tensor) -> Tensor:
        """What each of some tensors spends at its own of ``[names, *point]``.

        Returns:
            ``[names, 1]``; ``[names, channels]`` if each has a point of its own.
        """


def _alike(placed: Sequence[Placed]) -> list[list[Placed]]:
    """Tensors by device; those that compute by the range of the knob alone."""
    alike: list[tuple[Device[Any] | KnobRange, list[Placed]]] = []
    for one in placed:
        kind = KnobRange.of(one.device) if one.device.computes else one.device
        known = next((members for other, members in alike if other == kind), None)
        if known is None:
            alike.append((kind, [one]))
        else:
            known.append(one)
    return [members for _, members in alike]


class _Accessed(_Kind):
    """Tensors on one device, whose energy is that of an access times how many there are."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._device = placed[0].device
        most = self._device.most_reliable
        energies = [float(self._device.energy(_traffic(p), most)) for p in placed]
        largest = int(np.argmax(energies))
        self._traffic = _traffic(placed[largest])
        self._times = {p.name: e / energies[largest] for p, e in zip(placed, energies, strict=True)}

    def joules(self, names: Sequence[str], points: Tensor) -> Tensor:
        if self._device.smooth:
            each = torch.func.vmap(self._at)(points)
        else:
            each = torch.stack([self._at(point) for point in points])
        times = torch.tensor([self._times[name] for name in names], dtype=torch.float64)
        return each * times[:, None]

    def _at(self, point: Tensor) -> Tensor:
        if point.ndim > 1:
            return self._device.energy_by_channel(self._traffic, point, len(point))
        return self._device.energy(self._traffic, point)[None]


class _Computing(_Kind):
    """Tensors whose energies are tabulated over the share of one range of the knob."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._limits = KnobRange.of(placed[0].device)
        self._placed = {p.name: p for p in placed}
        self._cubic = cache(self._tabulated)

    def joules(self, names: Sequence[str], points: Tensor) -> Tensor:
        each = list(dict.fromkeys(names))
        tables = torch.stack([self._cubic(name, points.ndim > 1) for name in each])
        row = torch.tensor([each.index(name) for name in names])[:, None]
        share = self._limits.shares(points.reshape(len(names), -1))
        piece = (share.detach() * (_TABLE - 1)).long().clamp(0, _TABLE - 2)
        own = tables[row, :, piece, torch.arange(share.shape[1])]
        third, second, first, value = own.unbind(-1)
        along = share - piece / (_TABLE - 1)
        return (value + along * (first + along * (second + along * third))).exp()

    def _tabulated(self, name: str, by_channel: bool) -> Tensor:
        """Cubics of the logarithms of energies, ``[powers, pieces, energies]``."""
        placed = self._placed[name]
        device, traffic = placed.device, _traffic(placed)
        shares = np.linspace(0, 1, _TABLE)
        points = [self._limits.point(share) for share in shares]
        if by_channel:
            channels = placed.channels or 1
            rows = [device.energy_by_channel(traffic, point, channels) for point in points]
            joules = torch.stack(rows).cpu().clamp(min=_NOTHING_J).numpy()
        else:
            joules = np.array([[float(device.energy(traffic, point))] for point in points])
        return torch.from_numpy(PchipInterpolator(shares, np.log(joules)).c)


def _traffic(placed: Placed) -> Traffic:
    assert placed.traffic is not None
    return placed.traffic
