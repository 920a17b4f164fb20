"""Allocations and their evidence, plain data that is stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from joulewise.allocation.granularity import Granularity
from joulewise.devices import PlainPoint, Point
from joulewise.simulation import EnergyRecord, Simulation

__all__ = ["Allocation", "Attempt", "EnergyAtGoal", "Trial", "as_points"]


def as_points(plan: Mapping[str, PlainPoint]) -> dict[str, Point]:
    """A plan from a record, as `joulewise.simulation.simulate` takes it."""
    return {
        name: torch.tensor(point, dtype=torch.float64) if isinstance(point, tuple) else point
        for name, point in plan.items()
    }


class Trial(BaseModel):
    """A plan that was simulated on tuning chips, the same few for all, to choose among plans.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_mse: Predicted output error.
        margin: Difference to the goal, above 0 if it is exceeded: in accuracy, or the logarithm of
            the ratio of output errors.
        chips: Number of tuning chips.
    """

    model_config = ConfigDict(frozen=True)

    energy: float
    predicted_mse: float
    margin: float
    chips: int


class EnergyAtGoal(BaseModel):
    """The energy at which a goal holds without a margin; see `joulewise.allocation.held_out`.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    model_config = ConfigDict(frozen=True)

    energy: float
    low: float
    high: float


class Attempt(BaseModel):
    """A plan that was verified on held-out chips.

    Args:
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_mse: Predicted output error.
        seed: Seed of the first chip.
        chips: Number of chips.
        confidence: One-sided confidence of the bound.
        bound: Confidence bound of the figure that the goal limits.
        holds: True if the bound is within the goal.
        margin: Difference to the goal; see `Trial`.
        half_width: Half-width of the 95 % interval of the margin.
        mean_accuracy: Mean over chips; None without targets.
        mean_mse: Output error, mean over chips.
    """

    model_config = ConfigDict(frozen=True)

    energy: float
    predicted_mse: float
    seed: int
    chips: int
    confidence: float
    bound: float
    holds: bool
    margin: float
    half_width: float
    mean_accuracy: float | None
    mean_mse: float


class Allocation(BaseModel):
    """A plan, its energy, and its verification on held-out chips.

    Args:
        granularity: The granularity of operating points.
        goal: The goal.
        plan: The operating point of each placed tensor: one number, or one for each bit plane or
            output channel.
        energy: Energy of one inference, J.
        predicted_shift: Contribution of the shift of the mean to the predicted output error.
        predicted_variance: Contribution of the variance of each placed tensor.
        simulation: The plan on held-out chips; None without simulation.
        attempts: Plans that were verified on held-out chips, in order.
        chosen: The index of this plan among them: the cheapest that holds, or the last; None
            without attempts.
        trials: Plans that were simulated on tuning chips.
        at_goal: The energy at which the goal holds without a margin; None if it is not known.
        holds: True if the goal was shown to hold; None without simulation.
        confidence: One-sided confidence of all attempts together.
        evaluations: Linearisations: a forward and a backward pass over the samples each.
    """

    model_config = ConfigDict(frozen=True)

    granularity: Granularity
    goal: dict[str, Any]
    plan: dict[str, PlainPoint]
    energy: EnergyRecord
    predicted_shift: float
    predicted_variance: dict[str, float]
    simulation: Simulation | None
    attempts: tuple[Attempt, ...] = ()
    chosen: int | None = None
    trials: tuple[Trial, ...] = ()
    at_goal: EnergyAtGoal | None = None
    holds: bool | None
    confidence: float
    evaluations: int

    @property
    def predicted_mse(self) -> float:
        """The predicted output error."""
        return self.predicted_shift + sum(self.predicted_variance.values())

    @property
    def points(self) -> dict[str, Point]:
        """The plan as `joulewise.simulation.simulate` takes it."""
        return as_points(self.plan)

    @property
    def saved(self) -> float:
        """Fraction of the memory energy of the most reliable plan that is saved."""
        return 1.0 - self.energy.normalised
