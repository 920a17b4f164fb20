"""Study files: the question of a study as YAML, validated before anything is computed.

Nothing here imports torch, so that bad input is refused at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from joulewise.errors import InputError, refuse
from joulewise.study.entries import (
    Budget,
    Data,
    GenerationEntry,
    GoalEntry,
    GranularityEntry,
    ModelEntry,
    Number,
    Place,
    Point,
    TrainingEntry,
)
from joulewise.study.memories import Memory
from joulewise.study.messages import sentence
from joulewise.study.plain import Plain
from joulewise.study.short_forms import read_yaml

__all__ = ["StudyFile"]


class StudyFile(Plain):
    """A study: models by training by memories by goals by seeds.

    Each network is simulated on each memory over a range of operating points, with predictions
    beside it, and allocated for each goal at each granularity. A training that depends on no memory
    is done once for all.
    """

    question: str = Field(default="", description="a sentence; it heads the page")
    data: Data = Data()
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    training: tuple[TrainingEntry, ...] = Field(
        default=(), description="ways to train each model; none: models come with weights"
    )
    memories: tuple[Memory, ...] = Field(min_length=1)
    place: Place = Place()
    points: tuple[Point, ...] = Field(
        default=(), description="operating points; none: they are chosen around the drops"
    )
    drops: tuple[Annotated[Number, Field(gt=0)], ...] = Field(
        default=(0.005, 0.01),
        min_length=1,
        description="drops of the metric that curves are read at, the main one first; of a "
        "perplexity, fractions",
    )
    goals: tuple[GoalEntry, ...] = ()
    granularities: tuple[GranularityEntry, ...] = Field(
        default=(GranularityEntry(per="network"), GranularityEntry()), min_length=1
    )
    front: int = Field(default=0, ge=0, le=1000, description="plans of a Pareto front; 0 for none")
    metric: str | None = Field(
        default=None,
        description="accuracy, accuracy:5, tokens, nll, perplexity, kl, mse; none: by the targets",
    )
    generation: GenerationEntry | None = Field(
        default=None, description="a prompt that language models continue, for the page"
    )
    chips: int = Field(default=200, ge=2, le=10**7)
    curve_chips: int | None = Field(
        default=None,
        ge=2,
        le=10**7,
        description="chips at each point; none: chips, 50 beside goals",
    )
    samples: int = Field(default=512, ge=1, le=10**9, description="samples of predictions")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = Field(
        default=(0,), min_length=1, description="of training"
    )
    chip_seed: int = Field(default=0, ge=0, le=2**62)
    budget: Budget | None = None

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        """Refuse what could only fail after some trials.

        Raises:
            ValueError: naming the field.
        """
        for number, model in enumerate(self.models):
            if self.training and model.weights is not None:
                raise ValueError(f"models[{number}].weights is given beside training")
            # Code of the user's own may load weights.
            if not self.training and model.weights is None and ":" not in model.source:
                raise ValueError(
                    f"models[{number}] ({model.name}) has neither weights nor training; allowed: "
                    "weights beside it, or a list of training methods"
                )
        lists: dict[str, Sequence[Any]] = {"models": self.models, "training": self.training}
        for field, entries in (lists | {"memories": self.memories}).items():
            names = [entry.name for entry in entries]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{field} has {twice[0]!r} twice; allowed: a label for each")
        for goal in (goal for goal in self.goals if goal.energy is None):
            of, fewest = "a mean", 20
            if goal.chips is not None:
                # As in joulewise.allocation: the last attempt has 1/64 of the error probability.
                most = math.log((1 - self.confidence) / 64) / math.log(goal.chips)
                of, fewest = f"a yield of {goal.chips:g}", math.ceil(most - 1e-9)
            if self.chips < fewest:
                allowed = f"{fewest} or more, to verify {of}"
                raise ValueError(f"chips is {self.chips}; allowed: {allowed}")
        return self

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        """Refuse operating points that no memory has, and those to train at that one lacks.

        Raises:
            ValueError: naming the field.
        """
        for number, training in enumerate(self.training):
            for memory in self.memories:
                if training.at and memory.knobs and len({*training.at} & {*memory.knobs}) != 1:
                    raise ValueError(
                        f"training[{number}].at is of {', '.join(training.at)}; allowed: exactly "
                        f"one on {memory.knobs[0]}, the knob of {memory.name}"
                    )
        known = [memory.knobs for memory in self.memories]
        for number, point in enumerate(self.points):
            if all(known) and not any(set(point) <= set(knobs) for knobs in known):
                allowed = ", ".join(dict.fromkeys(knob for knobs in known for knob in knobs))
                got = ", ".join(point)
                raise ValueError(f"points[{number}] is of {got}; allowed: {allowed}")
        return self

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str | None) -> str | None:
        """Refuse an unknown metric.

        Raises:
            ValueError: naming those allowed.
        """
        known = "tokens|nll|perplexity|kl|mse"
        if metric is not None and not re.fullmatch(rf"accuracy(:[1-9]\d*)?|{known}", metric):
            allowed = f"accuracy, accuracy:5, {known.replace('|', ', ')}"
            raise ValueError(f"{metric!r} is no metric; allowed: {allowed}")
        return metric

    def points_of(self, memory: Memory) -> tuple[Point, ...]:
        """The operating points on a knob of a memory."""
        knobs = set(memory.knobs)
        return tuple(point for point in self.points if not knobs or set(point) <= knobs)

    @property
    def chips_of_curves(self) -> int:
        """Chips at each point of a curve: fewer beside goals, whose verification needs more."""
        if self.curve_chips is not None:
            return self.curve_chips
        return min(self.chips, 50) if self.goals else self.chips

    @field_validator("data", mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _models_alone(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return [_model_of(one) if isinstance(one, str) else one for one in value]

    @classmethod
    def read(cls, path: str | Path) -> StudyFile:
        """Read a study from a YAML file.

        Raises:
            InputError: if it cannot be read or a field is not allowed, naming the field's path.
        """
        content = read_yaml(path)
        if not isinstance(content, dict):
            refuse(f"the study file {path}", f"a {type(content).__name__}", "fields and values")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{path}: {sentence(error)}") from error


def _model_of(text: str) -> dict[str, str]:
    source, equals, weights = text.partition("=")
    return {"source": source} | ({"weights": weights} if equals else {})
