"""Key-value caches of causal models of transformers: keys and values that a memory stores."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from joulewise.errors import ModelError, refuse

__all__ = ["cache_argument", "is_cache_name", "watch_cache"]

# The argument of a model that takes its cache: newer and older releases.
_ARGUMENTS = ("cache", "past_key_values")

Each = Callable[[str, Tensor], Tensor]
"""Called with a name such as ``cache.0:key`` and all keys of a layer so far, ``[batch, positions,
heads, features]``; what it returns goes on in their place."""


def is_cache_name(name: str) -> bool:
    """True for names of cached keys and values, ``cache.0:key`` and ``cache.0:value``."""
    return re.fullmatch(r"cache\.\d+:(key|value)", name) is not None


def watch_cache(model: nn.Module, each: Each) -> Callable[[], None]:
    """Pass all cached keys and values through a function as attention reads them.

    A model that is called without a cache gets a new one, so that keys and values of all positions
    pass through it.

    Args:
        model: A causal model of transformers.
        each: The function.

    Returns:
        A function that ends it.

    Raises:
        ModelError: if the model takes no cache, or is given one of another class than
            ``DynamicCache``, or one with layers that forget positions.
    """
    calls: list[tuple[Any, bool]] = []
    before = partial(_with_cache, cache_argument(model), each, calls)
    stack = ExitStack()
    stack.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
    after = partial(_without_cache, calls)
    stack.callback(model.register_forward_hook(after, always_call=True).remove)
    return stack.close


def cache_argument(model: nn.Module) -> str:
    """The argument by which a causal model takes its cache.

    Raises:
        ModelError: if it takes none.
    """
    parameters = inspect.signature(model.forward).parameters
    argument = next((name for name in _ARGUMENTS if name in parameters), None)
    if argument is None or not hasattr(model, "config"):
        got = f"a {type(model).__name__}, which takes no cache"
        refuse("the model", got, "a causal model of transformers", ModelError)
    return argument


def _with_cache(
    argument: str,
    each: Each,
    calls: list[tuple[Any, bool]],
    model: Any,
    args: Any,
    kwargs: Any,
) -> tuple[Any, Any]:
    """Give a call a cache whose reads pass through ``each``, in a pre-hook."""
    given = next((name for name in _ARGUMENTS if kwargs.get(name) is not None), None)
    if given is None:
        made = importlib.import_module("transformers").DynamicCache(config=model.config)
        kwargs = {name: value for name, value in kwargs.items() if name not in _ARGUMENTS}
        kwargs[argument] = cache = made
    else:
        cache = kwargs[given]
    kinds = [type(cache).__name__, *(type(layer).__name__ for layer in cache.layers)]
    if kinds[0] != "DynamicCache" or set(kinds[1:]) - {"DynamicLayer"}:
        got = " of ".join(dict.fromkeys(kinds))
        refuse("the cache", f"a {got}", "a DynamicCache of all positions", ModelError)
    cache.update = partial(_update, cache.update, each)
    calls.append((cache, given is None and kwargs.get("use_cache") is False))
    return args, kwargs


def _without_cache(calls: list[tuple[Any, bool]], model: Any, args: Any, output: Any) -> None:
    """Leave the cache as it was, and drop one that the caller did not want, in a hook."""
    if not calls:  # the call was refused before it began
        return
    cache, unwanted = calls.pop()
    del cache.update
    for name in _ARGUMENTS if unwanted else ():
        if getattr(output, name, None) is not None:
            output[name] = None


def _update(
    update: Callable[..., tuple[Tensor, Tensor]],
    each: Each,
    key_states: Tensor,
    value_states: Tensor,
    layer_idx: int,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    keys, values = update(key_states, value_states, layer_idx, *args, **kwargs)
    # Positions first: cells of a position do not depend on how many there are.
    read = (
        each(f"cache.{layer_idx}:{kind}", tensor.transpose(1, 2).contiguous()).transpose(1, 2)
        for kind, tensor in (("key", keys), ("value", values))
    )
    key, value = read
    return key, value
