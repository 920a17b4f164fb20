"""Copies of models: parameters over the same storage, everything else of its own.

``deepcopy`` is told beforehand what to do with parameters, with tensors that have a history (which
PyTorch does not copy), and with optimizers, data and trainers that hang on a model.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from joulewise.errors import ModelError, refuse
from joulewise.user_code import cause_of

__all__ = ["REBUILD", "check_stored", "copied", "tensor_pairs"]

REBUILD = "give place(..., rebuild=a function that builds an equal model)"


def copied(model: nn.Module, rebuild: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Copy a model, or load its state into what ``rebuild`` builds.

    Plain parameters of a copy are new ones over the same storage.

    Raises:
        ModelError: if the model cannot be copied, or the copy shares modules or tensors with it.
    """
    check_stored(model)
    if rebuild is not None:
        private = _rebuilt(model, rebuild)
    else:
        try:
            with torch.no_grad():  # clones of a ScriptModule would have a history
                private = copy.deepcopy(model, _memo(model))
        except Exception as error:
            raise ModelError(f"the model cannot be copied: {cause_of(error)}; {REBUILD}") from error
    _check_apart(model, private)
    return private


def check_stored(model: nn.Module) -> None:
    """Refuse a model with lazy layers that never ran, or with tensors that are not dense."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            allowed = "a model that ran once, so that lazy layers know their shapes"
            refuse(f"the shape of {name}", "not known yet", allowed, ModelError)
        if tensor.layout != torch.strided:
            allowed = "a dense tensor, such as its to_dense()"
            refuse(f"the layout of {name}", tensor.layout, allowed, ModelError)


def tensor_pairs(model: nn.Module, private: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Parameters and buffers of a model and its copy, by name.

    Raises:
        ModelError: if the copy has others.
    """
    given, mine = (
        dict(chain(m.named_parameters("", True, False), m.named_buffers("", True, False)))
        for m in (model, private)
    )
    for name, tensor in given.items():
        if name not in mine or mine[name].shape != tensor.shape:
            raise ModelError(f"the copy of the model has no {name} of shape {tuple(tensor.shape)}")
    return [(name, tensor, mine[name]) for name, tensor in given.items()]


def _check_apart(model: nn.Module, private: nn.Module) -> None:
    own = [*model.modules(), *model.parameters(), *model.buffers()]  # kept: identities stay theirs
    identities = set(map(id, own))
    for name, part in chain(
        private.named_modules(), private.named_parameters(), private.named_buffers()
    ):
        if id(part) in identities:
            raise ModelError(
                f"{name or 'the model'} cannot be copied: its copy is the object itself (a "
                f"__deepcopy__ that returns self); {REBUILD}"
            )


def _rebuilt(model: nn.Module, rebuild: Callable[[], nn.Module]) -> nn.Module:
    try:
        private = rebuild()
    except Exception as error:
        raise ModelError(f"rebuild fails with {cause_of(error)}") from error
    if not isinstance(private, nn.Module):
        refuse("what rebuild gives", f"a {type(private).__name__}", "a torch.nn.Module", ModelError)
    try:
        private.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"the model that rebuild gives is another one: {cause_of(error)}"
        ) from error
    return private


_ATOMIC: tuple[type, ...] = (str, bytes, int, float, complex, bool, type(None), type)
_ATOMIC += (types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_ATOMIC += (torch.dtype, torch.device)
# Kept as they are: large, and no part of a forward pass.
_SHARED = (Optimizer, LRScheduler, Dataset, DataLoader)


def _memo(model: nn.Module) -> dict[int, Any]:
    """Memo of `copy.deepcopy`.

    Plain parameters become new ones over the same storage, tensors with a history (which PyTorch
    does not copy) detached clones; optimizers, data and trainers stay themselves. The walk follows
    what `copy.deepcopy` does: containers, attributes, bound methods and partial functions.
    """
    memo: dict[int, Any] = {}
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        found = waiting.pop()
        if isinstance(found, _ATOMIC) or id(found) in seen:
            continue
        seen.add(id(found))
        if type(found) is nn.Parameter:
            data = found.detach()
            if data.is_inference():  # may not be pointed elsewhere
                data = data.clone()
            memo[id(found)] = new = nn.Parameter(data, requires_grad=found.requires_grad)
            vars(new).update(vars(found))
        elif isinstance(found, Tensor):
            if found.grad_fn is not None:
                memo[id(found)] = found.detach().clone()
        elif isinstance(found, _SHARED) or _is_trainer(found):
            memo[id(found)] = found
        else:
            waiting.extend(_parts(found))
    return memo


def _is_trainer(found: Any) -> bool:
    kind = type(found)
    packages = ("lightning", "pytorch_lightning", "transformers")
    return kind.__name__.endswith("Trainer") and kind.__module__.split(".")[0] in packages


def _parts(found: Any) -> Iterator[Any]:
    if isinstance(found, Mapping):
        yield from list(found.values())
    elif isinstance(found, (list, tuple, set, frozenset)):
        yield from list(found)
    elif isinstance(found, types.MethodType):
        yield found.__self__
    elif isinstance(found, functools.partial):
        yield from (found.func, *found.args, *found.keywords.values())
    if isinstance(attributes := getattr(found, "__dict__", None), dict):
        yield from list(attributes.values())
    for kind in type(found).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if isinstance(name, str) and hasattr(found, name):
                yield getattr(found, name)
