"""Prediction by any method, and the registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, overload

import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import CheckpointError

from joulewise.data import Split
from joulewise.errors import ModelError, refuse
from joulewise.metrics import as_metric, is_loss
from joulewise.placement import At, Placement, guarded, private_memory
from joulewise.prediction.accumulation import ForecastAccumulator
from joulewise.prediction.corrected import Corrected
from joulewise.prediction.first_order import FirstOrder
from joulewise.prediction.fisher import Fisher
from joulewise.prediction.forecast import Forecast
from joulewise.prediction.loss_forecast import LossForecast
from joulewise.prediction.problem import Method, Problem, loaded_problem
from joulewise.prediction.single_faults import FaultRatio
from joulewise.progress import Progress, reporting, silent
from joulewise.workers import check_executor, shared_with

__all__ = ["METHODS", "predict", "register_method"]

_METHODS: dict[str, Callable[[], Method]] = {
    "first-order": FirstOrder,
    "second-order": partial(FirstOrder, noise_pairs=8),
    "corrected": Corrected,
}
METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(_METHODS)
"""Methods that predict the output error, by name, each with its default options; read-only."""


def register_method(name: str, factory: Callable[[], Method]) -> None:
    """Make a method available to `predict` by name.

    Args:
        name: Name of the method, not yet in `METHODS`.
        factory: Returns the method with its default options.

    Raises:
        InputError: if another method has that name.
    """
    if _METHODS.setdefault(name, factory) is not factory:
        refuse("the name of a method", repr(name), f"any but {', '.join(METHODS)}")


@overload
def predict(  # type: ignore[overload-overlap]  # a literal is a str, too
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    method: Literal["fisher"] | Fisher,
    metric: Any = None,
    batch_size: int | None = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> LossForecast: ...


@overload
def predict(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    method: str | Method = "first-order",
    metric: Any = None,
    batch_size: int | None = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> Forecast: ...


@guarded
def predict(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    method: str | Method | Fisher = "first-order",
    metric: Any = None,
    batch_size: int | None = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> Forecast | LossForecast:
    """Predict output error and accuracy of a placement at one plan, without simulating chips.

    Method ``"fisher"`` predicts loss and divergence instead, for outputs that are logits of classes
    or tokens.

    Args:
        placement: The model and its memories; the model is not written to.
        data: See `joulewise.simulation.simulate`.
        at: Operating points: knobs with their values, such as ``{"eta": 0.5}``, or a plan. Values
            that are tensors with ``requires_grad`` get gradients from the forecast.
        method: A name of `METHODS`, ``"fisher"``, or a method with options, such as
            ``FirstOrder(probes=4)``.
        metric: See `joulewise.simulation.simulate`. Method fisher takes losses, for the outputs
            that they count. Top-1 accuracy of outputs ``[batch, classes]``
            is predicted; for others only the output error, and ``Forecast.refusal`` says why.
        batch_size: Samples in a forward pass; None chooses by the size of a sample.
        progress: True for a bar in terminals and notebooks, or a function of step, done, expected.
        executor: Workers that batches are spread over, as in `joulewise.simulation.simulate`, for
            methods first-order and second-order without gradients; the forecast is the same.

    Returns:
        The forecast; a `LossForecast` by method ``"fisher"``.

    Raises:
        InputError: if an argument is of the wrong kind, the method is not known, or the data holds
            no sample.
        DataError: if targets do not fit the outputs or the metric.
        ModelError: if the method does not support the model, or its outputs have no fixed shape.
        OutOfMemoryError: if there is too little memory.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> forecast = predict(place(model, weights=SRAM(bits=8)), digits.test, at={"eta": 0.5})
        >>> parts = float(forecast.mean_shift + forecast.total_variance)
        >>> abs(float(forecast.mse) - parts) <= 1e-12, list(forecast.variance)[0]
        (True, 'features.1.weight')
    """
    if isinstance(method, type) or not (isinstance(method, str) or hasattr(method, "forecast")):
        refuse("method", method, "a name, or a value such as FirstOrder(probes=4)")
    if method == "fisher":
        method = Fisher()
    if isinstance(method, str):
        if method not in METHODS:
            allowed = f"one of {', '.join(METHODS)}, fisher; `import joulewise.contrib` for more"
            refuse("method", repr(method), allowed)
        method = METHODS[method]()
    if isinstance(method, Fisher) and metric is not None and not is_loss(as_metric(metric)):
        allowed = "a loss, such as NegativeLogLikelihood or KLDivergence, for method fisher"
        refuse("metric", as_metric(metric).name, allowed)
    check_executor(executor)
    if executor is not None and not isinstance(method, FirstOrder):
        got = f"given with {type(method).__name__}"
        refuse("executor", got, "method first-order or second-order")
    with (
        reporting(progress) as report,
        loaded_problem(
            placement,
            data,
            at,
            metric=metric,
            batch_size=batch_size,
            one_shape=not isinstance(method, Fisher),
            progress=partial(report, "predicting"),
        ) as problem,
    ):
        if any(isinstance(batch.inputs, PackedSequence) for batch in problem.batches):
            refuse("inputs", "a packed sequence", "a padded one, whose first axis is the batch")
        try:
            if executor is not None and isinstance(method, FirstOrder):
                return _spread(executor, method, problem, placement)
            return method.forecast(problem)
        except CheckpointError as error:
            raise ModelError(
                "the model computes parts of a forward pass twice (torch.utils.checkpoint), whose "
                "gradients cannot be intercepted; allowed: checkpoints off in evaluation mode, or "
                "simulate"
            ) from error


@dataclass(frozen=True, slots=True)
class _Shared:
    """The data of a prediction, for workers.

    Args:
        method: The method.
        problem: The problem, on the user's placement and without its memory.
        ratios: See `FirstOrder.ratios`.
    """

    method: FirstOrder
    problem: Problem
    ratios: Mapping[str, FaultRatio]


def _spread(
    executor: Executor, method: FirstOrder, problem: Problem, placement: Placement
) -> Forecast:
    """Predict each batch in a worker.

    Raises:
        InputError: if a point requires a gradient.
    """
    if problem.differentiable:
        refuse("executor", "given for points with gradients", "None, for such points")
    missing: Any = None
    alone = replace(problem, placement=placement, memory=missing, progress=partial(silent, ""))
    ratios = method.ratios(method.linearised(problem)) if method.single_faults else {}
    shared = _Shared(method, alone, ratios)
    numbers = range(len(problem.batches))
    parts: list[ForecastAccumulator] = []
    with (
        shared_with(executor, shared) as workers,
        closing(workers.map(_batch, numbers)) as found,
    ):
        for part in found:
            parts.append(part)
            problem.progress(len(parts), len(numbers))
    total, *rest = parts
    for part in rest:
        total.append(part)
    return total.forecast(method.name, problem)


@guarded
def _batch(shared: _Shared, number: int) -> ForecastAccumulator:
    """Figures of one batch, in a worker."""
    problem = shared.problem
    with private_memory(problem.placement, frozen=True) as memory:
        memory.original()
        memory.run(problem.batches[0].inputs)  # shows whether the model draws random numbers
        own = replace(problem, placement=memory.placement, memory=memory, numbers=[number])
        with torch.no_grad():
            return shared.method.accumulated(shared.method.linearised(own), shared.ratios)
