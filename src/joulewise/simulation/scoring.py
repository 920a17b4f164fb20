"""Scoring: what one pass over batches of data scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.errors import DataError
from joulewise.nested import batch_size
from joulewise.placement import Batch, Memory

__all__ = ["Metric", "Score", "score", "top1"]

Metric = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch -> one score in [0, 1] for each sample."""


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


def score(
    memory: Memory, batches: Sequence[Batch], references: Sequence[Tensor], metric: Metric
) -> Score:
    """One pass over the data.

    Args:
        memory: What the model computes with.
        batches: The data.
        references: The outputs to compare with, for each batch.
        metric: How outputs are scored.

    Returns:
        Accuracy and output error.
    """
    right, error, outputs_seen, samples = 0.0, 0.0, 0, 0
    for batch, reference in zip(batches, references, strict=True):
        output = memory.call(batch.inputs)
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
