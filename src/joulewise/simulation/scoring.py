"""Scoring: data as batches on the model's device, and what one pass over them scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.data import Split
from joulewise.errors import DataError
from joulewise.placement.calling import batch_size, call, to_device

__all__ = ["Batch", "Metric", "Score", "outputs_of", "prepare", "score", "top1"]

Metric = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch -> one score in [0, 1] for each sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs on the model's device, and targets where there are any."""

    inputs: Any
    targets: Tensor | None


@dataclass(frozen=True, slots=True)
class Score:
    """One pass over the data.

    Args:
        accuracy: Mean score over samples; None without targets.
        mse: Squared difference to the reference outputs, mean over outputs and samples.
    """

    accuracy: float | None
    mse: float


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target, else 0; NaN outputs are wrong.

    Raises:
        DataError: if the outputs are not ``[batch, classes]``, or a target is not a class.
    """
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise DataError(
            f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}; "
            "allowed: [batch, classes] and [batch], or give a metric of your own"
        )
    clean = torch.nan_to_num(outputs, nan=-torch.inf)
    right = (clean.argmax(1) == targets) & ~outputs.isnan().all(1)
    return right.to(torch.float64)


def prepare(data: Split | Iterable[Any], model: nn.Module, batch: int | None = None) -> list[Batch]:
    """Data as a list of batches on the model's device, in its layout.

    Args:
        data: A split, or an iterable of batches: ``(inputs, targets)``, or inputs alone.
        model: Where the batches will go.
        batch: Samples in a batch, where ``data`` is a split; None for as many as hold about
            800,000 numbers (256 images of 32 x 32), between 32 and 2048.

    Returns:
        At least one batch.

    Raises:
        DataError: if there is no batch.
    """
    parameter = next(iter(model.parameters()), torch.zeros(()))
    channels_last = any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
    as_split = isinstance(data, Split)
    if isinstance(data, Split):
        data = data.batches(batch or min(max(800_000 // data.inputs[0].numel(), 32), 2048))
    batches: list[Batch] = []
    for item in data:
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        inputs, targets = item if pair else (item, None)
        inputs = to_device(inputs, parameter.device)
        if channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if isinstance(inputs, Tensor) and as_split and inputs.is_floating_point():
            inputs = inputs.to(parameter.dtype)  # a split holds float32, whatever the model is
        batches.append(Batch(inputs, _targets(targets, inputs, parameter.device)))
    if not batches:
        raise DataError("the data holds no batch; allowed: at least one batch of samples")
    return batches


def _targets(targets: Any, inputs: Any, device: torch.device) -> Tensor | None:
    if targets is None:
        return None
    tensor = torch.as_tensor(targets).to(device)
    samples = batch_size(inputs)
    if tensor.ndim == 0 or len(tensor) != samples:
        raise DataError(
            f"a batch has inputs whose first axis is {samples} and targets of shape "
            f"{tuple(tensor.shape)}; allowed: the batch as the first axis of both"
        )
    return tensor


def outputs_of(model: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """The outputs for every batch, in float32 or float64."""
    outputs = [call(model, batch.inputs) for batch in batches]
    return [o if o.dtype == torch.float64 else o.float() for o in outputs]


def score(
    model: nn.Module, batches: Sequence[Batch], references: Sequence[Tensor], metric: Metric
) -> Score:
    """One pass over the data.

    Args:
        model: Computes with whatever its memory reads back now.
        batches: The data.
        references: The outputs to compare with, for each batch.
        metric: How outputs are scored.

    Returns:
        Accuracy and output error.
    """
    right, error, outputs_seen, samples = 0.0, 0.0, 0, 0
    for batch, reference in zip(batches, references, strict=True):
        output = call(model, batch.inputs)
        error += float((output.to(reference.dtype) - reference).square().sum(dtype=torch.float64))
        outputs_seen += reference.numel()
        samples += batch_size(batch.inputs)
        if batch.targets is not None:
            right += float(_scores(metric, output, batch.targets).sum())
    has_targets = batches[0].targets is not None
    return Score(right / samples if has_targets else None, error / outputs_seen)


def _scores(metric: Metric, output: Tensor, targets: Tensor) -> Tensor:
    scores = metric(output, targets)
    if scores.shape != targets.shape[:1]:
        raise DataError(
            f"the metric gave scores of shape {tuple(scores.shape)}; allowed: one score for each "
            f"of the {len(targets)} samples"
        )
    return scores
