"""Confidence intervals of a mean over chips and of a proportion of chips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, stdtrit

from joulewise.errors import check_in_range, refuse

__all__ = ["Interval", "mean_interval", "mean_value", "proportion_interval"]


class Interval(NamedTuple):
    """A two-sided interval: lower and upper end."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


def mean_value(values: Sequence[float], *, geometric: bool = False) -> float:
    """Arithmetic or geometric mean.

    Args:
        values: One number per chip; above 0 for a geometric mean.
        geometric: True for the exponential of the mean logarithm.
    """
    return float(np.exp(np.mean(np.log(values)))) if geometric else float(np.mean(values))


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, *, geometric: bool = False
) -> Interval:
    """Student's t interval of a mean.

    Chips are independent draws, and the mean of some tens of them is close to normal even where
    single chips are not; for fewer than about 20 chips of a skewed distribution it is too narrow.

    Args:
        values: One number per chip.
        confidence: In (0, 1).
        geometric: True for the interval of a `mean_value` that is geometric.

    Returns:
        The interval; infinitely wide for a single value.

    Example:
        >>> low, high = mean_interval([0.90, 0.92, 0.91, 0.93])
        >>> round(low, 4), round(high, 4)
        (0.8945, 0.9355)
    """
    check_in_range("confidence", confidence, 0.0, 1.0, open_low=True)
    if not len(values):
        refuse("values", "empty", "at least one")
    if geometric:
        with np.errstate(over="ignore"):  # to infinity
            low, high = np.exp(mean_interval(np.log(values).tolist(), confidence))
        return Interval(float(low), float(high))
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(-math.inf, math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return Interval(mean - reach, mean + reach)


def proportion_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Clopper-Pearson interval of a proportion; its coverage is at least ``confidence``.

    Args:
        successes: Number of successes, 0 to ``trials``.
        trials: Number of trials, at least 1.
        confidence: In (0, 1).

    Returns:
        The interval, within [0, 1].

    Example:
        >>> low, high = proportion_interval(200, 200)
        >>> round(low, 4), high
        (0.9817, 1.0)
    """
    check_in_range("confidence", confidence, 0.0, 1.0, open_low=True)
    check_in_range("trials", trials, 1, math.inf)
    check_in_range("successes", successes, 0, trials)
    # Beta quantiles invert the binomial tails exactly.
    tail = (1 - confidence) / 2
    failures, low, high = trials - successes, 0.0, 1.0
    if successes:
        low = betaincinv(successes, failures + 1, tail)
    if failures:
        high = betaincinv(successes + 1, failures, 1 - tail)
    return Interval(float(low), float(high))
