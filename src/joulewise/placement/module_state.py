"""State of modules outside their parameters: attributes and buffers, compared and put back."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

__all__ = ["ModuleState"]


class ModuleState:
    """Attributes and buffers of modules, to be compared and put back.

    Containers among the attributes are remembered one level deep; tensors are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, {key: (value, _shallow(value)) for key, value in table.items()})
            for module in model.modules()
            for table in (vars(module), module._parameters, module._buffers)
            if isinstance(table, dict)  # a ScriptModule's are not, and cannot be assigned to
        ]
        self._storages = [(t, t.detach()) for t in model.buffers()]

    def changed(self) -> bool:
        """True if an attribute is another object, or a container holds others."""
        return any(
            table.keys() != own.keys()
            or any(
                table[key] is not value or _differs(value, was) for key, (value, was) in own.items()
            )
            for table, own in self._tables
        ) or any(not tensor.is_set_to(storage) for tensor, storage in self._storages)

    def restore(self) -> None:
        """Put attributes and the storages of buffers back; contents of buffers are the caller's."""
        for table, own in self._tables:
            for key in table.keys() - own.keys():
                del table[key]
            for key, (value, was) in own.items():
                table[key] = value
                if _differs(value, was):
                    value.clear()
                    value.extend(was) if isinstance(value, list) else value.update(was)
        for tensor, storage in self._storages:
            if not tensor.is_set_to(storage):
                tensor.data = storage


def _shallow(value: Any) -> Any:
    return copy.copy(value) if type(value) in (list, dict, set) else None


def _differs(value: Any, was: Any) -> bool:
    """True if a container does not hold the same objects, in the same order, as it did."""
    if was is None:
        return False
    if isinstance(value, dict):
        return [*map(id, value), *map(id, value.values())] != [
            *map(id, was),
            *map(id, was.values()),
        ]
    return list(map(id, value)) != list(map(id, was))
