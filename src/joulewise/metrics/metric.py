"""The interface of metrics, and adapters for torchmetrics and for functions.

A metric is a frozen value. All state of a pass over data is in an `Accumulator`, a new one for each
pass, so that threads may share a metric.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import DataError, refuse

__all__ = [
    "Accumulator",
    "FunctionMetric",
    "MeanMetric",
    "Metric",
    "NextToken",
    "as_metric",
    "margin",
]

UNBOUNDED = (-math.inf, math.inf)


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
            outputs: Raw output of the model: a tensor, or anything that the metric takes.
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
    """

    name: str
    higher_is_better: bool
    bounds: tuple[float, float]

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
    """A mean of scores over samples, tokens, pixels or numbers, however data are batched."""

    @abstractmethod
    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """Scores ``[n]`` of the targets that count; one that is not finite fails the pass."""

    def new(self) -> Accumulator:
        """See `Metric`."""
        return _Mean(self)


class _Mean(Accumulator):
    """Sum of scores, in float64 and on their device, and their number."""

    def __init__(self, metric: MeanMetric) -> None:
        self._metric = metric
        self._sum: Tensor | float = 0.0
        self._count = 0

    @torch.no_grad()
    def update(self, outputs: Any, targets: Any) -> None:
        self._metric.check(outputs, targets)
        scores = self._metric.scores(outputs, targets)
        self._sum = self._sum + scores.sum(dtype=torch.float64)
        self._count += scores.numel()

    def _value(self) -> float:
        if not self._count:
            field = f"the number of targets that count for {self._metric.name}"
            refuse(field, 0, "1 or more", DataError)
        return float(self._sum) / self._count


@dataclass(frozen=True, eq=False)
class FunctionMetric(MeanMetric):
    """Mean over samples of a function of outputs and targets.

    One score a sample keeps the value independent of how data are batched. For a figure that is no
    mean over samples, such as an F1 score, give an object with ``update``, ``compute`` and
    ``reset``. A sample with an output that is not finite has the worst score, which is the lower
    bound if higher is better, else the upper one; if that is infinite, the pass fails.

    Args:
        function: Outputs and targets of a batch -> scores ``[batch]``.
        name: For tables.
        higher_is_better: Direction.
        bounds: Lower and upper end of the scores; others are refused.

    Raises:
        InputError: if an argument is of the wrong kind.

    Example:
        >>> def absolute(outputs, targets):
        ...     return (outputs - targets).abs().mean(1)
        >>> error = FunctionMetric(absolute, "mean absolute error", False, bounds=(0.0, math.inf))
        >>> accumulator = error.new()
        >>> accumulator.update(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]))
        >>> accumulator.compute()
        0.5
    """

    function: Callable[[Any, Any], Tensor] = field(repr=False)
    name: str
    higher_is_better: bool
    bounds: tuple[float, float] = UNBOUNDED

    def __post_init__(self) -> None:
        if not callable(self.function):
            refuse("function", repr(self.function), "a function of outputs and targets")
        _check_facts(self.name, self.higher_is_better, self.bounds)

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """See `MeanMetric`."""
        found = _guarded(self.name, self.function, outputs, targets)
        if not isinstance(found, Tensor) or found.shape != (len(targets),):
            got = (
                f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.80}"
            )
            one = f"a tensor with one score for each of the {len(targets)} samples"
            refuse(f"the result of {self.name}", got, one, DataError)
        low, high = self.bounds
        if isinstance(outputs, Tensor) and len(outputs) == len(found):
            finite = outputs.reshape(len(outputs), -1).isfinite().all(1)
            found = found.double().where(finite, low if self.higher_is_better else high)
        elif not _all_finite(outputs):  # not known for which samples
            return torch.full_like(found, math.nan, dtype=torch.float64)
        outside = (found < low) | (found > high)
        if bool(outside.any()):
            worth = f"{float(found[outside][0]):g}"
            refuse(f"a score of {self.name}", worth, f"{low:g} to {high:g}, its bounds", DataError)
        return found


@dataclass(frozen=True)
class NextToken(Metric):
    """A metric of each output ``[batch, tokens, ...]`` against the target of the next token.

    Causal models of Hugging Face compare their ``labels`` in this way. The last output and the
    first target are left out.
    """

    metric: Metric
    name: str = field(init=False, repr=False)
    higher_is_better: bool = field(init=False, repr=False)
    bounds: tuple[float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.metric.name} of the next token")
        object.__setattr__(self, "higher_is_better", self.metric.higher_is_better)
        object.__setattr__(self, "bounds", self.metric.bounds)

    def new(self) -> Accumulator:
        """See `Metric`."""
        return _Shifted(self.metric.new())

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        self.metric.check(outputs[:, :-1], targets[:, 1:])

    def derived(self, value: float) -> dict[str, float]:
        """See `Metric`."""
        return self.metric.derived(value)


class _Shifted(Accumulator):
    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator

    def update(self, outputs: Any, targets: Any) -> None:
        self._accumulator.update(outputs[:, :-1], targets[:, 1:])

    def _value(self) -> float:
        value = self._accumulator.compute()
        self.failure = self._accumulator.failure
        return math.nan if value is None else value


@dataclass(frozen=True, eq=False)
class _Adapted(Metric):
    """An object with the protocol of torchmetrics; each pass works on a copy of it."""

    template: Any
    key: str | None
    name: str
    higher_is_better: bool
    bounds: tuple[float, float]

    def new(self) -> Accumulator:
        return _AdaptedPass(self)


