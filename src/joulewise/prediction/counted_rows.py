"""Rows of logits that count, and their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.errors import DataError, ModelError, refuse
from joulewise.metrics import Metric, NextToken
from joulewise.placement import Batch
from joulewise.placement.batches import NOT_COUNTED, attention_mask

__all__ = ["counted_rows"]


def counted_rows(
    metric: Metric | None, batch: Batch, logits: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Rows of logits that count, as the metric counts them, and their targets.

    Args:
        metric: The metric; None without targets.
        batch: The batch, whose targets are classes if they have the shape of the rows.
        logits: ``[..., classes]``.

    Returns:
        A mask in the shape of the rows, and classes ``[rows]``, int64; None without targets.

    Raises:
        ModelError: if the outputs are not logits of two classes or more.
        DataError: if targets are not classes.
    """
    if logits.ndim not in (2, 3) or logits.shape[-1] < 2:
        got = f"one with outputs {list(logits.shape)}"
        allowed = "logits [batch, classes] or [batch, tokens, classes] of two classes or more"
        refuse("the model", got, allowed, ModelError)
    rows = logits.shape[:-1]
    everything = torch.ones(rows, dtype=torch.bool, device=logits.device)
    seen = attention_mask(batch.inputs, rows)
    mask = everything if seen is None else seen
    targets, inner = batch.targets, metric
    if metric is None or not isinstance(targets, Tensor):
        return mask, None
    if targets.is_floating_point():
        got = f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        refuse("the target", got, "classes, for a loss", DataError)
    if targets.shape != rows:
        return mask, None
    # The targets alone say what counts, as for the metric: those of masked tokens do not.
    targets, mask = targets.long(), everything
    if isinstance(metric, NextToken):
        inner = metric.metric
        mask[..., -1] = False
        targets = targets.roll(-1, -1)
    ignored = getattr(inner, "ignore_index", NOT_COUNTED)
    if ignored is not None:
        mask = mask & (targets != ignored)
    kept = targets[mask]
    wrong = kept[(kept < 0) | (kept >= logits.shape[-1])]
    if len(wrong):
        allowed = f"0 to {logits.shape[-1] - 1}, or {NOT_COUNTED} for targets that do not count"
        refuse("a target", int(wrong[0]), allowed, DataError)
    return mask, kept
