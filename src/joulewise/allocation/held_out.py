"""Verification of plans on held-out chips, and their margins to the constraint of the goal.

A verified plan exceeds its goal by some margin, part of it by chance. A regression line of the
margins of all simulated plans on the logarithm of the predicted error gives the plan to verify
next, and the energy at which the constraint is active, by which plans are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from joulewise.allocation.goals import Condition
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.allocation.problem import AllocationProblem
from joulewise.allocation.result import Attempt, EnergyAtGoal, TuningTrial
from joulewise.simulation import Simulation

__all__ = [
    "MOST_ATTEMPTS",
    "MarginLine",
    "Verification",
    "attempt_confidence",
    "energy_at_goal",
    "margin_line",
]

# Log ratio of predicted errors at which the weight of a plan in the regression is halved.
_HALF_WEIGHT = math.log(2.0)
MOST_ATTEMPTS = 6
"""Most plans that are verified; each halves the error probability left for the next."""
# Factor on the error limit after a failure if there is no regression line; and the smallest log
# step back if there is one, doubled at each failure: a line that is wrong would waste all attempts.
_STEP_BACK = 0.8
_LEAST_STEP = math.log(_STEP_BACK) / 4
# Longest log step of the error limit, since the line is local.
_LONGEST_STEP = math.log(3.0)
# Step from a plan that failed to the most reliable one, doubled at each failure, where predictions
# do not tell how far to go.
_STEP_NEARER = 1 / 16
# Extra standard errors that the next plan aims for: it is then verified in 88 % of cases.
_SPARE = 1.2
# Least relative saving of energy that justifies another attempt once a plan holds.
_WORTH_IT = 0.02


def attempt_confidence(number: int, confidence: float) -> float:
    """One-sided confidence of an attempt, counted from 0, so that all together have ``confidence``.

    The first takes half of the error probability, each other one half of what is left
    (Bonferroni's inequality).
    """
    return float(1 - (1 - confidence) / 2 ** (number + 1))


class MarginLine(NamedTuple):
    """Local linear fits of margin and energy to the logarithm of the predicted error.

    Args:
        level: Fitted margin at the plan of the last attempt.
        slope: Derivative of the margin; below 0.
        energy_slope: Derivative of the energy; below 0.
    """

    level: float
    slope: float
    energy_slope: float


def margin_line(trials: Sequence[TuningTrial], attempts: Sequence[Attempt]) -> MarginLine | None:
    """Fit the line near the last attempt.

    Trials were simulated on the same few chips, so their deviations are correlated: they determine
    the slopes, attempts on independent chips the level.

    Args:
        trials: Plans on tuning chips.
        attempts: Plans on held-out chips, one or more.

    Returns:
        None where margin or energy do not fall with the error.

    Example:
        >>> trials = [
        ...     TuningTrial(energy=1.0 - mse, predicted_error=mse, margin=0.5 - mse, chips=20)
        ...     for mse in (0.1, 0.11)
        ... ]
        >>> attempt = Attempt(
        ...     energy=0.9, predicted_error=0.1, seed=0, chips=200, confidence=0.95, bound=0.4,
        ...     holds=True, margin=0.3, half_width=0.1, mean=None, mean_mse=0.1,
        ... )
        >>> line = margin_line(trials, [attempt])
        >>> round(line.level, 2), round(line.slope, 2)
        (0.3, -0.1)
    """
    last = attempts[-1]
    known: list[TuningTrial | Attempt] = [*trials, *attempts]
    seen = [s for s in known if math.isfinite(s.margin) and s.predicted_error > 0]
    if last.predicted_error <= 0 or not math.isfinite(last.margin):
        return None
    # Log ratio to the last attempt; weights fall with distance, as in local regression.
    x = np.log([s.predicted_error for s in seen]) - math.log(last.predicted_error)
    tuning = np.array([isinstance(s, TuningTrial) for s in seen], dtype=float)
    weights = np.array([s.chips for s in seen]) / (1 + (x / _HALF_WEIGHT) ** 2)
    level, slope = _fitted(x, tuning, weights, np.array([s.margin for s in seen]))
    _, energy_slope = _fitted(x, tuning, weights, np.array([s.energy for s in seen]))
    if not (slope < 0 and energy_slope < 0):
        return None
    return MarginLine(level, slope, energy_slope)


def _fitted(
    x: NDArray[np.float64],
    tuning: NDArray[np.float64],
    weights: NDArray[np.float64],
    y: NDArray[np.float64],
) -> tuple[float, float]:
    """Weighted least squares of ``y = level + offset * tuning + slope * x``: level and slope."""
    # ``offset`` absorbs the deviation that all trials have in common.
    columns = np.stack([np.ones_like(x), tuning, x], 1) * np.sqrt(weights)[:, None]
    (level, _, slope), *_ = np.linalg.lstsq(columns, y * np.sqrt(weights), rcond=None)
    return float(level), float(slope)


def energy_at_goal(
    trials: Sequence[TuningTrial], attempts: Sequence[Attempt], chosen: Attempt
) -> EnergyAtGoal | None:
    """Energy at which the margin is 0, so that the constraint is active.

    Args:
        trials: Plans on tuning chips.
        attempts: Plans on held-out chips.
        chosen: The attempt that is returned.

    Returns:
        The energy with a 95 % interval from that of the chosen plan's margin. Errors of the slopes
        are neglected; they matter little where margins are small. None without a line or a finite
        interval, or where the line leads to an energy that no plan has.
    """
    others = [attempt for attempt in attempts if attempt is not chosen]
    line = margin_line(trials, [*others, chosen])
    if line is None or not math.isfinite(chosen.half_width):
        return None
    # dE / dmargin, by the chain rule through the logarithm of the predicted error.
    per_margin = line.energy_slope / line.slope
    energy = chosen.energy - line.level * per_margin
    reach = chosen.half_width * per_margin
    if not 0 < energy <= 1:  # beyond the range of a local line
        return None
    return EnergyAtGoal(energy=energy, low=energy - reach, high=energy + reach)


@dataclass(slots=True, kw_only=True, eq=False)
class Verification:
    """Sequential verification of plans, each on chips not used before.

    Args:
        problem: The allocation problem; the first chip is its seed.
        condition: The condition to be shown.
        chips: Number of chips of each attempt.
        confidence: One-sided confidence of all attempts together.
        trials: Plans that were simulated on tuning chips.

    Attributes:
        attempts: Plans that were verified, in order.
    """

    problem: AllocationProblem
    condition: Condition
    chips: int
    confidence: float
    trials: Sequence[TuningTrial]
    attempts: list[Attempt] = field(init=False, default_factory=list)

    def run(
        self, optimiser: PlanOptimiser, max_error: float, start: Tensor | None = None
    ) -> tuple[int, PlanOptimiser, Tensor, Simulation]:
        """Verify plans until one holds and no cheaper one is worth another attempt.

        Args:
            optimiser: Minimises energy within a predicted error.
            max_error: Limit on the predicted error of the first plan.
            start: Initial levels of the first optimisation; None for the optimiser's own.

        Returns:
            The index of the cheapest attempt that holds, or of the last, the optimiser that found
            its plan, its levels and simulation.
        """
        tried: list[tuple[PlanOptimiser, Tensor, Simulation]] = []
        following: float | None = max_error
        while following is not None:
            max_error, number = following, len(tried)
            within_reach = max_error > optimiser.error(optimiser.variables.most_reliable)
            if start is None or within_reach or number in (0, MOST_ATTEMPTS - 1):
                levels = optimiser.minimise_energy(max_error, start)
            elif any(attempt.holds for attempt in self.attempts):
                break
            else:
                optimiser, levels, max_error = self._nearer(optimiser, max_error, start)
            seed = self.problem.seed + number * self.chips
            simulation = self.problem.simulate(levels, self.chips, seed, "verifying")
            self._record(optimiser.error(levels), simulation)
            tried.append((optimiser, levels, simulation))
            start, following = levels, self._next_limit(max_error, *tried[-1])
        held = [k for k, attempt in enumerate(self.attempts) if attempt.holds]
        chosen = min(held, key=lambda k: self.attempts[k].energy, default=len(tried) - 1)
        return chosen, *tried[chosen]

    def _record(self, predicted_error: float, simulation: Simulation) -> None:
        confidence = attempt_confidence(len(self.attempts), self.confidence)
        bound, holds = self.condition.bound(simulation, confidence)
        margin, interval = self.condition.margin(simulation)
        known = len(simulation.values) > simulation.failed
        self.attempts.append(
            Attempt(
                energy=simulation.energy.normalised,
                predicted_error=predicted_error,
                seed=simulation.seed,
                chips=simulation.chips,
                confidence=confidence,
                bound=bound,
                holds=holds,
                margin=margin,
                half_width=interval.half_width,
                mean=simulation.mean if known else None,
                mean_mse=simulation.mean_mse if simulation.mse else None,
            )
        )

    def _nearer(
        self, optimiser: PlanOptimiser, max_error: float, failed: Tensor
    ) -> tuple[PlanOptimiser, Tensor, float]:
        """Optimiser, plan and limit of the next attempt, where no plan is predicted to meet it.

        Far from the linearisation the predicted mean shift may vanish at no plan. The next plan is
        on the way from the one that failed to the most reliable one: each costs more and errs less,
        whatever is predicted. Shared or listed points are those of a linearisation near the limit.
        """
        safer = optimiser.variables.most_reliable
        if optimiser.rails or optimiser.variables.listed:
            nearer = self.problem.linearised_near(max_error)
            # The same ratio to the error of the last plan, which the linearisation states anew.
            limit = nearer.error(failed) * max_error / self.attempts[-1].predicted_error
            limit = max(limit, nearer.error(safer))
            return nearer, nearer.minimise_energy(limit, failed), limit
        step = _STEP_NEARER * 2 ** (len(self.attempts) - 1)
        return optimiser, failed + step * (safer - failed), max_error

    def _next_limit(
        self, max_error: float, optimiser: PlanOptimiser, levels: Tensor, simulation: Simulation
    ) -> float | None:
        """Limit on the error of the next attempt; None to stop."""
        number, last = len(self.attempts), self.attempts[-1]
        held = any(attempt.holds for attempt in self.attempts)
        most_reliable = bool((levels == optimiser.variables.most_reliable).all())
        if number == MOST_ATTEMPTS or held > last.holds or most_reliable:
            return None
        if not held and number + 1 == MOST_ATTEMPTS:  # the last attempt is the most reliable plan
            return optimiser.error(optimiser.variables.most_reliable)
        line = margin_line(self.trials, self.attempts)
        if line is None:
            return None if held else max_error * _STEP_BACK
        confidence = attempt_confidence(number, self.confidence)
        # A Newton step on the line, to the margin that verification needs with some to spare.
        aimed_at = float(ndtr(ndtri(confidence) + _SPARE))
        needed = last.margin - self.condition.slack(simulation, self.chips, aimed_at)
        step = min((line.level - needed) / -line.slope, _LONGEST_STEP)
        if not held:
            least = _LEAST_STEP * 2 ** (number - 1)
            return max_error * math.exp(max(min(step, least), -_LONGEST_STEP))
        saved = step * -line.energy_slope
        worth_it = saved > _WORTH_IT * last.energy
        if not worth_it or max_error >= optimiser.error(optimiser.variables.least_reliable):
            return None
        return max_error * math.exp(step)
