"""Energy model: the energy of a plan over that of the most reliable one, tabulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from torch import Tensor

from joulewise.allocation.granularity import DecisionVariables
from joulewise.devices import Device, Knob, Point, Traffic
from joulewise.devices.operating_point import as_point
from joulewise.errors import refuse
from joulewise.placement import Placed, Placement

__all__ = ["EnergyModel", "common_levels"]

# Knots of the table of a compute-in-memory array, whose energy takes a product with each of its
# inputs: logarithms between them are interpolated to about 0.1 %.
_KNOTS = 25
# The floor of an output channel that no product uses, so that its logarithm is finite.
_NOTHING_J = 1e-300


class EnergyModel:
    """Energy of the placed tensors as a function of the plan.

    Energy of a compute-in-memory array is tabulated over its knob. That of other memories is
    proportional to the number of words, so tensors on one device with equal accesses per word are
    evaluated together. The energy that is reported of a plan is that of
    `joulewise.placement.energy`, without a table.

    Args:
        placement: Traced.

    Raises:
        InputError: if accesses are not known, or a memory has no adjustable knob.
    """

    def __init__(self, placement: Placement) -> None:
        if not placement.traced:
            refuse("placement", "without access counts", "place(..., example_inputs=a batch)")
        for placed in placement.placed:
            if not placed.device.knob.adjustable:
                refuse(
                    f"the knob of {placed.name}",
                    f"{placed.device.knob.name}, which cannot be chosen",
                    "a memory whose operating point trades energy for reliability",
                )
        groups: list[_Group] = [
            _Tabulated(same) if same[0].device.array else _Accessed(same)
            for same in _by_device(placement.placed)
        ]
        self._group_of = {name: group for group in groups for name in group.names}
        self.reliable_j = float(self._joules(placement.points(placement.most_reliable())))

    def normalised(self, plan: Mapping[str, Point]) -> Tensor:
        """Energy over that of the most reliable plan; a float64 scalar, differentiable."""
        return self._joules(plan) / self.reliable_j

    def _joules(self, plan: Mapping[str, Point]) -> Tensor:
        together: dict[tuple[_Group, torch.Size], dict[str, Tensor]] = {}
        for name, group in self._group_of.items():
            point = as_point(plan[name])
            together.setdefault((group, point.shape), {})[name] = point
        parts = [
            group.joules(list(points), torch.stack(list(points.values())))
            for (group, _), points in together.items()
        ]
        return torch.cat([part.sum(1) for part in parts]).sum()

    def tensor_energy(self, name: str, points: Tensor) -> Tensor:
        """Energy of one tensor at each of several points, over that of the most reliable plan.

        Args:
            name: The tensor.
            points: ``[tried, *point]``.

        Returns:
            float64 ``[tried, 1]``; ``[tried, channels]`` if points are those of channels.
        """
        return self._group_of[name].joules([name] * len(points), points) / self.reliable_j


def common_levels(model: EnergyModel, variables: DecisionVariables, budget: float) -> Tensor:
    """The largest common level within an energy, or the least that may be chosen.

    Args:
        model: The energy; it rises with the level.
        variables: The variables that share the level.
        budget: Energy over that of the most reliable plan.

    Returns:
        float64 ``[variables]``.
    """

    def energy(level: float) -> float:
        with torch.no_grad():
            return float(model.normalised(variables.points(variables.uniform(level))))

    if variables.listed:
        within = [level for level in variables.listed if energy(level) <= budget]
        return variables.uniform(max(within, default=min(variables.listed)))
    if energy(0.0) >= budget:
        return variables.least_reliable
    if energy(1.0) <= budget:
        return variables.most_reliable
    return variables.uniform(brentq(lambda level: energy(level) - budget, 0.0, 1.0))


def _by_device(placed: Sequence[Placed]) -> list[list[Placed]]:
    """Tensors by equal device and accesses to each word; those of crossbars by knob."""
    groups: list[tuple[tuple[Device[Any] | Knob, float], list[Placed]]] = []
    for one in placed:
        traffic = _traffic(one)
        key: tuple[Device[Any] | Knob, float] = one.device.knob, 0.0
        if not one.device.array:
            key = one.device, (traffic.reads + traffic.writes) / traffic.words
        for known, members in groups:  # no dictionary: a user's device need not be hashable
            if known == key:
                members.append(one)
                break
        else:
            groups.append((key, [one]))
    return [members for _, members in groups]


class _Accessed:
    """Tensors on one device, whose energies are in proportion to their words."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._device = placed[0].device
        most = self._device.knob.most_reliable
        energies = [float(self._device.energy(_traffic(p), most)) for p in placed]
        # All others are fractions of the largest, whose rounding error is relatively the least.
        largest = int(np.argmax(energies))
        self._traffic = _traffic(placed[largest])
        most_j = energies[largest] or 1.0  # 0 if none is ever accessed
        self._scale = {p.name: e / most_j for p, e in zip(placed, energies, strict=True)}
        self.names = tuple(self._scale)

    def joules(self, names: Sequence[str], points: Tensor) -> Tensor:
        """Energy of each named tensor at its own point of ``[names, *point]``.

        Returns:
            ``[names, 1]``; ``[names, channels]`` if points are those of channels.
        """
        if self._device.smooth:
            each = torch.func.vmap(self._at)(points)
        else:
            each = torch.stack([self._at(point) for point in points])
        scale = torch.tensor([self._scale[name] for name in names], dtype=torch.float64)
        return each * scale[:, None]

    def _at(self, point: Tensor) -> Tensor:
        if point.ndim > 1:
            return self._device.energy_by_channel(self._traffic, point, len(point))
        joules = self._device.energy(self._traffic, point)
        return torch.as_tensor(joules, dtype=torch.float64).reshape(1)


class _Tabulated:
    """Tensors of compute-in-memory arrays of one knob, each with a table of its own."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._knob = placed[0].device.knob
        self._placed = {p.name: p for p in placed}
        self._table_of = cache(self._tabulated)
        self.names = tuple(self._placed)

    def joules(self, names: Sequence[str], points: Tensor) -> Tensor:
        """See `_Accessed`."""
        each = list(dict.fromkeys(names))
        tables = torch.stack([self._table_of(name, points.ndim > 1) for name in each])
        row = torch.tensor([each.index(name) for name in names])[:, None]
        level = self._knob.levels(points.reshape(len(names), -1))
        piece = (level.detach() * (_KNOTS - 1)).long().clamp(0, _KNOTS - 2)
        cubic = tables[row, :, piece, torch.arange(level.shape[1])]
        third, second, first, value = cubic.unbind(-1)
        along = level - piece / (_KNOTS - 1)
        return (value + along * (first + along * (second + along * third))).exp()

    def _tabulated(self, name: str, by_channel: bool) -> Tensor:
        """Piecewise cubics of the logarithm of energy, ``[powers, pieces, energies]``."""
        placed = self._placed[name]
        device, traffic = placed.device, _traffic(placed)
        levels = np.linspace(0, 1, _KNOTS)
        points = [self._knob.point(level) for level in levels]
        if by_channel:
            channels = placed.channels or 1
            rows = [device.energy_by_channel(traffic, point, channels) for point in points]
            joules = torch.stack(rows).cpu().clamp(min=_NOTHING_J).numpy()
        else:
            joules = np.array([[float(device.energy(traffic, point))] for point in points])
        return torch.from_numpy(PchipInterpolator(levels, np.log(joules)).c)


_Group = _Accessed | _Tabulated


def _traffic(placed: Placed) -> Traffic:
    assert placed.traffic is not None
    return placed.traffic
