"""Opening: functions of PyTorch that would hide what they call from those who watch."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch.nn import functional

__all__ = ["opened"]


def _never(*tensors: Any) -> bool:
    return False


@lru_cache(maxsize=1024)
def opened(func: Any) -> Callable[..., Any] | None:
    """The body of a function of `torch.nn.functional` that would hide what it calls.

    Such functions hand themselves over whole before they call anything. A copy that does not can be
    watched from inside.

    Args:
        func: Any function that a `torch.overrides.TorchFunctionMode` was handed.

    Returns:
        The copy; None for a function that is not of this kind.
    """
    if not isinstance(func, types.FunctionType) or func.__globals__ is not vars(functional):
        return None
    if "handle_torch_function" not in func.__code__.co_names:
        return None
    open_globals = {
        **func.__globals__,
        "has_torch_function": _never,
        "has_torch_function_unary": _never,
        "has_torch_function_variadic": _never,
    }
    body = types.FunctionType(
        func.__code__, open_globals, func.__name__, func.__defaults__, func.__closure__
    )
    body.__kwdefaults__ = func.__kwdefaults__
    return body
