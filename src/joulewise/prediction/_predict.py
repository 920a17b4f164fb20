"""Prediction by any method, and the methods by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import CheckpointError

from joulewise.data import Split
from joulewise.devices import Point
from joulewise.errors import DataError, InputError, ModelError, refuse
from joulewise.placement import Placement, guarded
from joulewise.prediction.corrected import Corrected
from joulewise.prediction.first_order import FirstOrder
from joulewise.prediction.forecast import Forecast
from joulewise.prediction.problem import Method, Problem, is_class, posed
from joulewise.user_code import cause_of

__all__ = ["METHODS", "predict", "register_method"]

_METHODS: dict[str, Callable[[], Method]] = {
    "first-order": FirstOrder,
    "second-order": partial(FirstOrder, pairs=8),
    "corrected": Corrected,
}
METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(_METHODS)
"""Methods by name, each with its default options; read-only, see `register_method`."""


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


@guarded
def predict(
    placement: Placement,
    data: Split | Iterable[Any],
    plan: Mapping[str, Point] | None = None,
    *,
    method: str | Method = "first-order",
    batch_size: int | None = None,
    progress: Callable[[float, float], None] | None = None,
    **setting: Point,
) -> Forecast:
    """Predict output error and accuracy of a placement at one plan, without simulating chips.

    Args:
        placement: The model and its memories; the model is left as it was, after errors too.
        data: A split, or an iterable of ``(inputs, targets)`` batches, read once and kept.
        plan: An operating point for each placed tensor; or give one ``setting`` for all. Points
            that are tensors with ``requires_grad`` get gradients from the forecast.
        method: A name of `METHODS`, or a method with options, such as ``FirstOrder(probes=4)``.
        batch_size: Samples in a forward pass; None chooses by the size of a sample.
        progress: Called with the number of samples done and expected.
        **setting: One operating point for every placed tensor, for instance ``eta=0.5``.

    Returns:
        The forecast.

    Raises:
        InputError: if both or neither of ``plan`` and a setting are given, the method is not known,
            or the data holds no sample.
        DataError: if a target is a class that the model has no output for.
        ModelError: if the method does not support the model.
        OutOfMemoryError: if there is too little memory.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> forecast = predict(place(model, weights=SRAM(bits=8)), digits.test, eta=0.5)
        >>> parts = float(forecast.mean_shift + forecast.total_variance)
        >>> abs(float(forecast.mse) - parts) <= 1e-12, list(forecast.variance)[0]
        (True, 'features.1.weight')
    """
    if (plan is None) == (not setting):
        raise InputError("predict needs a plan or one setting such as eta=0.5, and not both")
    if isinstance(method, type) or not (isinstance(method, str) or hasattr(method, "forecast")):
        refuse("method", method, "a name, or a value such as FirstOrder(probes=4)")
    if isinstance(method, str):
        if method not in METHODS:
            allowed = f"one of {', '.join(METHODS)}; `import joulewise.contrib` for more"
            refuse("method", repr(method), allowed)
        method = METHODS[method]()
    chosen = placement.plan(**setting) if plan is None else placement.check_plan(plan)
    with posed(placement, data, chosen, batch_size=batch_size, progress=progress) as problem:
        _check_data(problem)
        try:
            return method.forecast(problem)
        except CheckpointError as error:
            raise ModelError(
                "the model computes parts of a forward pass twice (torch.utils.checkpoint), whose "
                "gradients cannot be intercepted; allowed: checkpoints off in evaluation mode, or "
                "simulate"
            ) from error
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the backward passes of the user's code
            cause = cause_of(error)
            raise ModelError(
                f"the model cannot be differentiated: {cause}; allowed: differentiable operations "
                "that do not write to tensors that gradients need; or simulate"
            ) from error


def _check_data(problem: Problem) -> None:
    """Refuse packed sequences, and targets that the model has no output for."""
    for batch, reference in zip(problem.batches, problem.references, strict=True):
        if isinstance(batch.inputs, PackedSequence):
            refuse("inputs", "a packed sequence", "a padded one, whose first axis is the batch")
        if not is_class(batch.targets) or reference.ndim != 2:
            continue
        assert batch.targets is not None
        low, high = int(batch.targets.min()), int(batch.targets.max())
        if low < 0 or high >= reference.shape[1]:
            wrong = low if low < 0 else high
            refuse("a target", wrong, f"a class from 0 to {reference.shape[1] - 1}", DataError)
