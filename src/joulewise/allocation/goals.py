"""Goals of an allocation, and the statistical conditions that verify them on held-out chips."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit

from joulewise.errors import InputError, check_count, check_in_range, check_kind, refuse
from joulewise.metrics import MeanSquaredError, Metric, margin
from joulewise.simulation import (
    Interval,
    Simulation,
    mean_interval,
    mean_value,
    proportion_interval,
)

__all__ = [
    "Condition",
    "EnergyBudget",
    "Goal",
    "MeanCondition",
    "MetricDrop",
    "MetricTarget",
    "OutputError",
    "Yield",
    "YieldCondition",
    "check_chips",
    "check_goal",
    "needs_metric",
]

# Fewest chips for which Student's t interval of a skewed distribution is adequate.
_FEWEST = 20
# Tolerance of a drop: accuracies are multiples of 1 / samples, and ties are within it.
_TIES = 1e-12
# Cap on the log-ratio margin, infinite for a chip without error, so that its spread is finite.
_FARTHEST = 50.0


@dataclass(frozen=True, slots=True)
class MetricDrop:
    """Mean of the metric at most this much worse than with a perfect memory of the same words.

    Args:
        amount: Above 0; in the unit of the metric, such as 0.005 for 0.5 pp of accuracy, or a
            fraction of the value with a perfect memory.
        relative: True for a fraction.

    Raises:
        InputError: if the amount is out of range.
    """

    amount: float
    relative: bool = False

    def __post_init__(self) -> None:
        check_in_range("amount", self.amount, 0.0, 1e30, open_low=True)
        check_kind("relative", self.relative, bool, "True or False")


@dataclass(frozen=True, slots=True)
class MetricTarget:
    """Mean of the metric at least this value; at most, if lower is better.

    Args:
        value: In the unit of the metric.

    Raises:
        InputError: if the value is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        check_in_range("value", self.value, -1e30, 1e30)


@dataclass(frozen=True, slots=True)
class OutputError:
    """Mean output error of at most this value; needs no targets.

    Args:
        mse: Above 0; mean squared difference to the outputs of the model as given.

    Raises:
        InputError: if the value is out of range.
    """

    mse: float

    def __post_init__(self) -> None:
        check_in_range("mse", self.mse, 0.0, 1e30, open_low=True)


@dataclass(frozen=True, slots=True)
class EnergyBudget:
    """Least predicted output error within an energy budget; needs no targets.

    Args:
        fraction: Above 0 to 1; energy of placed memory over that of the most reliable plan.

    Raises:
        InputError: if the fraction is out of range.
    """

    fraction: float

    def __post_init__(self) -> None:
        check_in_range("fraction", self.fraction, 0.0, 1.0, open_low=True)


@dataclass(frozen=True, slots=True)
class Yield:
    """At least a fraction of all chips reaches a goal, instead of their mean.

    Args:
        at_least: The fraction; above 0, below 1.
        of: The goal that each of these chips reaches.

    Raises:
        InputError: if the fraction is out of range, or ``of`` is not a goal of single chips.
    """

    at_least: float
    of: MetricDrop | MetricTarget | OutputError

    def __post_init__(self) -> None:
        check_in_range("at_least", self.at_least, 0.0, 1.0 - 1e-9, open_low=True)
        kinds = (MetricDrop, MetricTarget, OutputError)
        check_kind("of", self.of, kinds, "a MetricDrop, MetricTarget or OutputError")


Goal = MetricDrop | MetricTarget | OutputError | EnergyBudget | Yield


def check_goal(goal: object) -> None:
    """Refuse anything but a goal.

    Raises:
        InputError: naming the goals.
    """
    kinds = (MetricDrop, MetricTarget, OutputError, EnergyBudget, Yield)
    allowed = "joulewise.MetricDrop(0.005), MetricTarget, OutputError, EnergyBudget or Yield"
    check_kind("goal", goal, kinds, allowed)


def needs_metric(goal: Goal) -> bool:
    """True for a goal of a metric, False for one of output errors or energy."""
    return isinstance(goal.of if isinstance(goal, Yield) else goal, (MetricDrop, MetricTarget))


