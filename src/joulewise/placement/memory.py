"""The memory: stored tensors, read back into the model by one chip after another.

Perturbing a model is written here and nowhere else: save, replace, run, restore bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.data.nested import batch_size, tensors_in
from joulewise.devices import Chip, Common, Moments, Point
from joulewise.errors import ModelError, refuse
from joulewise.placement.conversion import Conversion, Converters
from joulewise.placement.gradients import RangeSlope, clipped, straight_through
from joulewise.placement.placing import Placed, Placement, check_complete
from joulewise.placement.precision import full_precision
from joulewise.placement.restoring import every_module_called, plain_execution
from joulewise.placement.tracing import float_inputs, input_name

__all__ = ["Memory", "Observer", "loaded", "read_by"]

Observer = Callable[[Placed, Tensor, Tensor, Tensor], Tensor]
"""Told of a placed activation, its mean read and that read's variance, all ``[batch, ...]``.

What it returns goes on in place of the mean read.
"""


class Memory:
    """The tensors of a placement, stored; the model computes with what is read back.

    Made by `loaded` and `read_by`. After `original`, `ideal` or `read` the model can be called as
    often as needed, and computes with the tensors of that choice.

    Args:
        placement: What is stored where.
        ranges: By name of a placed weight, the magnitude that it is clipped to before it is stored.

    Attributes:
        stored: Each placed weight, as its device stores it.
        converters: Of the weights whose arrays round.
    """

    def __init__(self, placement: Placement, ranges: Mapping[str, Tensor] | None = None) -> None:
        self._placement = placement
        self._weights = [p for p in placement.placed if p.role == "weight"]
        self._modules = dict(placement.model.named_modules())
        self._parameters = {p.name: p.parameters(self._modules) for p in self._weights}
        self._originals = {name: own[0].detach() for name, own in self._parameters.items()}
        self._ranges = ranges or {}
        self._clipped = self._originals | {
            name: clipped(self._originals[name], alpha) for name, alpha in self._ranges.items()
        }
        self.stored = {
            p.name: p.device.store(self._clipped[p.name], name=p.name) for p in self._weights
        }
        found = {p.name: Converters.of(p, self.stored[p.name]) for p in self._weights}
        self.converters = {name: c for name, c in found.items() if c is not None}
        self._conversion = Conversion(self.converters)
        self._current: dict[str, Tensor] = {}
        self._fresh = [p for p in self._weights if p.device.fresh]
        self._samples: int | None = None
        self._chip: Chip | None = None
        self._plan: Mapping[str, Point] | None = None
        self._observer: Observer | None = None
        self._in_table = False
        self._used, self._again, self._convert = False, True, True

    @cached_property
    def _ideal(self) -> dict[str, Tensor]:
        """What a perfect memory reads; not needed in a step of training."""
        return {p.name: p.device.ideal(self.stored[p.name]) for p in self._weights}

    @property
    def watches(self) -> bool:
        """Whether something happens at each forward pass."""
        return bool(self._fresh or self._conversion)

    def original(self) -> None:
        """Compute with the model's own tensors, not rounded to words."""
        self._chip, self._plan = None, None
        self._install(self._originals)

    def ideal(self) -> None:
        """Compute with what a perfect memory of the same word format reads back."""
        self._chip, self._plan = None, self._placement.plan_at_most_reliable()
        # Copies: a forward pass may write in place (an embedding's max_norm).
        self._install({name: tensor.clone() for name, tensor in self._ideal.items()})

    def read(self, plan: Mapping[str, Point], chip: Chip, *, again: bool = True) -> None:
        """Compute with what ``chip`` reads back at the points of ``plan``.

        Every forward pass of the model after the first is the chip's next use: what is fresh at
        each read is read again then, if ``again``.
        """
        check_complete(plan, [p.name for p in self._placement.placed])
        self._chip, self._plan = chip, plan
        self._install({p.name: self.weight(p, plan[p.name], chip) for p in self._weights})
        self._used, self._again = False, again

    def _read_again(self) -> None:
        """Before a forward pass."""
        if self._chip is None or self._plan is None or not (self._fresh and self._again):
            return
        if self._used:
            self._chip = self._chip.again()
            read = {p.name: self.weight(p, self._plan[p.name], self._chip) for p in self._fresh}
            self._install(read)
        self._used = True

    def moments(self, plan: Mapping[str, Point]) -> dict[str, Moments]:
        """Mean and variance over chips of what each placed weight reads at the points of ``plan``.

        In the weight's own shape and layout, the mean in its dtype; differentiable in the points.
        """
        check_complete(plan, [p.name for p in self._placement.placed])
        return {p.name: self._moments_of(p, plan[p.name]) for p in self._weights}

    def _moments_of(self, placed: Placed, point: Point) -> Moments:
        moments = placed.device.moments(self.stored[placed.name], point)
        like = self._originals[placed.name]
        # Both laid out as the weight is, so that one view fits all three.
        mean = torch.empty_like(like).copy_(moments.mean)
        var = torch.empty_like(like, dtype=moments.var.dtype).copy_(moments.var)
        common = moments.common
        if common is not None:
            common = Common(var=common.var, coupling=torch.empty_like(like).copy_(common.coupling))
        return Moments(mean=mean, var=var, common=common)

    def weight(self, placed: Placed, point: Point, chip: Chip) -> Tensor:
        """What one chip reads of one placed weight; the model goes on with what it has."""
        return placed.device.read(self.stored[placed.name], point, chip.at(placed.name))

    def expect(
        self,
        plan: Mapping[str, Point],
        means: Mapping[str, Tensor],
        observer: Observer | None = None,
        *,
        convert: bool = True,
    ) -> None:
        """Compute with the mean over chips of what is read; gradients flow into the means.

        Args:
            plan: An operating point for each placed tensor.
            means: The mean of each placed weight, as from `moments`.
            observer: Told of each placed activation as it passes through its memory.
            convert: Whether converters and the words of activations round.
        """
        check_complete(plan, [p.name for p in self._placement.placed])
        self._install({name: mean.detach() for name, mean in means.items()})
        self._chip, self._plan, self._observer = None, plan, observer or _pass_on
        self._convert = convert
        if any(mean.requires_grad for mean in means.values()):
            for placed in self._weights:
                for path, name in placed.owners:
                    table: dict[str, Any] = self._modules[path]._parameters
                    table[name] = means[placed.name]
            self._in_table = True

    def _put_parameters_back(self) -> None:
        if self._in_table:
            for placed in self._weights:
                own = self._parameters[placed.name]
                for (path, name), parameter in zip(placed.owners, own, strict=True):
                    table: dict[str, Any] = self._modules[path]._parameters
                    table[name] = parameter
            self._in_table = False

    def changed(self) -> None:
        """Tell PyTorch that weights are others now, where it would not notice.

        Graphs that kept them are refused from now on, and what autocast kept of them is dropped.
        """
        torch.autograd.graph.increment_version(self._own())
        torch.clear_autocast_cache()

    def scale_gradients(self) -> Callable[[], None]:
        """Gradients from now on times what is read over what is stored; the result stops that."""
        stack = ExitStack()
        for placed in self._weights:
            stored, read = self._ideal[placed.name], self._current[placed.name]
            ratio = torch.where(stored == 0, 1.0, read / stored)
            for parameter in _distinct(self._parameters[placed.name]):
                if parameter.requires_grad:
                    hook: Any = parameter.register_hook(ratio.mul)  # type: ignore[no-untyped-call]
                    stack.callback(hook.remove)
        return stack.close

    def learn_ranges(self) -> Callable[[], None]:
        """Gradients of the ranges are accumulated from now on; the result stops that.

        Called after `scale_gradients`, they are those of scaled gradients.
        """
        stack = ExitStack()
        for name, alpha in self._ranges.items():
            slope = RangeSlope(alpha, self._originals[name], self._clipped[name])
            for parameter in _distinct(self._parameters[name]):
                stack.callback(slope.follow(parameter))
        return stack.close

    def _own(self) -> list[Tensor]:
        return [p for own in self._parameters.values() for p in _distinct(own)]

    def differs(self) -> bool:
        """Whether any weight that the model computes with now differs from a perfect memory's."""
        return any(
            not torch.equal(self._parameters[name][0], ideal) for name, ideal in self._ideal.items()
        )

    def _install(self, tensors: Mapping[str, Tensor]) -> None:
        self._put_parameters_back()
        self._observer, self._convert = None, True
        # The data and not the object: modules may refer to a parameter elsewhere, in a list, say.
        for name, tensor in tensors.items():
            for parameter in self._parameters[name]:
                parameter.data = tensor
        self._current.update(tensors)

    def watch(self, model: nn.Module) -> Callable[[], None]:
        """Look at when and with how many samples the model is called; the result stops that."""

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._samples = batch_size((args, kwargs))
            self._read_again()
            if self._plan is not None and self._convert and self._conversion:
                # Above whatever watches the model: it sees the products that the arrays make.
                self._conversion.begin(self._current)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._samples = None
            self._conversion.end()

        if isinstance(model, torch.jit.ScriptModule):
            allowed = "a module that is not, for noise that is new at each read, and for converters"
            refuse("the model", "scripted", allowed, ModelError)
        first = model.register_forward_pre_hook(enter, with_kwargs=True)
        last = model.register_forward_hook(leave, always_call=True)

        def stop() -> None:
            first.remove()
            last.remove()
            # Ctrl-C in a forward pass: no hook is called after it.
            self._conversion.end(at_all=True)

        return stop

    def hook(self, layer: str, by_name: Mapping[str, Placed]) -> Callable[..., Any]:
        """A forward pre-hook that passes the placed inputs of ``layer`` through their memory."""

        def pass_through(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if self._plan is None:
                return None
            read: dict[int, Tensor] = {}
            for position, tensor in enumerate(float_inputs(args, kwargs)):
                placed = by_name.get(input_name(layer, position))
                if placed is not None:
                    read[id(tensor)] = self._round_trip(placed, tensor)
            return _swap(args, read), _swap(kwargs, read)

        return pass_through

    def _round_trip(self, placed: Placed, tensor: Tensor) -> Tensor:
        assert self._plan is not None
        chip = self._chip.at(placed.name) if self._chip is not None else None
        point = self._plan[placed.name]
        if not tensor.numel():
            return tensor
        samples = self._samples or _samples(placed, tensor)
        rows, left = divmod(tensor.shape[0], samples)
        if left:
            allowed = f"a first axis that is a multiple of the batch, {samples}"
            refuse(f"the shape of {placed.name}", tuple(tensor.shape), allowed, ModelError)
        # Several rows may make up one sample (windows, say): cells are per sample.
        together = tensor if rows == 1 else tensor.reshape(samples, rows, *tensor.shape[1:])
        if self._observer is not None:
            return self._mean_round_trip(placed, together, point).reshape(tensor.shape)
        read: Tensor = placed.device.round_trip(
            together, point, chip, placed.limit, words=placed.words
        )
        return straight_through(tensor, read.reshape(tensor.shape))

    def _mean_round_trip(self, placed: Placed, inputs: Tensor, point: Point) -> Tensor:
        """The mean over chips of what is read, and to the observer its variance.

        What arrives is rounded, so its gradient is that of the straight line through the mean read
        as a function of the rounded values (exact for faults that are linear in the word).
        """
        assert self._observer is not None
        device = placed.device
        stored = device.store(inputs, limit=placed.limit, name=placed.name)
        moments = device.moments(stored, point)
        mean = moments.mean.to(inputs.dtype)
        if torch.is_grad_enabled() or not self._convert:
            ideal = device.ideal(stored).detach()
            slope = _slope(ideal, moments.mean).to(inputs.dtype)
            if self._convert:
                mean = mean + slope * (inputs - inputs.detach())
            else:
                # The line itself, where nothing is rounded.
                inside = inputs.clamp(float(ideal.min()), float(ideal.max()))
                mean = mean.mean() + slope * (inside - ideal.to(inputs.dtype).mean())
        return self._observer(placed, inputs.detach(), mean, moments.var)


def _pass_on(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The observer of those who only want the mean."""
    return mean


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """The least-squares slope of ``y`` over ``x``; 1 where ``x`` does not vary."""
    x, y = x.double() - x.double().mean(), y.double()
    spread = x.square().sum()
    return torch.where(spread > 0, (x * y).sum() / spread.clamp_min(1e-300), 1.0)


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each object once."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def _samples(placed: Placed, tensor: Tensor) -> int:
    """The samples in a layer's input, where the layer is called without the model around it."""
    if tensor.ndim == len(placed.shape) + 1:
        return len(tensor)
    return max(tensor.numel() // placed.words, 1)


def _swap(nested: Any, read: Mapping[int, Tensor]) -> Any:
    """The same nesting with tensors replaced by identity; parts without any are left alone."""
    if isinstance(nested, Tensor):
        return read.get(id(nested), nested)
    if not any(id(tensor) in read for tensor in tensors_in(nested)):
        return nested
    if isinstance(nested, Mapping):
        swapped = {key: _swap(value, read) for key, value in nested.items()}
        if not isinstance(nested, MutableMapping):
            return swapped
        same = copy.copy(nested)
        same.update(swapped)
        return same
    values = [_swap(value, read) for value in nested]
    return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)


@contextmanager
def loaded(placement: Placement) -> Iterator[Memory]:
    """Store a placement's tensors, and let the model compute with what is read back.

    Inside, the model is in evaluation mode without gradients, and multiplies float32 as such.
    Whatever happens inside, an exception or Ctrl-C included, afterwards the model has its own
    parameters (the same objects with the same storage), buffers, attributes, hooks and modes again.

    Args:
        placement: What is stored where.

    Yields:
        The memory, set to `Memory.ideal`.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> layer = torch.nn.Linear(100, 10)
        >>> before = layer.weight.clone()
        >>> placement = place(layer, weights=SRAM(bits=4))
        >>> with loaded(placement) as memory:
        ...     memory.read(placement.plan(eta=0.1), Chip(seed=0))
        ...     changed = bool((layer.weight != before).any())
        >>> changed, torch.equal(layer.weight, before)
        (True, True)
    """
    memory = Memory(placement)
    model = placement.model
    with plain_execution(model), full_precision(model), _attached(memory, placement):
        memory.ideal()
        yield memory


@contextmanager
def read_by(
    placement: Placement,
    plan: Mapping[str, Point],
    chip: Chip | None,
    *,
    scale_gradients: bool = False,
    ranges: Mapping[str, Tensor] | None = None,
) -> Iterator[Memory]:
    """Store the weights as they are now, and let the model compute with what one chip reads.

    The model stays in its mode, and what its forward passes do to buffers stays done. Gradients
    land on the parameters themselves, straight through words and faults, and pass those of
    activations likewise. All is read once, noise of reads included, whatever is run inside.
    Afterwards, an exception and Ctrl-C included, the weights are back: the same objects with the
    same storage. Whatever was written to them inside is gone.

    Forward and backward passes belong into one block. PyTorch refuses a backward pass through
    weights that were read before, or are read no longer, as one after a change in place.

    Args:
        placement: What is stored where.
        plan: An operating point for each placed tensor.
        chip: Who reads; None for a perfect memory of the same format, whatever the plan.
        scale_gradients: Multiply the gradient of each weight by what is read over what is stored.
        ranges: By name of a placed weight, the magnitude that it is clipped to before it is stored,
            above 0; those that require a gradient get theirs in ``grad``, as `LearnedRanges` says.

    Yields:
        The memory that reads.
    """
    memory = Memory(placement, ranges)
    with ExitStack() as stack:
        stack.enter_context(every_module_called())
        stack.enter_context(_attached(memory, placement))
        stack.callback(memory.changed)
        stack.callback(memory.original)
        memory.changed()
        if chip is None:
            memory.ideal()
        else:
            memory.read(plan, chip, again=False)
        if scale_gradients:
            stack.callback(memory.scale_gradients())
        stack.callback(memory.learn_ranges())
        yield memory


@contextmanager
def _attached(memory: Memory, placement: Placement) -> Iterator[None]:
    """The memory sees what passes through the model."""
    by_name = {p.name: p for p in placement.placed if p.role == "activation"}
    layers = {path for p in by_name.values() for path, _ in p.owners}
    modules = dict(placement.model.named_modules())
    with ExitStack() as stack:
        if layers or memory.watches:
            stack.callback(memory.watch(placement.model))
        for layer in layers:
            hook = memory.hook(layer, by_name)
            stack.callback(modules[layer].register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield
