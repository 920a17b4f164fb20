"""Private copies: models that compute with what is read, so that the user's is never written to.

A copy is made at each call, since weights may have been trained since `place`. Its parameters are
new ones, so a placed tensor is replaced by pointing ``.data`` elsewhere. The original never runs.

Equal outputs do not show that a copy is one: where a hook, a lambda or a patched ``forward`` refers
to the original, faults in the copy would do nothing. So its first pass is watched, operation by
operation: one that computes with an original's placed storage, or writes to any storage of the
original, is refused.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointError
from torch.utils.data import DataLoader, Dataset

from joulewise.errors import InputError, JoulewiseError, ModelError, refuse
from joulewise.placement.addresses import Owners
from joulewise.placement.calling import call, tensors_in
from joulewise.placement.execution import SameDraws, random_state
from joulewise.user_code import cause_of

__all__ = ["PrivateModel", "check_initialised", "cloned", "enter_block", "leave_block"]

Owner = tuple[str, str]
"""A module's path and the name of one of its parameters."""


_in_blocks: dict[int, str] = {}


def enter_block(parameters: Mapping[str, Sequence[Tensor]]) -> None:
    """Remember that a training block has replaced these parameters, by name.

    Raises:
        InputError: if a block has replaced one of them already.
    """
    check_no_block(chain.from_iterable(parameters.values()), "another training block begins")
    _in_blocks.update({id(p): name for name, own in parameters.items() for p in own})


def leave_block(parameters: Mapping[str, Sequence[Tensor]]) -> None:
    """Forget them; idempotent."""
    for parameter in chain.from_iterable(parameters.values()):
        _in_blocks.pop(id(parameter), None)


def check_no_block(parameters: Iterable[Tensor], what: str) -> None:
    """Refuse a model whose weights are those that a training block reads.

    Raises:
        InputError: naming the first of them.
    """
    for parameter in parameters:
        if (name := _in_blocks.get(id(parameter))) is not None:
            raise InputError(
                f"{what} within a block of TrainingMemory that has replaced {name} by what a chip "
                "reads; allowed: after the block"
            )


class PrivateModel:
    """A copy of a model in evaluation mode.

    Placed parameters share their storage with the original's until they are replaced; everything
    else has a storage of its own.

    Args:
        model: The user's model; never run, never written to.
        placed: Owners of each placed weight, by name.
        rebuild: Builds an equal model, which is given the state of ``model``; None to copy it.

    Attributes:
        model: The copy.
        modules: Its modules, by path.
        parameters: The copy's parameters of each placed weight, one for each owner.
        originals: The user's tensor of each placed weight, detached.

    Raises:
        ModelError: if the model cannot be copied, or the copy is not one.
    """

    def __init__(
        self,
        model: nn.Module,
        placed: Mapping[str, Sequence[Owner]],
        rebuild: Callable[[], nn.Module] | None = None,
    ) -> None:
        check_initialised(model)
        check_no_block(model.parameters(), "the model is placed, simulated or predicted")
        self.model = _copy(model) if rebuild is None else _rebuilt(model, rebuild)
        _check_apart(model, self.model)
        self.modules = dict(self.model.named_modules())
        own = dict(model.named_modules())
        self.parameters = {n: _owned(self.modules, owners) for n, owners in placed.items()}
        self.originals = {n: _owned(own, owners)[0].detach() for n, owners in placed.items()}
        taken = {id(p) for ps in self.parameters.values() for p in ps}
        pairs = [*_pairs(model, self.model, "parameters"), *_pairs(model, self.model, "buffers")]
        self._given = {name: tensor.detach() for name, tensor, _ in pairs}
        # What is not placed has a storage of its own: a forward pass may write to it.
        self._kept = [(name, mine) for name, _, mine in pairs if id(mine) not in taken]
        for name, mine in self._kept:
            if mine.data_ptr() == self._given[name].data_ptr():
                mine.data = self._given[name].clone()
        self.model.eval()
        self._state = _State(self.model)
        self._watched = self._stateful = self._draws = self._writes_inputs = False

    def freeze(self) -> None:
        """Let no parameter ask for a gradient."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)

    def own_placed(self) -> None:
        """Compute with clones of the placed weights as they were given."""
        for name, original in self.originals.items():
            clone = original.clone()
            for parameter in self.parameters[name]:
                parameter.data = clone

    def call(self, inputs: Any) -> Tensor:
        """Run the copy on a batch that the caller may need again.

        A model that draws random numbers draws the same ones in each pass. A model that writes to
        its inputs is given clones of them.

        Args:
            inputs: As for `joulewise.placement.calling.call`.

        Raises:
            ModelError: if the model fails, or its copy is not one.
        """
        if not self._watched:
            return self._first(inputs)
        given = cloned(inputs) if self._writes_inputs else inputs
        versions = _versions(given)
        with ExitStack() as stack:
            if self._draws:
                stack.enter_context(SameDraws())
            output = _run(self.model, given)
        self._writes_inputs |= versions != _versions(given)
        return output

    def _first(self, inputs: Any) -> Tensor:
        watch = _Watch(self.originals, self._given)
        given = cloned(inputs)
        versions = _versions(given)
        with SameDraws():
            before = random_state()
            with watch:
                output = _run(self.model, given)
            after = random_state()
        self._draws = not all(map(torch.equal, before, after))
        self._writes_inputs = versions != _versions(given)
        self._stateful = self._state.changed() or any(
            not torch.equal(mine, self._given[name]) for name, mine in self._kept
        )
        self._watched = True
        return output

    def reset(self) -> None:
        """Put back buffers, attributes and parameters that are not placed, as they were given."""
        if not self._stateful:
            return
        self._state.restore()
        with torch.no_grad():
            for name, mine in self._kept:
                mine.copy_(self._given[name])


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


def check_initialised(model: nn.Module) -> None:
    """Refuse a model with lazy layers that never ran."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            allowed = "a model that ran once, so that lazy layers know their shapes"
            refuse(f"the shape of {name}", "not known yet", allowed, ModelError)


