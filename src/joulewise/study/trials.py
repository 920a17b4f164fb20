"""Trials: the pieces of work that a study file stands for, each a value with a digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from joulewise.study.entries import (
    GenerationEntry,
    GoalEntry,
    GranularityEntry,
    Place,
    Point,
    TrainingEntry,
)
from joulewise.study.memories import Memory
from joulewise.study.store import digest_of
from joulewise.study.study_file import StudyFile

__all__ = [
    "Allocate",
    "Cell",
    "Curve",
    "DataRef",
    "Evaluate",
    "Front",
    "ModelRef",
    "Network",
    "Sources",
    "Train",
    "Trial",
    "cells_of",
    "kind_of",
]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """The digest of all fields but labels and paths."""
        return digest_of(self.model_dump(mode="json"))


class DataRef(_Value):
    """Data by content.

    Args:
        name: Name in tables.
        path: The source as `joulewise.load_data` takes it.
        content: Digest of inputs and targets.
        images: Samples of the random subset of the test split; None for all.
    """

    name: str
    path: str
    content: str
    images: int | None = None


class ModelRef(_Value):
    """A model by content.

    Args:
        label: Name in tables.
        source: The last part of the source as `joulewise.load_model` takes it.
        path: The whole source.
        content: Digest of its initial state with seed 0, which depends on the user's code.
    """

    label: str
    source: str
    path: str
    content: str


class Network(_Value):
    """A model with weights.

    Args:
        model: The model.
        seed: Seed of its initial weights.
        weights: Digest of the content of a weights file; empty for those of the model's code.
        path: Path of that file.
        trained: Digest of the `Train` that gives the weights; empty for none.
    """

    model: ModelRef
    seed: int = 0
    weights: str = ""
    path: str = ""
    trained: str = ""


class Train(_Value):
    """One training.

    Args:
        data: The data.
        model: The model.
        training: The way to train.
        seed: Seed of weights, batches and chips.
        memory: The memory that is trained through; None for a plain training.
        place: Tensors that go to it.
        files: Digest of the files that memory and place name.
    """

    kind: Literal["train"] = "train"
    data: DataRef
    model: ModelRef
    training: TrainingEntry
    seed: int
    memory: Memory | None = None
    place: Place | None = None
    files: str = ""


class Curve(_Value):
    """Simulation over common operating points, with predictions beside it."""

    kind: Literal["curve"] = "curve"
    chips: int
    points: tuple[Point, ...]
    drops: tuple[float, ...]


class Allocate(_Value):
    """One allocation."""

    kind: Literal["allocate"] = "allocate"
    goal: GoalEntry
    granularity: GranularityEntry
    confidence: float


class Front(_Value):
    """One Pareto front."""

    kind: Literal["front"] = "front"
    plans: int
    granularity: GranularityEntry


class Evaluate(_Value):
    """One question about a network on a memory."""

    kind: Literal["evaluate"] = "evaluate"
    data: DataRef
    network: Network
    memory: Memory
    place: Place
    files: str
    metric: str | None
    chips: int
    chip_seed: int
    samples: int
    generation: GenerationEntry | None = None
    ask: Curve | Allocate | Front = Field(discriminator="kind")


Trial = Annotated[Train | Evaluate, Field(discriminator="kind")]
"""Any piece of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A trial's place in the study.

    Args:
        trial: The trial.
        model: Index of its model in the study file.
        training: Index of its training; None without training.
        memory: Index of its memory.
        seed: Seed of the training.
    """

    trial: Train | Evaluate
    model: int
    training: int | None
    memory: int
    seed: int

    @property
    def needs(self) -> str:
        """Digest of the training that must be there first; empty for none."""
        return "" if isinstance(self.trial, Train) else self.trial.network.trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Content behind the names of a study file; see `joulewise.study.sources.sources_of`.

    Args:
        data: The data.
        models: The models, in the order of the file.
        weights: Digests of their weights files; empty where there is none.
        files: Digest of the files that each memory, and the place, name.
    """

    data: DataRef
    models: Sequence[ModelRef]
    weights: Sequence[str]
    files: Sequence[str]


def kind_of(trial: Train | Evaluate) -> str:
    """``train``, ``curve``, ``allocate`` or ``front``."""
    return trial.kind if isinstance(trial, Train) else trial.ask.kind


def cells_of(study: StudyFile, sources: Sources) -> list[Cell]:
    """All trials of a study, trainings before what needs them; equal trials stand several times.

    Args:
        study: The study file.
        sources: The content that it names.
    """
    found: list[Cell] = []
    for model, entry in enumerate(study.models):
        if study.training:
            for training in range(len(study.training)):
                for seed in study.seeds:
                    found += _trained(study, sources, model, training, seed)
            continue
        network = Network(
            model=sources.models[model],
            weights=sources.weights[model],
            path="" if entry.weights is None else str(entry.weights),
        )
        for memory in range(len(study.memories)):
            found += [
                Cell(trial=trial, model=model, training=None, memory=memory, seed=0)
                for trial in _evaluations(study, sources, network, memory)
            ]
    return found


def _trained(
    study: StudyFile, sources: Sources, model: int, training: int, seed: int
) -> Iterator[Cell]:
    """A training, one for each memory if it is through them, and the evaluations after it."""
    method = study.training[training]
    for number, memory in enumerate(study.memories):
        train = Train(
            data=sources.data.model_copy(update={"images": None}),
            model=sources.models[model],
            training=method,
            seed=seed,
            memory=memory if method.through_memory else None,
            place=study.place if method.through_memory else None,
            files=sources.files[number] if method.through_memory else "",
        )
        network = Network(model=train.model, seed=seed, trained=train.digest)
        trials: list[Train | Evaluate] = [train]
        trials += _evaluations(study, sources, network, number)
        for trial in trials:
            yield Cell(trial=trial, model=model, training=training, memory=number, seed=seed)


def _evaluations(
    study: StudyFile, sources: Sources, network: Network, memory: int
) -> Iterator[Evaluate]:
    """The evaluations of one network on one memory."""
    asks: list[Curve | Allocate | Front] = [
        Curve(
            points=study.points_of(study.memories[memory]),
            drops=study.drops,
            chips=study.chips_of_curves,
        )
    ]
    for granularity in study.granularities:
        asks += [
            Allocate(goal=goal, granularity=granularity, confidence=study.confidence)
            for goal in study.goals
        ]
        if study.front:
            asks.append(Front(plans=study.front, granularity=granularity))
    for ask in asks:
        yield Evaluate(
            data=sources.data,
            network=network,
            memory=study.memories[memory],
            place=study.place,
            files=sources.files[memory],
            metric=study.metric,
            chips=study.chips,
            chip_seed=study.chip_seed,
            samples=study.samples,
            generation=study.generation,
            ask=ask,
        )


def source_name(source: str) -> str:
    """The part of a source that does not depend on where it lies: ``file.py:function``."""
    return source if ":" not in source else Path(source).name
