"""The computation of one trial, in any process: from a trial and weights to a result."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.allocation import allocate, pareto
from joulewise.contrib import LearnedRanges, NoiseMaximisation, weight_noise
from joulewise.data import Dataset, load_data
from joulewise.devices import Point
from joulewise.errors import InputError, JoulewiseError
from joulewise.metrics import (
    Accuracy,
    MeanSquaredError,
    Metric,
    NegativeLogLikelihood,
    TokenAccuracy,
)
from joulewise.models import ZOO, host, load_model, load_weights, save_weights
from joulewise.placement import (
    Placement,
    Plan,
    energy,
    fold_batchnorm,
    place,
    prepare,
    with_accesses,
)
from joulewise.prediction import predict
from joulewise.progress import Report, silent
from joulewise.study.energy_curve import energy_curve, losses
from joulewise.study.environment import Environment
from joulewise.study.placed import placed_records
from joulewise.study.study_file import Place, StudyFile, TrainingEntry
from joulewise.study.trials import (
    Allocate,
    Curve,
    DataRef,
    Evaluate,
    ModelRef,
    Sources,
    Train,
    source_name,
)
from joulewise.training import TrainingMemory, TrainingSpec, train

__all__ = ["Outcome", "compute", "metric_of", "place_network", "sources_of", "training_memory"]

# Samples that ranges of activations are calibrated by, and that batch normalisation is folded by.
_CALIBRATION, _FOLDING = 512, 8
# Predictions beside a curve: at most this many, where no more than this is lost.
_FORECASTS, _MOST_LOST = 4, 0.11


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A computed trial.

    Args:
        result: Plain data; its fields depend on the kind of trial.
        weights: A safetensors file, of a training.
        seconds: Duration.
        environment: See `Environment`.
    """

    result: dict[str, Any]
    weights: bytes | None = None
    seconds: float
    environment: dict[str, Any]


def sources_of(study: StudyFile, keep: Callable[[bytes], str]) -> Sources:
    """Find the content that a study names; loads data, models and weights.

    Args:
        study: The study file.
        keep: Keeps a safetensors file and gives its digest.

    Raises:
        InputError: if one of them cannot be loaded, naming it.
    """
    data = _data(study.data.source)
    content = hashlib.sha256()
    for split in (data.train, data.test):
        for tensor in () if split is None else (split.inputs, split.targets):
            content.update(_bytes_of(tensor))
    models, weights = [], []
    for entry in study.models:
        model, code = load_model(entry.source, data.input_shape, data.classes, seed=0), ""
        if entry.source not in ZOO:  # the user's code may change
            state = hashlib.sha256(repr(model).encode())
            for tensor in model.state_dict().values():
                state.update(_bytes_of(tensor) if isinstance(tensor, Tensor) else b"")
            code = state.hexdigest()[:16]
        names = {"label": entry.name, "source": source_name(entry.source), "path": entry.source}
        models.append(ModelRef(**names, content=code))
        if entry.weights is not None:
            load_weights(model, entry.weights)
        weights.append("" if entry.weights is None else keep(_safetensors(model)))
    reference = DataRef(
        name=data.name,
        path=study.data.source,
        content=content.hexdigest()[:16],
        images=study.data.images,
    )
    return Sources(data=reference, models=models, weights=weights)


