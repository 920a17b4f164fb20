"""The interface of metrics, means of scores, and margins.

A metric is a frozen value. All state of a pass over data is in an `Accumulator`, a new one for each
pass, so that threads may share a metric.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor

from joulewise.errors import DataError, refuse

__all__ = [
    "Accumulator",
    "Compared",
    "MeanMetric",
    "MeanScore",
    "Metric",
    "check_tensors",
    "margin",
    "refuse_pair",
]


class Compared(NamedTuple):
    """Targets of metrics that compare with the model as given.

    Args:
        reference: Main tensor of the output of the model as given.
        targets: Targets of the batch, which may tell positions that do not count; or None.
    """

    reference: Tensor
    targets: Any


class Accumulator(ABC):
    """State of one pass over data.

    Attributes:
        failure: Reason why the pass has no value, such as an output that is not finite, or None.
    """

    failure: str | None = None

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch.

        Args:
            outputs: Output of the model: a tensor, or anything that the metric takes.
            targets: Targets of the batch, on the same device.

        Raises:
            DataError: if targets do not fit the outputs, or the metric raises an exception.
        """

    def compute(self) -> float | None:
        """Value of the pass, finite; None if the pass failed.

        Raises:
            DataError: if no target counts.
            InputError: if the metric gives anything but one number.
        """
        value = math.nan if self.failure else self._value()
        if math.isfinite(value):
            return value
        self.failure = self.failure or f"the metric is {value}"
        return None

    @abstractmethod
    def _value(self) -> float:
        """Value over all batches; NaN or infinite if the pass failed."""


class Metric(ABC):
    """A number for the outputs of a pass over data.

    Attributes:
        name: For tables, such as ``"top-5 accuracy"``.
        higher_is_better: Direction.
        bounds: Lower and upper end of its values; infinite where there is none.
        raw: True if it takes outputs as the model returns them, False for their main tensor.
        geometric: True if means over chips are geometric, the exponential of the mean logarithm.
        compares: True if its targets are `Compared`, with the outputs of the model as given.
    """

    name: str
    higher_is_better: bool
    bounds: tuple[float, float]
    raw: bool = False
    geometric: bool = False
    compares: bool = False

    @abstractmethod
    def new(self) -> Accumulator:
        """An empty accumulator, which shares no state with others."""

    def check(self, outputs: Any, targets: Any) -> None:  # noqa: B027
        """Refuse targets that do not fit the outputs, as `Accumulator.update` does.

        Raises:
            DataError: naming what arrived and what is allowed.
        """

    def derived(self, value: float) -> dict[str, float]:
        """Figures that follow from a value of the metric, by name, such as the perplexity."""
        return {}


class MeanMetric(Metric):
    """A mean of scores over samples, tokens, pixels or numbers, independent of the batching."""

    @abstractmethod
    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """Scores ``[n]`` of the targets that count; one that is not finite fails the pass."""

    def new(self) -> Accumulator:
        """See `Metric`."""
        return MeanScore(self)


class MeanScore(Accumulator):
    """Sum of scores, in float64 and on their device, and their number."""

    def __init__(self, metric: MeanMetric) -> None:
        self._metric = metric
        self._sum: Tensor | float = 0.0
        self._count = 0

    @torch.no_grad()
    def update(self, outputs: Any, targets: Any) -> None:
        """See `Accumulator`."""
        self._metric.check(outputs, targets)
        scores = self._metric.scores(outputs, targets)
        self._sum = self._sum + scores.sum(dtype=torch.float64)
        self._count += scores.numel()

    def _value(self) -> float:
        if not self._count:
            field = f"the number of targets that count for {self._metric.name}"
            refuse(field, 0, "1 or more", DataError)
        return float(self._sum) / self._count


def margin(metric: Metric, value: float | None, limit: float) -> float:
    """Distance of a value from a limit, positive on the better side.

    The logarithm of their ratio for metrics that are positive and unbounded, such as losses; the
    difference for all others, which are bounded or of either sign.

    Args:
        metric: Gives direction and bounds.
        value: Value of a pass, or a mean over chips; None for a failed pass.
        limit: Worst acceptable value; above 0 where a logarithm is taken.

    Returns:
        The margin; minus infinity for a failed pass.

    Raises:
        InputError: if the limit is not allowed.

    Example:
        >>> from joulewise.metrics import Accuracy, NegativeLogLikelihood
        >>> round(margin(Accuracy(), 0.95, 0.9), 3)
        0.05
        >>> round(margin(NegativeLogLikelihood(), 2.0, 3.0), 3)  # log(3 / 2)
        0.405
    """
    low, high = metric.bounds
    as_ratio = low >= 0 and math.isinf(high)
    if not math.isfinite(limit) or (as_ratio and limit <= 0):
        allowed = "a finite number" + (" above 0" if as_ratio else "")
        refuse(f"the limit of {metric.name}", f"{limit:g}", allowed)
    if value is None:
        return -math.inf
    sign = 1.0 if metric.higher_is_better else -1.0
    if as_ratio:
        return sign * (math.log(value / limit) if value > 0 else -math.inf)
    return sign * (value - limit)


def check_tensors(metric: Metric, outputs: Any, targets: Any) -> None:
    """Refuse anything but tensors.

    Raises:
        DataError: naming both.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        refuse_pair(metric, outputs, targets, "tensors")


def refuse_pair(metric: Metric | None, outputs: Any, targets: Any, allowed: str) -> Never:
    """Refuse targets beside outputs, by shape and dtype.

    Raises:
        DataError: always.
    """
    found, beside = (
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if isinstance(value, Tensor)
        else f"a {type(value).__name__}"
        for value in (targets, outputs)
    )
    field = f"the target of {metric.name}" if metric else "the target of a run without a metric"
    refuse(field, f"{found} beside an output that is {beside}", allowed, DataError)
