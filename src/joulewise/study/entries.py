"""Entries of study files: data, models, training, places, points and goals as plain data.

Nothing here imports torch, so that bad input is refused at once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from joulewise.errors import refuse
from joulewise.study.plain import Plain, settings_in_words
from joulewise.study.short_forms import short_form
from joulewise.training.spec import TrainingOptions

if TYPE_CHECKING:
    from joulewise.allocation import Goal, Granularity

__all__ = [
    "Budget",
    "Data",
    "GenerationEntry",
    "GoalEntry",
    "GranularityEntry",
    "ModelEntry",
    "Number",
    "Place",
    "Point",
    "TrainingEntry",
    "parse_goal",
    "parse_point",
]


class Data(Plain):
    """Data of a study; see `joulewise.load_data`."""

    source: str = "digits"
    images: int | None = Field(
        default=None, ge=1, le=1 << 40, description="a random subset of the test split"
    )


class ModelEntry(Plain):
    """A model; see `joulewise.load_model`."""

    source: str = Field(
        description="mlp, cnn, vgg, resnet8, resnet20, mobilenetv2, transformer, "
        "package.module:function, or file.py:function"
    )
    weights: Path | None = Field(default=None, description="a .safetensors file, or a state dict")
    label: str = ""

    @property
    def name(self) -> str:
        """The label, or the name of the weights file or of the source."""
        if self.label:
            return self.label
        return self.source if self.weights is None else self.weights.stem


class Place(Plain):
    """Tensors that go to the memory, and the rest that stays in reliable memory."""

    store: Literal["weights", "activations", "both"] = "weights"
    include: tuple[str, ...] = Field(default=(), description="patterns such as conv*.weight")
    exclude: tuple[str, ...] = ()
    fold_batchnorm: bool = False
    kv_cache: bool = Field(default=False, description="keys and values of a language model, too")
    common_range: bool = Field(default=False, description="weights: one range for the network")
    accesses: Path | None = Field(
        default=None, description="accesses per inference, a CSV of joulewise.mappers.AccessTable"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        found = short_form(value, "")
        if isinstance(value, str):
            found |= {
                n: [found[n]] for n in ("include", "exclude") if isinstance(found.get(n), str)
            }
        return found


def parse_point(text: Any) -> Any:
    """An operating point's short form as a mapping; anything but text passes through.

    Raises:
        InputError: if it is no ``knob=value``.

    Example:
        >>> parse_point("eta=0.5")
        {'eta': 0.5}
    """
    if not isinstance(text, str):
        return text
    knob, equals, value = (part.strip() for part in text.partition("="))
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not equals or not knob or number != number:
        refuse("the point", repr(text), "knob=value, such as eta=0.5")
    return {knob: number}


Point = Annotated[dict[str, float], BeforeValidator(parse_point), Field(min_length=1)]


def _number(value: Any) -> Any:
    """Text such as ``0.5pp`` or ``90%`` as a number; anything but text passes through.

    Raises:
        PydanticCustomError: for text that is no number, or has another unit.
    """
    if not isinstance(value, str):
        return value
    number, unit = re.fullmatch(r"(.*?) ?(pp|%)?", value, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        return float(number) / (100 if unit else 1)
    except ValueError:
        allowed = "a number, such as 0.005, 0.5pp or 90%"
        raise PydanticCustomError("number_with_unit", allowed) from None


Number = Annotated[float, BeforeValidator(_number)]
"""A number, or text with a unit: ``0.5pp`` is 0.005, and ``90%`` is 0.9."""


class GoalEntry(Plain):
    """A goal of an allocation, one of the four; see `joulewise.MetricDrop` and its siblings."""

    drop: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="of the metric, in its unit: 0.005 or 0.5pp of accuracy"
    )
    relative: bool = Field(default=False, description="drop as a fraction of the metric")
    target: Number | None = Field(default=None, description="of the metric, in its unit")
    error: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="mean squared output error"
    )
    energy: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="budget, over the most reliable plan's energy"
    )
    chips: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None, description="fraction of the chips that must reach the goal"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        """Read the short form; a drop in per cent is a fraction of the metric."""
        given = parse_goal(given)
        if not isinstance(given, dict):
            return given
        relative = str(given.get("drop", "")).endswith("%")
        return {"relative": True, **given} if relative else given

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        """Refuse none or several goals.

        Raises:
            ValueError: naming those allowed.
        """
        kinds = ("drop", "target", "error", "energy")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            got = f"{' and '.join(given)} are" if given else "no goal is"
            raise ValueError(f"{got} given; allowed: one of {', '.join(kinds)}")
        if self.energy is not None and self.chips is not None:
            raise ValueError("chips is given with energy; allowed: with drop, target or error")
        if self.relative and self.drop is None:
            raise ValueError("relative is given without drop; allowed: with drop")
        return self

    @property
    def name(self) -> str:
        """The goal in a few words."""
        if self.drop is not None:
            lost = f"{100 * self.drop:g} %" if self.relative else f"{self.drop:g}"
            text = f"drop of {lost}"
        elif self.target is not None:
            text = f"target of {self.target:g}"
        elif self.error is not None:
            text = f"output error of {self.error:g}"
        else:
            text = f"{100 * (self.energy or 0):g} % of the energy"
        return text if self.chips is None else f"{text} for {100 * self.chips:g} % of the chips"

    def build(self) -> Goal:
        """The goal."""
        from joulewise.allocation import EnergyBudget, MetricDrop, MetricTarget, OutputError, Yield

        if self.energy is not None:
            return EnergyBudget(self.energy)
        one: MetricDrop | MetricTarget | OutputError
        if self.drop is not None:
            one = MetricDrop(self.drop, relative=self.relative)
        elif self.target is not None:
            one = MetricTarget(self.target)
        else:
            assert self.error is not None
            one = OutputError(self.error)
        return one if self.chips is None else Yield(self.chips, of=one)


def parse_goal(text: Any) -> Any:
    """A goal's short form as a mapping; anything but text passes through.

    Raises:
        InputError: if a part is no ``name=value``.

    Example:
        >>> parse_goal("drop=0.5pp,chips=95%")
        {'drop': '0.5pp', 'chips': '95%'}
    """
    if not isinstance(text, str):
        return text
    parts = [part.partition("=") for part in text.split(",")]
    if not all(equals and value for _, equals, value in parts):
        refuse("the goal", repr(text), "drop=0.5pp, target=90%, error=1e-3 or energy=0.4")
    return {name.strip(): value.strip() for name, _, value in parts}


class GranularityEntry(Plain):
    """The tensors that share an operating point; see `joulewise.Granularity`."""

    per: Literal["network", "role", "tensor", "channel"] = "tensor"
    bit_planes: bool = False
    rails: int | None = Field(default=None, ge=1, le=10**6)
    levels: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        found = short_form(value, "per")
        if isinstance(value, str) and isinstance(found.get("levels"), (int, float)):
            found["levels"] = [found["levels"]]
        return found

    @property
    def name(self) -> str:
        """The granularity in a few words."""
        text = "one point for all" if self.per == "network" else f"a point per {self.per}"
        text += " and bit plane" if self.bit_planes else ""
        text += f", {self.rails} rails" if self.rails is not None else ""
        return text + (f", {len(self.levels)} levels" if self.levels else "")

    def build(self) -> Granularity:
        """The granularity."""
        from joulewise.allocation import Granularity

        return Granularity(**self.model_dump())


class GenerationEntry(Plain):
    """Text that a language model generates, by a faulty chip beside the model as given."""

    prompt: str | tuple[int, ...] = Field(description="text, or numbers of tokens")
    tokenizer: str = Field(
        default="",
        description="package.module:function or file.py:function that returns an object with "
        "encode and decode, as tokenizers of transformers have them; needed for text",
    )
    new_tokens: int = Field(default=20, ge=1, le=10**4)

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        """Refuse anything but text and numbers of tokens.

        Raises:
            ValueError: naming both.
        """
        numbers = isinstance(prompt, (list, tuple)) and all(type(n) is int for n in prompt)
        if not prompt or not (isinstance(prompt, str) or (numbers and min(prompt) >= 0)):
            raise ValueError(f"{prompt!r:.60}; allowed: text, or a list of numbers of tokens")
        return prompt

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        """Refuse text without a tokenizer.

        Raises:
            ValueError: naming what is allowed.
        """
        if isinstance(self.prompt, str) and not self.tokenizer:
            raise ValueError(
                "prompt is text without a tokenizer; allowed: a tokenizer beside it, or a list of "
                "numbers of tokens"
            )
        if self.tokenizer and not all(self.tokenizer.rpartition(":")):
            allowed = "package.module:function or file.py:function"
            raise ValueError(f"tokenizer is {self.tokenizer!r}; allowed: {allowed}")
        return self


class TrainingEntry(TrainingOptions):
    """A way to train; see `joulewise.TrainingSpec`, whose seed is given by the study.

    With a point, ``perfect`` or ``energy`` the network is trained through each memory of the study.
    """

    label: str = ""
    at: dict[str, float] = Field(
        default={}, description="points to train at, one for each kind of memory: {eta: 0.5}"
    )
    perfect: bool = Field(default=False, description="through a memory without faults")
    learn_ranges: bool = Field(default=False, description="train the range of each weight, too")
    energy: float | None = Field(
        default=None, gt=0, le=1, description="learn a point for each tensor, at this energy"
    )
    noise: float = Field(
        default=0.0, ge=0, le=10, description="Gaussian weight noise over the largest weight (RWP)"
    )
    noise_ramp: float = Field(default=0.0, ge=0, le=1, description="fraction of steps it rises in")
    noise_spread: float = Field(
        default=0.0, ge=0, le=10, description="relative spread of its strength between steps"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return short_form(value, "method")

    @model_validator(mode="after")
    def _check_one_memory(self) -> Self:
        """Refuse several memories to train through, and ranges without any.

        Raises:
            ValueError: naming the fields.
        """
        given = [name for name in ("at", "perfect", "energy", "noise") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; allowed: one of them")
        if (self.noise_ramp or self.noise_spread) and not self.noise:
            raise ValueError("noise_ramp or noise_spread is given without noise; allowed: with it")
        if self.learn_ranges and given not in (["at"], ["perfect"]):
            raise ValueError("learn_ranges is true; allowed: only with at or perfect")
        return self

    @property
    def through_memory(self) -> bool:
        """True if the training depends on the memory."""
        return bool(self.at) or self.perfect or self.energy is not None

    @property
    def name(self) -> str:
        """The label, or the method in a few words."""
        if self.label:
            return self.label
        at = [f"{knob} {point:g}" for knob, point in self.at.items()]
        settings = settings_in_words(self, "method", "at", *_COMMON)
        return ", ".join(part for part in (self.method, *at, settings) if part)


# Options of training that methods seldom differ in; they are in names where they do.
_COMMON = ("batch_size", "momentum", "weight_decay", "warmup", "precision", "augment")


class Budget(Plain):
    """Limits of a run."""

    hours: float = Field(gt=0, le=1e6, description="no trial begins later; run again to go on")
