"""Optimizer and learning-rate schedule of training: Nesterov SGD, warm-up, cosine decay.

All training methods share this recipe, so that they are compared on equal terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.training.spec import Method, TrainingSpec
from joulewise.training.weight_ranges import WeightRanges

__all__ = ["optimizer_for", "schedule_of"]

_OPTIMIZERS: Mapping[Method, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "sam": partial(SAM, base=SGD),
    "asam": partial(ASAM, base=SGD),
    "samson2": partial(SAMSON, base=SGD, p=2),
    "samsoninf": partial(SAMSON, base=SGD, p=math.inf),
}


def optimizer_for(
    model: nn.Module, spec: TrainingSpec, ranges: WeightRanges | None = None, **options: Any
) -> Optimizer:
    """Optimizer of a training run; parameters with fewer than two axes have no weight decay.

    Args:
        model: The model to train.
        spec: Training options.
        ranges: Trainable weight ranges, stepped too, with the weight decay ``spec.range_decay``.
        options: Further options of SGD, or replacements of those in ``spec``.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if ranges is not None:
        # No ascent in the ranges: weights that are stored already would not follow it.
        radius = {} if spec.method == "sgd" else {"rho": 0.0}
        own = {"params": list(ranges.parameters()), "weight_decay": spec.range_decay}
        groups.append({**own, **radius})
    groups = [group for group in groups if group["params"]]
    own = {"lr": spec.lr, "momentum": spec.momentum, "nesterov": spec.momentum > 0}
    own |= {} if spec.rho is None else {"rho": spec.rho}
    return _OPTIMIZERS[spec.method](groups, **(own | options))


def schedule_of(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate as a function of the step: linear warm-up, then half a cosine.

    Args:
        steps: Number of steps of the whole run.
        warmup: Fraction of the steps in which the factor rises linearly from 0 to 1, before it
            falls to 0.

    Example:
        >>> factor = schedule_of(10, 0.2)
        >>> [round(factor(step), 2) for step in range(11)]
        [0.5, 1.0, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04, 0.0]
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, steps - rise))

    return factor