def check_chips(goal: Goal, chips: int, confidence: float) -> None:
    """Refuse fewer held-out chips than can verify a goal.

    Args:
        goal: The goal.
        chips: The number.
        confidence: One-sided confidence of the verification.

    Raises:
        InputError: stating the fewest that can.
    """
    if not isinstance(goal, Yield):
        check_count("chips", chips, _FEWEST, 10**7)
        return
    # If all of n chips pass, the Clopper-Pearson lower bound is (1 - confidence)^(1 / n).
    fewest = math.ceil(math.log(1 - confidence) / math.log(goal.at_least) - 1e-9)
    if chips < fewest:
        raise InputError(
            f"chips is {chips}, and not even all of them good would show a yield of "
            f"{goal.at_least:g} with {100 * confidence:.6g} % confidence, as the last attempt has "
            f"to; allowed: {fewest} or more"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(ABC):
    """A limit to be verified on held-out chips, with one-sided confidence.

    Args:
        metric: Gives name, direction and bounds of the figure that is limited.
        limit: Worst acceptable value, in the unit of the metric.
        of_error: True if the figure is the output error, False for the metric of the simulation.
    """

    metric: Metric
    limit: float
    of_error: bool = False

    @staticmethod
    def of(goal: Goal, metric: Metric | None, ideal: float | None) -> Condition:
        """The condition of a goal, once the metric of a perfect memory is known.

        Args:
            goal: Any goal but an `EnergyBudget`.
            metric: The metric of the data; None without targets.
            ideal: Its value with a perfect memory.

        Raises:
            InputError: if the goal is one of a metric, and there is none for lack of targets, or
                the limit is outside the bounds of the metric.
        """
        if isinstance(goal, Yield):
            one = Condition.of(goal.of, metric, ideal)
            return YieldCondition(
                metric=one.metric, limit=one.limit, of_error=one.of_error, fraction=goal.at_least
            )
        if isinstance(goal, OutputError):
            return MeanCondition(metric=MeanSquaredError(), limit=goal.mse, of_error=True)
        assert isinstance(goal, (MetricDrop, MetricTarget))
        if metric is None:
            raise InputError(
                f"a {type(goal).__name__} needs targets and a metric; allowed: data with both, or "
                "an OutputError or EnergyBudget"
            )
        if isinstance(goal, MetricDrop):
            if ideal is None:
                raise InputError(
                    f"{metric.name} has no value with a perfect memory of the same words, so that "
                    "no drop from it is defined; allowed: a MetricTarget, or wider words"
                )
            drop = goal.amount * (abs(ideal) if goal.relative else 1.0)
            limit = ideal - drop - _TIES if metric.higher_is_better else ideal + drop + _TIES
            limit = min(max(limit, metric.bounds[0]), metric.bounds[1])
        else:
            limit = goal.value
            check_in_range(f"the target of {metric.name}", limit, *metric.bounds)
        return MeanCondition(metric=metric, limit=limit)

    @abstractmethod
    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """One-sided bound of the figure that is limited, and True if it is within the limit.

        Args:
            simulation: Simulation of held-out chips.
            confidence: Above 0.5, below 1.
        """

    @abstractmethod
    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """Margin in excess of what verification will need, estimated from few chips.

        Args:
            simulation: Simulation of few chips.
            chips: Number of chips of the verification.
            confidence: One-sided confidence of the verification.

        Returns:
            The excess, in the unit of `margin`; at 0 about half of all verifications succeed.
        """

    @abstractmethod
    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """The distance from the limit, above 0 on the better side, and its 95 % interval.

        In the unit of the metric, or the logarithm of a ratio; see `joulewise.metrics.margin`.
        """

    def figures(self, simulation: Simulation) -> Sequence[float | None]:
        """The figure of each chip; None for one that failed.

        Raises:
            InputError: if the output error is limited, and outputs have no fixed shape.
        """
        if self.of_error and not simulation.mse:
            refuse("an OutputError", "given for outputs of no fixed shape", "a goal of a metric")
        return simulation.mse if self.of_error else simulation.values

    def _margin(self, value: float | None) -> float:
        return margin(self.metric, value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanCondition(Condition):
    """Mean over chips within the limit, by Student's t; does not hold if any chip failed.

    The interval does not cover failures so rare that no simulated chip has them.
    """

    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """See `Condition`."""
        values = self._all_known(simulation)
        if values is None:
            return (-math.inf if self.metric.higher_is_better else math.inf), False
        # The ends of a two-sided interval of 2 c - 1 have one-sided confidence c.
        geometric = self.metric.geometric
        interval = mean_interval(values, 2 * confidence - 1, geometric=geometric)
        bound = interval.low if self.metric.higher_is_better else interval.high
        return bound, bound >= self.limit if self.metric.higher_is_better else bound <= self.limit

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Condition`."""
        values = self._all_known(simulation)
        if values is None:
            return -math.inf
        if self.metric.geometric:
            values = np.log(values).tolist()
        # Standard error over the ``chips`` of the verification, not those of this simulation.
        spread = float(np.std(values, ddof=1)) / chips**0.5
        reach = float(stdtrit(chips - 1, confidence)) * spread
        sign = -1.0 if self.metric.higher_is_better else 1.0
        bound = float(np.mean(values)) + sign * reach
        return self._margin(math.exp(min(bound, 700.0)) if self.metric.geometric else bound)

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Condition`."""
        values = self._all_known(simulation)
        if values is None:
            return -math.inf, Interval(-math.inf, -math.inf)
        geometric = self.metric.geometric
        ends = sorted(self._margin(end) for end in mean_interval(values, geometric=geometric))
        return self._margin(mean_value(values, geometric=geometric)), Interval(*ends)

    def _all_known(self, simulation: Simulation) -> list[float] | None:
        values = self.figures(simulation)
        known = [value for value in values if value is not None and math.isfinite(value)]
        return known if len(known) == len(values) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldCondition(Condition):
    """At least a fraction of all chips within the limit, by Clopper-Pearson.

    Args:
        fraction: Above 0, below 1.
    """

    fraction: float

    def bound(self, simulation: Simulation, confidence: float) -> tuple[float, bool]:
        """See `Condition`; the lower bound of the yield."""
        margins = self._margins(simulation)
        good = int(np.sum(margins >= 0))
        low = proportion_interval(good, len(margins), 2 * confidence - 1).low
        return low, low >= self.fraction

    def slack(self, simulation: Simulation, chips: int, confidence: float) -> float:
        """See `Condition`; assumes Gaussian margins, since few chips do not give tail quantiles."""
        margins = self._margins(simulation)
        if np.isneginf(margins).any():
            return -math.inf
        # Fewest good chips that verify the yield, ``chips + 1`` if none do.
        lows = [proportion_interval(g, chips, 2 * confidence - 1).low for g in range(chips + 1)]
        needed = sum(low < self.fraction for low in lows) / chips
        # The fraction ``needed`` passes if the mean is this many standard deviations above 0.
        reach = float(ndtri(min(needed, 1 - 0.5 / chips)))
        return float(margins.mean() - reach * margins.std(ddof=1))

    def margin(self, simulation: Simulation) -> tuple[float, Interval]:
        """See `Condition`; the margin of the quantile ``1 - fraction``."""
        ranked = np.sort(self._margins(simulation))
        chips = len(ranked)
        # Order statistics whose ranks bracket the quantile with 95 % confidence.
        bad = bdtr(np.arange(chips + 1), chips, 1 - self.fraction)
        low, high = np.searchsorted(bad, [0.025, 0.975])
        interval = Interval(
            float(ranked[low - 1]) if low else -math.inf,
            float(ranked[high]) if high < chips else math.inf,
        )
        # No interpolation towards failed chips, whose margin is minus infinity.
        method: Any = "linear" if np.isfinite(ranked[0]) else "lower"
        return float(np.quantile(ranked, 1 - self.fraction, method=method)), interval

    def _margins(self, simulation: Simulation) -> Any:
        """Margin of each chip, ``[chips]``, at most ``_FARTHEST``."""
        margins = [self._margin(value) for value in self.figures(simulation)]
        return np.minimum(np.array(margins), _FARTHEST)