def compute(
    trial: Train | Evaluate, weights: Path | None = None, report: Report = silent
) -> Outcome:
    """Compute a trial with one thread, so that its figures are the same on any engine.

    Args:
        trial: The trial.
        weights: The weights of its network; None for a training.
        report: Called with the progress.

    Raises:
        JoulewiseError: as the functions of joulewise do that it calls.
    """
    began = time.perf_counter()
    content = None
    with _one_thread():
        if isinstance(trial, Train):
            result, content = _train(trial, report)
        else:
            assert weights is not None
            result = _evaluate(trial, weights, report)
    return Outcome(
        result=result,
        weights=content,
        seconds=time.perf_counter() - began,
        environment=Environment.now().model_dump(),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(trial: Train, report: Report) -> tuple[dict[str, Any], bytes]:
    """The record of a training, and its weights."""
    data, entry = _data(trial.data.path), trial.training
    model = load_model(trial.model.path, data.input_shape, data.classes, seed=trial.seed)
    model = host(model, data.input_shape)
    options = entry.model_dump(include=set(TrainingSpec.model_fields) - {"seed"})
    spec = TrainingSpec(seed=trial.seed, **options)
    memory = training_memory(entry, trial.memory, trial.place or Place(), trial.seed, model, data)
    record = train(
        model, data, spec, lambda e: report("training", e.epoch, spec.epochs), memory=memory
    )
    return {"training": record.model_dump(mode="json")}, _safetensors(model)


def _safetensors(model: nn.Module) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(model, path, {})
        return path.read_bytes()


def training_memory(
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


def _evaluate(trial: Evaluate, weights: Path, report: Report) -> dict[str, Any]:
    """Facts of the placement, and the answer to what is asked."""
    network = trial.network
    placement, data = place_network(
        network.model.path, weights, network.seed, trial.data.path, trial.memory, trial.place
    )
    images = trial.data.images
    test = data.test if images is None else data.test.subset(min(images, len(data.test)), seed=0)
    facts = {
        "knob": placement.placed[0].device.knob.name,
        "parameters": sum(parameter.numel() for parameter in placement.model.parameters()),
        "macs": placement.macs,
        "reliable": energy(placement, at=placement.most_reliable()).to_dict(),
        "tensors": [record.model_dump() for record in placed_records(placement)],
    }
    metric = metric_of(trial.metric)
    ask = trial.ask
    if isinstance(ask, Curve):
        return facts | _curve(placement, test, trial, ask, metric, report)
    common: dict[str, Any] = {
        "granularity": ask.granularity.build(),
        "samples": trial.samples,
        "seed": trial.chip_seed,
        "chips": trial.chips,
        "metric": metric,
        "progress": report,
    }
    if isinstance(ask, Allocate):
        goal, confidence = ask.goal.build(), ask.confidence
        allocation = allocate(placement, test, goal=goal, confidence=confidence, **common)
        return facts | {"allocation": allocation.to_dict(), "plan_file": _file_of(allocation.plan)}
    return facts | {"front": pareto(placement, test, plans=ask.plans, **common).to_dict()}


def place_network(
    source: str, weights: Path | None, seed: int, data_source: str, memory: Any, where: Place
) -> tuple[Placement, Dataset]:
    """Load a model and its weights, and place it.

    Args:
        source: See `joulewise.load_model`.
        weights: A file of weights; None for the initial ones.
        seed: Seed of the initial weights.
        data_source: See `joulewise.load_data`.
        memory: The memory.
        where: Tensors that go to it.

    Returns:
        The placement, traced, and the data.
    """
    data = _data(data_source)
    model = load_model(source, data.input_shape, data.classes, seed=seed)
    if weights is not None:
        load_weights(model, weights)
    model = host(model, data.input_shape)
    if where.fold_batchnorm:
        model = fold_batchnorm(model, _calibration(data, model)[:_FOLDING])
    return _placed(model, data, memory, where), data


def _file_of(plan: Plan) -> dict[str, Any]:
    """The content of a plan file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.write(path)
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def _curve(
    placement: Placement,
    test: Any,
    trial: Evaluate,
    ask: Curve,
    metric: Metric | None,
    report: Report,
) -> dict[str, Any]:
    """Simulations, and predictions beside some of them."""
    found = energy_curve(
        placement,
        test,
        points=ask.points,
        drops=ask.drops,
        chips=ask.chips,
        seed=trial.chip_seed,
        metric=metric,
        report=report,
    )
    means = [float(losses(one).mean()) for one in found]
    forecasts: list[Any] = [None] * len(found)
    refused = ""
    for number, index in enumerate(_spread(means, ask.drops)):
        report("predicting", number, _FORECASTS)
        try:
            forecast = predict(placement, test, at=found[index].plan, method="second-order")
        except JoulewiseError as error:  # a curve is worth having without predictions
            refused = str(error)
            break
        forecasts[index] = forecast.to_dict()
    return {
        "simulations": [one.to_dict() for one in found],
        "forecasts": forecasts,
        "not_predicted": refused,
    }


def _spread(lost: list[float], drops: tuple[float, ...]) -> list[int]:
    """At most four points to predict: nearest to the drops, then far from each other, in order.

    Distances are between square roots: small losses are where networks are used.

    Example:
        >>> _spread([0.0, 0.0, 0.001, 0.004, 0.006, 0.009, 0.02, 0.1, 0.5], (0.005, 0.01))
        [1, 3, 5, 7]
    """
    able = [index for index, loss in enumerate(lost) if loss <= _MOST_LOST]
    chosen: list[int] = []
    for drop in sorted(drops):
        nearest = min(able, key=lambda index: abs(lost[index] - drop), default=None)
        if nearest is not None and nearest not in chosen:
            chosen.append(nearest)
    root = [max(loss, 0.0) ** 0.5 for loss in lost]
    while len(chosen) < min(_FORECASTS, len(able)):
        # Among points that lose the same, the least reliable: errors elsewhere are tiny.
        rest = [index for index in reversed(able) if index not in chosen]
        chosen.append(
            max(rest, key=lambda i: min((abs(root[i] - root[c]) for c in chosen), default=0.0))
        )
    return sorted(chosen[:_FORECASTS])


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
        "mse": MeanSquaredError,
    }
    if name not in known:
        raise InputError(f"metric is {name!r}; allowed: accuracy, accuracy:5, {', '.join(known)}")
    return known[name]()


def _placed(model: nn.Module, data: Dataset, memory: Any, where: Place) -> Placement:
    """Placed and traced on up to 512 training samples, or test samples where there are none."""
    limit = None
    if where.common_range:
        weights = [p.detach() for p in model.parameters() if p.ndim >= 2 and p.numel()]
        limit = max((float(weight.abs().max()) for weight in weights), default=0.0) or None
    placement = place(
        model,
        weights=None if where.store == "activations" else memory.build(limit),
        activations=None if where.store == "weights" else memory.build(),
        include=where.include,
        exclude=where.exclude,
        example_inputs=_calibration(data, model),
    )
    return with_accesses(placement, where.accesses) if where.accesses else placement


def _calibration(data: Dataset, model: nn.Module) -> Tensor:
    split = data.train or data.test
    (batch,) = prepare(split.subset(min(_CALIBRATION, len(split))), model, _CALIBRATION)
    inputs: Tensor = batch.inputs
    return inputs


@lru_cache(maxsize=2)
def _data(source: str) -> Dataset:
    return load_data(source)


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