def _run(model: nn.Module, inputs: Any) -> Tensor:
    """Run user code; whatever it raises becomes one sentence.

    Raises:
        ModelError: if the model fails.
        JoulewiseError: if joulewise refuses something on the way.
        OutOfMemoryError: if there is too little memory.
        CheckpointError: if a forward pass computes parts twice.
    """
    try:
        return call(model, inputs)
    except (JoulewiseError, CheckpointError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code: anything may happen
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        cause = cause_of(error)
        raise ModelError(f"the model fails on inputs of shape {shapes} with {cause}") from error


def _versions(nested: Any) -> list[int]:
    return [0 if t.is_inference() else t._version for t in tensors_in(nested)]


def _owned(modules: Mapping[str, nn.Module], owners: Sequence[Owner]) -> list[Tensor]:
    found = (modules[path]._parameters[name] for path, name in owners)
    return [parameter for parameter in found if parameter is not None]


def _pairs(model: nn.Module, private: nn.Module, kind: str) -> list[tuple[str, Tensor, Tensor]]:
    """Parameters or buffers of both, by name.

    Raises:
        ModelError: if the copy has others.
    """
    given = dict(getattr(model, f"named_{kind}")(remove_duplicate=False))
    mine = dict(getattr(private, f"named_{kind}")(remove_duplicate=False))
    for name, tensor in given.items():
        if name not in mine or mine[name].shape != tensor.shape:
            raise ModelError(f"the copy of the model has no {name} of shape {tuple(tensor.shape)}")
    return [(name, tensor, mine[name]) for name, tensor in given.items()]


def _check_apart(model: nn.Module, private: nn.Module) -> None:
    """Refuse a copy that shares modules or tensors with the model.

    Raises:
        ModelError: naming the first.
    """
    kinds = (nn.Module.named_modules, nn.Module.named_parameters, nn.Module.named_buffers)
    for named in kinds:
        own = [part for _, part in named(model)]  # kept alive, so that identities stay theirs
        identities = set(map(id, own))
        for name, part in named(private):
            if id(part) in identities:
                raise ModelError(
                    f"{name or 'the model'} cannot be copied: its copy is the object itself (a "
                    f"__deepcopy__ that returns self); {_REBUILD}"
                )


_REBUILD = "give place(..., rebuild=a function that builds an equal model)"


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


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model, _memo(model))
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {cause_of(error)}; {_REBUILD}") from error


_ATOMIC: tuple[type, ...] = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.FunctionType,
)
_ATOMIC += (types.BuiltinFunctionType, types.ModuleType, torch.dtype, torch.device)
# Kept as they are: large, and no part of a forward pass.
_SHARED = (Optimizer, LRScheduler, Dataset, DataLoader)


def _memo(model: nn.Module) -> dict[int, Any]:
    """What `copy.deepcopy` is told beforehand.

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
            memo[id(found)] = _parameter(found)
        elif isinstance(found, Tensor):
            if found.grad_fn is not None:
                memo[id(found)] = found.detach().clone()
        elif isinstance(found, _SHARED) or _is_trainer(found):
            memo[id(found)] = found
        else:
            waiting.extend(_parts(found))
    return memo


def _parameter(parameter: nn.Parameter) -> nn.Parameter:
    data = parameter.detach()
    if data.is_inference():  # may not be pointed elsewhere
        data = data.clone()
    new = nn.Parameter(data, requires_grad=parameter.requires_grad)
    vars(new).update(vars(parameter))
    return new


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


class _State:
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


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that compute with the original's placed weights, or write to any of it.

    Args:
        placed: The original's placed tensors, by name.
        given: All parameters and buffers of the original, by name.
    """

    def __init__(self, placed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._placed, self._given = Owners(placed), Owners(given)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for alias, tensors in _arguments(func, args, kwargs):
            for tensor in tensors:
                if alias is not None and alias.is_write:
                    self._check(self._given.find(tensor), "writes to")
                elif alias is None:  # a view computes with nothing
                    self._check(self._placed.find(tensor), "computes with")
        return func(*args, **kwargs)

    def _check(self, found: tuple[str, int] | None, does: str) -> None:
        """Refuse a tensor of the original.

        Raises:
            ModelError: naming it.
        """
        if found is not None:
            raise ModelError(
                f"a copy of the model {does} {found[0]} of the model itself, so faults in the copy "
                "would not be those of the model (a hook, a lambda or a patched forward refers to "
                f"the model, or an attribute holds its storage); {_REBUILD}"
            )


def _arguments(func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[tuple[Any, list[Tensor]]]:
    """Aliasing of each argument of an operation, None if it is only read, and tensors in it."""
    if not hasattr(func, "_schema"):  # an operator of higher order
        yield None, list(tensors_in((args, kwargs)))
        return
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        yield argument.alias_info, list(tensors_in(value))