class _AdaptedPass(Accumulator):
    def __init__(self, metric: _Adapted) -> None:
        self._metric = metric
        self._state = deepcopy(metric.template)
        self._state.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        # torchmetrics takes the arg max, in which NaN is the largest: right where the class is 0.
        if not _all_finite(outputs):
            self.failure = "an output is NaN or infinite"
        if self.failure:
            return
        device = next((tensor.device for tensor in _tensors_in(outputs)), None)
        if device is not None and hasattr(self._state, "to"):
            self._state = self._state.to(device)
        _guarded(self._metric.name, self._state.update, outputs, targets)

    def _value(self) -> float:
        name, key = self._metric.name, self._metric.key
        found = _guarded(name, self._state.compute)
        if isinstance(found, Mapping):
            if key not in found:
                keys = ", ".join(map(repr, found))
                refuse(f"key of {name}", repr(key), f"one of {keys}, by as_metric(..., key=...)")
            found = found[key]
        elif key is not None:
            refuse(f"key of {name}", repr(key), "None, since its result is no dict")
        shown = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.80}"
        try:
            (number,) = torch.as_tensor(found, dtype=torch.float64).reshape(-1).tolist()
        except (TypeError, ValueError, RuntimeError):
            refuse(f"the result of {name}", shown, "one number")
        return float(number)


def as_metric(
    value: Any,
    *,
    key: str | None = None,
    higher_is_better: bool | None = None,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Metric:
    """A metric, from anything that can be one.

    Args:
        value: A `Metric`; an object with ``update``, ``compute`` and ``reset``, as torchmetrics
            has them; or a function of outputs and targets, see `FunctionMetric`.
        key: Entry of the result, if that is a dict, for instance ``"map"``.
        higher_is_better: Direction; None for that of an object that knows it.
        name: For tables; None for the class of an object.
        bounds: Lower and upper end of the values; None for the ends of torchmetrics' plots.

    Returns:
        The metric. An object is copied: its own state is neither used nor changed.

    Raises:
        InputError: if the value is none of these, or its direction or name is not known.
    """
    if isinstance(value, Metric):
        if (key, higher_is_better, name, bounds) != (None,) * 4:
            refuse(f"as_metric of the {value.name}", "given options", "none, since it has its own")
        return value
    if isinstance(value, type):
        refuse("metric", f"the class {value.__name__}", f"an instance, {value.__name__}(...)")
    if all(callable(getattr(value, method, None)) for method in ("update", "compute", "reset")):
        name = name or type(value).__name__ + ("" if key is None else f" {key}")
        if higher_is_better is None:
            higher_is_better = getattr(value, "higher_is_better", None)
        low, high = (getattr(value, f"plot_{end}_bound", None) for end in ("lower", "upper"))
        bounds = bounds or (-math.inf if low is None else low, math.inf if high is None else high)
        better = _check_facts(name, higher_is_better, bounds)
        return _Adapted(_copied(value, name), key, name, better, bounds)
    if not callable(value):
        allowed = "a metric such as joulewise.metrics.Accuracy(), an object with update, compute "
        allowed += "and reset, as torchmetrics has them, or a function of outputs and targets"
        refuse("metric", f"{value!r:.80}", allowed)
    if name is None or higher_is_better is None or key is not None:
        allowed = "one with a name and a direction and without a key, "
        allowed += "joulewise.metrics.FunctionMetric(function, name=..., higher_is_better=...)"
        refuse("metric", "a function", allowed)
    return FunctionMetric(value, name, higher_is_better, bounds or UNBOUNDED)


def margin(metric: Metric, value: float | None, limit: float) -> float:
    """Distance of a value from a limit, positive on the better side.

    The logarithm of their ratio for metrics that are positive and unbounded, such as losses; the
    difference for all others, which are bounded or of either sign.

    Args:
        metric: Gives direction and bounds.
        value: Value of a pass, or a mean over chips; None for a failed pass.
        limit: Value that just suffices; above 0 where a logarithm is taken.

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


def _check_facts(name: object, higher_is_better: object, bounds: tuple[float, float]) -> bool:
    """Refuse a name, a direction or bounds of the wrong kind.

    Returns:
        The direction.
    """
    if not isinstance(name, str) or not name:
        refuse("the name of a metric", repr(name), "a few words")
    if not isinstance(higher_is_better, bool):
        refuse(f"higher_is_better of {name}", repr(higher_is_better), "True or False")
    if not bounds[0] < bounds[1]:
        refuse(f"bounds of {name}", bounds, "a lower and an upper end")
    return higher_is_better


def _copied(value: Any, name: str) -> Any:
    """An independent copy.

    Raises:
        InputError: if there is none: passes in two threads would share their state.
    """
    try:
        copy, reason = deepcopy(value), "copies are the object itself"
    except Exception as error:
        copy, reason = value, f"{type(error).__name__}: {error}"
    if copy is value:
        refuse(name, f"impossible to copy ({reason})", "an object that copy.deepcopy copies")
    return copy


def _guarded(name: str, call: Callable[..., Any], *args: Any) -> Any:
    """Call a function that others wrote.

    Raises:
        DataError: naming the metric, if it raises an exception.
    """
    try:
        return call(*args)
    except Exception as error:
        raise DataError(
            f"{name} failed with {type(error).__name__}: {' '.join(str(error).split())}; allowed: "
            "outputs and targets that it takes, or another metric"
        ) from error


def _tensors_in(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, (Mapping, tuple, list)):
        for value in nested.values() if isinstance(nested, Mapping) else nested:
            yield from _tensors_in(value)


def _all_finite(nested: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors_in(nested))
