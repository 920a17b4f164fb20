"""Results of simulations: a value for each chip, and mean, interval, quantile and yield."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulewise.errors import InputError, check_in_range, refuse
from joulewise.metrics import Metric
from joulewise.placement import Energy, Plan
from joulewise.results import Result, finite, format_value, plotted
from joulewise.simulation.statistics import (
    Interval,
    mean_interval,
    mean_value,
    proportion_interval,
)
from joulewise.units import format_percent, format_si

__all__ = ["Simulation"]

# Fewest chips whose 5 % quantile the text summary states.
_QUANTILES_FROM = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Simulation(Result):
    """Metric and output error of one plan over many chips.

    A chip has *failed* where the metric has no finite value, for instance because an output is not
    finite. Failed chips are left out of the mean, and are counted in ``failed``; they are worse
    than any limit in quantiles and yields.

    Args:
        plan: The operating point of each placed tensor.
        seed: Chip ``k`` has the seed ``seed + k``.
        samples: Samples that each chip is evaluated on.
        metric: The metric; None without targets.
        original: Its value for the model as given, not rounded to words; None without targets.
        ideal: Its value with a perfect memory of the same words, the baseline of a drop.
        values: Its value for each chip, None for one that failed; empty without targets.
        mse: For each chip, the squared difference between its outputs and those of the model as
            given, mean over outputs and samples; infinite where outputs are not finite. Empty where
            outputs have no fixed shape.
        ideal_mse: The same with a perfect memory: rounding alone.
        energy: Energy of one inference, J.
    """

    plan: Plan
    seed: int
    samples: int
    metric: Metric | None
    original: float | None
    ideal: float | None
    values: tuple[float | None, ...]
    mse: tuple[float, ...]
    ideal_mse: float | None
    energy: Energy

    @property
    def chips(self) -> int:
        """Number of chips."""
        return max(len(self.mse), len(self.values))

    @property
    def failed(self) -> int:
        """Number of chips without a value of the metric, or with an infinite output error."""
        if self.metric is None:
            return sum(math.isinf(mse) for mse in self.mse)
        return sum(value is None for value in self.values)

    @property
    def mean(self) -> float:
        """Mean of the metric over the chips that did not fail; geometric for perplexities."""
        return mean_value(self._finite(), geometric=self._geometric)

    @property
    def mean_mse(self) -> float:
        """Mean over chips of the output's mean squared error."""
        return float(np.mean(self._errors()))

    def interval(self, confidence: float = 0.95) -> Interval:
        """Student's t interval of the mean of the metric: over chips, for these samples."""
        return mean_interval(self._finite(), confidence, geometric=self._geometric)

    def mse_interval(self, confidence: float = 0.95) -> Interval:
        """Student's t interval of the mean output error over chips."""
        return mean_interval(self._errors(), confidence)

    def quantile(self, fraction: float) -> float:
        """Value that all but a fraction of the chips reach or do better than.

        Args:
            fraction: In [0, 1]; 0.05 for the value that 95 % of the chips reach.

        Returns:
            The value; infinite, on the worse side, if that many chips failed.
        """
        check_in_range("fraction", fraction, 0.0, 1.0)
        # Signed so that higher is better: failed chips then rank last, at minus infinity.
        sign = self._sign
        ranked = [-math.inf if value is None else sign * value for value in self._known()]
        return sign * float(np.quantile(ranked, fraction, method="lower"))

    def yield_at(self, limit: float, confidence: float = 0.95) -> tuple[float, Interval]:
        """Fraction of chips whose metric reaches a limit, and its Clopper-Pearson interval.

        Args:
            limit: Worst acceptable value of the metric, in its unit.
            confidence: Confidence of the interval, in (0, 1).
        """
        check_in_range("limit", limit, *(self.metric.bounds if self.metric else (0.0, 1.0)))
        sign = self._sign
        good = sum(v is not None and sign * v >= sign * limit for v in self._known())
        return good / self.chips, proportion_interval(good, self.chips, confidence)

    def collapse_rate(self, multiple: float, confidence: float = 0.95) -> tuple[float, Interval]:
        """Fraction of chips whose perplexity exceeds a multiple of that with a perfect memory.

        For metrics of which lower is better, positive and unbounded, such as perplexities; negative
        log-likelihoods count by their exponentials. Failed chips have collapsed.

        Args:
            multiple: Above 1.
            confidence: Confidence of the Clopper-Pearson interval, in (0, 1).

        Raises:
            InputError: for other metrics, or without a value with a perfect memory.
        """
        check_in_range("multiple", multiple, 1.0, math.inf, open_low=True)
        metric = self.metric
        if metric is None or metric.higher_is_better or math.isfinite(metric.bounds[1]):
            got = "none" if metric is None else metric.name
            refuse("the metric", got, "one that is positive and unbounded, such as Perplexity")
        if self.ideal is None:
            refuse(f"{metric.name} with a perfect memory", "None", "a finite value")
        loss = "perplexity" in metric.derived(self.ideal)
        limit = self.ideal + math.log(multiple) if loss else self.ideal * multiple
        good, interval = self.yield_at(limit, confidence)
        return 1 - good, Interval(1 - interval.high, 1 - interval.low)

    def to_dict(self) -> dict[str, Any]:
        """See `Result`; output errors that are not finite are None."""
        return {
            "plan": self.plan.to_dict(),
            "seed": self.seed,
            "chips": self.chips,
            "samples": self.samples,
            "metric": None if self.metric is None else _described(self.metric),
            "original": self.original,
            "ideal": self.ideal,
            "values": list(self.values),
            "mse": finite(self.mse),
            "ideal_mse": finite(self.ideal_mse),
            "energy": self.energy.to_dict(),
        }

    def plot(self) -> Any:
        """Metric of each chip, or output error without targets, ascending (an Altair chart)."""
        values, name = list(self.mse), "output error"
        if self.metric is not None:
            values, name = self._finite(), self.metric.name
        pairs = list(enumerate(sorted(values), 1))
        return plotted("line", "chips, ascending", name, pairs)

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        figures = {}
        if self.metric is not None:
            bounds = self.metric.bounds
            if self.failed < self.chips:
                values = self._finite()
                figures[self.metric.name] = _with_interval(values, bounds, self._geometric)
                for name, value in self.metric.derived(self.mean).items():
                    figures[name] = format_value(value)
                if self.chips >= _QUANTILES_FROM:
                    quantiles = (format_value(self.quantile(q), bounds) for q in (0.05, 0.5, 0.95))
                    figures["reached by 95, 50, 5 % of chips"] = ", ".join(quantiles)
            perfect, given = (format_value(v, bounds) for v in (self.ideal, self.original))
            figures["without faults"] = f"{perfect}; {given} as given, in floating point"
        if self.failed:
            figures["failed"] = f"{self.failed} of {self.chips} chips"
        if known := [mse for mse in self.mse if math.isfinite(mse)]:
            figures["output error"] = _with_interval(known)
        joules = format_si(self.energy.memory_total_j, "J")
        figures["memory energy"] = (
            f"{joules} an inference, {format_percent(self.energy.normalised, 1)} of the most "
            "reliable plan"
        )
        return f"{self.chips} chips, {self.samples} samples", figures

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        name = "value" if self.metric is None else self.metric.name
        return [
            {"chip": self.seed + k}
            | ({name: self.values[k]} if self.values else {})
            | ({"output error": self.mse[k]} if self.mse else {})
            for k in range(self.chips)
        ]

    @property
    def _geometric(self) -> bool:
        return self.metric is not None and self.metric.geometric

    @property
    def _sign(self) -> float:
        return -1.0 if self.metric is not None and not self.metric.higher_is_better else 1.0

    def _known(self) -> tuple[float | None, ...]:
        if not self.values:
            raise InputError(
                "there is no metric without targets; simulate with data that has targets"
            )
        return self.values

    def _finite(self) -> list[float]:
        finite = [value for value in self._known() if value is not None]
        if not finite:
            raise InputError(f"all {self.chips} chips failed; allowed: more reliable points")
        return finite

    def _errors(self) -> tuple[float, ...]:
        if not self.mse:
            raise InputError("there is no output error: outputs have no fixed shape")
        return self.mse


def _described(metric: Metric) -> dict[str, Any]:
    """Name, direction, kind of mean and derived figures; bounds, None where there is none."""
    return {
        "name": metric.name,
        "higher_is_better": metric.higher_is_better,
        "bounds": finite(metric.bounds),
        "geometric": metric.geometric,
        "derived": list(metric.derived(1.0)),
    }


def _with_interval(
    values: Sequence[float],
    bounds: tuple[float, float] = (-math.inf, math.inf),
    geometric: bool = False,
) -> str:
    text = format_value(mean_value(values, geometric=geometric), bounds)
    if len(values) < 2:
        return f"{text} (one chip)"
    low, high = mean_interval(values, geometric=geometric)
    return f"{text} [{format_value(low, bounds)}, {format_value(high, bounds)}]"
