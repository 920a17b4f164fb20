"""Meeting a goal exactly: the energy at which nothing would be left over, and how sure that is.

A plan that was shown to hold lies a little within its goal, by chance more or less so. For
comparing what plans cost, the energy at which the mean over all chips would be just the goal says
more: simulated margins of the plans nearby tell how much energy a margin is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from joulewise.allocation.result import EnergyAtGoal, Trial
from joulewise.simulation import Interval

__all__ = ["energy_at_goal"]

# Trials that tell the slope.
_NEAREST = 4


def energy_at_goal(
    trials: Sequence[Trial], energy: float, margin: float, interval: Interval
) -> EnergyAtGoal | None:
    """The energy at which the margin would be 0, along the plans that were tried.

    Args:
        trials: Plans on few chips, the same for all.
        energy: Of the plan on fresh chips, over that of the most reliable plan.
        margin: How much better than the goal it is there.
        interval: Of that margin.

    Returns:
        The energy and the interval that follows from that of the margin; what the slope is off by
        is not in it, and matters little where the margin is small. None where the trials show no
        slope.

    Example:
        >>> trials = [Trial(energy=e, predicted_mse=1.0, margin=e - 0.5) for e in (0.45, 0.55)]
        >>> found = energy_at_goal(trials, 0.52, 0.01, Interval(0.0, 0.02))
        >>> round(found.energy, 3), round(found.low, 3), round(found.high, 3)
        (0.51, 0.5, 0.52)
    """
    known = [trial for trial in trials if math.isfinite(trial.margin)]
    near = sorted(known, key=lambda trial: abs(trial.energy - energy))[:_NEAREST]
    if not math.isfinite(interval.half_width) or len({trial.energy for trial in near}) < 2:
        return None
    slope = float(np.polyfit([t.energy for t in near], [t.margin for t in near], 1)[0])
    if slope <= 0:
        return None
    return EnergyAtGoal(
        energy=energy - margin / slope,
        low=energy - interval.high / slope,
        high=energy - interval.low / slope,
    )
