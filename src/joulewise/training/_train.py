"""The training loop, plain or through a memory, and its data augmentation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from joulewise.data import Dataset, Split
from joulewise.errors import DataError, InputError, ModelError, WeightsError, check_kind, refuse
from joulewise.metrics import Accuracy
from joulewise.models import seeded
from joulewise.optim import SharpnessAware
from joulewise.placement import differentiating, restored_modes, running
from joulewise.training.recipe import optimizer_for, schedule_of
from joulewise.training.spec import TrainingSpec
from joulewise.training.training_memory import TrainingMemory
from joulewise.training.weight_clipping import clip_weights

__all__ = ["EpochRecord", "TrainingRecord", "accuracy", "augment", "train"]


class EpochRecord(BaseModel):
    """One pass over the training set."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: float
    seconds: float


class TrainingRecord(BaseModel):
    """Options and results of a training run."""

    model_config = ConfigDict(frozen=True)

    spec: TrainingSpec
    data: str
    train_images: int
    test_images: int
    test_accuracy: float
    seconds: float
    history: tuple[EpochRecord, ...]
    memory: dict[str, Any] | None = Field(default=None, description="that of training")


def train(
    model: nn.Module,
    data: Dataset,
    spec: TrainingSpec,
    progress: Callable[[EpochRecord], None] | None = None,
    *,
    memory: TrainingMemory | None = None,
) -> TrainingRecord:
    """Train a classifier in place.

    The same model, data, spec and memory give the same weights on a CPU with the same number of
    threads; the global random state is restored.

    Args:
        model: A module that maps a batch to ``[batch, classes]``; trained on its present device.
        data: A data set with a training split.
        spec: Training options.
        progress: Called after each epoch.
        memory: A memory of this model to train through, each step on its next chip. Its weight
            ranges, if any, are trained too, and the weights are clipped to them after training.

    Returns:
        The record, with the test accuracy of the exact weights.

    Raises:
        DataError: if the data set has no training split, or one sample for a model with batch
            normalisation.
        InputError: if an argument is of the wrong kind, the loss or a weight becomes NaN or
            infinite, the memory is that of another model, or ``batch_size`` is 1 for a model with
            batch normalisation.
        ModelError: if the model fails on the data, cannot be differentiated, or has no parameter to
            train.
    """
    check_kind("model", model, nn.Module, "a torch.nn.Module", ModelError)
    check_kind("data", data, Dataset, 'a Dataset, such as load_data("digits")', DataError)
    check_kind("spec", spec, TrainingSpec, "a TrainingSpec, such as TrainingSpec(epochs=10)")
    if progress is not None and not callable(progress):
        refuse("progress", repr(progress), "a function of the record of an epoch, or None")
    if memory is not None:
        check_kind("memory", memory, TrainingMemory, "a TrainingMemory of this model, or None")
    if data.train is None:
        raise DataError(f"{data.name} has no training split; allowed: data with one, to train on")
    _check_fits(model, data)
    if memory is not None and memory.placement.model is not model:
        refuse("memory", "that of another model", "one of a placement of this model")
    began = time.perf_counter()
    steps_per_epoch = _steps(model, len(data.train), spec.batch_size)
    ranges = None if memory is None else memory.ranges
    optimizer = optimizer_for(model, spec, ranges)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, schedule_of(spec.epochs * steps_per_epoch, spec.warmup)
    )
    generator = torch.Generator().manual_seed(spec.seed)
    history = []
    model.train()
    # Dropout draws from the global generator only.
    with seeded(spec.seed):
        for epoch in range(1, spec.epochs + 1):
            start, where = time.perf_counter(), f"in epoch {epoch} at lr {spec.lr:g}"
            losses = []
            try:
                for inputs, targets in _batches(data, spec, generator, steps_per_epoch):
                    losses.append(_step(model, inputs, targets, optimizer, spec, memory))
                    schedule.step()
            except WeightsError as error:  # the memory refuses weights that a NaN loss made NaN
                raise InputError(f"{error}, {where}") from error
            loss = float(torch.stack(losses).mean())
            _check_finite(loss, optimizer, where)
            history.append(EpochRecord(epoch=epoch, loss=loss, seconds=time.perf_counter() - start))
            if progress is not None:
                progress(history[-1])
    if ranges is not None:
        ranges.clip()
    return TrainingRecord(
        spec=spec,
        data=data.name,
        train_images=len(data.train),
        test_images=len(data.test),
        test_accuracy=accuracy(model, data.test),
        seconds=time.perf_counter() - began,
        history=tuple(history),
        memory=None if memory is None else memory.describe(),
    )


