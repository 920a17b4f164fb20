"""Planning: the cheapest plan within a predicted error, or the best one within an energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.allocation.levels import assigned
from joulewise.allocation.refining import Refined, least
from joulewise.allocation.spending import Spending, common_share
from joulewise.allocation.variables import Variables
from joulewise.allocation.waterfilling import filled
from joulewise.devices.device import as_point
from joulewise.prediction import ErrorModel

__all__ = ["Planner"]

# Choices of levels, one around the other; and what a further one has to save.
_ROUNDS, _WORTH_IT = 6, 1e-3
# An objective of order 1: errors span decades where energies span shares.
_DECADES = 10.0
_HALVINGS = 12
# By which a plan may be beyond a limit.
_SLACK = 1e-2
_LOWERINGS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planner:
    """Looks for plans by an error model, without running the network.

    Args:
        errors: The output error as a function of the plan.
        spending: Its energy.
        variables: What may be chosen.
        levels: Shares of the range that may be chosen, ascending; empty for all.
        rails: How many shares may be in use, chosen here; None for any number.
        smooth: Whether errors have slopes; without them there have to be levels.
    """

    errors: ErrorModel
    spending: Spending
    variables: Variables
    levels: tuple[float, ...] = ()
    rails: int | None = None
    smooth: bool = True

    @property
    def reliable(self) -> Tensor:
        """The most reliable shares that may be chosen."""
        return self._everywhere(max(self.levels, default=1.0))

    @property
    def lowest(self) -> Tensor:
        """The shares of least energy that may be chosen."""
        return self._everywhere(min(self.levels, default=0.0))

    def _everywhere(self, share: float) -> Tensor:
        return torch.full((self.variables.count,), share, dtype=torch.float64)

    def mse(self, shares: Tensor) -> float:
        """Predicted output error."""
        with torch.no_grad():
            return float(self.errors.mse(self.variables.plan(shares)))

    def energy(self, shares: Tensor) -> float:
        """Energy over that of the most reliable plan."""
        with torch.no_grad():
            return float(self.spending.normalised(self.variables.plan(shares)))

    def common(self, limit: float) -> float:
        """The least share that all variables may have within a predicted error; 1 if none may."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            within = self.mse(self._everywhere(middle)) <= limit
            low, high = (low, middle) if within else (middle, high)
        return high

    def cheapest(self, limit: float, start: Tensor | None = None) -> Tensor:
        """The shares of least energy whose predicted error is within a limit.

        Args:
            limit: Of the predicted output error; where not even the most reliable plan is within,
                that plan is the answer.
            start: Where to look from; None for the best common share.
        """
        if self.mse(self.reliable) >= limit:
            return self.reliable
        if self.mse(self.lowest) <= limit:
            return self.lowest
        shares = self._anywhere(limit, start)
        if self.levels:
            return self._on_levels(limit, shares, np.array(self.levels))
        if self.rails is not None and self.rails < self.variables.count:
            return self._on_rails(limit, shares, self.rails)
        return shares

    def _anywhere(self, limit: float, start: Tensor | None) -> Tensor:
        """The shares of least energy within a predicted error, of any value.

        Where a search from ``start`` ends beyond the limit, or costs more than the common share, it
        begins anew from that.
        """
        common = self._everywhere(self.common(limit))
        if not self.smooth:
            return common if start is None else start
        each = torch.arange(self.variables.count)
        for known in [None] if start is None else [start, None]:
            begun = self._filled(common) if known is None else known
            shares = self._least(limit, begun, each).shares
            within = self.mse(shares) <= limit * (1 + _SLACK)
            if within and self.energy(shares) <= self.energy(common):
                return shares
        return common

    def _filled(self, common: Tensor) -> Tensor:
        """Near the shares of least energy that have the predicted error of a common share."""
        return filled(
            lambda shares: self.errors.mse(self.variables.plan(shares)),
            lambda shares: self.spending.normalised(self.variables.plan(shares)),
            common,
        )

    def common_within(self, budget: float) -> Tensor:
        """The largest share that all variables may have within an energy, or the least there is."""
        of = lambda share: self.energy(self._everywhere(share))  # noqa: E731
        return self._everywhere(common_share(of, budget, self.levels))

    def best(self, budget: float, start: Tensor | None = None) -> Tensor:
        """The shares of least predicted error whose energy is within a budget.

        Args:
            budget: Of energy, over that of the most reliable plan; where not even the lowest
                points are within, those are the answer.
            start: Where to look from; None for the best common share.
        """
        if self.energy(self.lowest) >= budget:
            return self.lowest
        if self.energy(self.reliable) <= budget:
            return self.reliable
        if not self.smooth:
            return self._dearest_within(budget, self.reliable)
        if start is None:
            start = self.common_within(budget)
        scale = self.mse(start)

        def figures(shares: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.plan(shares)
            error = (self.errors.mse(plan) / scale).log() / _DECADES
            return error, self.spending.normalised(plan) / budget

        shares = least(figures, start).shares
        if not self.levels and self.rails is None:
            return shares
        return self._dearest_within(budget, shares)

    def _dearest_within(self, budget: float, start: Tensor) -> Tensor:
        """Of the cheapest plans for each error, the last whose energy is within a budget."""
        low, high = np.log(self.mse(start)), np.log(self.mse(self.lowest))
        found = self.lowest
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            shares = self.cheapest(float(np.exp(middle)), start)
            if self.energy(shares) <= budget:
                found, high = shares, middle
            else:
                low = middle
        return found

    def _on_levels(self, limit: float, shares: Tensor, levels: NDArray[np.float64]) -> Tensor:
        """Each variable on one of the levels.

        Errors of single changes add up but for the shift of the mean, so the choice is made anew
        around the one before, within what the last was beyond the limit.
        """
        best = torch.full_like(shares, float(levels[-1]))
        least_cost, aim = np.inf, limit
        for _ in range(_ROUNDS):
            costs, harms = self._alternatives(shares, levels)
            choice = assigned(costs, harms, aim - self.mse(shares))
            if choice is None:
                break
            shares = torch.from_numpy(levels[choice])
            cost, error = self.energy(shares), self.mse(shares)
            if error <= limit and cost < least_cost:
                best, least_cost = shares, cost
            aim *= min(max(limit / error, 0.5), 1.02)
        return self._lowered(limit, best, levels)

    def _lowered(self, limit: float, shares: Tensor, levels: NDArray[np.float64]) -> Tensor:
        """With single variables lowered as long as the error stays within the limit.

        What a single change does is known exactly, where the programme added changes up.
        """
        if self.mse(shares) > limit:
            return shares
        rows = np.arange(self.variables.count)
        for _ in range(_LOWERINGS):
            costs, harms = self._alternatives(shares, levels)
            now = np.abs(shares.numpy()[:, None] - levels).argmin(1)
            saved = costs[rows, now][:, None] - costs
            allowed = (harms <= limit - self.mse(shares)) & (saved > 0)
            if not allowed.any():
                break
            variable, level = np.unravel_index(np.where(allowed, saved, -1).argmax(), saved.shape)
            shares = shares.clone()
            shares[int(variable)] = float(levels[level])
        return shares

    def _alternatives(
        self, shares: Tensor, levels: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energy of each variable at each level; and the change of the error, others as they are.

        Both ``[variables, levels]``.
        """
        costs, harms = (np.zeros((self.variables.count, len(levels))) for _ in range(2))
        with torch.no_grad():
            plan = self.variables.plan(shares)
            for name, index in self.variables.index.items():
                own = sorted(set(index.reshape(-1).tolist()))
                tried = shares.repeat(len(own), len(levels), 1)
                for row, variable in enumerate(own):
                    tried[row, :, variable] = torch.from_numpy(levels)
                points = self.variables.ranges[name].differentiable(tried[..., index])
                flat = points.reshape(len(own) * len(levels), *index.shape)
                changes = self.errors.changes(plan, name, flat)
                spent = torch.stack([self.spending.of(name, point) for point in flat])
                # What others of its variables cost is shared out: only sums are looked at.
                rest = self.spending.of(name, as_point(plan[name])) * (1 - 1 / len(own))
                costs[own] += (spent - rest).reshape(len(own), -1).numpy()
                harms[own] += changes.reshape(len(own), -1).numpy()
        return costs, harms

    def _on_rails(self, limit: float, shares: Tensor, rails: int) -> Tensor:
        """Each variable on one of a few shares, which are chosen along with it."""
        levels = _clustered(shares.numpy(), rails)
        best, least_cost = torch.ones_like(shares), np.inf
        for _ in range(_ROUNDS):
            chosen = self._on_levels(limit, shares, levels)
            belongs = torch.from_numpy(np.abs(chosen.numpy()[:, None] - levels).argmin(1))
            found = self._least(limit, torch.from_numpy(levels), belongs)
            if not found.objective < least_cost * (1 - _WORTH_IT):
                break
            best, least_cost = found.shares[belongs], found.objective
            levels = np.array(sorted(set(found.shares.tolist())))
        return best

    def _least(self, limit: float, start: Tensor, belongs: Tensor) -> Refined:
        """The least energy within a predicted error; ``belongs`` ties variables together."""

        def figures(shares: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.plan(shares[belongs])
            return self.spending.normalised(plan), self.errors.mse(plan) / limit

        return least(figures, start)


def _clustered(shares: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """A few shares that stand for many, each the mean of those that are nearest to it."""
    centres = np.quantile(shares, (np.arange(count) + 0.5) / count)
    for _ in range(50):
        nearest = np.abs(shares[:, None] - centres).argmin(1)
        centres = np.array(
            [
                shares[nearest == k].mean() if (nearest == k).any() else centres[k]
                for k in range(count)
            ]
        )
    found: NDArray[np.float64] = np.unique(centres)
    return found
