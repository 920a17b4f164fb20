"""Adapters to `Metric`: objects with the protocol of torchmetrics, and functions.

torchmetrics itself is never imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import DataError, refuse
from joulewise.metrics.metric import Accumulator, MeanMetric, Metric
from joulewise.nested import all_finite, tensors_in
from joulewise.user_code import cause_of

__all__ = ["FunctionMetric", "as_metric"]

_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class FunctionMetric(MeanMetric):
    """Mean over samples of a function of outputs and targets.

    One score a sample keeps the value independent of the batching. For a figure that is not a mean
    over samples, such as an F1 score, give an object with ``update``, ``compute`` and
    ``reset``. A sample with an output that is not finite has the worst score, which is the
    lower bound if higher is better, else the upper one; if that is infinite, the pass fails.

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
    bounds: tuple[float, float] = _UNBOUNDED
    raw = True

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
        elif not all_finite(outputs):  # not known for which samples
            return torch.full_like(found, math.nan, dtype=torch.float64)
        outside = (found < low) | (found > high)
        if bool(outside.any()):
            worth = f"{float(found[outside][0]):g}"
            refuse(f"a score of {self.name}", worth, f"{low:g} to {high:g}, its bounds", DataError)
        return found


@dataclass(frozen=True, eq=False)
class _Adapted(Metric):
    """An object with the protocol of torchmetrics; each pass works on a copy of it."""

    template: Any
    key: str | None
    name: str
    higher_is_better: bool
    bounds: tuple[float, float]
    raw = True

    def new(self) -> Accumulator:
        return _AdaptedPass(self)


class _AdaptedPass(Accumulator):
    def __init__(self, metric: _Adapted) -> None:
        self._metric = metric
        self._state = deepcopy(metric.template)
        self._state.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        # torch.argmax ranks NaN highest, so torchmetrics could count a NaN output as correct.
        if not all_finite(outputs):
            self.failure = "an output is NaN or infinite"
        if self.failure:
            return
        device = next((tensor.device for tensor in tensors_in(outputs)), None)
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
    """Convert a metric object or a function to a `Metric`.

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
    return FunctionMetric(value, name, higher_is_better, bounds or _UNBOUNDED)


def _check_facts(name: object, higher_is_better: object, bounds: tuple[float, float]) -> bool:
    """Refuse a name, a direction or bounds of the wrong kind; return the direction."""
    if not isinstance(name, str) or not name:
        refuse("the name of a metric", repr(name), "a few words")
    if not isinstance(higher_is_better, bool):
        refuse(f"higher_is_better of {name}", repr(higher_is_better), "True or False")
    if not bounds[0] < bounds[1]:
        refuse(f"bounds of {name}", bounds, "a lower and an upper end")
    return higher_is_better


def _copied(value: Any, name: str) -> Any:
    """An independent copy: passes in two threads must not share their state."""
    try:
        copy, reason = deepcopy(value), "copies are the object itself"
    except Exception as error:
        copy, reason = value, cause_of(error)
    if copy is value:
        refuse(name, f"impossible to copy ({reason})", "an object that copy.deepcopy copies")
    return copy


def _guarded(name: str, call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except Exception as error:  # the user's code: anything may happen
        raise DataError(
            f"{name} failed with {cause_of(error)}; allowed: outputs and targets that it takes, or "
            "another metric"
        ) from error
