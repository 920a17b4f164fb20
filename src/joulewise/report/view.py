"""A study as its blocks look at it: networks with their curves, allocations and trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from joulewise.results import format_value
from joulewise.simulation import Interval, mean_interval, mean_value
from joulewise.study.entries import GoalEntry, GranularityEntry
from joulewise.study.least_energy import LeastEnergy, least_energy, lost, lost_by
from joulewise.study.record import Record
from joulewise.study.study import Position, Study
from joulewise.study.study_file import StudyFile

__all__ = [
    "Allocated",
    "CurvePoint",
    "MetricText",
    "Network",
    "Replicates",
    "View",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CurvePoint:
    """One simulated operating point of a network.

    Args:
        knob: Name of the knob; empty where tensors have points of their own.
        point: The point on it.
        energy: Energy of placed memory over that of the most reliable point.
        memory_j: Energy of placed memory for one inference, J.
        total_j: The same with unplaced memory and arithmetic, J.
        values: Metric of each chip; NaN for one that failed.
        errors: Output error of each chip.
        predicted_error: Predicted output error; None where it was not predicted.
        predicted: Predicted metric, likewise.
        geometric: True if means over chips are geometric.
    """

    knob: str
    point: float
    energy: float
    memory_j: float
    total_j: float
    values: Floats
    errors: Floats
    predicted_error: float | None
    predicted: float | None
    geometric: bool

    @property
    def mean(self) -> float:
        """Mean of the metric over chips that did not fail; NaN if all did."""
        known = self.known.tolist()
        return mean_value(known, geometric=self.geometric) if known else float("nan")

    @property
    def known(self) -> Floats:
        """The metric of the chips that did not fail."""
        found: Floats = self.values[np.isfinite(self.values)]
        return found

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean over chips; None for fewer than two."""
        known = self.known.tolist()
        return mean_interval(known, geometric=self.geometric) if len(known) > 1 else None


