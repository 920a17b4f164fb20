"""Key-value caches of causal models of transformers: keys and values that a memory stores."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from joulewise.errors import ModelError, refuse

__all__ = ["CacheEntries", "cache_argument", "is_cache_name", "watch_cache"]

# The argument of a model that takes its cache: newer and older releases.
_ARGUMENTS = ("cache", "past_key_values")
_CACHES = ("DynamicCache", "StaticCache")
_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheEntries:
    """The entries of a cache that a step of decoding reads, consecutive positions.

    Args:
        first: The first position; above 0 where a sliding window has left some behind.
        ages: Steps of decoding since each was written, int64 ``[positions]``.
    """

    first: int
    ages: Tensor


Each = Callable[[str, Tensor, CacheEntries], Tensor]
"""Called with a name such as ``cache.0:key``, the keys of a layer that are read, ``[batch,
positions, heads, features]``, and their positions; its result is used in their place."""


def is_cache_name(name: str) -> bool:
    """True for names of cached keys and values, ``cache.0:key`` and ``cache.0:value``."""
    return re.fullmatch(r"cache\.\d+:(key|value)", name) is not None


def watch_cache(model: nn.Module, each: Each) -> Callable[[], None]:
    """Pass all cached keys and values through a function as attention reads them.

    A model that is called without a cache gets a new one, so that keys and values of all positions
    pass through it. A call with a cache is one step of decoding, whatever its positions: a prompt
    is written in one. A call without is teacher forcing, where each position stands for a step; its
    one read of an entry is that of the last step, when the entry is oldest.

    Args:
        model: A causal model of transformers.
        each: The function.

    Returns:
        A function that ends it.

    Raises:
        ModelError: if the model takes no cache, or has or is given one that keeps other than keys
            and values of consecutive positions.
    """
    watch = _Watch(model, each)
    stack = ExitStack()
    stack.callback(watch.end)
    stack.callback(model.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
    stack.callback(model.register_forward_hook(watch.after, always_call=True).remove)
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


@dataclass(slots=True)
class _Clock:
    """Steps of decoding of one cache: the present one, and the one that wrote each position."""

    now: int = -1
    written: list[int] = field(default_factory=list)

    def write(self, before: int, total: int, together: bool) -> None:
        """Record positions ``before`` to ``total``, written in this call.

        Args:
            before: Positions that the cache held before the call.
            total: Positions that it holds now.
            together: True if they are written in one step, False if in one step each.
        """
        del self.written[before:]  # cropped by the caller between calls
        # Positions that were written while nothing watched: in the step before.
        self.written += [self.now - 1] * (before - len(self.written))
        new = range(total - before)
        self.written += [self.now + (0 if together else number) for number in new]
        self.now = self.written[-1] if self.written else self.now


@dataclass(slots=True, eq=False)
class _Call:
    """A running call of the model.

    Args:
        cache: Its cache.
        clock: The clock of that cache.
        given: True if the caller gave the cache.
        unwanted: True if the caller asked for none, so that the output should hold none.
        begun: True once a layer has updated the cache: the clock is set by the first.
    """

    cache: Any
    clock: _Clock
    given: bool
    unwanted: bool
    begun: bool = False


class _Watch:
    """Hooks of a model whose cached keys and values pass through a function."""

    def __init__(self, model: nn.Module, each: Each) -> None:
        self._argument, self._each = cache_argument(model), each
        self._names = list(inspect.signature(model.forward).parameters)
        self._call: _Call | None = None
        self._clocks: WeakKeyDictionary[Any, _Clock] = WeakKeyDictionary()

    def before(self, model: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Give a call a cache whose reads pass through the function, in a pre-hook."""
        self.end()  # a call that Ctrl-C stopped, after which no hook runs
        if len(args) > self._names.index(self._argument):  # given by position
            args, kwargs = (), dict(zip(self._names, args, strict=False)) | kwargs
        given = next((name for name in _ARGUMENTS if kwargs.get(name) is not None), None)
        if given is None:
            made = importlib.import_module("transformers").DynamicCache(config=model.config)
            kwargs = {name: value for name, value in kwargs.items() if name not in _ARGUMENTS}
            kwargs[self._argument] = cache = made
        else:
            cache = kwargs[given]
        _check_cache(cache)
        clock = self._clocks.setdefault(cache, _Clock())
        clock.now += 1
        unwanted = given is None and kwargs.get("use_cache") is False
        self._call = _Call(cache, clock, given is not None, unwanted)
        cache.update = partial(self._update, self._call, cache.update)
        return args, kwargs

    def end(self) -> _Call | None:
        """Leave the cache of the present call as it was."""
        call, self._call = self._call, None
        if call is not None:
            del call.cache.update
        return call

    def after(self, model: Any, args: Any, output: Any) -> Any:
        """Leave the cache as it was, and drop one that the caller did not want, in a hook."""
        call = self.end()
        if call is None or not call.unwanted:  # None: refused before it began
            return output
        if isinstance(output, tuple):
            return tuple(part for part in output if part is not call.cache)
        for name in _ARGUMENTS:
            if getattr(output, name, None) is not None:
                output[name] = None
        return output

    def _update(
        self,
        call: _Call,
        update: Callable[..., tuple[Tensor, Tensor]],
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        keys, values = update(key_states, value_states, layer_idx, *args, **kwargs)
        total = int(call.cache.layers[layer_idx].get_seq_length())
        if not call.begun:
            call.clock.write(total - key_states.shape[-2], total, call.given)
            call.begun = True
        # Static layers return empty positions behind the filled ones; sliding ones the last alone.
        first, filled = max(total - keys.shape[-2], 0), min(total, keys.shape[-2])
        ages = call.clock.now - torch.tensor(call.clock.written[first : first + filled])
        entries = CacheEntries(first=first, ages=ages)
        key, value = (
            self._read(f"cache.{layer_idx}:{kind}", tensor, filled, entries)
            for kind, tensor in (("key", keys), ("value", values))
        )
        return key, value

    def _read(self, name: str, tensor: Tensor, filled: int, entries: CacheEntries) -> Tensor:
        # Positions first: cells of a position do not depend on how many there are.
        stored = tensor[..., :filled, :].transpose(1, 2).contiguous()
        read = self._each(name, stored, entries).transpose(1, 2)
        empty = tensor[..., filled:, :]
        return torch.cat([read, empty], -2) if empty.numel() else read


def _check_cache(cache: Any) -> None:
    """Refuse caches whose layers keep other than keys and values of consecutive positions."""
    layers = [type(layer).__name__ for layer in getattr(cache, "layers", ())]
    odd = next((name for name in layers if name not in _LAYERS), None)
    if type(cache).__name__ not in _CACHES or odd is not None:
        got = f"of class {type(cache).__name__}" + (f", with a layer of class {odd}" if odd else "")
        allowed = "a DynamicCache or StaticCache whose layers keep all positions, or the last ones"
        refuse("the cache", got, allowed, ModelError)
