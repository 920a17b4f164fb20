"""Squared error, and the default metric by the shape and dtype of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from joulewise.metrics.adapters import as_metric
from joulewise.metrics.classes import Accuracy, shape_without
from joulewise.metrics.metric import Compared, MeanMetric, Metric, check_tensors, refuse_pair
from joulewise.metrics.tokens import NegativeLogLikelihood, NextToken

__all__ = [
    "MeanSquaredError",
    "default_metric",
    "resolve_metric",
]


@dataclass(frozen=True)
class MeanSquaredError(MeanMetric):
    """Squared difference of outputs and targets of one shape, mean over all numbers."""

    name, higher_is_better, bounds = "mean squared error", False, (0.0, math.inf)

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        check_tensors(self, outputs, targets)
        # Broadcasting [batch] against [batch, 1] would compare every sample with every other one.
        if outputs.shape != targets.shape:
            refuse_pair(self, outputs, targets, "targets of the outputs' shape")

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
        elif outputs.ndim > 1 and targets.shape == shape_without(outputs, 1):
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
        targets: Targets of the first batch; `Compared` for a metric that compares.
        labels: True if the targets were the entry ``labels`` of a dict, for a causal model. Beside
            outputs ``[batch, tokens, classes]`` they are then compared as by `NextToken`.
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
        refuse_pair(None, outputs, targets, allowed)
    classes = targets.targets if isinstance(targets, Compared) else targets
    if labels and isinstance(outputs, Tensor) and isinstance(classes, Tensor):
        per_token = outputs.ndim == 3 and classes.shape == outputs.shape[:2]
        if per_token and not isinstance(metric, NextToken):
            metric = NextToken(metric)
    metric.check(outputs, targets)
    return metric
