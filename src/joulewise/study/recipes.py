"""Recipes: ways to train in short words, and networks trained by them, kept as they are done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Never, get_args

import numpy as np
import torch
from torch import nn

from joulewise.data import Dataset
from joulewise.errors import InputError, WeightsError
from joulewise.models import host, load_model, load_weights, save_weights
from joulewise.placement import prepare
from joulewise.placement.private_copy import PrivateModel
from joulewise.study.spec import PlacementSpec
from joulewise.training import (
    EpochRecord,
    Method,
    TrainingMemory,
    TrainingRecord,
    TrainingSpec,
    train,
)

__all__ = ["Recipe", "train_networks"]

_PARTS = (
    "METHOD or METHOD:RHO, clip or clip:DEVIATIONS, memory:POINT or perfect, ranges with one of "
    "these, long"
)
# Whether a number follows, may follow, or must not.
_NUMBERS = {"clip": (True, False), "memory": (True,), "perfect": (False,), "ranges": (False,)}
_NUMBERS |= {"long": (False,)}
# Samples by which a model and its data are known again.
_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A way to train, beside what all ways have in common.

    Args:
        text: As it was given.
        method: The optimizer, by name.
        rho: Radius of its ascent; None for its default.
        clip: Of the weights, in standard deviations of a layer; None where nothing is clipped.
        point: Where to set the memory that is trained through; None where there is no such.
        perfect: Whether a perfect memory is trained through: words that never fail.
        ranges: Whether the ranges of weights are learned in that memory.
        long: Whether it has twice the epochs: as many gradients as a method that takes two a step.
    """

    text: str
    method: Method = "sgd"
    rho: float | None = None
    clip: float | None = None
    point: float | None = None
    perfect: bool = False
    ranges: bool = False
    long: bool = False

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read parts that are joined by ``+``, each at most once, the method first.

        Args:
            text: For instance ``"sgd"``, ``"samsoninf:0.2"``, ``"sgd+clip:2+memory:0.4"`` or
                ``"sgd+long"``.

        Raises:
            InputError: if a part is unknown, stands twice, or has no number where it needs one.

        Example:
            >>> recipe = Recipe.parse("sam:0.05+clip")
            >>> recipe.method, recipe.rho, recipe.clip, recipe.point
            ('sam', 0.05, 2.0, None)
        """
        first, *rest = text.split("+")
        method, rho = _named(first, text)
        if method not in get_args(Method):
            _refuse(text, f"no method {method!r}; methods: {', '.join(get_args(Method))}")
        found: dict[str, float | None] = {}
        for part in rest:
            name, value = _named(part, text)
            if name in found or (value is not None) not in _NUMBERS.get(name, ()):
                _refuse(text, f"the part {part!r}")
            found[name] = value
        through = {"memory", "perfect"} & found.keys()
        if len(through) > 1 or ("ranges" in found and not through):
            _refuse(text, "two memories" if through else "ranges, and no memory to learn them in")
        clip = found.get("clip")
        return cls(
            text=text,
            method=method,  # type: ignore[arg-type]
            rho=rho,
            clip=2.0 if "clip" in found and clip is None else clip,
            point=found.get("memory"),
            perfect="perfect" in found,
            ranges="ranges" in found,
            long="long" in found,
        )

    def spec(self, common: TrainingSpec, seed: int) -> TrainingSpec:
        """How to train one network.

        Args:
            common: What all recipes have in common; its method, rho, clip and seed are replaced.
            seed: Of the network.

        Raises:
            InputError: if a number of the recipe is out of its range.
        """
        fields = common.model_dump() | {
            "method": self.method,
            "rho": self.rho,
            "clip": self.clip,
            "epochs": common.epochs * (2 if self.long else 1),
            "seed": seed,
        }
        try:
            return TrainingSpec.model_validate(fields)
        except ValueError as error:
            raise InputError(f"the recipe {self.text!r} cannot be followed: {error}") from error

    def memory(
        self,
        model: nn.Module,
        data: Dataset,
        placement: PlacementSpec,
        *,
        seed: int,
        knob: str | None = None,
    ) -> TrainingMemory | None:
        """What a network is trained through, if anything.

        A memory that training would not follow or not notice is refused with an InputError.

        Args:
            model: The network.
            data: That it is trained on.
            placement: What of it lies where.
            seed: Of the chips.
            knob: What ``memory:POINT`` sets; None for the device's own.
        """
        if self.point is None and not self.perfect:
            return None
        own = placement.memory.knobs[0]
        at = None if self.point is None else {knob or own: self.point}
        return placement.place_to_train(model, data, at=at, seed=seed, ranges=self.ranges)


def _named(part: str, text: str) -> tuple[str, float | None]:
    name, colon, number = part.strip().partition(":")
    if not colon:
        return name, None
    try:
        return name, float(number)
    except ValueError:
        _refuse(text, f"{number!r} after {name}, which is no number")


def _refuse(text: str, what: str) -> Never:
    raise InputError(f"the recipe {text!r} has {what}; allowed: {_PARTS}, joined by +")


def train_networks(
    model: str,
    data: Dataset,
    recipe: Recipe,
    common: TrainingSpec,
    *,
    seeds: Sequence[int],
    folder: Path,
    placement: PlacementSpec,
    knob: str | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> tuple[Path, ...]:
    """Train a network for each seed, and keep each as soon as it is done.

    A network that is in the folder already, of this model, data and recipe, is not trained again:
    whoever was interrupted goes on where they were. Model and data are known again by what the
    model, untrained, makes of 64 samples, and by their targets, which are stored beside the
    weights; a file without these, of an older version, is taken by the names alone.

    Args:
        model: As a command line names it.
        data: A data set with a training split.
        recipe: How to train.
        common: What all recipes have in common.
        seeds: One for each network: of its first weights, its batches and its chips.
        folder: Where the weights go, as ``RECIPE-SEED.safetensors``.
        placement: What of a model lies where, for a recipe that trains through a memory.
        knob: What ``memory:POINT`` sets; None for the device's own.
        progress: Called after each epoch; not for a network that is there already.

    Returns:
        The files of weights.

    Raises:
        InputError: as `train` does, and if the recipe cannot be followed.
    """
    paths = []
    for seed in seeds:
        spec = recipe.spec(common, seed)
        network = load_model(model, data.input_shape, data.classes, seed=seed)
        stem = re.sub(r"[^\w.]+", "-", recipe.text)
        path = folder / f"{stem}-{seed}.safetensors"
        network = host(network, data.input_shape)
        paths.append(path)
        sample = _sample(network, data)
        found = _found(path, model, data, spec, sample)
        # To know it again a memory needs no ranges, whose search takes long.
        plain = replace(recipe, ranges=False)
        if found is not None and _learned(found) == recipe.ranges:
            memory = plain.memory(network, data, placement, seed=seed, knob=knob)
            if _as_begun(found.memory) == _as_begun(None if memory is None else memory.describe()):
                continue
        memory = recipe.memory(network, data, placement, seed=seed, knob=knob)
        record = train(network, data, spec, progress, memory=memory)
        metadata = {"model": model, "training": record.model_dump_json()}
        save_weights(network, path, metadata | {"sample": json.dumps(sample)})
    return tuple(paths)


def _sample(network: nn.Module, data: Dataset) -> list[float]:
    """What an untrained network makes of some training samples, and their targets.

    Of each sample the root mean square of its outputs: another model of the same shapes, or other
    data of the same name and size, give others. Empty where there is nothing to train.
    """
    if data.train is None:
        return []
    split = data.train.subset(min(_SAMPLES, len(data.train)), seed=0)
    try:
        (batch,) = prepare(split, network, _SAMPLES)
        with torch.no_grad():
            outputs = PrivateModel(network, {}).call(batch.inputs)
    except Exception:  # training refuses the model, and says why
        return []
    sizes: list[float] = outputs.double().flatten(1).square().mean(1).sqrt().tolist()
    return [*(float(f"{size:.6g}") for size in sizes), *map(float, split.targets)]


def _alike(stored: str | None, sample: Sequence[float]) -> bool:
    """Whether samples are equal but for what other machines round, or none is stored."""
    if stored is None:
        return True
    found = json.loads(stored)
    return len(found) == len(sample) and bool(np.allclose(found, sample, rtol=1e-3, atol=1e-6))


def _found(
    path: Path, model: str, data: Dataset, spec: TrainingSpec, sample: Sequence[float]
) -> TrainingRecord | None:
    """The record of a file, if it holds what this training would give without any memory."""
    if not path.exists():
        return None
    scratch = load_model(model, data.input_shape, data.classes, seed=0)
    try:
        metadata = load_weights(scratch, path)
        record = TrainingRecord.model_validate_json(metadata.get("training", ""))
    except (WeightsError, ValueError):
        return None
    assert data.train is not None
    same = (
        metadata.get("model") == model
        and record.spec == spec
        and (record.data, record.train_images) == (data.name, len(data.train))
        and _alike(metadata.get("sample"), sample)
    )
    return record if same else None


def _learned(record: TrainingRecord) -> bool:
    """Whether ranges were learned."""
    return record.memory is not None and record.memory.get("ranges") is not None


def _as_begun(memory: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a memory is, without what training made of it."""
    if memory is None:
        return None
    kept = {k: v for k, v in memory.items() if k not in ("steps", "last_plan", "ranges")}
    plain: dict[str, Any] = json.loads(json.dumps(kept))  # as a file gives it back
    return plain
