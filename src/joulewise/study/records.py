"""Records of simulations and predictions: results as plain data, stored as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from joulewise.devices import PlainPoint, from_plain, plain_point
from joulewise.errors import InputError, check_in_range, refuse
from joulewise.metrics import Accuracy
from joulewise.placement import Energy, Placement, Plan
from joulewise.prediction import AccuracyForecast, Forecast
from joulewise.simulation import Interval, Simulation, mean_interval, proportion_interval

__all__ = [
    "EnergyRecord",
    "ForecastRecord",
    "SimulationRecord",
    "plain_points",
    "plan_of",
]


def plain_points(placement: Placement, plan: Plan) -> dict[str, PlainPoint]:
    """The operating points of a plan, on the knob of each device, as plain data."""
    return {name: plain_point(point) for name, point in placement.points(plan).items()}


def plan_of(placement: Placement, points: dict[str, PlainPoint]) -> Plan:
    """The plan of a record."""
    return Plan.of_points(placement, {name: from_plain(one) for name, one in points.items()})


class EnergyRecord(BaseModel):
    """Joules of one inference, by where they are spent; see `joulewise.placement.Energy`."""

    model_config = ConfigDict(frozen=True)

    memory_j: dict[str, float]
    memory_reliable_j: float
    unplaced_j: float
    arithmetic_j: float

    @classmethod
    def of(cls, spent: Energy) -> EnergyRecord:
        """The same figures as plain data."""
        return cls(**spent.to_dict())

    @property
    def memory_total_j(self) -> float:
        """Accesses to all placed tensors."""
        return sum(self.memory_j.values())

    @property
    def total_j(self) -> float:
        """Placed and unplaced memory, and arithmetic."""
        return self.memory_total_j + self.unplaced_j + self.arithmetic_j

    @property
    def normalised(self) -> float:
        """Energy of placed memory over that of the same memory at its most reliable point."""
        return self.memory_total_j / self.memory_reliable_j


class SimulationRecord(BaseModel):
    """One plan on many chips.

    Args:
        plan: The operating point of each placed tensor; one number, or one for each
            bit plane or output channel.
        seed: Chip ``k`` has the seed ``seed + k``.
        images: Samples that every chip saw.
        float_accuracy: Accuracy of the model as given, not rounded to words; None without targets.
        ideal_accuracy: Accuracy with a perfect memory of the same words: the accuracy to lose.
        accuracy: Accuracy of each chip, in [0, 1]; empty without targets.
        mse: For each chip, the squared difference between its outputs and those of the model as
            given, mean over outputs and samples.
        ideal_mse: The same with a perfect memory: rounding alone.
        energy: Joules of one inference.
    """

    model_config = ConfigDict(frozen=True)

    plan: dict[str, PlainPoint]
    seed: int
    images: int
    float_accuracy: float | None
    ideal_accuracy: float | None
    accuracy: tuple[float, ...]
    mse: tuple[float, ...]
    ideal_mse: float
    energy: EnergyRecord

    @classmethod
    def of(cls, placement: Placement, found: Simulation) -> SimulationRecord:
        """The record of a simulation.

        Args:
            placement: What was simulated.
            found: The result; its metric is accuracy, or there is none.

        Raises:
            InputError: if it has another metric.
        """
        if not (found.metric is None or isinstance(found.metric, Accuracy)):
            refuse("the metric of a record", found.metric.name, "accuracy")
        return cls(
            plan=plain_points(placement, found.plan),
            seed=found.seed,
            images=found.samples,
            float_accuracy=found.original,
            ideal_accuracy=found.ideal,
            accuracy=tuple(value for value in found.values if value is not None),
            mse=found.mse,
            ideal_mse=found.ideal_mse or 0.0,
            energy=EnergyRecord.of(found.energy),
        )

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.mse)

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over chips, in [0, 1]."""
        return float(np.mean(self._accuracies()))

    @property
    def mean_mse(self) -> float:
        """Mean over chips of the output's mean squared error."""
        return float(np.mean(self.mse))

    def accuracy_interval(self, confidence: float = 0.95) -> Interval:
        """Interval of the mean accuracy: over chips, for these samples."""
        return mean_interval(self._accuracies(), confidence)

    def mse_interval(self, confidence: float = 0.95) -> Interval:
        """Interval of the mean output error over chips."""
        return mean_interval(self.mse, confidence)

    def accuracy_quantile(self, share: float) -> float:
        """The accuracy that a share of the chips stays at or below.

        Args:
            share: In [0, 1]; 0.05 for the accuracy that 95 % of the chips reach.
        """
        check_in_range("share", share, 0.0, 1.0)
        return float(np.quantile(self._accuracies(), share, method="lower"))

    def yield_at(self, target: float, confidence: float = 0.95) -> tuple[float, Interval]:
        """The share of chips whose accuracy is at or above ``target``, and its interval.

        Args:
            target: An accuracy in [0, 1].
            confidence: Confidence of the interval (Clopper-Pearson).
        """
        check_in_range("target", target, 0.0, 1.0)
        good = sum(accuracy >= target for accuracy in self._accuracies())
        return good / self.chips, proportion_interval(good, self.chips, confidence)

    def summary(self, target: float | None = None) -> dict[str, Any]:
        """The figures that people ask for, as plain data."""
        figures: dict[str, Any] = {
            "chips": self.chips,
            "images": self.images,
            "mean_mse": self.mean_mse,
            "mse_interval_95": self._ends(self.mse_interval()),
            "memory_energy_normalised": self.energy.normalised,
            "memory_energy_j": self.energy.memory_total_j,
            "total_energy_j": self.energy.total_j,
        }
        if self.accuracy:
            figures |= {
                "float_accuracy": self.float_accuracy,
                "ideal_accuracy": self.ideal_accuracy,
                "mean_accuracy": self.mean_accuracy,
                "accuracy_interval_95": self._ends(self.accuracy_interval()),
                "accuracy_quantiles": {q: self.accuracy_quantile(q) for q in (0.05, 0.5, 0.95)},
            }
        if target is not None:
            share, interval = self.yield_at(target)
            figures |= {"target": target, "yield": share, "yield_interval_95": list(interval)}
        return figures

    def _ends(self, interval: Interval) -> list[float] | None:
        """The ends, or None for a single chip: JSON has no infinity."""
        return list(interval) if self.chips > 1 else None

    def _accuracies(self) -> tuple[float, ...]:
        if not self.accuracy:
            raise InputError("accuracy is not known: the data had no targets")
        return self.accuracy


class ForecastRecord(BaseModel):
    """A `joulewise.prediction.Forecast`, as plain data."""

    model_config = ConfigDict(frozen=True)

    method: str
    plan: dict[str, PlainPoint]
    images: int
    mse: float
    standard_error: float | None
    mean_shift: float
    variance: dict[str, float]
    shares: dict[str, float]
    accuracy: AccuracyForecast | None

    @classmethod
    def of(cls, placement: Placement, found: Forecast) -> ForecastRecord:
        """The record of a forecast."""
        plain = found.to_dict()
        return cls(
            method=found.method.replace("full-covariance", "moments"),  # as stored records say
            plan=plain_points(placement, found.plan),
            images=found.samples,
            mse=plain["mse"],
            standard_error=found.standard_error,
            mean_shift=plain["mean_shift"],
            variance=plain["variance"],
            shares=found.fractions,
            accuracy=found.accuracy,
        )
