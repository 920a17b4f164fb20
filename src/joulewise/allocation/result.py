"""Results of allocations: the plan, and the evidence that its goal holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from joulewise.allocation.goals import Goal, Yield
from joulewise.allocation.granularity import Granularity
from joulewise.devices import plain_point
from joulewise.metrics import Metric
from joulewise.placement import Energy, Plan
from joulewise.results import Result, finite, format_value, plotted
from joulewise.simulation import Simulation
from joulewise.units import format_percent, format_si

__all__ = ["Allocation", "Attempt", "EnergyAtGoal", "TuningTrial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningTrial:
    """A plan that was simulated on tuning chips, the same few for all, to choose among plans.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_error: Predicted output error.
        margin: Distance from the goal, above 0 if it is exceeded; see `joulewise.metrics.margin`.
        chips: Number of tuning chips.
    """

    energy: float
    predicted_error: float
    margin: float
    chips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyAtGoal:
    """Energy at which a goal is met with a margin of 0; see `joulewise.allocation.held_out`.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    energy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A plan that was verified on held-out chips.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_error: Predicted output error.
        seed: Seed of the first chip.
        chips: Number of chips.
        confidence: One-sided confidence of the bound.
        bound: Confidence bound of the figure that the goal limits.
        holds: True if the bound is within the goal.
        margin: Distance from the goal; see `TuningTrial`.
        half_width: Half-width of the 95 % interval of the margin.
        mean: Mean of the metric over chips; None without targets, or if all chips failed.
        mean_mse: Output error, mean over chips; None where outputs have no fixed shape.
    """

    energy: float
    predicted_error: float
    seed: int
    chips: int
    confidence: float
    bound: float
    holds: bool
    margin: float
    half_width: float
    mean: float | None
    mean_mse: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Allocation(Result):
    """A plan, its energy, and its verification on held-out chips.

    Args:
        goal: The goal.
        limit: Worst acceptable value of the limited figure; None for an energy budget.
        granularity: The granularity of operating points.
        plan: The operating point of each placed tensor.
        energy: Energy of one inference, J.
        predicted_shift: Contribution of the shift of the mean to the predicted output error.
        predicted_variance: Contribution of the variance of each placed tensor.
        simulation: The plan on held-out chips; None without simulation.
        attempts: Plans that were verified on held-out chips, in order.
        chosen: The index of this plan among them: the cheapest that holds, or the last; None
            without attempts.
        trials: Plans that were simulated on tuning chips.
        at_goal: Energy at which the goal is met with a margin of 0; None if it is not known.
        holds: True if the goal was shown to hold; None without simulation.
        common: True if the plan is one point for all, since none of finer granularity was cheaper.
        confidence: One-sided confidence of all attempts together.
        evaluations: Linearisations: a forward and a backward pass over the samples each.
        of: Predicted figure: ``"outputs"``, their error; ``"divergence"``, of the softmax, nats,
            for goals of losses; ``"weights"``, their relative error, where outputs have no fixed
            shape. See `joulewise.prediction.error_model` and `weight_error_model`.
    """

    goal: Goal
    limit: float | None = None
    granularity: Granularity
    plan: Plan
    energy: Energy
    predicted_shift: float
    predicted_variance: Mapping[str, float]
    simulation: Simulation | None
    attempts: tuple[Attempt, ...] = ()
    chosen: int | None = None
    trials: tuple[TuningTrial, ...] = ()
    at_goal: EnergyAtGoal | None = None
    holds: bool | None
    common: bool = False
    confidence: float
    evaluations: int
    of: Literal["outputs", "divergence", "weights"] = "outputs"

    @property
    def predicted_error(self) -> float:
        """The predicted output error."""
        return self.predicted_shift + sum(self.predicted_variance.values())

    @property
    def metric(self) -> Metric | None:
        """The metric of the simulation; None without targets or simulation."""
        return None if self.simulation is None else self.simulation.metric

    @property
    def saved(self) -> float:
        """Fraction of the memory energy of the most reliable plan that is saved."""
        return 1.0 - self.energy.normalised

    def to_dict(self) -> dict[str, Any]:
        """See `Result`; figures that are not finite are None."""
        return {
            "goal": _plain(self.goal),
            "limit": self.limit,
            "granularity": asdict(self.granularity),
            "plan": self.plan.to_dict(),
            "energy": self.energy.to_dict(),
            "predicted_shift": self.predicted_shift,
            "predicted_variance": dict(self.predicted_variance),
            "simulation": None if self.simulation is None else self.simulation.to_dict(),
            "attempts": [finite(asdict(attempt)) for attempt in self.attempts],
            "chosen": self.chosen,
            "trials": [finite(asdict(trial)) for trial in self.trials],
            "at_goal": None if self.at_goal is None else asdict(self.at_goal),
            "holds": self.holds,
            "common": self.common,
            "confidence": self.confidence,
            "evaluations": self.evaluations,
            "of": self.of,
        }

    def plot(self) -> Any:
        """Memory energy of one inference by placed tensor, in joules (an Altair chart)."""
        pairs = [(name, float(joules)) for name, joules in self.energy.memory_j.items()]
        return plotted("bar", "tensor", "memory energy of an inference (J)", pairs)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "tensor": name,
                "knob": next(iter(setting)),
                "point": plain_point(next(iter(setting.values()))),
                "memory_j": float(self.energy.memory_j[name]),
                "predicted_variance": self.predicted_variance[name],
            }
            for name, setting in self.plan.items()
        ]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        joules = format_si(self.energy.memory_total_j, "J")
        energy = f"{joules} an inference, {format_percent(self.energy.normalised, 1)}"
        figures = {"goal": str(self.goal), "memory energy": f"{energy} of the most reliable plan"}
        if self.at_goal is not None:
            ends = (format_percent(x, 1) for x in (self.at_goal.low, self.at_goal.high))
            percent = format_percent(self.at_goal.energy, 1)
            figures["just at the goal"] = f"{percent} [{', '.join(ends)}]"
        if self.attempts and self.chosen is not None:
            attempt = self.attempts[self.chosen]
            confidence = format_percent(self.confidence, 0)
            verdict = "shown" if attempt.holds else "not shown"
            figures["verified"] = f"{verdict} on {attempt.chips} held-out chips, {confidence}"
        elif self.holds is False:
            figures["verified"] = "out of reach: this is the best plan"
        simulation = self.simulation
        if simulation is not None and simulation.metric is not None:
            bounds, metric = simulation.metric.bounds, simulation.metric.name
            if simulation.failed < simulation.chips:
                figures[metric] = format_value(simulation.mean, bounds)
            figures["without faults"] = format_value(simulation.ideal, bounds)
        figures[_FIGURES[self.of]] = f"{self.predicted_error:.4g}"
        if self.common:
            figures["granularity"] = "one point for all: no finer plan was cheaper"
        return f"Plan for {len(self.plan)} tensors", figures


_FIGURES = {
    "outputs": "predicted error",
    "divergence": "predicted divergence",
    "weights": "relative error of weights",
}


def _plain(goal: Goal) -> dict[str, Any]:
    """A goal as plain data, with the name of its class."""
    if isinstance(goal, Yield):
        return {"kind": "Yield", "at_least": float(goal.at_least), "of": _plain(goal.of)}
    parts = {field.name: getattr(goal, field.name) for field in fields(goal)}
    plain = {n: part if isinstance(part, bool) else float(part) for n, part in parts.items()}
    return {"kind": type(goal).__name__, **plain}
