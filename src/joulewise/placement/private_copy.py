"""Private copies of models, which compute with faulty tensors; the user's is never written to.

A copy is made at each call, since weights may have been trained since `place`. Its parameters are
new, so a placed tensor is replaced by pointing ``.data`` elsewhere. The original never runs.

Equal outputs do not prove that a copy is independent: if a hook, a lambda or a patched ``forward``
refers to the original, faults in the copy have no effect. So the operations of its first pass are
intercepted: one that computes with a placed storage of the original, or writes to any of its
storages, is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from joulewise.errors import InputError, ModelError
from joulewise.nested import cloned, tensors_in
from joulewise.placement.execution import run, running, tensor_of
from joulewise.placement.model_copy import REBUILD, copied, tensor_pairs
from joulewise.placement.process_state import SameDraws, random_state
from joulewise.placement.storage import Owner, Owners, owned_parameters

__all__ = ["PrivateModel", "enter_block", "leave_block"]


_in_blocks: dict[int, str] = {}


def enter_block(parameters: Mapping[str, Sequence[Tensor]]) -> None:
    """Register parameters, by name, as replaced by a training block.

    Raises:
        InputError: if a block has replaced one of them already.
    """
    check_no_block(chain.from_iterable(parameters.values()), "another training block begins")
    _in_blocks.update({id(p): name for name, own in parameters.items() for p in own})


def leave_block(parameters: Mapping[str, Sequence[Tensor]]) -> None:
    """Unregister the parameters of a training block; idempotent."""
    for parameter in chain.from_iterable(parameters.values()):
        _in_blocks.pop(id(parameter), None)


def check_no_block(parameters: Iterable[Tensor], what: str) -> None:
    """Refuse parameters that a training block has replaced.

    Raises:
        InputError: naming the first.
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
        draws: True if the first pass drew random numbers.

    Raises:
        ModelError: if the model cannot be copied, or the copy is not independent of it.
    """

    def __init__(
        self,
        model: nn.Module,
        placed: Mapping[str, Sequence[Owner]],
        rebuild: Callable[[], nn.Module] | None = None,
    ) -> None:
        check_no_block(model.parameters(), "the model is placed, simulated or predicted")
        self.model = copied(model, rebuild)
        self.modules = dict(self.model.named_modules())
        own = dict(model.named_modules())
        self.parameters = {
            n: owned_parameters(self.modules, owners) for n, owners in placed.items()
        }
        self.originals = {
            n: owned_parameters(own, owners)[0].detach() for n, owners in placed.items()
        }
        taken = {id(p) for ps in self.parameters.values() for p in ps}
        pairs = tensor_pairs(model, self.model)
        self._given = {name: tensor.detach() for name, tensor, _ in pairs}
        # Unplaced tensors get storages of their own, since a forward pass may write to them.
        self._kept = [(name, mine) for name, _, mine in pairs if id(mine) not in taken]
        for name, mine in self._kept:
            if mine.data_ptr() == self._given[name].data_ptr():
                mine.data = self._given[name].clone()
        self.model.eval()
        self._state = _ModuleState(self.model)
        self._watched = self.draws = self._writes_inputs = False
        self._stateful = True  # until a reset after the first pass finds nothing to restore

    def run(self, inputs: Any) -> Any:
        """Run the copy on a batch that the caller may need again.

        A model that draws random numbers draws the same ones in each pass. A model that writes to
        its inputs is given clones of them.

        Raises:
            ModelError: if the model fails, or its copy is not independent of it.
        """
        if self._watched:
            return self._pass(inputs)
        given = cloned(inputs)
        with SameDraws():
            before = random_state()
            with _Watch(self.originals, self._given):
                output = self._pass(given)
            self.draws = not all(map(torch.equal, before, random_state()))
        self._watched = True
        return output

    def _pass(self, inputs: Any) -> Any:
        given = cloned(inputs) if self._writes_inputs else inputs
        versions = _versions(given)
        with running(inputs), SameDraws() if self.draws else nullcontext():
            output = run(self.model, given)
        self._writes_inputs |= versions != _versions(given)
        return output

    def call(self, inputs: Any) -> Tensor:
        """The `main_tensor` of the output of `run`."""
        return tensor_of(self.run(inputs))

    def watch_first_pass(self) -> Callable[[], None]:
        """Intercept the next forward pass, for callers that run the copy themselves.

        Returns:
            A function that ends the interception: after Ctrl-C in a pass no hook does so.
        """
        stack = ExitStack()
        if isinstance(self.model, torch.jit.ScriptModule):  # takes no hooks, refers to no other
            return stack.close

        def enter(*_: Any) -> None:
            stack.enter_context(_Watch(self.originals, self._given))

        def leave(*_: Any) -> None:
            stack.close()

        # First, so that pre-hooks of the user are watched too.
        stack.callback(self.model.register_forward_pre_hook(enter, prepend=True).remove)
        stack.callback(self.model.register_forward_hook(leave, always_call=True).remove)
        return stack.close

    def reset(self) -> None:
        """Restore buffers, attributes and unplaced parameters to their given values."""
        if not self._stateful:
            return
        changed = self._state.restore()
        with torch.no_grad():
            for name, mine in self._kept:
                if not torch.equal(mine, self._given[name]):
                    mine.copy_(self._given[name])
                    changed = True
        self._stateful = changed or not self._watched


class _ModuleState:
    """Attributes of modules and storages of buffers, to be put back.

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

    def restore(self) -> bool:
        """Put all back but contents of buffers; True if an attribute or a storage was another."""
        changed = False
        for table, own in self._tables:
            changed |= table.keys() != own.keys()
            for key in table.keys() - own.keys():
                del table[key]
            for key, (value, was) in own.items():
                changed |= table.get(key, self) is not value
                table[key] = value
                if was is not None and _identities(value) != _identities(was):
                    changed = True
                    value.clear()
                    value.extend(was) if isinstance(value, list) else value.update(was)
        for tensor, storage in self._storages:
            if not tensor.is_set_to(storage):
                changed = True
                tensor.data = storage
        return changed


def _shallow(value: Any) -> Any:
    return copy.copy(value) if type(value) in (list, dict, set) else None


def _identities(container: Any) -> list[int]:
    values = container.values() if isinstance(container, dict) else ()
    return list(map(id, (*container, *values)))


def _versions(nested: Any) -> list[int]:
    return [0 if t.is_inference() else t._version for t in tensors_in(nested)]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that refuses reads of ``placed`` and writes to ``given``, the original's."""

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
                elif alias is None:  # None: reads values; a view does not
                    self._check(self._placed.find(tensor), "computes with")
        return func(*args, **kwargs)

    def _check(self, found: tuple[str, int] | None, does: str) -> None:
        if found is not None:
            raise ModelError(
                f"a copy of the model {does} {found[0]} of the model itself, so faults in the copy "
                "would not be those of the model (a hook, a lambda or a patched forward refers to "
                f"the model, or an attribute holds its storage); {REBUILD}"
            )


def _arguments(func: Any, args: tuple[Any, ...], kwargs: Any) -> Iterator[tuple[Any, list[Tensor]]]:
    """Alias annotation of each argument of an operator, None if it is only read; its tensors."""
    if not hasattr(func, "_schema"):  # a higher-order operator
        yield None, list(tensors_in((args, kwargs)))
        return
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        yield argument.alias_info, list(tensors_in(value))
