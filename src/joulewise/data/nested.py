"""Nested inputs: tensors in tuples, lists and mappings, as models and data loaders use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from joulewise.errors import InputError, refuse

__all__ = ["batch_size", "cloned", "tensors_in", "to_device"]


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


def to_device(nested: Any, device: torch.device) -> Any:
    """Copy a nesting with every tensor on ``device``; lists become tuples, mappings dicts."""
    if isinstance(nested, Tensor):
        return nested.to(device)
    if isinstance(nested, PackedSequence):
        return nested.to(device)  # type: ignore[arg-type]  # its stub knows dtypes only
    if isinstance(nested, Mapping):
        return {key: to_device(value, device) for key, value in nested.items()}
    if isinstance(nested, (tuple, list)):
        return tuple(to_device(value, device) for value in nested)
    return nested


def cloned(nested: Any) -> Any:
    """The same nesting with clones of all tensors; other objects as they are."""
    if isinstance(nested, Tensor):
        return nested.detach().clone()
    if isinstance(nested, Mapping):
        return {key: cloned(value) for key, value in nested.items()}
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(cloned(value) for value in nested))
    if isinstance(nested, (tuple, list)):
        return type(nested)(cloned(value) for value in nested)
    return nested
