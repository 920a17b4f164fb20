"""Plan optimiser: least energy within a predicted error, or least error within an energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.allocation.constrained import Optimum, minimise
from joulewise.allocation.discrete_points import Knapsack, solve
from joulewise.allocation.energy_model import EnergyModel, common_levels
from joulewise.allocation.granularity import DecisionVariables
from joulewise.allocation.supply_rails import RailPlan, assign_rails
from joulewise.allocation.waterfilling import water_filling
from joulewise.devices import Point
from joulewise.devices.operating_point import as_point
from joulewise.prediction import ErrorModel

__all__ = ["PlanOptimiser"]

# Linearisations of the knapsack, and alternations of rails with their assignment: both stop when
# a further one saves less than a thousandth.
_KNAPSACKS, _ALTERNATIONS, _WORTH_IT = 8, 4, 1e-3
# Errors span decades where energies span the unit interval: this brings their logarithm to order 1.
_LOG_SCALE = 10.0
# Halvings of the common level, to 1e-9, and of the range of log errors, where energy has steps.
_LEVEL_HALVINGS, _ERROR_HALVINGS = 30, 12
# Common levels that are compared for the least error, and the ratio to that of the most reliable
# level below which it counts.
_LEVELS, _LESS = 17, 0.95
# A continuous optimum may exceed its limit by this fraction before the search starts anew.
_SLACK = 1e-2
# The knapsack and the error model add up the same error in different orders.
_ROUNDING = 1 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanOptimiser:
    """Searches plans by models of error and energy, without running the network.

    All methods take and return levels, float64 ``[variables]``; see `DecisionVariables`.

    Args:
        error_model: The output error as a function of the plan.
        energy_model: The energy as a function of the plan.
        variables: The decision variables.
        rails: Number of levels in use, whose values are optimised; None for any number.
        smooth: True if the error is differentiable; otherwise operating points are listed.
    """

    error_model: ErrorModel
    energy_model: EnergyModel
    variables: DecisionVariables
    rails: int | None = None
    smooth: bool = True

    def error(self, levels: Tensor) -> float:
        """Predicted output error."""
        with torch.no_grad():
            return float(self._error(levels))

    def energy(self, levels: Tensor) -> float:
        """Energy over that of the most reliable plan."""
        with torch.no_grad():
            return float(self._energy(levels))

    def _error(self, levels: Tensor) -> Tensor:
        return self.error_model.error_at(self.variables.points(levels))

    def _energy(self, levels: Tensor) -> Tensor:
        return self.energy_model.normalised(self.variables.points(levels))

    def least_error(self) -> Tensor:
        """The levels of least predicted error, whatever they cost.

        The most reliable ones, unless a lower common level has less: IR drop, and some measured
        programming errors, grow with the conductance. Shared or listed levels are common.
        """
        levels = list(self.variables.listed) or np.linspace(0.0, 1.0, _LEVELS)[1:].tolist()
        errors = {level: self.error(self.variables.uniform(level)) for level in levels}
        best = min(errors, key=errors.__getitem__)
        if errors[best] >= _LESS * errors[max(levels)]:  # both may be 0
            return self.variables.most_reliable
        common = self.variables.uniform(best)
        if self.variables.listed or self.rails is not None:
            return common
        # No budget: twice the energy of the most reliable plan.
        return self._least_error(2.0, common, torch.arange(len(common))).levels.clamp(min=levels[0])

    def common_level(self, max_error: float) -> float:
        """The least common level within a predicted error, of those listed if errors are steps.

        1 if there is none.
        """
        if not self.smooth:
            for level in self.variables.listed:  # ascending
                if self.error(self.variables.uniform(level)) <= max_error:
                    return level
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(_LEVEL_HALVINGS):
            middle = (low + high) / 2
            within = self.error(self.variables.uniform(middle)) <= max_error
            low, high = (low, middle) if within else (middle, high)
        return high

    def minimise_energy(self, max_error: float, start: Tensor | None = None) -> Tensor:
        """The levels of least energy whose predicted error is within a limit.

        Args:
            max_error: The limit; where even the most reliable levels exceed it, they are returned.
            start: Levels to start from; None for the best common level.
        """
        if self.error(self.variables.most_reliable) >= max_error:
            return self.variables.most_reliable
        if self.error(self.variables.least_reliable) <= max_error:
            return self.variables.least_reliable
        common = self.variables.uniform(self.common_level(max_error))
        levels = self._continuous(max_error, common, start)
        if self.variables.listed:
            return self._discrete(max_error, levels, np.array(list(self.variables.listed)))
        if not self._rails_restrict:
            return levels
        return self._on_rails(max_error, common, levels)

    def minimise_error(self, budget: float, start: Tensor | None = None) -> Tensor:
        """The levels of least predicted error whose energy is within a budget.

        Args:
            budget: Energy over that of the most reliable plan; where even the least reliable levels
                exceed it, they are returned.
            start: Levels to start from; None for the best common level.
        """
        if self.energy(self.variables.least_reliable) >= budget:
            return self.variables.least_reliable
        if self.energy(self.variables.most_reliable) <= budget:
            return self.variables.most_reliable
        if not self.smooth:
            return self._discrete_within(budget, self.variables.most_reliable)
        common = common_levels(self.energy_model, self.variables, budget)
        each = torch.arange(self.variables.count)
        levels = self._least_error(budget, common if start is None else start, each).levels
        if self.variables.listed:
            return self._discrete_within(budget, levels)
        if not self._rails_restrict:
            return levels
        assert self.rails is not None
        optimise = partial(
            self._rail_plan, partial(self._least_error, budget), self.error, common[0]
        )
        found = assign_rails(levels, self.rails, optimise)
        return found.levels if found.cost < self.error(common) else common

    @property
    def _rails_restrict(self) -> bool:
        return self.rails is not None and self.rails < self.variables.count

    def _continuous(self, max_error: float, common: Tensor, start: Tensor | None) -> Tensor:
        """Levels of any value of least energy; never more than the energy of the common level."""
        if not self.smooth:
            return common if start is None else start
        each = torch.arange(self.variables.count)
        # Without a start, and where a search from it fails, from the water-filling solution.
        for known in [None] if start is None else [start, None]:
            begun = water_filling(self._error, self._energy, common) if known is None else known
            levels = self._least_energy(max_error, begun, each).levels
            within = self.error(levels) <= max_error * (1 + _SLACK)
            if within and self.energy(levels) <= self.energy(common):
                return levels
        return common

    def _least_energy(
        self, max_error: float, start: Tensor, rail_of: Tensor, multiplier: float | None = None
    ) -> Optimum:
        """The least energy within a predicted error, over that of the start.

        Args:
            max_error: The limit.
            start: Levels of rails, ``[rails]``.
            rail_of: The rail of each variable, ``[variables]``; a rail each where nothing is tied.
            multiplier: See `minimise`.
        """
        scale = max(self.energy(start[rail_of]), 1e-9)

        def figures(levels: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.points(levels[rail_of])
            return self.energy_model.normalised(plan) / scale, self.error_model.error_at(
                plan
            ) / max_error

        return minimise(figures, start, multiplier)

    def _least_error(
        self, budget: float, start: Tensor, rail_of: Tensor, multiplier: float | None = None
    ) -> Optimum:
        """The least predicted error within an energy; its logarithm, relative to the start."""
        scale = self.error(start[rail_of])

        def figures(levels: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.points(levels[rail_of])
            error = (self.error_model.error_at(plan) / scale).log() / _LOG_SCALE
            return error, self.energy_model.normalised(plan) / budget

        return minimise(figures, start, multiplier)

    def _discrete_within(self, budget: float, start: Tensor) -> Tensor:
        """The discrete plan of least error within an energy, by bisection of the error."""
        low, high = np.log(self.error(start)), np.log(self.error(self.variables.least_reliable))
        found = self.variables.least_reliable
        for _ in range(_ERROR_HALVINGS):
            middle = (low + high) / 2
            levels = self.minimise_energy(float(np.exp(middle)), start)
            if self.energy(levels) <= budget:
                found, high = levels, middle
            else:
                low = middle
        return found

    def _discrete(self, max_error: float, levels: Tensor, allowed: NDArray[np.float64]) -> Tensor:
        """The best choice from the allowed levels, near the continuous optimum.

        The knapsack is exact for single changes only: planes of one word shift its mean jointly. So
        it is solved again around the best choice so far, with fewer changes where many at once had
        a larger error than it said.
        """
        best, least_energy = self._common_allowed(max_error, allowed)
        max_changes: int | None = None
        for _ in range(_KNAPSACKS):
            nearest = np.abs(levels.numpy()[:, None] - allowed).argmin(1)
            knapsack = self._knapsack(levels, allowed)
            choice = solve(knapsack, max_error * _ROUNDING, nearest, max_changes)
            found = torch.from_numpy(allowed[choice])
            energy, error = self.energy(found), self.error(found)
            if error <= max_error and energy < least_energy:
                enough = energy > least_energy * (1 - _WORTH_IT) and max_changes is not None
                best, least_energy = found, energy
                if enough:
                    break
            else:  # too many changes at once, or none that saves energy
                max_changes = max((max_changes or self.variables.count) // 4, 1)
            if not math.isfinite(least_energy):
                levels = found
            elif torch.equal(levels, best) and torch.equal(found, best):
                break
            else:
                levels = best
        return best

    def _common_allowed(
        self, max_error: float, allowed: NDArray[np.float64]
    ) -> tuple[Tensor, float]:
        """The least allowed level that all may have, and its energy; infinite if there is none."""
        for level in allowed:
            levels = self.variables.uniform(float(level))
            if self.error(levels) <= max_error:
                return levels, self.energy(levels)
        return levels, np.inf

    def _knapsack(self, levels: Tensor, allowed: NDArray[np.float64]) -> Knapsack:
        """Energy and error of each variable at each allowed level, the others at theirs."""
        shape = (self.variables.count, len(allowed))
        energies, variances = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            plan = self.variables.points(levels)
            offset, whole = self.error_model.output_errors(plan)
            shifts = torch.zeros((*shape, len(offset)), dtype=torch.float64)
            for name, index in self.variables.index.items():
                own = index.reshape(-1)
                energy, variance, shift = self._single(plan, name, torch.from_numpy(allowed))
                energies.index_add_(0, own, energy)
                # Variances are differences to the plan's, which is divided among its variables:
                # a choice has one level for each, so that sums are right.
                variances.index_add_(0, own, variance + whole[name] / len(own))
                shifts.index_add_(0, own, shift)
        return Knapsack(
            energies=energies.numpy(),
            variances=variances.numpy(),
            shifts=shifts.numpy(),
            offset=offset.numpy(),
            numbers=len(offset) * self.error_model.outputs,
        )

    def _single(
        self, plan: Mapping[str, Point], name: str, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Single changes of one tensor's variables, the others as planned.

        Returns:
            Energy, ``[variables, levels]``; and the differences to the plan: of the variance,
            ``[variables, levels]``, and of the probed outputs, ``[variables, levels, samples]``.
        """
        points = self.variables.knobs[name].points(allowed)
        shape = self.variables.index[name].shape
        if len(shape) != 1:  # one point, or one for each channel: all variables at one level
            rows = points[:, None].expand(-1, shape.numel())
            shift, variance = self.error_model.single_changes(plan, name, rows)
            energy = self.energy_model.tensor_energy(name, rows.reshape(-1, *shape))
            return energy.mT, variance.mT, shift.transpose(0, 1)
        # Bit planes: whole words in which one plane after the other is changed. The rest of a
        # word's energy is taken off, so that the sum over its planes counts the word once.
        now = as_point(plan[name])
        each = now.repeat(len(now), len(allowed), 1)
        for plane in range(len(now)):
            each[plane, :, plane] = points
        words = each.reshape(-1, len(now))
        shift, variance = self.error_model.single_changes(plan, name, words[:, None])
        rest = self.energy_model.tensor_energy(name, now[None]) * (1 - 1 / len(now))
        energy = self.energy_model.tensor_energy(name, words) - rest
        table = (len(now), len(allowed))
        return energy.reshape(table), variance.reshape(table), shift.reshape(*table, -1)

    def _on_rails(self, max_error: float, common: Tensor, levels: Tensor) -> Tensor:
        """The rails of least energy, and their assignment.

        Variables are assigned in the order of their continuous levels; then single ones change to
        another rail, out of that order, in turn with the levels of the rails.
        """
        assert self.rails is not None
        least = partial(self._least_energy, max_error)
        optimise = partial(self._rail_plan, least, self.energy, common[0])
        best, cost, following = common, np.inf, assign_rails(levels, self.rails, optimise)
        for _ in range(_ALTERNATIONS):
            if not following.cost < cost * (1 - _WORTH_IT):
                break
            best, cost = following.levels, following.cost
            rails = np.unique(best.numpy())
            changed = self._discrete(max_error, best, rails)
            rail_of = torch.from_numpy(np.abs(changed.numpy()[:, None] - rails).argmin(1))
            following = optimise(rail_of, torch.from_numpy(rails), following.multiplier)
        return best

    def _rail_plan(
        self,
        least: Callable[..., Optimum],
        cost: Callable[[Tensor], float],
        common: Tensor,
        rail_of: Tensor,
        start: Tensor,
        multiplier: float | None,
    ) -> RailPlan:
        """The best levels of rails for an assignment; from a feasible common level if need be."""
        found = least(start, rail_of, multiplier)
        if found.ratio > 1.0:
            found = least(common.expand(len(start)), rail_of)
        levels = found.levels[rail_of]
        return RailPlan(
            levels=levels,
            rails=found.levels,
            cost=cost(levels) if found.ratio <= 1.0 else np.inf,
            multiplier=found.multiplier,
        )
