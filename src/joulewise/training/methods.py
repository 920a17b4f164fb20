"""Methods: the optimizer that a training run steps with, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch.optim import SGD, Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.optim import ASAM, SAM, SAMSON

__all__ = ["Method", "optimizer_of"]

Method = Literal["sgd", "sam", "asam", "samson2", "samsoninf"]
"""SGD; or SAM, ASAM, or SAMSON with p = 2 or infinity, around it."""

_OPTIMIZERS: Mapping[Method, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "sam": partial(SAM, base=SGD),
    "asam": partial(ASAM, base=SGD),
    "samson2": partial(SAMSON, base=SGD, p=2),
    "samsoninf": partial(SAMSON, base=SGD, p=math.inf),
}


def optimizer_of(method: Method, params: ParamsT, rho: float | None, **options: Any) -> Optimizer:
    """The optimizer of a method.

    Args:
        method: By name.
        params: As for any torch optimizer.
        rho: Radius of the ascent; None for the default of its class, and for ``"sgd"``.
        options: Those of SGD, ``lr`` among them.
    """
    own = {} if rho is None else {"rho": rho}
    return _OPTIMIZERS[method](params, **own, **options)