def _check_fits(model: nn.Module, data: Dataset) -> None:
    """Refuse, before the first step, a model that does not fit the data.

    Raises:
        ModelError: see `train`.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        refuse(
            "the model", "without a parameter that requires a gradient", "one or more", ModelError
        )
    sample = next(data.test.batches(1))[0].to(_device(model))
    with running(sample), restored_modes(model), torch.no_grad():
        output = model.eval()(sample)
    if not isinstance(output, Tensor) or output.shape != (1, data.classes):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        allowed = f"(1, {data.classes}) for one sample of {data.classes} classes"
        refuse("the model's output", got, allowed, ModelError)


def _check_finite(loss: float, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Check the mean loss of an epoch, and the weights, since its last step follows its last loss.

    Raises:
        InputError: if one is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} {where}; try a lower lr")
    trained = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    if not all(bool(parameter.isfinite().all()) for parameter in trained):
        raise InputError(f"a weight is NaN or infinite {where}; try a lower lr")


def accuracy(model: nn.Module, split: Split) -> float:
    """Top-1 accuracy in [0, 1], in evaluation mode; the model's modes are restored."""
    check_kind("model", model, nn.Module, "a torch.nn.Module", ModelError)
    check_kind("split", split, Split, "a Split, such as data.test", DataError)
    device = _device(model)
    passed = Accuracy().new()
    with restored_modes(model), torch.no_grad():
        model.eval()
        for inputs, targets in split.batches(256):
            inputs = inputs.to(device)
            with running(inputs):
                outputs = model(inputs)
            passed.update(outputs, targets.to(device))
    found = passed.compute()
    assert found is not None  # a sample whose outputs are NaN is wrong; no pass fails
    return found


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _steps(model: nn.Module, samples: int, batch_size: int) -> int:
    """Number of steps in an epoch; with batch normalisation, a last batch of one is left out.

    Raises:
        DataError: see `train`.
    """
    steps = math.ceil(samples / batch_size)
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return steps
    if samples == 1:
        allowed = "two or more for a model with batch normalisation"
        refuse("the number of training samples", samples, allowed, DataError)
    if batch_size == 1:
        refuse("batch_size", batch_size, "2 or more for a model with batch normalisation")
    return steps - (samples % batch_size == 1)


def _batches(
    data: Dataset, spec: TrainingSpec, generator: torch.Generator, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``steps`` batches of the training split in random order, augmented."""
    split = data.train
    assert split is not None
    order = torch.randperm(len(split), generator=generator)
    for chosen in torch.split(order, spec.batch_size)[:steps]:
        inputs = split.inputs[chosen]
        if spec.augment and inputs.ndim == 4:
            padding = inputs.shape[-1] // 8
            inputs = augment(inputs, padding=padding, flips=data.flips, generator=generator)
        yield split.normalise(inputs), split.targets[chosen]


def _step(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer,
    spec: TrainingSpec,
    memory: TrainingMemory | None,
) -> Tensor:
    device = _device(model)
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    inputs, targets = inputs.to(device), targets.to(device)
    optimizer.zero_grad(set_to_none=True)
    with memory or nullcontext():
        loss = _forward_backward(model, inputs, targets, spec)
        if isinstance(optimizer, SharpnessAware):
            with optimizer.ascent():
                _forward_backward(model, inputs, targets, spec)
    optimizer.step()
    if spec.clip is not None:
        clip_weights(model, deviations=spec.clip)
    return loss


def _forward_backward(
    model: nn.Module, inputs: Tensor, targets: Tensor, spec: TrainingSpec
) -> Tensor:
    """Accumulate the gradients of the loss in the parameters; return the loss."""
    half = spec.precision == "bfloat16"
    with running(inputs):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
            outputs = model(inputs)
        loss = functional.cross_entropy(
            outputs.float(), targets, label_smoothing=spec.label_smoothing
        )
    with differentiating():
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def augment(images: Tensor, *, padding: int, flips: bool, generator: torch.Generator) -> Tensor:
    """Randomly crop zero-padded images to their size, and mirror them with probability 0.5.

    Args:
        images: ``[batch, channels, height, width]``, any dtype.
        padding: Zeros around each image before the crop, in pixels, 0 or more.
        flips: True to mirror images horizontally.
        generator: Source of randomness; numbers are drawn on its device.

    Returns:
        A tensor of the same shape and dtype.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    where = generator.device
    shift = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=where)
    rows = shift[0] + torch.arange(height, device=where)
    columns = shift[1] + torch.arange(width, device=where)
    if flips:
        mirrored = torch.rand(count, 1, generator=generator, device=where) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count, device=where)[:, None, None]
    cropped = padded.movedim(1, 3)[samples, rows[:, :, None], columns[:, None, :]]
    return cropped.movedim(3, 1)
