"""Nested inputs: tensors in tuples, lists and mappings, as models and data loaders use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from joulewise.errors import InputError, refuse

__all__ = ["all_finite", "batch_size", "cloned", "map_tensors", "tensors_in"]


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from tensors_in(value)
    elif isinstance(nested, (tuple, list)):
        for value in nested:
            yield from tensors_in(value)


def all_finite(nested: Any) -> bool:
    """True if no tensor of a nesting holds NaN or infinities."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(nested))


def batch_size(inputs: Any) -> int:
    """Number of samples in a batch: the length of axis 0 of the first tensor that has axes.

    Raises:
        InputError: if there is no such tensor, or it is empty.
    """
    if isinstance(inputs, PackedSequence):
        return int(inputs.batch_sizes[0])
    first = next((tensor for tensor in tensors_in(inputs) if tensor.ndim), None)
    if first is None:
        raise InputError("inputs hold no tensor with a batch axis; allowed: a batch of samples")
    if len(first) == 0:
        refuse("the batch", "empty", "at least one sample")
    return len(first)


def map_tensors(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Copy a nested structure with a function applied to every tensor; mappings become dicts.

    Tuples (named ones too) and lists keep their type, and other objects are not copied. The
    ``batch_sizes`` of a packed sequence are left out, since they stay on the CPU.
    """
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, PackedSequence):
        data, sizes, *indices = nested
        return PackedSequence(function(data), sizes, *map_tensors(function, indices))
    if isinstance(nested, Mapping):
        return {key: map_tensors(function, value) for key, value in nested.items()}
    if isinstance(nested, (tuple, list)):
        values = [map_tensors(function, value) for value in nested]
        return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)
    return nested


def cloned(nested: Any) -> Any:
    """Copy a nested structure with detached clones of all tensors."""
    return map_tensors(lambda tensor: tensor.detach().clone(), nested)
