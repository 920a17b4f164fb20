"""Networks of a study: loaded, placed, and trained through a memory; metrics by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from joulewise.contrib import LearnedRanges, NoiseMaximisation, weight_noise
from joulewise.data import Batches, Dataset, Split
from joulewise.devices import Point
from joulewise.errors import DataError, InputError, check_kind
from joulewise.metrics import (
    Accuracy,
    KLDivergence,
    MeanSquaredError,
    Metric,
    NegativeLogLikelihood,
    Perplexity,
    TokenAccuracy,
)
from joulewise.models import host, load_model, load_weights
from joulewise.nested import batch_size
from joulewise.placement import Placement, fold_batchnorm, place, prepare, with_accesses
from joulewise.placement.batches import take
from joulewise.study.entries import Place, TrainingEntry
from joulewise.training import EpochRecord, TrainingMemory, TrainingRecord, TrainingSpec, train

__all__ = ["metric_of", "place_network", "test_split", "train_network"]

# Samples that ranges of activations are calibrated by, and that batch normalisation is folded by.
_CALIBRATION, _FOLDING = 512, 8


def place_network(
    source: str,
    weights: Path | None,
    seed: int,
    data: Dataset | Batches,
    memory: Any,
    where: Place,
) -> Placement:
    """Load a model and its weights, and place it.

    Args:
        source: See `joulewise.load_model`.
        weights: A file of weights; None for the initial ones.
        seed: Seed of the initial weights.
        data: The data, which decide the shape of inputs and calibrate activations.
        memory: The memory.
        where: Tensors that go to it.

    Returns:
        The placement, traced.
    """
    model = load_model(source, data.input_shape, data.classes, seed=seed)
    if weights is not None:
        load_weights(model, weights)
    model = host(model, data.input_shape)
    if where.fold_batchnorm:
        inputs = _calibration(data, model)
        model = fold_batchnorm(model, take(inputs, batch_size(inputs), slice(_FOLDING)))
    return _placed(model, data, memory, where)


def test_split(data: Dataset | Batches, images: int | None) -> Split | list[Any]:
    """The test split, or a random subset of so many samples, the same for all trials."""
    if isinstance(data, Batches):
        return list((data if images is None else data.subset(images)).test)
    if images is None:
        return data.test
    return data.test.subset(min(images, len(data.test)), seed=0)


def train_network(
    source: str,
    entry: TrainingEntry,
    data: Dataset | Batches,
    memory: Any,
    where: Place,
    *,
    seed: int,
    report: Callable[[EpochRecord], None],
) -> tuple[nn.Module, TrainingRecord, TrainingMemory | None]:
    """Load a model and train it.

    Args:
        source: See `joulewise.load_model`.
        entry: The way to train.
        data: The data.
        memory: The memory, for training through it.
        where: Tensors that go to it.
        seed: Seed of the initial weights, the batches and the chips.
        report: Called after each epoch.

    Returns:
        The network; the record of its training; and the memory that it was trained through.
    """
    check_kind("data", data, Dataset, "samples with classes, as a Dataset or a pair", DataError)
    assert isinstance(data, Dataset)
    model = load_model(source, data.input_shape, data.classes, seed=seed)
    model = host(model, data.input_shape)
    through = _training_memory(entry, memory, where, seed, model, data)
    options = entry.model_dump(include=set(TrainingSpec.model_fields) - {"seed"})
    spec = TrainingSpec(seed=seed, **options)
    return model, train(model, data, spec, report, memory=through), through


def _training_memory(
    entry: TrainingEntry, memory: Any, where: Place, seed: int, model: nn.Module, data: Dataset
) -> TrainingMemory | None:
    """The memory that a network is trained through; None for a plain training.

    Args:
        entry: The way to train.
        memory: The memory.
        where: Tensors that go to it.
        seed: Seed of the chips.
        model: The network.
        data: The data, which activations are calibrated by.

    Raises:
        InputError: if the training has no point for the memory's knob.
    """
    if entry.noise:
        # Without a training split `train` refuses the data.
        samples = 0 if data.train is None else len(data.train)
        steps = entry.epochs * math.ceil(samples / entry.batch_size)
        return weight_noise(
            model,
            strength=entry.noise,
            ramp=round(entry.noise_ramp * steps),
            spread=entry.noise_spread,
            seed=seed,
        )
    if not entry.through_memory:
        return None
    if where.common_range:
        raise InputError(
            "place.common_range is true for training through a memory, where ranges follow the "
            "weights; allowed: false, or per_channel in the memory"
        )
    placement = _placed(model, data, memory, where)
    if entry.energy is not None:
        return NoiseMaximisation(placement, energy=entry.energy, seed=seed)
    ranges = LearnedRanges(placement) if entry.learn_ranges else None
    if entry.perfect:
        _check_effect(placement, None)
        return TrainingMemory(placement, ranges=ranges, perfect=True)
    knob = placement.placed[0].device.knob
    at = {name: point for name, point in entry.at.items() if name in (knob.name, *knob.aliases)}
    if len(at) != 1:
        raise InputError(
            f"training ({entry.name}) has points on {', '.join(entry.at)}; allowed: exactly one "
            f"on {knob.name}, the knob of {memory.name}"
        )
    _check_effect(placement, placement.points(at))
    return TrainingMemory(placement, at=at, ranges=ranges, seed=seed)


def _check_effect(placement: Placement, points: Mapping[str, Point] | None) -> None:
    """Refuse a memory that gives weights back as they are: training would not notice it.

    Args:
        placement: The placement.
        points: Operating points; None without faults.

    Raises:
        InputError: if no weight is read otherwise than it was written, and no converter rounds.
    """
    modules = dict(placement.model.named_modules())
    weights = [placed for placed in placement.placed if placed.role == "weight"]
    for placed in weights:
        device, weight = placed.device, next(iter(placed.parameters(modules))).detach()
        stored = device.store(weight, limit=placed.limit, name=placed.name)
        if device.array is not None and (device.array.input_bits or device.array.output_bits):
            return
        if not torch.equal(device.ideal(stored), weight):
            return
        if points is not None and bool(device.moments(stored, points[placed.name]).var.any()):
            return
    if weights:
        raise InputError(
            "the memory reads every weight exactly, so training through it has no effect; allowed: "
            "one with noise, levels or converters"
        )


def metric_of(name: str | None) -> Metric | None:
    """The metric of a study file; None leaves the choice to the targets.

    Raises:
        InputError: if there is none of that name.
    """
    if name is None:
        return None
    kind, _, k = name.partition(":")
    if kind == "accuracy" and (not k or k.isdigit()):
        return Accuracy(top_k=int(k or 1))
    known: dict[str, type[Metric]] = {
        "tokens": TokenAccuracy,
        "nll": NegativeLogLikelihood,
        "perplexity": Perplexity,
        "kl": KLDivergence,
        "mse": MeanSquaredError,
    }
    if name not in known:
        raise InputError(f"metric is {name!r}; allowed: accuracy, accuracy:5, {', '.join(known)}")
    return known[name]()


def _placed(model: nn.Module, data: Dataset | Batches, memory: Any, where: Place) -> Placement:
    """Placed and traced on up to 512 training samples, or test samples where there are none."""
    limit = None
    if where.common_range:
        weights = [p.detach() for p in model.parameters() if p.ndim >= 2 and p.numel()]
        limit = max((float(weight.abs().max()) for weight in weights), default=0.0) or None
    placement = place(
        model,
        weights=None if where.store == "activations" else memory.build(limit),
        activations=None if where.store == "weights" else memory.build(),
        kv_cache=memory.build() if where.kv_cache else None,
        include=where.include,
        exclude=where.exclude,
        example_inputs=_calibration(data, model),
    )
    return with_accesses(placement, where.accesses) if where.accesses else placement


def _calibration(data: Dataset | Batches, model: nn.Module) -> Any:
    """Inputs that ranges of activations are set by, and accesses counted on."""
    if isinstance(data, Batches):
        (batch,) = prepare([data.longest], model)
        return batch.inputs
    split = data.train or data.test
    (batch,) = prepare(split.subset(min(_CALIBRATION, len(split))), model, _CALIBRATION)
    return batch.inputs
