"""Restoring: whatever a forward pass does to a model, afterwards the model is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from joulewise.errors import ModelError, refuse

__all__ = ["check_initialised", "every_module_called", "frozen", "plain_execution", "same_modes"]


@contextmanager
def plain_execution(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and no fused transformer path that passes modules by.

    Afterwards every module has its own mode, parameters, buffers and attributes again.

    Args:
        model: Any module.

    Yields:
        Nothing.
    """
    restore = _snapshot(model)
    try:
        model.eval()
        with every_module_called(), torch.no_grad():
            yield
    finally:
        restore()


@contextmanager
def every_module_called() -> Iterator[None]:
    """No fused transformer path that passes modules by; the setting comes back after it.

    Yields:
        Nothing.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Training and evaluation modes come back after it.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; afterwards those do that did before.

    Args:
        model: Any module.

    Yields:
        Nothing.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def check_initialised(model: nn.Module) -> None:
    """Refuse a model with lazy layers that never ran."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            allowed = "a model that ran once, so that lazy layers know their shapes"
            refuse(f"the shape of {name}", "not known yet", allowed, ModelError)


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """Remember every parameter, buffer, attribute and mode; the result puts them back.

    Each table is put back by one dictionary update, which no signal can interrupt. What a table
    refers to is not copied, except for parameters and buffers: those may be written in place.
    """
    check_initialised(model)
    modes = [(module, module.training) for module in model.modules()]
    tables = [
        (table, dict(table))
        for m in model.modules()
        for table in (vars(m), m._parameters, m._buffers)
        if isinstance(table, dict)  # a ScriptModule's are not, and cannot be assigned to
    ]
    copies = [(t, t.detach(), t.detach().clone()) for t in _tensors(model)]

    def restore() -> None:
        for table, own in tables:
            table.update(own)
            for added in table.keys() - own.keys():
                del table[added]
        for tensor, own_storage, copy in copies:
            _put_back(tensor, own_storage, copy)
        for module, training in modes:
            module.training = training

    return restore


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _put_back(tensor: Tensor, own_storage: Tensor, copy: Tensor) -> None:
    # Set before compared: while it holds what was read, it may be an inference tensor.
    if not tensor.is_set_to(own_storage):
        tensor.data = own_storage
    # Compared and not asked for its version: code that writes to `.data` leaves that as it is.
    if not torch.equal(tensor.detach(), copy):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(copy)
