"""Metrics of common tasks, and the default by the shape and dtype of the targets."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Never

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.errors import DataError, refuse
from joulewise.metrics.adapters import as_metric
from joulewise.metrics.metric import MeanMetric, Metric, NextToken

__all__ = [
    "Accuracy",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "TokenAccuracy",
    "default_metric",
    "resolve_metric",
]


class _ClassMetric(MeanMetric):
    """A metric of targets that are classes, one for each row of outputs."""

    axis: int
    ignore_index: int | None

    @abstractmethod
    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Scores ``[n]`` of outputs ``[n, classes]`` for the classes ``[n]``, int64."""

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """See `MeanMetric`."""
        outputs = outputs.movedim(self.axis, -1)
        rows, classes = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1).long()
        if self.ignore_index is None:
            return self._row_scores(rows, classes)
        # Scores are selected, and not rows: that would copy all logits of a language model.
        counts = classes != self.ignore_index
        return self._row_scores(rows, classes.where(counts, 0))[counts]

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        _check_tensors(self, outputs, targets)
        if outputs.ndim < 2 or targets.shape != _shape_without(outputs, self.axis):
            axes = "[batch, classes, ...]" if self.axis == 1 else "[batch, ..., classes]"
            _refuse_pair(self, outputs, targets, f"outputs {axes} and targets [batch, ...]")
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            _refuse_pair(self, outputs, targets, "whole numbers, such as targets.long()")
        targets = targets.long()  # an unsigned byte would compare modulo 256
        count = outputs.shape[self.axis]
        wrong = (targets < 0) | (targets >= count)
        allowed = f"0 to {count - 1}"
        if self.ignore_index is not None:
            wrong &= targets != self.ignore_index
            allowed += f", or {self.ignore_index} for targets that do not count"
        if bool(wrong.any()):
            got = f"{int(targets[wrong][0])} beside outputs of {count} classes"
            refuse("a target", got, allowed, DataError)


@dataclass(frozen=True)
class Accuracy(_ClassMetric):
    """Fraction of targets that have one of the largest outputs; classes are on the second axis.

    Outputs ``[batch, classes]`` have targets ``[batch]``, and each pixel is a target: outputs
    ``[batch, classes, height, width]`` have targets ``[batch, height, width]``. An output that is
    NaN is never among the largest, and of equal outputs the first is the largest.

    Args:
        top_k: Number of largest outputs, 1 or more.
        ignore_index: Target that does not count, for instance 255 in segmentation; or None.

    Raises:
        InputError: if ``top_k`` is not allowed.

    Example:
        >>> accumulator = Accuracy().new()
        >>> accumulator.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        >>> accumulator.compute()
        0.5
    """

    top_k: int = 1
    ignore_index: int | None = None
    name, axis, higher_is_better, bounds = "accuracy", 1, True, (0.0, 1.0)

    def __post_init__(self) -> None:
        if type(self.top_k) is not int or self.top_k < 1:
            refuse("top_k", repr(self.top_k), "a whole number, 1 or more")
        if self.top_k > 1:
            object.__setattr__(self, "name", f"top-{self.top_k} accuracy")

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        super().check(outputs, targets)
        if self.top_k > outputs.shape[1]:
            refuse("top_k", self.top_k, f"1 to {outputs.shape[1]}, the classes", DataError)

    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        return _among_largest(rows, classes, self.top_k)


@dataclass(frozen=True)
class TokenAccuracy(_ClassMetric):
    """Fraction of targets that have the largest output; classes are on the last axis.

    NaN and equal outputs are treated as in `Accuracy`.

    Args:
        ignore_index: Target that does not count, at padding and masked tokens; or None.
    """

    ignore_index: int | None = -100
    name, axis, higher_is_better, bounds = "token accuracy", -1, True, (0.0, 1.0)

    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        return _among_largest(rows, classes, 1)


@dataclass(frozen=True)
class NegativeLogLikelihood(_ClassMetric):
    """Negative log-likelihood in nats, mean over targets; logits of classes are on the last axis.

    `derived` gives the perplexity. Over chips it is the exponential of the mean: perplexities of
    single chips have too heavy a tail for a mean.

    Args:
        ignore_index: Target that does not count, at padding and masked tokens; or None.
    """

    ignore_index: int | None = -100
    name, axis, higher_is_better = "negative log-likelihood", -1, False
    bounds = (0.0, math.inf)

    def derived(self, value: float) -> dict[str, float]:
        """Perplexity, the exponential; infinite if that overflows."""
        return {"perplexity": math.exp(value) if value < 709.0 else math.inf}

    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return functional.cross_entropy(rows, classes, reduction="none")


