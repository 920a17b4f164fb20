"""The training loop: plain it is the baseline, with a method or a memory a robust one."""

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
from joulewise.errors import DataError, InputError, ModelError, WeightsError, refuse
from joulewise.models import seeded
from joulewise.optim import SharpnessAware
from joulewise.placement import same_modes
from joulewise.training.recipe import TrainingSpec, optimizer_for, schedule_of
from joulewise.training.training_memory import TrainingMemory
from joulewise.training.weight_clipping import clip_weights
from joulewise.user_code import cause_of

__all__ = ["EpochRecord", "TrainingRecord", "accuracy", "augment", "train"]


class EpochRecord(BaseModel):
    """One pass over the training set."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: float
    seconds: float


class TrainingRecord(BaseModel):
    """What a training run was and what came of it."""

    model_config = ConfigDict(frozen=True)

    spec: TrainingSpec
    data: str
    train_images: int
    test_images: int
    test_accuracy: float
    seconds: float
    history: tuple[EpochRecord, ...]
    memory: dict[str, Any] | None = Field(default=None, description="that was trained through")


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
    threads; the global random state is left as it was.

    Args:
        model: Any module that maps a batch to ``[batch, classes]``; trained where it lies.
        data: A data set with a training split.
        spec: How to train.
        progress: Called after each epoch.
        memory: A memory to train through, each step on its next chip; that of this model. Ranges
            that it has are trained too, and in the end the weights are clipped to them.

    Returns:
        The record, with the accuracy on the test split, of the weights as they are.

    Raises:
        DataError: if the data set has no training split, or one sample for a model with batch
            normalisation.
        InputError: if the loss or a weight becomes NaN or infinite, the memory is that of another
            model, or batches are of one sample for a model with batch normalisation.
        ModelError: if the model fails on the data, or nothing of it can be trained.
    """
    if data.train is None:
        raise DataError(f"{data.name} has no training split; allowed: data with one, to train on")
    _check_fits(model, data)
    if memory is not None and memory.placement.model is not model:
        refuse("memory", "that of another model", "one of a placement of this very model")
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
    # Dropout and the like read only the global generator.
    with seeded(spec.seed):
        for epoch in range(1, spec.epochs + 1):
            start, where = time.perf_counter(), f"in epoch {epoch} at lr {spec.lr:g}"
            losses = []
            try:
                for inputs, targets in _batches(data, spec, generator, steps_per_epoch):
                    losses.append(_step(model, inputs, targets, optimizer, spec, memory))
                    schedule.step()
            except WeightsError as error:  # the memory meets what became of a loss that is NaN
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
    """Refuse a model that fails on the data, before the first step.

    Raises:
        ModelError: if the model raises, does not give one number for each class, or has no
            parameter to train.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        refuse(
            "the model", "without a parameter that requires a gradient", "one or more", ModelError
        )
    sample = next(data.test.batches(1))[0].to(_device(model))
    try:
        with same_modes(model), torch.no_grad():
            output = model.eval()(sample)
    except Exception as error:
        raise ModelError(
            f"the model fails on inputs of shape {tuple(sample.shape)} with {cause_of(error)}"
        ) from error
    if not isinstance(output, Tensor) or output.shape != (1, data.classes):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        allowed = f"(1, {data.classes}) for one sample of {data.classes} classes"
        refuse("the model's output", got, allowed, ModelError)


def _check_finite(loss: float, optimizer: torch.optim.Optimizer, where: str) -> None:
    """After an epoch; no loss tells what its last step made of the weights.

    Raises:
        InputError: if the loss or what is trained is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} {where}; try a lower lr")
    trained = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    if not all(bool(parameter.isfinite().all()) for parameter in trained):
        raise InputError(f"a weight is NaN or infinite {where}; try a lower lr")


def accuracy(model: nn.Module, split: Split, batch_size: int = 256) -> float:
    """Top-1 accuracy in [0, 1], in evaluation mode; the model's mode is put back."""
    device = _device(model)
    correct = 0
    with same_modes(model), torch.no_grad():
        model.eval()
        for inputs, targets in split.batches(batch_size):
            correct += right(model(inputs.to(device)), targets.to(device))
    return correct / len(split)


def right(outputs: Tensor, targets: Tensor) -> int:
    """How many are right, counted as `simulate` counts: outputs that are NaN are wrong.

    Args:
        outputs: ``[batch, classes]``.
        targets: ``[batch]``.
    """
    found = torch.nan_to_num(outputs, nan=-torch.inf).argmax(1)
    return int(((found == targets) & ~outputs.isnan().all(1)).sum())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _steps(model: nn.Module, samples: int, batch_size: int) -> int:
    """Steps in an epoch: without a last batch of one, where batch normalisation cannot use it.

    Raises:
        DataError: if there is no other batch.
        InputError: if all batches are of one.
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
    """As many batches of the training split, in random order, augmented; the last may be short."""
    split = data.train
    assert split is not None
    order = torch.randperm(len(split), generator=generator)
    images = split.inputs.ndim == 4
    for chosen in torch.split(order, spec.batch_size)[:steps]:
        inputs = split.inputs[chosen]
        if spec.augment and images:
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
        loss = _slopes(model, inputs, targets, spec)
        if isinstance(optimizer, SharpnessAware):
            with optimizer.ascent():
                _slopes(model, inputs, targets, spec)
    optimizer.step()
    if spec.clip is not None:
        clip_weights(model, deviations=spec.clip)
    return loss


def _slopes(model: nn.Module, inputs: Tensor, targets: Tensor, spec: TrainingSpec) -> Tensor:
    """Gradients onto the parameters; the loss."""
    half = spec.precision == "bfloat16"
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
        outputs = model(inputs)
    loss = functional.cross_entropy(outputs.float(), targets, label_smoothing=spec.label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def augment(images: Tensor, *, padding: int, flips: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels, and mirror half of them.

    Args:
        images: ``[batch, channels, height, width]``, any dtype.
        padding: Pixels of zeros around the image before the crop, 0 or more.
        flips: Whether a mirrored image still shows its class.
        generator: The source of randomness; numbers are drawn on its device.

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
