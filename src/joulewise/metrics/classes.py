"""Metrics of targets that are classes, one for each sample, token or pixel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import DataError, refuse
from joulewise.metrics.metric import MeanMetric, check_tensors, refuse_pair

__all__ = ["Accuracy", "ClassMetric", "among_largest", "shape_without"]


class ClassMetric(MeanMetric):
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
        check_tensors(self, outputs, targets)
        if outputs.ndim < 2 or targets.shape != shape_without(outputs, self.axis):
            axes = "[batch, classes, ...]" if self.axis == 1 else "[batch, ..., classes]"
            refuse_pair(self, outputs, targets, f"outputs {axes} and targets [batch, ...]")
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            refuse_pair(self, outputs, targets, "whole numbers, such as targets.long()")
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
class Accuracy(ClassMetric):
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
        return among_largest(rows, classes, self.top_k)


def shape_without(outputs: Tensor, axis: int) -> torch.Size:
    """Shape of outputs without the axis of the classes."""
    return outputs.movedim(axis, 0).shape[1:]


def among_largest(rows: Tensor, classes: Tensor, k: int) -> Tensor:
    """Top-k indicator ``[n]``: 1 if fewer than k outputs rank before that of the class, else 0."""
    own = rows.gather(1, classes[:, None])
    order = torch.arange(rows.shape[1], device=rows.device)
    before = rows == own
    before &= order < classes[:, None]
    before |= rows > own
    # Comparisons with NaN are false: NaN outranks no class, and a NaN of the class itself is wrong.
    right: Tensor = (before.sum(1) < k) & ~own[:, 0].isnan()
    return right.double()
