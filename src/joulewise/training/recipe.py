"""One recipe for all: SGD with Nesterov momentum, warm-up, cosine, weight decay.

Alone it is the baseline that robust methods are measured against; with a method, a memory or
clipping it is one of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.optim import SGD, Optimizer

from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.training.weight_ranges import WeightRanges

__all__ = ["Method", "TrainingSpec", "optimizer_for", "schedule_of"]

Method = Literal["sgd", "sam", "asam", "samson2", "samsoninf"]
"""SGD; or SAM, ASAM, or SAMSON with p = 2 or infinity, around it."""

_OPTIMIZERS: Mapping[Method, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "sam": partial(SAM, base=SGD),
    "asam": partial(ASAM, base=SGD),
    "samson2": partial(SAMSON, base=SGD, p=2),
    "samsoninf": partial(SAMSON, base=SGD, p=math.inf),
}


class TrainingSpec(BaseModel):
    """How to train. The defaults give honest CIFAR networks; see the README for figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=30, ge=1, le=10_000)
    batch_size: int = Field(default=128, ge=1, le=65_536)
    lr: float = Field(default=0.2, gt=0, le=100, description="highest learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1, description="on weights, not on biases")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    method: Method = "sgd"
    rho: float | None = Field(
        default=None, ge=0, le=1e6, description="of the ascent; None for the method's default"
    )
    range_decay: float = Field(
        default=0.01, ge=0, le=1, description="weight decay of learned ranges, where there are any"
    )
    clip: float | None = Field(
        default=None, gt=0, le=1e6, description="of weights, in standard deviations of a layer"
    )

    @model_validator(mode="after")
    def _check_rho(self) -> Self:
        """Refuse what would do nothing.

        Raises:
            ValueError: if there is a rho that the method has not.
        """
        if self.rho is not None and self.method == "sgd":
            raise ValueError("rho is given, which sgd has not; allowed: it with another method")
        return self


def optimizer_for(
    model: nn.Module, spec: TrainingSpec, ranges: WeightRanges | None = None, **options: Any
) -> Optimizer:
    """The optimizer of a recipe, without weight decay on what has fewer than two axes.

    Args:
        model: Whose parameters to step.
        spec: The recipe.
        ranges: To step too, with a decay of their own.
        options: Of SGD, beside or in place of those of the recipe.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if ranges is not None:
        # They do not climb: what is stored would not follow.
        still = {} if spec.method == "sgd" else {"rho": 0.0}
        learned = list(ranges.parameters())
        groups.append({"params": learned, "weight_decay": spec.range_decay, **still})
    groups = [group for group in groups if group["params"]]
    own = {"lr": spec.lr, "momentum": spec.momentum, "nesterov": spec.momentum > 0}
    radius = {} if spec.rho is None else {"rho": spec.rho}
    return _OPTIMIZERS[spec.method](groups, **radius, **(own | options))


def schedule_of(steps: int, warmup: float) -> Callable[[int], float]:
    """A factor of the learning rate for each step.

    Args:
        steps: Of the whole run.
        warmup: The share of them that it rises in, linearly from 0 to 1; then half a cosine leads
            down to 0.

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
