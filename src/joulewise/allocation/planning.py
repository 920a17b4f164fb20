"""Planning: the cheapest plan within a predicted error, or the best one within an energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.allocation.levels import Alternatives, chosen
from joulewise.allocation.rails import Tied, cut_in_order
from joulewise.allocation.refining import Refined, least
from joulewise.allocation.spending import Spending, common_share
from joulewise.allocation.variables import Variables
from joulewise.allocation.waterfilling import filled
from joulewise.devices import Point
from joulewise.devices.operating_point import as_point
from joulewise.prediction import ErrorModel

__all__ = ["Planner"]

# Choices of rails, and of levels, one around the other; and what a further one has to save.
_ROUNDS, _LOOKS, _WORTH_IT = 4, 8, 1e-3
# An objective of order 1: errors span decades where energies span shares.
_DECADES = 10.0
_HALVINGS = 12
# By which a plan may be beyond a limit.
_SLACK = 1e-2
# What rounding may do to an error that is worked out in two ways.
_INSIDE = 1 - 1e-9


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
        for _ in range(30):
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
        common = self._everywhere(self.common(limit))
        shares = self._anywhere(limit, common, start)
        if self.levels:
            return self._on_levels(limit, shares, np.array(self.levels))
        rails = self._few
        return shares if rails is None else self._on_rails(limit, common, shares, rails)

    @property
    def _few(self) -> int | None:
        """How many shares may be in use, where variables are more."""
        restricts = self.rails is not None and self.rails < self.variables.count
        return self.rails if restricts else None

    def _anywhere(self, limit: float, common: Tensor, start: Tensor | None) -> Tensor:
        """The shares of least energy within a predicted error, of any value.

        Where a search from ``start`` ends beyond the limit, or costs more than the common share, it
        begins anew from that.
        """
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
        common = self.common_within(budget)
        each = torch.arange(self.variables.count)
        shares = self._least_error(budget, common if start is None else start, each).shares
        if self.levels:
            return self._dearest_within(budget, shares)
        rails = self._few
        if rails is None:
            return shares
        tied = partial(self._tied, partial(self._least_error, budget), self.mse, common[0])
        found = cut_in_order(shares, rails, tied)
        return found.shares if found.cost < self.mse(common) else common

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

        Bit planes of one word move its mean together in other ways than one by one, so the choice
        is made anew around the best so far, with fewer changes where many were too many.
        """
        best, least_cost = self._level_for_all(limit, levels)
        most: int | None = None
        for _ in range(_LOOKS):
            nearest = np.abs(shares.numpy()[:, None] - levels).argmin(1)
            choice = chosen(self._alternatives(shares, levels), limit * _INSIDE, nearest, most)
            found = torch.from_numpy(levels[choice])
            cost, error = self.energy(found), self.mse(found)
            if error <= limit and cost < least_cost:
                enough = cost > least_cost * (1 - _WORTH_IT) and most is not None
                best, least_cost = found, cost
                if enough:
                    break
            else:  # too many changes at once, or none that is worth it
                most = max((most or self.variables.count) // 4, 1)
            if not math.isfinite(least_cost):
                shares = found
            elif torch.equal(shares, best) and torch.equal(found, best):
                break
            else:
                shares = best
        return best

    def _level_for_all(self, limit: float, levels: NDArray[np.float64]) -> tuple[Tensor, float]:
        """The lowest level that all variables may have, and its energy; the highest if none may."""
        for level in levels[:-1]:
            shares = self._everywhere(float(level))
            if self.mse(shares) <= limit:
                return shares, self.energy(shares)
        shares = self._everywhere(float(levels[-1]))
        return shares, self.energy(shares) if self.mse(shares) <= limit else np.inf

    def _alternatives(self, shares: Tensor, levels: NDArray[np.float64]) -> Alternatives:
        """What each variable does at each level, others as they are."""
        shape = (self.variables.count, len(levels))
        costs, variances = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            plan = self.variables.plan(shares)
            off, whole = self.errors.outputs_off(plan)
            moves = torch.zeros((*shape, len(off)), dtype=torch.float64)
            for name, index in self.variables.index.items():
                own = index.reshape(-1)
                spent, variance, moved = self._single(plan, name, torch.from_numpy(levels))
                costs.index_add_(0, own, spent)
                # What the others of its variables add is shared out: only sums are looked at.
                variances.index_add_(0, own, variance + whole[name] / len(own))
                moves.index_add_(0, own, moved)
        return Alternatives(
            costs=costs.numpy(),
            variances=variances.numpy(),
            moves=moves.numpy(),
            off=off.numpy(),
            numbers=len(off) * self.errors.outputs,
        )

    def _single(
        self, plan: Mapping[str, Point], name: str, levels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What each variable of one tensor does at each level, others as planned.

        Returns:
            Energy, ``[variables, levels]``; and the differences in variance, likewise, and in the
            probed outputs, ``[variables, levels, samples]``.
        """
        limits = self.variables.ranges[name]
        points = limits.differentiable(levels)
        shape = self.variables.index[name].shape
        if len(shape) == 1:  # planes of one word: all of it, with one after the other changed
            now = as_point(plan[name])
            each = now.repeat(len(now), len(levels), 1)
            for plane in range(len(now)):
                each[plane, :, plane] = points
            words = each.reshape(-1, len(now))
            moved, variance = self.errors.single_changes(plan, name, words[:, None])
            rest = self.spending.of(name, now[None]) * (1 - 1 / len(now))
            spent = self.spending.of(name, words) - rest
            lines = (len(now), len(levels))
            return spent.reshape(lines), variance.reshape(lines), moved.reshape(*lines, -1)
        rows = points[:, None].expand(-1, shape.numel())
        moved, variance = self.errors.single_changes(plan, name, rows)
        spent = self.spending.of(name, rows.reshape(-1, *shape))
        return spent.mT, variance.mT, moved.transpose(0, 1)

    def _on_rails(self, limit: float, common: Tensor, shares: Tensor, rails: int) -> Tensor:
        """Each variable on one of a few shares, which are chosen along with it.

        Rails are found for the variables in the order of the shares that each would have; then
        single ones change over to another rail, out of that order, as long as it is worth it.
        """
        tied = partial(self._tied, partial(self._least, limit), self.energy, common[0])
        best, cost, following = common, np.inf, cut_in_order(shares, rails, tied)
        for _ in range(_ROUNDS):
            if not following.cost < cost * (1 - _WORTH_IT):
                break
            best, cost = following.shares, following.cost
            levels = np.unique(best.numpy())
            on_them = self._on_levels(limit, best, levels)
            belongs = torch.from_numpy(np.abs(on_them.numpy()[:, None] - levels).argmin(1))
            following = tied(belongs, torch.from_numpy(levels), following.price)
        return best

    def _tied(
        self,
        least: Callable[..., Refined],
        cost: Callable[[Tensor], float],
        common: Tensor,
        belongs: Tensor,
        start: Tensor,
        price: float | None,
    ) -> Tied:
        """The best rails for variables that each belong to one; a common share is within bounds."""
        found = least(start, belongs, price)
        if found.excess > 1.0:
            found = least(common.expand(len(start)), belongs)
        shares = found.shares[belongs]
        within = found.excess <= 1.0
        return Tied(
            shares=shares,
            rails=found.shares,
            cost=cost(shares) if within else np.inf,
            price=found.price,
        )

    def _least(
        self, limit: float, start: Tensor, belongs: Tensor, price: float | None = None
    ) -> Refined:
        """The least energy within a predicted error; ``belongs`` ties variables together.

        Its objective is the energy over that of the start.
        """
        scale = max(self.energy(start[belongs]), 1e-9)

        def figures(shares: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.plan(shares[belongs])
            return self.spending.normalised(plan) / scale, self.errors.mse(plan) / limit

        return least(figures, start, price)

    def _least_error(
        self, budget: float, start: Tensor, belongs: Tensor, price: float | None = None
    ) -> Refined:
        """The least predicted error within an energy; likewise.

        Its objective is the logarithm of the error over that of the start, in decades.
        """
        scale = self.mse(start[belongs])

        def figures(shares: Tensor) -> tuple[Tensor, Tensor]:
            plan = self.variables.plan(shares[belongs])
            error = (self.errors.mse(plan) / scale).log() / _DECADES
            return error, self.spending.normalised(plan) / budget

        return least(figures, start, price)
