"""Meeting a goal: how far from it a plan is, and at what energy nothing would be left over.

A plan that was shown to hold lies a little within its goal, by chance more or less so. A line
through the margins of all plans that were simulated, over the logarithm of the predicted error,
tells where to go next; and at what energy the goal would just be met, which is what plans are
compared by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulewise.allocation.result import Attempt, EnergyAtGoal, Trial

__all__ = ["Line", "energy_at_goal", "line_through"]

# Logarithm of the ratio of errors at which a plan counts half as much as one that is here.
_NEAR = math.log(2.0)


class Line(NamedTuple):
    """What was simulated, near one plan.

    Args:
        level: The margin of that plan, by all attempts.
        slope: How it changes with the logarithm of the predicted error; below 0.
        energy_slope: Likewise of energy.
    """

    level: float
    slope: float
    energy_slope: float


def line_through(trials: Sequence[Trial], attempts: Sequence[Attempt]) -> Line | None:
    """The line near the last attempt.

    Trials were all on the same few chips, whose luck they share, and perhaps predicted by another
    model: they tell slopes, attempts the level.

    Args:
        trials: Plans on few chips.
        attempts: Plans on chips of their own, one or more.

    Returns:
        None where margins do not fall with the error.

    Example:
        >>> trials = [
        ...     Trial(energy=1.0 - mse, predicted_mse=mse, margin=0.5 - mse, chips=20)
        ...     for mse in (0.1, 0.11)
        ... ]
        >>> attempt = Attempt(
        ...     energy=0.9, predicted_mse=0.1, seed=0, chips=200, confidence=0.95, bound=0.4,
        ...     holds=True, margin=0.3, half_width=0.1, mean_accuracy=None, mean_mse=0.1,
        ... )
        >>> line = line_through(trials, [attempt])
        >>> round(line.level, 2), round(line.slope, 2)
        (0.3, -0.1)
    """
    last = attempts[-1]
    known: list[Trial | Attempt] = [*trials, *attempts]
    seen = [s for s in known if math.isfinite(s.margin) and s.predicted_mse > 0]
    if last.predicted_mse <= 0 or not math.isfinite(last.margin):
        return None
    x = np.log([s.predicted_mse for s in seen]) - math.log(last.predicted_mse)
    few = np.array([isinstance(s, Trial) for s in seen], dtype=float)
    weights = np.array([s.chips for s in seen]) / (1 + (x / _NEAR) ** 2)
    level, slope = _fitted(x, few, weights, np.array([s.margin for s in seen]))
    _, energy_slope = _fitted(x, few, weights, np.array([s.energy for s in seen]))
    if not (slope < 0 and energy_slope < 0):
        return None
    return Line(level, slope, energy_slope)


def _fitted(
    x: NDArray[np.float64],
    few: NDArray[np.float64],
    weights: NDArray[np.float64],
    heights: NDArray[np.float64],
) -> tuple[float, float]:
    """Level at 0 and slope, by least squares; those of few chips have a level of their own."""
    columns = np.stack([np.ones_like(x), few, x], 1) * np.sqrt(weights)[:, None]
    (level, _, slope), *_ = np.linalg.lstsq(columns, heights * np.sqrt(weights), rcond=None)
    return float(level), float(slope)


def energy_at_goal(
    trials: Sequence[Trial], attempts: Sequence[Attempt], chosen: Attempt
) -> EnergyAtGoal | None:
    """The energy at which the margin would be 0, along the plans that were simulated.

    Args:
        trials: Plans on few chips.
        attempts: Plans on chips of their own.
        chosen: The one of these that the result is.

    Returns:
        The energy, and the interval that follows from that of the chosen plan's margin; what slopes
        are off by is not in it, and matters little where margins are small. None where there is no
        slope, or no interval.
    """
    others = [attempt for attempt in attempts if attempt is not chosen]
    line = line_through(trials, [*others, chosen])
    if line is None or not math.isfinite(chosen.half_width):
        return None
    per_margin = line.energy_slope / line.slope
    energy = chosen.energy - line.level * per_margin
    reach = chosen.half_width * per_margin
    return EnergyAtGoal(energy=energy, low=energy - reach, high=energy + reach)
