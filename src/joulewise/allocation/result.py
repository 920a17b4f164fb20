"""What an allocation found, in plain data that can be stored as JSON and read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from joulewise.allocation.granularity import Granularity
from joulewise.devices import PlainPoint, Point
from joulewise.simulation import EnergyRecord, Simulation

__all__ = ["Allocation", "Attempt", "EnergyAtGoal", "Trial", "as_points"]

PlainPlan = Mapping[str, PlainPoint]


def as_points(plan: PlainPlan) -> dict[str, Point]:
    """A plan from a record, as `joulewise.simulation.simulate` takes it."""
    return {
        name: torch.tensor(point, dtype=torch.float64) if isinstance(point, tuple) else point
        for name, point in plan.items()
    }


class Trial(BaseModel):
    """A plan that was simulated on few chips, the same for all, to choose among plans.

    Args:
        energy: Of placed memory, over that of the most reliable plan.
        predicted_mse: The output error that was predicted.
        margin: How much better than the goal it is; accuracy, or the logarithm of output errors.
        chips: How many.
    """

    model_config = ConfigDict(frozen=True)

    energy: float
    predicted_mse: float
    margin: float
    chips: int


class EnergyAtGoal(BaseModel):
    """The energy at which a goal would just be met; see `joulewise.allocation.held_out`.

    Args:
        energy: Of placed memory, over that of the most reliable plan.
        low: The lower end of its 95 % interval.
        high: The upper end.
    """

    model_config = ConfigDict(frozen=True)

    energy: float
    low: float
    high: float


class Attempt(BaseModel):
    """A plan that was simulated on chips that no plan had been chosen by.

    Args:
        energy: Of placed memory, over that of the most reliable plan.
        predicted_mse: The output error that was predicted.
        seed: Of the first chip.
        chips: How many.
        confidence: One-sided, of the bound.
        bound: The figure that is as good as this, or better, with that confidence.
        holds: Whether it is within the goal.
        margin: How much better than the goal the chips are; as `Trial` has it.
        half_width: Of the 95 % interval of the margin.
        mean_accuracy: Over chips; None without targets.
        mean_mse: Over chips.
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
    """A plan, what it spends, and what fresh chips say of it.

    Args:
        granularity: What has points of its own, and which there are.
        goal: What was to hold.
        plan: The operating point of each placed tensor; one number, or one for each
            bit plane or output channel.
        energy: Joules of one inference.
        predicted_shift: The part of the predicted output error that is a shift of the mean.
        predicted_variance: The part that each placed tensor adds.
        simulation: The plan on fresh chips; None if it was not asked for.
        attempts: The plans that were tried on fresh chips, in order.
        chosen: Which of them this is: the cheapest that holds, or the last; None for none.
        trials: Plans that were simulated on few chips to choose among.
        at_goal: The energy at which the goal would just be met; None where that is not known.
        holds: Whether the goal was shown to hold; None without a simulation.
        confidence: One-sided, that all attempts share.
        evaluations: Passes of the network over the samples that predictions needed.
    """

    model_config = ConfigDict(frozen=True)

    granularity: Granularity
    goal: dict[str, Any]
    plan: dict[str, PlainPoint]
    energy: EnergyRecord
    predicted_shift: float
    predicted_variance: dict[str, float]
    simulation: Simulation | None
    attempts: tuple[Attempt, ...]
    chosen: int | None
    trials: tuple[Trial, ...]
    at_goal: EnergyAtGoal | None
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
        """Share of the memory energy of the most reliable plan that is saved."""
        return 1.0 - self.energy.normalised
