"""Goals: conditions on a plan, and the confidence with which a simulation shows them to hold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from joulewise.errors import InputError, check_in_range, refuse
from joulewise.simulation import Interval, Simulation, proportion_interval

__all__ = ["ErrorGoal", "Goal", "GoalRequest", "MeanGoal", "YieldGoal"]

# Chips below which Student's t interval of a skewed figure is not to be trusted.
_FEWEST = 20

_GOALS = ("max_accuracy_drop", "min_accuracy", "max_mse", "max_energy")


class Goal(ABC):
    """A condition that held-out chips have to show, with one-sided confidence."""

    @abstractmethod
    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """One-sided bound of the figure that the goal limits, and True if it is within the goal.

        Args:
            simulation: Simulation of held-out chips.
            confidence: Above 0.5, below 1.
        """

    @abstractmethod
    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """The margin beyond what verification needs, by a simulation of few chips.

        Args:
            simulation: Simulation of few chips.
            chips: Number of chips of the verification.
            confidence: One-sided confidence of the verification.

        Returns:
            0 where half of all verifications would succeed; in the unit of `margin`.
        """

    @abstractmethod
    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """The difference to the goal, above 0 if it is exceeded, and its 95 % interval.

        In accuracy; for output errors the logarithm of their ratio.
        """

    @abstractmethod
    def check(self, chips: int, confidence: float) -> None:
        """Refuse a number of chips that can never show the goal to hold.

        Raises:
            InputError: with the fewest that can.
        """

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"goal": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanGoal(Goal):
    """Mean accuracy over chips of at least ``accuracy``, by Student's t.

    The interval does not cover failures so rare that no simulated chip has them.

    Args:
        accuracy: In [0, 1].
    """

    accuracy: float

    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """See `Goal`; the lower bound of the mean accuracy."""
        low = simulation.accuracy_interval(2 * confidence - 1).low
        return low, low >= self.accuracy

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`."""
        reach = _half_width(simulation.accuracy, chips, confidence)
        return float(simulation.mean_accuracy - reach - self.accuracy)

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`."""
        return _beyond(simulation.mean_accuracy, simulation.accuracy_interval(), self.accuracy)

    def check(self, chips: int, confidence: float) -> None:
        """See `Goal`."""
        check_in_range("chips", chips, _FEWEST, 10**7)


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldGoal(Goal):
    """Yield: at least a fraction of all chips reaches ``accuracy``, by Clopper-Pearson.

    Args:
        accuracy: In [0, 1].
        share: The fraction; above 0, below 1.
    """

    accuracy: float
    share: float

    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """See `Goal`; the lower bound of the yield."""
        _, interval = simulation.yield_at(self.accuracy, 2 * confidence - 1)
        return interval.low, interval.low >= self.share

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`; accuracies are taken to be Gaussian, since few chips show no quantile."""
        needed = self._needed(chips, confidence) / chips
        # The quantile at which as many chips are good as verification needs, half of the time.
        reach = float(stats.norm.ppf(min(needed, 1 - 0.5 / chips)))
        spread = float(np.std(simulation.accuracy, ddof=1))
        return simulation.mean_accuracy - reach * spread - self.accuracy

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`; that of the accuracy quantile, with an interval of order statistics."""
        chips = simulation.chips
        ranked = np.sort(simulation.accuracy)
        low, high = stats.binom.ppf([0.025, 0.975], chips, 1 - self.share).astype(int)
        interval = Interval(
            float(ranked[low - 1]) if low else -math.inf,
            float(ranked[high]) if high < chips else math.inf,
        )
        return _beyond(float(np.quantile(ranked, 1 - self.share)), interval, self.accuracy)

    def check(self, chips: int, confidence: float) -> None:
        """See `Goal`.

        Raises:
            InputError: with the fewest that can.
        """
        # All of n chips good bounds the yield at (1 - confidence)^(1 / n).
        fewest = math.ceil(math.log(1 - confidence) / math.log(self.share) - 1e-9)
        if chips < fewest:
            raise InputError(
                f"chips is {chips}, and not even all of them good would show a yield of "
                f"{self.share:g} with {confidence:.1%} confidence; allowed: {fewest} or more"
            )

    def _needed(self, chips: int, confidence: float) -> int:
        """The fewest good chips that show the yield; ``chips + 1`` if none do."""
        lows = [proportion_interval(g, chips, 2 * confidence - 1).low for g in range(chips + 1)]
        enough = np.flatnonzero(np.array(lows) >= self.share)
        return int(enough[0]) if len(enough) else chips + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGoal(Goal):
    """Output error, mean over chips, of at most ``mse``, by Student's t.

    Args:
        mse: Above 0; mean squared difference to the outputs of the model as given.
    """

    mse: float

    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """See `Goal`; the upper bound of the mean output error."""
        high = simulation.mse_interval(2 * confidence - 1).high
        return high, high <= self.mse

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`."""
        reach = _half_width(simulation.mse, chips, confidence)
        return self._log_ratio(simulation.mean_mse + reach)

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`."""
        interval = simulation.mse_interval()
        ends = [self._log_ratio(mse) for mse in (interval.high, interval.low)]
        return self._log_ratio(simulation.mean_mse), Interval(*ends)

    def check(self, chips: int, confidence: float) -> None:
        """See `Goal`."""
        check_in_range("chips", chips, _FEWEST, 10**7)

    def _log_ratio(self, mse: float) -> float:
        return math.log(self.mse / mse) if mse > 0 else math.inf


def _half_width(figures: tuple[float, ...], chips: int, confidence: float) -> float:
    """Half-width of Student's t interval of the mean of so many chips with this variance."""
    spread: float = float(np.std(figures, ddof=1)) / chips**0.5
    return float(stats.t.ppf(confidence, chips - 1)) * spread


