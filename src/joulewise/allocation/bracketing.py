"""Bracketing: the largest predicted error at which a goal holds, from few simulated chips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Bracket", "Candidate", "bracket"]

# Each candidate costs a simulation: ten are enough for any start (six strides are a factor of 700).
_MAX_CANDIDATES = 10
# Ratio of predicted errors of one candidate to the next while only one side is bracketed, and the
# ratio of the bracket at which the search ends: 15 % of the error are about 1 % of the energy.
_STRIDE, _TOLERANCE = 3.0, 1.15
# An interpolated candidate keeps away from both ends of the bracket, where it would narrow little.
_NEAREST = 0.15


class Candidate(NamedTuple):
    """A plan that was simulated on few chips.

    Args:
        max_error: The limit on its predicted output error.
        slack: Its margin beyond what verification needs; negative if it is expected to fail.
        levels: Its levels, ``[variables]``.
    """

    max_error: float
    slack: float
    levels: Tensor


class Bracket(NamedTuple):
    """The plans between which a goal ceases to hold.

    Args:
        feasible: The plan of the largest limit whose slack is not negative; None if every one is
            infeasible, the most reliable plan included.
        infeasible: The plan of the least limit above it; None if every one is feasible.
    """

    feasible: Candidate | None
    infeasible: Candidate | None


def bracket(
    first: float,
    *,
    lowest: float,
    highest: float,
    optimise: Callable[[float, Tensor | None], Tensor],
    slack: Callable[[Tensor], float],
) -> Bracket:
    """Bracket the largest limit on the predicted error at which the slack is not negative.

    Slack falls with the limit, but for the chance of chips. The logarithm of the limit is bracketed
    in equal strides, then narrowed by the secant through both ends.

    Args:
        first: A guess of the limit.
        lowest: The error of the most reliable plan: no plan has a smaller one.
        highest: The error of the least reliable plan: no larger limit gives a cheaper plan.
        optimise: From a limit, and levels to start from, to the levels of least energy.
        slack: The slack of levels by simulation, on the same chips in every call.
    """
    feasible: Candidate | None = None
    infeasible: Candidate | None = None
    limit = min(max(first, lowest), highest)
    for _ in range(_MAX_CANDIDATES):
        levels = optimise(limit, _start(limit, feasible, infeasible))
        candidate = Candidate(limit, slack(levels), levels)
        # Candidates lie between both ends, so each replaces the end on its side.
        if candidate.slack < 0:
            infeasible = candidate
        else:
            feasible = candidate
        following = _next_limit(feasible, infeasible, lowest, highest)
        if following is None:
            break
        limit = following
    return Bracket(feasible, infeasible)


def _start(limit: float, *ends: Candidate | None) -> Tensor | None:
    """The levels of the end of the bracket that is nearest to a limit, by ratio."""
    known = [end for end in ends if end is not None]
    nearest = min(known, key=lambda end: abs(math.log(end.max_error / limit)), default=None)
    return None if nearest is None else nearest.levels


def _next_limit(
    feasible: Candidate | None, infeasible: Candidate | None, lowest: float, highest: float
) -> float | None:
    """The next limit to try; None where the bracket is narrow enough, or cannot be closed."""
    if infeasible is None:
        assert feasible is not None
        at = feasible.max_error
        return None if at >= highest else min(at * _STRIDE, highest)
    if feasible is None:
        at = infeasible.max_error
        return None if at <= lowest else max(at / _STRIDE, lowest)
    ratio = infeasible.max_error / feasible.max_error
    if infeasible.max_error <= feasible.max_error * _TOLERANCE:
        return None
    root = feasible.slack / (feasible.slack - infeasible.slack)
    return float(feasible.max_error * ratio ** min(max(root, _NEAREST), 1 - _NEAREST))
