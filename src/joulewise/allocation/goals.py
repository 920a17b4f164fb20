"""Goals: what an allocation must hold, and how sure a simulation is that it does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from joulewise.errors import InputError, check_in_range
from joulewise.simulation import Interval, Simulation, proportion_interval

__all__ = ["FEWEST", "ErrorGoal", "Goal", "MeanGoal", "YieldGoal"]

FEWEST = 20
"""Chips below which Student's t interval of a skewed figure is not to be trusted."""


class Goal(ABC):
    """Something to hold on fresh chips, with one-sided confidence."""

    @abstractmethod
    def bound(self, simulation: Simulation, confidence: float) -> float:
        """The figure that is as good as this, or better, with a confidence in (0.5, 1)."""

    @abstractmethod
    def holds(self, simulation: Simulation, confidence: float) -> bool:
        """Whether the bound is within the goal."""

    @abstractmethod
    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """How much better than needed a plan looks on few chips, 0 where so many would just do.

        Args:
            simulation: Of some chips.
            chips: Of the verification to come.
            confidence: Of the verification.
        """

    @abstractmethod
    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """How much better than needed the simulated chips are, and its 95 % interval."""

    def check(self, chips: int, confidence: float) -> None:  # noqa: B027
        """Refuse a number of chips that can never show the goal to hold."""

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"goal": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanGoal(Goal):
    """The mean accuracy over chips is at least ``accuracy``.

    The interval is Student's t. A bad chip so rare that none was drawn is not in it.

    Args:
        accuracy: In [0, 1].
    """

    accuracy: float

    def bound(self, simulation: Simulation, confidence: float) -> float:
        """The lower end of Student's t interval of the mean."""
        return simulation.accuracy_interval(2 * confidence - 1).low

    def holds(self, simulation: Simulation, confidence: float) -> bool:
        """See `Goal`."""
        return self.bound(simulation, confidence) >= self.accuracy

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`."""
        spread = float(np.std(simulation.accuracy, ddof=1)) / chips**0.5
        reach = float(stats.t.ppf(confidence, chips - 1)) * spread
        return float(simulation.mean_accuracy - reach - self.accuracy)

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`; accuracy."""
        return _beyond(simulation.mean_accuracy, simulation.accuracy_interval(), self.accuracy)

    def check(self, chips: int, confidence: float) -> None:
        """Fewer chips say little of a mean: see `joulewise.simulation.mean_interval`."""
        check_in_range("chips", chips, FEWEST, 10**7)


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldGoal(Goal):
    """At least a share of all chips reaches ``accuracy``.

    Args:
        accuracy: In [0, 1].
        share: Above 0, below 1.
    """

    accuracy: float
    share: float

    def bound(self, simulation: Simulation, confidence: float) -> float:
        """The lower end of the Clopper-Pearson interval of the share."""
        _, interval = simulation.yield_at(self.accuracy, 2 * confidence - 1)
        return interval.low

    def holds(self, simulation: Simulation, confidence: float) -> bool:
        """See `Goal`."""
        return self.bound(simulation, confidence) >= self.share

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`; chips are taken to be Gaussian, since few show no quantile."""
        needed = self._needed(chips, confidence) / chips
        # As many again as chance takes away half of the time.
        reach = float(stats.norm.ppf(min(needed, 1 - 0.5 / chips)))
        spread = float(np.std(simulation.accuracy, ddof=1))
        return simulation.mean_accuracy - reach * spread - self.accuracy

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`; the accuracy that the share of chips has, and its order statistics."""
        chips = simulation.chips
        ranked = np.sort(simulation.accuracy)
        low, high = stats.binom.ppf([0.025, 0.975], chips, 1 - self.share).astype(int)
        interval = Interval(
            float(ranked[low - 1]) if low else -math.inf,
            float(ranked[high]) if high < chips else math.inf,
        )
        return _beyond(float(np.quantile(ranked, 1 - self.share)), interval, self.accuracy)

    def check(self, chips: int, confidence: float) -> None:
        """Enough chips that all of them good would show it.

        Raises:
            InputError: naming the fewest.
        """
        fewest = math.ceil(math.log(1 - confidence) / math.log(self.share) - 1e-9)
        if chips < fewest:
            raise InputError(
                f"chips is {chips}, and not even all of them good would show a yield of "
                f"{self.share:g} with {confidence:.1%} confidence; allowed: {fewest} or more"
            )

    def _needed(self, chips: int, confidence: float) -> int:
        """Good chips that show it; one more than there are where none do."""
        good = np.arange(chips + 1)
        lows = [proportion_interval(int(g), chips, 2 * confidence - 1).low for g in good]
        enough = np.flatnonzero(np.array(lows) >= self.share)
        return int(enough[0]) if len(enough) else chips + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGoal(Goal):
    """The output error, mean over chips, is at most ``mse``.

    Args:
        mse: Above 0; squared differences to the outputs of the model as given.
    """

    mse: float

    def bound(self, simulation: Simulation, confidence: float) -> float:
        """The upper end of Student's t interval of the mean."""
        return simulation.mse_interval(2 * confidence - 1).high

    def holds(self, simulation: Simulation, confidence: float) -> bool:
        """See `Goal`."""
        return self.bound(simulation, confidence) <= self.mse

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Goal`; in logarithms."""
        spread = float(np.std(simulation.mse, ddof=1)) / chips**0.5
        reach = float(stats.t.ppf(confidence, chips - 1)) * spread
        return self._within(simulation.mean_mse + reach)

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Goal`; in logarithms."""
        interval = simulation.mse_interval()
        ends = [self._within(mse) for mse in (interval.high, interval.low)]
        return self._within(simulation.mean_mse), Interval(*ends)

    def _within(self, mse: float) -> float:
        return math.log(self.mse / mse) if mse > 0 else math.inf

    def check(self, chips: int, confidence: float) -> None:
        """Fewer chips say little of a mean: see `joulewise.simulation.mean_interval`."""
        check_in_range("chips", chips, FEWEST, 10**7)


def _beyond(value: float, interval: Interval, wanted: float) -> tuple[float, Interval]:
    return value - wanted, Interval(interval.low - wanted, interval.high - wanted)