def _beyond(value: float, interval: Interval, target: float) -> tuple[float, Interval]:
    return value - target, Interval(interval.low - target, interval.high - target)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalRequest:
    """A goal as `allocate` is given it: one field is set, or ``min_yield`` beside an accuracy."""

    max_accuracy_drop: float | None = None
    min_accuracy: float | None = None
    max_mse: float | None = None
    max_energy: float | None = None
    min_yield: float | None = None

    @classmethod
    def of(cls, goal: Mapping[str, float]) -> GoalRequest:
        """The request of keyword arguments.

        Raises:
            InputError: if a goal is missing, unknown, out of range, or one of several.
        """
        for name, value in goal.items():
            if name not in (*_GOALS, "min_yield"):
                refuse("the goal", name, f"one of {', '.join(_GOALS)}; and min_yield")
            check_in_range(name, value, 0.0, 1e30 if name == "max_mse" else 1.0, open_low=True)
        named = [name for name in _GOALS if name in goal]
        if len(named) != 1:
            refuse("the goal", " and ".join(named) or "missing", f"one of {', '.join(_GOALS)}")
        if "min_yield" in goal:
            if named[0] in ("max_mse", "max_energy"):
                refuse("min_yield", f"given with {named[0]}", "with an accuracy or a drop of it")
            check_in_range("min_yield", goal["min_yield"], 0.0, 1.0 - 1e-9, open_low=True)
        return cls(**goal)

    def goal(self, ideal_accuracy: float | None) -> Goal:
        """The goal, once the accuracy on a perfect memory is known.

        Raises:
            InputError: if the goal is an accuracy, and there is none for lack of targets.
        """
        if self.max_mse is not None:
            return ErrorGoal(mse=self.max_mse)
        if ideal_accuracy is None:
            raise InputError("a goal of accuracy needs targets; allowed: max_mse or max_energy")
        accuracy = self.min_accuracy
        if accuracy is None:
            assert self.max_accuracy_drop is not None
            # Accuracies are multiples of 1 / images: 1e-12 lets ties count as within the drop.
            accuracy = max(ideal_accuracy - self.max_accuracy_drop - 1e-12, 0.0)
        if self.min_yield is not None:
            return YieldGoal(accuracy=accuracy, share=self.min_yield)
        return MeanGoal(accuracy=accuracy)
