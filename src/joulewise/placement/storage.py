"""Storage of tensors: shared parameters, and the tensor that a view belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from joulewise.errors import ModelError, refuse
from joulewise.placement.model_copy import check_stored

__all__ = ["Owner", "Owners", "ParameterGroup", "extent", "owned_parameters", "parameter_groups"]

Owner = tuple[str, str]
"""A module's path and the name of one of its parameters."""


def owned_parameters(modules: Mapping[str, nn.Module], owners: Sequence[Owner]) -> list[Tensor]:
    """Parameters that modules, by path, have now; one for each owner."""
    found = (modules[path]._parameters[name] for path, name in owners)
    return [parameter for parameter in found if parameter is not None]


class Owners:
    """Tensors by the range of addresses of their entries.

    Args:
        tensors: Each its own storage or its own part of one, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._spans = sorted((*extent(tensor), name) for name, tensor in tensors.items())
        self._starts = [span[0] for span in self._spans]

    def find(self, tensor: Tensor) -> tuple[str, int] | None:
        """Find the tensor that this one is a view or a part of.

        Returns:
            Its name and the offset of this one in entries; None if there is none.
        """
        pointer = tensor.data_ptr()
        index = bisect_right(self._starts, pointer) - 1
        if index < 0 or pointer >= self._spans[index][1]:
            return None
        start, _, name = self._spans[index]
        return name, (pointer - start) // tensor.element_size()


def extent(tensor: Tensor) -> tuple[int, int]:
    """First address of a tensor's entries, and the one after the last."""
    start = tensor.data_ptr()
    if not tensor.numel():
        return start, start
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((length - 1) * stride for length, stride in steps)
    return start, start + (last + 1) * tensor.element_size()


class ParameterGroup(NamedTuple):
    """A parameter, detached, and its owners; several where modules share it."""

    tensor: Tensor
    owners: tuple[Owner, ...]


def parameter_groups(model: nn.Module) -> dict[str, ParameterGroup]:
    """Parameters by name, those that share storage once, under their first name.

    Raises:
        ModelError: if one is lazy, meta, sparse, or shares part of its storage with another.
    """
    check_stored(model)
    found: dict[tuple[Any, ...], tuple[str, Tensor, list[Owner]]] = {}
    for path, module in model.named_modules(remove_duplicate=True):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full = f"{path}.{name}" if path else name
            if parameter.is_meta:
                allowed = "a device with memory: load the model's weights first"
                refuse(f"the device of {full}", "meta", allowed, ModelError)
            key = (parameter.data_ptr() or id(parameter), parameter.shape, parameter.stride())
            found.setdefault(key, (full, parameter.detach(), []))[2].append((path, name))
    groups = {
        full: ParameterGroup(tensor, tuple(owners)) for full, tensor, owners in found.values()
    }
    spans = sorted((*extent(group.tensor), name) for name, group in groups.items())
    for (_, end, first), (start, _, second) in zip(spans, spans[1:], strict=False):
        if start < end:
            allowed = "parameters that share all of their storage, laid out alike, or none"
            refuse(f"the storage of {second}", f"in part that of {first}", allowed, ModelError)
    return groups
