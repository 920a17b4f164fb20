"""Records of allocations, fronts and co-designs: results as plain data, stored as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from joulewise.allocation import (
    Allocation,
    EnergyAtGoal,
    EnergyBudget,
    Granularity,
    OutputError,
    ParetoFront,
    TuningTrial,
    Yield,
)
from joulewise.contrib import CoDesign
from joulewise.devices import PlainPoint
from joulewise.errors import refuse
from joulewise.placement import Placement
from joulewise.study.records import EnergyRecord, SimulationRecord, plain_points
from joulewise.training import TrainingRecord

__all__ = [
    "AllocationEvidence",
    "AttemptRecord",
    "DesignRecord",
    "FrontEvidence",
    "FrontPointRecord",
    "RoundRecord",
]

# JSON has no infinity, and an interval may reach to one: it is stored as null.
_HalfWidth = Annotated[float, BeforeValidator(lambda w: math.inf if w is None else w)]


class AttemptRecord(BaseModel):
    """A `joulewise.allocation.Attempt`, whose metric is accuracy."""

    model_config = ConfigDict(frozen=True)

    energy: float
    predicted_mse: float
    seed: int
    chips: int
    confidence: float
    bound: float
    holds: bool
    margin: float
    half_width: _HalfWidth
    mean_accuracy: float | None
    mean_mse: float


class AllocationEvidence(BaseModel):
    """A `joulewise.allocation.Allocation`, as plain data.

    Args:
        granularity: The granularity of operating points.
        goal: Its kind, ``MeanGoal``, ``YieldGoal``, ``ErrorGoal`` or ``EnergyGoal``, and limits.
        plan: The operating point of each placed tensor: one number, or one for each bit plane or
            output channel.
        energy: Energy of one inference, J.
        predicted_shift: Contribution of the shift of the mean to the predicted output error.
        predicted_variance: Contribution of the variance of each placed tensor.
        simulation: The plan on held-out chips; None without simulation.
        attempts: Plans that were verified on held-out chips, in order.
        chosen: The index of this plan among them; None without attempts.
        trials: Plans that were simulated on tuning chips.
        at_goal: The energy at which the goal holds without a margin; None if it is not known.
        holds: True if the goal was shown to hold; None without simulation.
        confidence: One-sided confidence of all attempts together.
        evaluations: Linearisations.
    """

    model_config = ConfigDict(frozen=True)

    granularity: Granularity
    goal: dict[str, Any]
    plan: dict[str, PlainPoint]
    energy: EnergyRecord
    predicted_shift: float
    predicted_variance: dict[str, float]
    simulation: SimulationRecord | None
    attempts: tuple[AttemptRecord, ...] = ()
    chosen: int | None = None
    trials: tuple[TuningTrial, ...] = ()
    at_goal: EnergyAtGoal | None = None
    holds: bool | None
    confidence: float
    evaluations: int

    @classmethod
    def of(cls, placement: Placement, found: Allocation) -> AllocationEvidence:
        """The record of an allocation.

        Raises:
            InputError: if its metric is not accuracy, or its goal is a yield of output errors.
        """
        simulation = found.simulation
        return cls(
            granularity=found.granularity,
            goal=_goal(found),
            plan=plain_points(placement, found.plan),
            energy=EnergyRecord.of(found.energy),
            predicted_shift=found.predicted_shift,
            predicted_variance=dict(found.predicted_variance),
            simulation=None if simulation is None else SimulationRecord.of(placement, simulation),
            attempts=tuple(
                AttemptRecord(
                    **asdict(attempt)
                    | {"mean_accuracy": attempt.mean, "mean_mse": attempt.mean_mse or 0.0}
                )
                for attempt in found.attempts
            ),
            chosen=found.chosen,
            trials=found.trials,
            at_goal=found.at_goal,
            holds=found.holds,
            confidence=found.confidence,
            evaluations=found.evaluations,
        )

    @property
    def predicted_mse(self) -> float:
        """The predicted output error."""
        return self.predicted_shift + sum(self.predicted_variance.values())

    @property
    def saved(self) -> float:
        """Fraction of the memory energy of the most reliable plan that is saved."""
        return 1.0 - self.energy.normalised


def _goal(found: Allocation) -> dict[str, Any]:
    if isinstance(found.goal, EnergyBudget):
        return {"goal": "EnergyGoal", "energy": found.goal.fraction}
    if isinstance(found.goal, OutputError):
        return {"goal": "ErrorGoal", "mse": found.goal.mse}
    if isinstance(found.goal, Yield):
        if isinstance(found.goal.of, OutputError):
            refuse("the goal of a record", "a yield of output errors", "a yield of accuracies")
        return {"goal": "YieldGoal", "accuracy": found.limit, "share": found.goal.at_least}
    return {"goal": "MeanGoal", "accuracy": found.limit}


class FrontPointRecord(BaseModel):
    """A `joulewise.allocation.FrontPoint`, as plain data."""

    model_config = ConfigDict(frozen=True)

    plan: dict[str, PlainPoint]
    energy: float
    predicted_mse: float
    simulation: SimulationRecord


class FrontEvidence(BaseModel):
    """A `joulewise.allocation.ParetoFront`, as plain data."""

    model_config = ConfigDict(frozen=True)

    granularity: Granularity
    points: tuple[FrontPointRecord, ...]
    evaluations: int

    @classmethod
    def of(cls, placement: Placement, found: ParetoFront) -> FrontEvidence:
        """The record of a front."""
        return cls(
            granularity=found.granularity,
            points=tuple(
                FrontPointRecord(
                    plan=plain_points(placement, point.plan),
                    energy=point.energy,
                    predicted_mse=point.predicted_mse,
                    simulation=SimulationRecord.of(placement, point.simulation),
                )
                for point in found.points
            ),
            evaluations=found.evaluations,
        )


class RoundRecord(BaseModel):
    """A `joulewise.contrib.Round`, as plain data."""

    model_config = ConfigDict(frozen=True)

    training: TrainingRecord | None
    training_energy: float | None
    allocation: AllocationEvidence
    kept: bool


class DesignRecord(BaseModel):
    """A `joulewise.contrib.CoDesign`, as plain data."""

    model_config = ConfigDict(frozen=True)

    given_accuracy: float
    min_accuracy: float
    rounds: tuple[RoundRecord, ...]
    allocation: AllocationEvidence

    @classmethod
    def of(cls, placement: Placement, found: CoDesign) -> DesignRecord:
        """The record of a co-design."""
        return cls(
            given_accuracy=found.given_accuracy,
            min_accuracy=found.min_accuracy,
            rounds=tuple(
                RoundRecord(
                    training=one.training,
                    training_energy=one.training_energy,
                    allocation=AllocationEvidence.of(placement, one.allocation),
                    kept=one.kept,
                )
                for one in found.rounds
            ),
            allocation=AllocationEvidence.of(placement, found.allocation),
        )