class Allocated:
    """One allocation of a network.

    Args:
        record: Its record.

    Attributes:
        goal: The goal.
        granularity: The granularity.
        found: The allocation as plain data; see `joulewise.Allocation.to_dict`.
        holds: True if simulation has shown the goal to hold; None if it is only predicted to.
        energy: Memory energy over that of the most reliable point.
        memory_j: Memory energy of an inference, J.
        total_j: The same with unplaced memory and arithmetic, J.
        mean: Mean of the metric over held-out chips; None where it was not simulated.
        tokens: See `joulewise.study.tokens.token_result`; empty where it is not known.
    """

    def __init__(self, record: Record) -> None:
        row = record.rows()[0]
        self.goal: GoalEntry = record.ask.goal
        self.granularity: GranularityEntry = record.ask.granularity
        self.found: Mapping[str, Any] = record.result["allocation"]
        self.holds: bool | None = row["holds"]
        self.energy: float = row["energy"]
        self.memory_j: float = row["memory_j"]
        self.total_j: float = row["total_j"]
        self.mean: float | None = row.get("mean")
        self.tokens: Mapping[str, Any] = record.result.get("tokens_at", [None])[0] or {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One trained network on one memory.

    Args:
        at: Its place in the study.
        model: Name of the model.
        training: Name of the training; empty for given weights.
        memory: Name of the memory.
        seed: Seed of the training.
        record: The record of its curve.
        allocations: Its allocations.
        fronts: Records of its fronts.
        trained: The record of its training; None for given weights.
    """

    at: Position
    model: str
    training: str
    memory: str
    seed: int
    record: Record
    allocations: Sequence[Allocated]
    fronts: Sequence[Record]
    trained: Record | None

    @property
    def training_s(self) -> float | None:
        """Duration of all epochs of its training, s; None for given weights."""
        if self.trained is None:
            return None
        return float(sum(e["seconds"] for e in self.trained.result["training"]["history"]))

    @property
    def ideal(self) -> float:
        """The metric with a perfect memory of the same words."""
        ideal: float = self.record.result["simulations"][0]["ideal"]
        return ideal

    @property
    def original(self) -> float:
        """The metric of the model as given, not rounded to words."""
        original: float = self.record.result["simulations"][0]["original"]
        return original

    @cached_property
    def points(self) -> list[CurvePoint]:
        """The simulated points, the most reliable first."""
        found = []
        result = self.record.result
        for simulation, forecast in zip(result["simulations"], result["forecasts"], strict=True):
            row = self.record.simulated_row(simulation)
            # Predictions are of top-1 accuracy, whatever the metric.
            plain = forecast is not None and (simulation["metric"] or {}).get("name") == "accuracy"
            accuracy = forecast["accuracy"] if plain else None
            found.append(
                CurvePoint(
                    knob=row["knob"] or "",
                    point=row["point"] or 0.0,
                    energy=row["energy"],
                    memory_j=row["memory_j"],
                    total_j=row["total_j"],
                    values=np.array(simulation["values"], dtype=float),
                    errors=np.array(simulation["mse"], dtype=float),
                    predicted_error=(forecast or {}).get("mse"),
                    predicted=None if accuracy is None else accuracy["mean"],
                    geometric=self.metric.geometric,
                )
            )
        return found

    def losses(self, baseline: float | None = None) -> Floats:
        """Loss of each chip at each point, ``[chips, points]``; infinite for a failed chip.

        Args:
            baseline: The value that is lost from; None for that with a perfect memory.
        """
        values = np.stack([point.values for point in self.points], axis=1)
        return self.metric.lost(values, self.ideal if baseline is None else baseline)

    @cached_property
    def metric(self) -> MetricText:
        """The metric."""
        return MetricText.of(self.record.result["simulations"][0]["metric"])

    def least_energy(self, drop: float, baseline: float | None = None) -> LeastEnergy:
        """The least energy within a drop, with an interval over chips; see `losses`."""
        energies = [point.energy for point in self.points]
        return least_energy(energies, self.losses(baseline), self.metric.lost_by(drop))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricText:
    """A metric in words.

    Args:
        name: Its name.
        bounds: Its least and largest value, infinite where there is none.
        higher_is_better: Its direction.
        geometric: True if means are geometric; drops are then fractions.
        derived: Names of figures that follow from its values.
    """

    name: str
    bounds: tuple[float, float]
    higher_is_better: bool
    geometric: bool
    derived: Sequence[str]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> MetricText:
        """The metric of a simulation as plain data."""
        low, high = plain["bounds"]
        return cls(
            name=plain["name"],
            bounds=(-np.inf if low is None else low, np.inf if high is None else high),
            higher_is_better=plain["higher_is_better"],
            # Records of 0.2 do not say.
            geometric=plain.get("geometric", False),
            derived=plain.get("derived", ()),
        )

    @property
    def direction(self) -> float:
        """1 if higher is better, -1 if lower is."""
        return 1.0 if self.higher_is_better else -1.0

    def lost(self, values: ArrayLike, baseline: float) -> Floats:
        """Losses against a baseline; see `joulewise.study.least_energy.lost`."""
        return lost(
            values,
            baseline,
            higher_is_better=self.higher_is_better,
            geometric=self.geometric,
        )

    def lost_by(self, drop: float) -> float:
        """The loss of a drop; see `joulewise.study.least_energy.lost_by`."""
        return lost_by(drop, geometric=self.geometric)

    def after(self, value: float, drop: float) -> float:
        """A value that is worse by a drop."""
        return value - self.direction * drop * (value if self.geometric else 1.0)

    @property
    def is_fraction(self) -> bool:
        """True for a metric from 0 to 1, shown in per cent."""
        return self.bounds == (0.0, 1.0)

    @property
    def tick_format(self) -> str:
        """d3 format of an axis."""
        return ".1%" if self.is_fraction else "~g"

    def text(self, value: float) -> str:
        """A value."""
        return format_value(value, self.bounds)

    def drop(self, value: float) -> str:
        """A difference of two values."""
        if self.geometric:
            return f"{100 * value:g} %"
        return f"{100 * value:g} pp" if self.is_fraction else f"{value:g}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replicates:
    """Networks of one model, training and memory that differ by the seed only."""

    networks: Sequence[Network]

    @property
    def first(self) -> Network:
        """The network of the first seed."""
        return self.networks[0]

    @property
    def ideal(self) -> float:
        """The metric with a perfect memory of the same words, mean over seeds."""
        return float(np.mean([network.ideal for network in self.networks]))


class View:
    """A study and its records, grouped.

    Args:
        study: The study.

    Attributes:
        file: The study file.
        records: All records with their positions.
        done: Number of trials with a record.
        trials: Number of all trials.
    """

    def __init__(self, study: Study) -> None:
        self.file: StudyFile = study.file
        self.records: list[tuple[Position, Record]] = study.records()
        self.done: int = len({at.digest for at, _ in self.records})
        self.trials: int = len({at.digest for at in study.positions()})
        self.version: str = next(iter(r.environment["joulewise"] for _, r in self.records), "")

    @property
    def drop(self) -> float:
        """The main drop of the study, the first."""
        return self.file.drops[0]

    @cached_property
    def networks(self) -> list[Network]:
        """Networks whose curve is there, in the order of the study."""
        curves: dict[tuple[Any, ...], Record] = {}
        others: dict[tuple[Any, ...], list[Record]] = {}
        for at, record in self.records:
            key = (at.model, at.training, at.memory, at.seed)
            if record.kind == "curve":
                curves[key] = record
            else:
                others.setdefault((*key, record.kind), []).append(record)
        return [
            Network(
                at=Position(record.trial.digest, model, training, memory, seed),
                model=self.file.models[model].name,
                training="" if training is None else self.file.training[training].name,
                memory=self.file.memories[memory].name,
                seed=seed,
                record=record,
                allocations=[
                    Allocated(one)
                    for one in others.get((model, training, memory, seed, "allocate"), [])
                ],
                fronts=others.get((model, training, memory, seed, "front"), []),
                trained=next(iter(others.get((model, training, memory, seed, "train"), [])), None),
            )
            for (model, training, memory, seed), record in curves.items()
        ]

    @cached_property
    def replicates(self) -> list[Replicates]:
        """Networks that differ by the seed only."""
        groups: dict[tuple[Any, ...], list[Network]] = {}
        for network in self.networks:
            groups.setdefault(network.at[1:4], []).append(network)
        return [Replicates(networks=group) for group in groups.values()]

    def name(self, network: Network, *, memory: bool = True) -> str:
        """A network's name, as short as tells it from the others.

        Args:
            network: The network.
            memory: False to tell it from others on its memory only.
        """
        parts = ("model", "training", "memory")[: None if memory else 2]
        differ = [p for p in parts if len({getattr(other, p) for other in self.networks}) > 1]
        shown = ["model", *differ] if differ == ["memory"] else differ
        return ", ".join(filter(None, (getattr(network, p) for p in shown))) or network.model

    def goal(self, one: Allocated) -> str:
        """The goal of an allocation, its drop in the unit of the metric."""
        goal = one.goal
        if goal.drop is None or goal.relative or not self.metric.is_fraction:
            return goal.name
        return goal.name.replace(f"{goal.drop:g}", self.metric.drop(goal.drop))

    def plan(self, one: Allocated) -> str:
        """An allocation in words, such as ``a point per tensor, drop of 1 pp``."""
        return f"{one.granularity.name}, {self.goal(one)}"

    @cached_property
    def metric(self) -> MetricText:
        """The metric of the study."""
        return self.networks[0].metric

    @cached_property
    def best(self) -> float:
        """The best metric with a perfect memory, mean over seeds."""
        direction = self.metric.direction
        return direction * max(direction * group.ideal for group in self.replicates)

    def reliable_j(self, network: Network) -> float:
        """Energy of placed memory at its most reliable point, J."""
        reliable: float = network.record.result["reliable"]["memory_reliable_j"]
        return reliable

    def fixed_j(self, network: Network) -> float:
        """Energy of unplaced memory and of arithmetic, J."""
        reliable = network.record.result["reliable"]
        fixed: float = reliable["unplaced_j"] + reliable["arithmetic_j"]
        return fixed
