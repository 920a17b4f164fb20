"""Searching: the largest predicted error that a goal allows, by simulating few chips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

__all__ = ["Search", "Tried"]

# Ratios of predicted errors: of one trial to the next, and how near the answer has to be.
_STRIDE, _NEAR = 3.0, 1.15


class Tried(NamedTuple):
    """A plan that was simulated on few chips.

    Args:
        limit: Of its predicted error.
        slack: How much better than needed it is; below 0 for worse.
        shares: The plan.
    """

    limit: float
    slack: float
    shares: Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Search:
    """Looks for the largest limit with a slack of 0 or more, which falls as the limit grows.

    Args:
        planned: The shares of least energy for a limit, given shares to start from.
        slack: Of a plan, by simulation; the same chips in every call.
        lowest: The error of the most reliable plan, below which there is nothing to look for.
        highest: The error of the plan of least energy: no limit beyond it gives a cheaper one, even
            where other plans have larger errors.
        trials: The most that are simulated.
    """

    planned: Callable[[float, Tensor | None], Tensor]
    slack: Callable[[Tensor], float]
    lowest: float
    highest: float
    trials: int = 10
    tried: list[Tried] = field(default_factory=list)

    def run(self, first: float) -> Tried | None:
        """The best plan within the goal.

        Args:
            first: A guess of the limit.

        Returns:
            None if no plan that was tried is within the goal, the most reliable one included.
        """
        limit = min(max(first, self.lowest), self.highest)
        for _ in range(self.trials):
            self._try(limit)
            following = self._next()
            if following is None:
                break
            limit = following
        return self._good()

    def _try(self, limit: float) -> None:
        nearest = min(self.tried, key=lambda t: abs(math.log(t.limit / limit)), default=None)
        shares = self.planned(limit, nearest.shares if nearest else None)
        self.tried.append(Tried(limit, self.slack(shares), shares))

    def _good(self) -> Tried | None:
        """The last before the first that is not within the goal."""
        good = None
        for trial in sorted(self.tried, key=lambda t: t.limit):
            if trial.slack < 0:
                break
            good = trial
        return good

    def _bad(self) -> Tried | None:
        """The first that is not within the goal."""
        bad = [trial for trial in self.tried if trial.slack < 0]
        return min(bad, key=lambda t: t.limit, default=None)

    def _next(self) -> float | None:
        """The next limit to try; None where the answer is near enough."""
        good, bad = self._good(), self._bad()
        if bad is None:
            assert good is not None
            return None if good.limit >= self.highest else min(good.limit * _STRIDE, self.highest)
        if good is None:
            return None if bad.limit <= self.lowest else max(bad.limit / _STRIDE, self.lowest)
        if bad.limit <= good.limit * _NEAR:
            return None
        # Where a line through both is 0, but not so near to either that little is learned.
        share = good.slack / (good.slack - bad.slack)
        share = min(max(share, 0.15), 0.85)
        return float(good.limit * (bad.limit / good.limit) ** share)
