"""Function mode that traces into the composite functions of ``torch.nn.functional``."""

from __future__ import annotations

import types
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["CompositeMode"]


class CompositeMode(TorchFunctionMode):
    """Calls `called` for each function; composite functions are run as what they are made of."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if (body := _opened(func)) is not None:
            with self:
                return body(*args, **kwargs)
        return self.called(func, args, kwargs)

    @abstractmethod
    def called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function, or do something else in its place."""


def _never(*tensors: Any) -> bool:
    return False


@lru_cache(maxsize=1024)
def _opened(func: Any) -> Callable[..., Any] | None:
    """Body of a composite function of `torch.nn.functional`, None for any other function.

    Composite functions dispatch themselves whole to function modes before they call anything. The
    body here has globals in which no tensor overrides functions, so it runs operation by operation.
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