@dataclass(frozen=True)
class MeanSquaredError(MeanMetric):
    """Squared difference of outputs and targets of one shape, mean over all numbers."""

    name, higher_is_better, bounds = "mean squared error", False, (0.0, math.inf)

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        _check_tensors(self, outputs, targets)
        # Broadcasting [batch] against [batch, 1] would compare every sample with every other one.
        if outputs.shape != targets.shape:
            _refuse_pair(self, outputs, targets, "targets of the outputs' shape")

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """See `MeanMetric`."""
        errors: Tensor = outputs.double() - targets
        return errors.square().flatten()


def default_metric(outputs: Any, targets: Any) -> Metric | None:
    """The metric for targets of these shapes, where none is given; None if none is chosen.

    - Classes ``[batch]`` beside ``[batch, classes]``, or one for each pixel: `Accuracy`.
    - Classes ``[batch, tokens]`` beside ``[batch, tokens, classes]``: `NegativeLogLikelihood`.
      It responds to every token, long before an arg max changes, and gives the perplexity that
      language models are compared by.
    - Floats of the outputs' shape: `MeanSquaredError`. If all are 0 or 1 they may be multi-label
      targets, whose outputs are logits, and no metric is chosen.
    """
    chosen: Metric | None = None
    if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        if targets.is_floating_point():
            labels = bool(((targets == 0) | (targets == 1)).all())
            if outputs.shape == targets.shape and not labels:
                chosen = MeanSquaredError()
        elif outputs.ndim == 3 and targets.shape == outputs.shape[:2]:
            chosen = NegativeLogLikelihood()
        elif outputs.ndim > 1 and targets.shape == _shape_without(outputs, 1):
            several = outputs.shape[1] > 1  # a single output is a logit of two classes
            chosen = Accuracy(ignore_index=-100 if targets.ndim > 1 else None) if several else None
    return chosen


def resolve_metric(
    value: Any, outputs: Any, targets: Any, *, labels: bool = False, required: bool = True
) -> Metric | None:
    """The metric of a run, from what the user gave and the first batch.

    Args:
        value: Anything that `as_metric` takes; None for the `default_metric`.
        outputs: Outputs of the first batch, by the model as given.
        targets: Targets of the first batch.
        labels: True if the targets were the entry ``labels`` of a dict. Beside outputs ``[batch,
            tokens, classes]`` they are then compared as by `NextToken`. Labels of a model that is
            not causal belong into a tuple ``(inputs, targets)``.
        required: False to return None, instead of refusing, if no metric is given or chosen.

    Returns:
        The metric, checked on this batch; its name says if targets are shifted.

    Raises:
        DataError: if the targets do not fit.
    """
    metric = default_metric(outputs, targets) if value is None else as_metric(value)
    if metric is None:
        if not required:
            return None
        allowed = "classes [batch] beside [batch, classes], classes [batch, tokens] beside [batch, "
        allowed += "tokens, classes], classes [batch, height, width] beside [batch, classes, "
        allowed += "height, width], or floats of the outputs' shape that are not all 0 or 1; for "
        allowed += "others give a metric, for instance of torchmetrics"
        _refuse_pair(None, outputs, targets, allowed)
    if labels and isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        per_token = outputs.ndim == 3 and targets.shape == outputs.shape[:2]
        if per_token and not isinstance(metric, NextToken):
            metric = NextToken(metric)
    metric.check(outputs, targets)
    return metric


def _check_tensors(metric: Metric, outputs: Any, targets: Any) -> None:
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        _refuse_pair(metric, outputs, targets, "tensors")


def _refuse_pair(metric: Metric | None, outputs: Any, targets: Any, allowed: str) -> Never:
    found, beside = (
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if isinstance(value, Tensor)
        else f"a {type(value).__name__}"
        for value in (targets, outputs)
    )
    field = f"the target of {metric.name}" if metric else "the target of a run without a metric"
    refuse(field, f"{found} beside an output that is {beside}", allowed, DataError)


def _shape_without(outputs: Tensor, axis: int) -> torch.Size:
    return outputs.movedim(axis, 0).shape[1:]


def _among_largest(rows: Tensor, classes: Tensor, k: int) -> Tensor:
    """Top-k indicator ``[n]``: 1 if fewer than k outputs rank before that of the class, else 0."""
    own = rows.gather(1, classes[:, None])
    order = torch.arange(rows.shape[1], device=rows.device)
    before = rows == own
    before &= order < classes[:, None]
    before |= rows > own
    # Comparisons with NaN are false: NaN outranks no class, and a NaN of the class itself is wrong.
    right: Tensor = (before.sum(1) < k) & ~own[:, 0].isnan()
    return right.double()
