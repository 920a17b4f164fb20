"""Stored tensors of a placement, and the model that computes with what a chip reads back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.devices import Chip, Point, ReadMoments
from joulewise.errors import ModelError, check_count, check_kind, refuse
from joulewise.nested import batch_size
from joulewise.placement.activation_hooks import (
    Observer,
    Reading,
    pass_on,
    pass_through,
    read_cache,
)
from joulewise.placement.converters import Conversion, Converters
from joulewise.placement.execution import run, tensor_of
from joulewise.placement.kv_cache import is_cache_name, watch_cache
from joulewise.placement.placement import Placed, Placement
from joulewise.placement.plan import At
from joulewise.placement.private_copy import PrivateModel
from joulewise.placement.process_state import Exact
from joulewise.placement.straight_through import clipped, follow_range
from joulewise.words import check_storable

__all__ = ["Memory", "loaded", "private_memory"]


class Memory:
    """Stored tensors of a placement, read back into the model that computes.

    Made by `private_memory`, for a private copy of the model, and by training blocks, in place.
    After `original`, `ideal` or `read` the model computes with the tensors of that choice.

    Args:
        placement: The model and its memories.
        private: A copy of the placement's model to compute with; None to compute in place.
        ranges: By name of a placed weight, the magnitude that it is clipped to before it is stored.

    Attributes:
        placement: As given, with the model that computes.
        parameters: The model's parameters of each placed weight, one for each owner.
        stored: Each placed weight, as its device stores it.
        converters: Converters of each weight whose arrays round.
    """

    def __init__(
        self,
        placement: Placement,
        private: PrivateModel | None,
        ranges: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._weights = placement.weights
        self._private = private
        if private is not None:
            placement = replace(placement, model=private.model)
            self._modules, self.parameters = private.modules, private.parameters
            self._originals = private.originals
        else:
            self._modules = dict(placement.model.named_modules())
            self.parameters = {p.name: p.parameters(self._modules) for p in self._weights}
            self._originals = {name: own[0].detach() for name, own in self.parameters.items()}
        self.placement = placement
        self._ranges = ranges or {}
        self._clipped = self._originals | {
            name: clipped(self._originals[name], alpha) for name, alpha in self._ranges.items()
        }
        for name, tensor in self._clipped.items():
            check_storable(tensor, name)
        # Clones: a device may write to what it is given, or keep it.
        self.stored = {
            p.name: p.device.store(self._clipped[p.name].clone(), name=p.name)
            for p in self._weights
        }
        found = {p.name: Converters.of(p, self.stored[p.name]) for p in self._weights}
        self.converters = {name: c for name, c in found.items() if c is not None}
        self._conversion = Conversion(self.converters)
        self._current: dict[str, Tensor] = {}
        self._fresh = [p for p in self._weights if p.device.fresh]
        self._reading = Reading()
        self._in_table = self._used = False

    def _ideal(self, placed: Placed) -> Tensor:
        """Weight as a perfect memory of the same word format reads it."""
        return placed.device.ideal(self.stored[placed.name])

    def run(self, inputs: Any) -> Any:
        """Output of the model for a batch, with its present tensors; see `PrivateModel.run`."""
        if self._private is None:
            return run(self.placement.model, inputs)
        return self._private.run(inputs)

    def call(self, inputs: Any) -> Tensor:
        """The main tensor of the output; see `joulewise.placement.execution.main_tensor`."""
        return tensor_of(self.run(inputs))

    def watch_first_pass(self) -> Callable[[], None]:
        """See `PrivateModel.watch_first_pass`."""
        assert self._private is not None
        return self._private.watch_first_pass()

    @property
    def draws(self) -> bool:
        """True if a forward pass draws random numbers; known after the first one."""
        return self._private is not None and self._private.draws

    @property
    def watches(self) -> bool:
        """True if forward passes need hooks: for fresh noise, converters or activations."""
        activations = any(p.role == "activation" for p in self.placement.placed)
        return bool(self._fresh or self._conversion or activations)

    def original(self) -> None:
        """Compute with the model's own tensors, not rounded to words."""
        copied = self._private is not None
        # Clones: a forward pass may write in place (an embedding's max_norm).
        own = ((n, t.clone() if copied else t) for n, t in self._originals.items())
        self._install(own, None)

    def ideal(self) -> None:
        """Compute with what a perfect memory of the same word format reads back."""
        points = {p.name: p.device.knob.most_reliable for p in self.placement.placed}
        # Clones: a forward pass may write in place, and a device may give what it stored.
        self._install(((p.name, self._ideal(p).clone()) for p in self._weights), points)

    def read(self, points: Mapping[str, Point], chip: Chip) -> None:
        """Compute with what ``chip`` reads back, at an operating point for each placed tensor.

        In a copy each further forward pass is the chip's next use: weights with fresh read noise
        are then read anew. A training block is one use.
        """
        read = ((p.name, self.weight(p, points[p.name], chip)) for p in self._weights)
        self._install(read, points, chip)

    def _read_again(self) -> None:
        """Read weights with fresh noise anew, before each forward pass but the first."""
        chip, points = self._reading.chip, self._reading.points
        if chip is None or points is None or self._private is None or not self._fresh:
            return
        if self._used:
            again = self._reading.chip = chip.next_use()
            self._replace((p.name, self.weight(p, points[p.name], again)) for p in self._fresh)
        self._used = True

    def moments(self, points: Mapping[str, Point]) -> dict[str, ReadMoments]:
        """Mean and variance over chips of what each placed weight reads at its operating point.

        In the weight's own shape and layout, the mean in its dtype; differentiable in the points.
        """
        return {p.name: self.moments_of(p, points[p.name]) for p in self._weights}

    def moments_of(self, placed: Placed, point: Point) -> ReadMoments:
        """Those of one placed weight; see `moments`."""
        moments = placed.device.moments(self.stored[placed.name], point)
        like = self._originals[placed.name]
        # All laid out as the weight is, so that one view fits them.
        mean = torch.empty_like(like).copy_(moments.mean)
        var = torch.empty_like(like, dtype=moments.var.dtype).copy_(moments.var)
        common = moments.common
        if common is not None:
            common = replace(common, coupling=torch.empty_like(like).copy_(common.coupling))
        return replace(moments, mean=mean, var=var, common=common)

    def weight(self, placed: Placed, point: Point, chip: Chip) -> Tensor:
        """One placed weight as one chip reads it; the model is not changed."""
        # A device may return what it stores, which a forward pass could overwrite.
        stored = self.stored[placed.name]
        read = placed.device.read(stored, point, chip.region(placed.name))
        same = isinstance(stored, Tensor) and read.data_ptr() == stored.data_ptr()
        return read.clone() if same else read

    def expect(
        self,
        points: Mapping[str, Point],
        means: Mapping[str, Tensor],
        observer: Observer | None = None,
        *,
        convert: bool = True,
    ) -> None:
        """Compute with the mean over chips of what is read; gradients flow into the means.

        Args:
            points: An operating point for each placed tensor.
            means: The mean of each placed weight, as from `moments`.
            observer: Called with each placed activation as it passes through its memory.
            convert: True to round activations to words, and to quantise at the converters.
        """
        own = ((name, mean.detach()) for name, mean in means.items())
        self._install(own, points, observer=observer or pass_on, convert=convert)
        # A Parameter is a leaf, so means with a graph go into the modules' parameter tables.
        self._in_table = any(mean.requires_grad for mean in means.values())
        if self._in_table:
            self._set_in_tables({p.name: [means[p.name]] * len(p.owners) for p in self._weights})

    def modules_of(self, placed: Placed) -> list[nn.Module]:
        """The modules of the model that own a placed tensor."""
        return [self._modules[path] for path, _ in placed.owners]

    def _set_in_tables(self, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        for placed in self._weights:
            for (path, name), tensor in zip(placed.owners, tensors[placed.name], strict=True):
                table: dict[str, Any] = self._modules[path]._parameters
                table[name] = tensor

    def changed(self) -> None:
        """Bump the version counters of the weights, and clear the cache of autocast.

        Backward passes through graphs that kept the weights are refused from now on.
        """
        own = (p for owned in self.parameters.values() for p in _distinct(owned))
        torch.autograd.graph.increment_version(list(own))
        torch.clear_autocast_cache()

    def scale_gradients(self) -> Callable[[], None]:
        """Multiply gradients by read over stored value from now on; call the result to stop."""
        stack = ExitStack()
        for placed in self._weights:
            stored, read = self._ideal(placed), self._current[placed.name]
            # Multiplicative noise: d read / d stored = read / stored.
            ratio = torch.where(stored == 0, 1.0, read / stored)
            for parameter in _distinct(self.parameters[placed.name]):
                if parameter.requires_grad:
                    hook: Any = parameter.register_hook(ratio.mul)  # type: ignore[no-untyped-call]
                    stack.callback(hook.remove)
        return stack.close

    def learn_ranges(self) -> Callable[[], None]:
        """Accumulate gradients of the ranges from now on; call the result to stop.

        Called after `scale_gradients`, it uses the scaled gradients of the weights.
        """
        stack = ExitStack()
        for name, alpha in self._ranges.items():
            weights = self._originals[name], self._clipped[name]
            for parameter in _distinct(self.parameters[name]):
                stack.callback(follow_range(parameter, alpha, *weights))
        return stack.close

    def differs(self) -> bool:
        """True if any weight that the model computes with differs from a perfect memory's."""
        return any(
            not torch.equal(self.parameters[p.name][0], self._ideal(p)) for p in self._weights
        )

    def _install(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        points: Mapping[str, Point] | None,
        chip: Chip | None = None,
        observer: Observer | None = None,
        convert: bool = True,
    ) -> None:
        """Compute with tensors by name of a placed weight; the rest as `Reading` has it."""
        if self._private is None:  # all reads first: an exception leaves the model intact
            tensors = list(tensors)
        if self._in_table:
            self._set_in_tables(self.parameters)
            self._in_table = False
        self._reading.points, self._reading.chip = points, chip
        self._reading.observer, self._reading.convert = observer, convert
        self._used = False
        if self._private is not None:
            self._private.reset()
        self._replace(tensors)

    def _replace(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Point parameters at tensors, one by one, so that no two sets of weights coexist."""
        # ``.data``, not the object: modules may hold other references to a parameter.
        for name, tensor in tensors:
            for parameter in self.parameters[name]:
                parameter.data = tensor
            self._current[name] = tensor

    def attach(self) -> Callable[[], None]:
        """Pass placed activations through their memory from now on; call the result to stop."""
        activations = [p for p in self.placement.placed if p.role == "activation"]
        cached = {p.name: p for p in activations if is_cache_name(p.name)}
        by_name = {p.name: p for p in activations if p.name not in cached}
        stack = ExitStack()
        if self.watches:
            self._watch(stack)
        if cached:
            read = partial(read_cache, self._reading, cached)
            stack.callback(watch_cache(self.placement.model, read))
        for layer in {path for p in by_name.values() for path, _ in p.owners}:
            hook = partial(pass_through, self._reading, layer, by_name)
            module = self._modules[layer]
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        return stack.close

    def _watch(self, stack: ExitStack) -> None:
        """Track calls of the model and their batch size until the stack is closed."""

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._reading.samples = batch_size((args, kwargs))
            self._read_again()
            if self._reading.points is not None and self._reading.convert and self._conversion:
                # On top of the mode stack: modes below see the products that the arrays compute.
                self._conversion.begin(self._current)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._reading.samples = None
            self._conversion.end()

        model = self.placement.model
        if isinstance(model, torch.jit.ScriptModule):
            allowed = "a module that is not, for noise that is new at each read, and for converters"
            refuse("the model", "scripted", allowed, ModelError)
        # After Ctrl-C in a forward pass no hook is called.
        stack.callback(self._conversion.end, at_all=True)
        stack.callback(model.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(leave, always_call=True).remove)


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Distinct objects, in order; shared weights repeat."""
    return list({id(tensor): tensor for tensor in tensors}.values())


@contextmanager
def private_memory(placement: Placement, *, frozen: bool = False) -> Iterator[Memory]:
    """A private copy of a placement's model, and the memory that it computes with.

    Inside, gradients are off and TF32 is not used. The copy is in evaluation mode.

    Args:
        placement: The model and its memories.
        frozen: True to turn off gradients of all parameters of the copy.

    Yields:
        The memory, set to `Memory.ideal`; its ``placement.model`` is the copy.

    Raises:
        ModelError: if the model cannot be copied.
    """
    owners = {p.name: p.owners for p in placement.weights}
    private = PrivateModel(placement.model, owners, placement.rebuild)
    for parameter in private.model.parameters() if frozen else ():
        parameter.requires_grad_(False)
    memory = Memory(placement, private)
    with Exact(private.model), torch.no_grad(), ExitStack() as stack:
        # After Ctrl-C in a forward pass no hook leaves the caller's cache as it was.
        stack.callback(memory.attach())
        memory.ideal()
        yield memory


@contextmanager
def loaded(placement: Placement, *, at: At, chip: int | Chip = 0) -> Iterator[nn.Module]:
    """A private copy of the model that computes with what one chip reads back.

    Inside, gradients are off and TF32 is not used. The copy is in evaluation mode, and valid within
    the block only.

    Args:
        placement: The model and its memories; the model is not written to.
        at: Operating points; see `Placement.points`.
        chip: Seed of a chip, as `joulewise.simulation.simulate` counts them, or a chip.

    Yields:
        The copy, to be called as the model is. Each call of it is one use of the chip.

    Raises:
        InputError: if the points do not fit the placement.
        ModelError: if the model cannot be copied.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> layer = torch.nn.Linear(100, 10)
        >>> with loaded(place(layer, weights=SRAM(bits=4)), at={"eta": 0.1}) as faulty:
        ...     outputs = faulty(torch.ones(1, 100))
        >>> torch.equal(outputs, layer(torch.ones(1, 100)))
        False
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    points = placement.points(at)
    if not isinstance(chip, Chip):
        chip = Chip(seed=check_count("chip", chip, 0))
    with private_memory(placement) as memory:
        memory.read(points, chip)
        stop = memory.watch_first_pass()
        try:
            yield memory.placement.model
        finally:
            stop()
