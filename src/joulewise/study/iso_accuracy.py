"""Iso-accuracy: the least reliable point at which a network loses no more than a given share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from joulewise.errors import InputError, check_in_range
from joulewise.study.crossing import Ladder
from joulewise.study.records import SimulationRecord

__all__ = ["IsoAccuracy", "iso_accuracy"]

Floats = NDArray[np.float64]
_RESAMPLES = 2000


class IsoAccuracy(BaseModel):
    """Where a network's mean accuracy has fallen by ``drop``.

    Args:
        drop: The accuracy given up, against a perfect memory of the same words; 0.01 is one point.
        point: The least reliable point whose mean accuracy is within the drop, interpolated
            between simulated points; None if even the most reliable simulated point is not.
        low: The less reliable end of the 95 % interval of ``point``; None for a single chip.
        high: The more reliable end.
        at_edge: The least reliable point simulated is still within the drop.
    """

    model_config = ConfigDict(frozen=True)

    drop: float
    point: float | None
    low: float | None
    high: float | None
    at_edge: bool


def iso_accuracy(
    points: Sequence[float],
    simulations: Sequence[SimulationRecord],
    drop: float,
    *,
    rising: bool = True,
    seed: int = 0,
) -> IsoAccuracy:
    """The least reliable point within an accuracy drop, and its interval over chips.

    The drop is made monotone (the largest drop at this point or any more reliable one), and
    interpolated between points: linearly, or by ratios where they span more than two decades. The
    interval is a percentile bootstrap: chips are resampled as wholes, each with its figures at
    every point, since they were the same chips.

    Args:
        points: Operating points, in any order.
        simulations: One result for each point, all of the same chips.
        drop: In (0, 1].
        rising: Whether a larger point is more reliable, or less.
        seed: Of the bootstrap.

    Returns:
        The crossing and its interval.

    Raises:
        InputError: if the simulations are of different numbers of chips, or without targets.
    """
    check_in_range("drop", drop, 0.0, 1.0, open_low=True)
    counts = {len(simulation.accuracy) for simulation in simulations}
    if len(counts) != 1 or counts == {0} or len(points) != len(simulations):
        raise InputError(
            f"iso_accuracy was given {len(points)} points and chips {sorted(counts)}; allowed: one "
            "simulation for each point, all with accuracies of the same chips"
        )
    ladder = Ladder(points, rising=rising)
    lost = np.stack(
        [
            (simulations[i].ideal_accuracy or 0.0) - np.asarray(simulations[i].accuracy)
            for i in ladder.order
        ],
        axis=1,
    )
    point = ladder.crossings(lost.mean(0)[None], drop)[0]
    resampled = _resampled_means(lost, np.random.default_rng(seed))
    crossings = ladder.crossings(resampled, drop)
    # Outward to crossings that occurred: a resample without one counts as infinity.
    low = np.quantile(crossings, 0.025, method="lower")
    high = np.quantile(crossings, 0.975, method="higher")
    # One chip says nothing of the others.
    several = bool(np.isfinite(point)) and counts != {1}
    return IsoAccuracy(
        drop=drop,
        point=ladder.setting(point),
        low=ladder.setting(low) if several else None,
        high=ladder.setting(high) if several else None,
        at_edge=bool(point == ladder.places[-1]),
    )


def _resampled_means(lost: Floats, generator: np.random.Generator) -> Floats:
    """Means over bootstrap samples of the chips: ``[resamples, points]``."""
    chips = len(lost)
    weights = generator.multinomial(chips, np.full(chips, 1 / chips), size=_RESAMPLES)
    means: Floats = weights @ lost / chips
    return means
