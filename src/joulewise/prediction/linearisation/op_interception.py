"""Interception of the torch functions of a forward pass that consume placed weights.

Every torch function that the model calls passes by, whatever module or plain function calls it.
Calls with a reader (`op_readers`) that got a placed weight, or a view of one, are recorded with
what their per-sample gradients need, and hooks catch the gradient at their output.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from joulewise.errors import ModelError
from joulewise.placement import Placed, differentiating
from joulewise.placement.function_mode import CompositeMode
from joulewise.placement.storage import Owners
from joulewise.prediction.linearisation.gradients import BatchAxis
from joulewise.prediction.linearisation.op_readers import READERS, WeightRead
from joulewise.prediction.problem import Problem

__all__ = ["ActivationUse", "Interception", "Key", "WeightUse", "intercepted_pass"]

Key = tuple[str, int]
"""A placed tensor and the zero-based index of one of its uses."""


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class WeightUse:
    """One use of a placed weight in one forward pass.

    Args:
        name: The placed tensor.
        ordinal: Zero-based index of this use of it in the pass.
        read: The weight as the call read it.
        offset: The entry of the placed tensor at which that weight begins.
        caught: Gradients at the operation's output, one for each backward pass so far.
    """

    name: str
    ordinal: int
    read: WeightRead
    offset: int
    caught: list[Tensor] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """The placed tensor and this use of it."""
        return self.name, self.ordinal

    def view(self, whole: Tensor) -> Tensor:
        """The part that this use reads, of a tensor with the placed tensor's memory layout."""
        weight = self.read.weight
        start = whole.storage_offset() + self.offset
        return whole.as_strided(weight.shape, weight.stride(), start)

    def spread(self, parts: Tensor, whole: Tensor) -> Tensor:
        """Gradients ``[number, *part]`` as gradients ``[number, *whole]``, 0 elsewhere."""
        weight = self.read.weight
        if weight.shape == whole.shape and weight.stride() == whole.stride():
            return parts
        steps = zip(whole.shape, whole.stride(), strict=True)
        span = 1 + sum((length - 1) * stride for length, stride in steps)
        strides = (span, *weight.stride())
        flat = parts.new_zeros(len(parts), span)
        seen = flat.as_strided(parts.shape, strides, self.offset)
        seen += parts
        return flat.as_strided((len(parts), *whole.shape), (span, *whole.stride()))

    def jacobian(self, batch: BatchAxis, gs: Sequence[Tensor], whole: Tensor) -> Tensor:
        """Gradients by this use, ``[samples, scalars, *whole]``; see `OperationGradients`."""
        part = self.read.gradients(batch).jacobians(gs)
        spread = self.spread(part.flatten(0, 1), whole)
        return spread.reshape(*part.shape[:2], *spread.shape[1:])


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class ActivationUse:
    """A placed activation in one forward pass, each of whose words has faults of its own.

    Args:
        placed: The placed tensor.
        inputs: The values stored, ``[batch, ...]``.
        mean: The mean read, in the same shape.
        var: The variance, too.
        caught: Gradients at the mean read, one for each backward pass so far.
    """

    placed: Placed
    inputs: Tensor
    mean: Tensor
    var: Tensor
    caught: list[Tensor] = field(default_factory=list)


class Interception(CompositeMode):
    """Records the uses of placed tensors while it is active as a context manager.

    Args:
        weights: The placed weights that the model computes with, by name.

    Attributes:
        uses: Uses of placed weights, in order.
        activations: Uses of placed activations, in order.
        each: Called with a use whenever a gradient was caught at it; None for nothing.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        some = next(iter(weights.values()), torch.zeros(()))
        # A zero that every output of a recorded operation depends on: asking autograd for its
        # gradient makes a backward pass visit every use.
        self._root = torch.zeros((), device=some.device, requires_grad=True)
        self._roots = [self._root, *(w for w in weights.values() if w.requires_grad)]
        self.uses: list[WeightUse] = []
        self.activations: list[ActivationUse] = []
        self.each: Callable[[WeightUse], None] | None = None
        self._owners = Owners(weights)
        self._counts = dict.fromkeys(weights, 0)
        self._hooks: list[RemovableHandle] = []

    def called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See `CompositeMode`.

        Raises:
            ModelError: if an embedding rescales its weight as it is read.
        """
        output = func(*args, **kwargs)
        if func is torch.embedding_renorm_:
            raise ModelError(
                "an embedding with max_norm rescales its weight as it is read, which no gradient "
                "shows; allowed: an embedding without max_norm, or simulate"
            )
        if func not in READERS:
            return output
        uses = self._uses_of(func, args, kwargs)
        if not uses or not isinstance(output, Tensor):
            return output
        self.uses += uses
        return self._caught(output, uses)

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Record a placed activation; see `joulewise.placement.Observer`."""
        use = ActivationUse(placed=placed, inputs=inputs, mean=mean.detach(), var=var)
        self.activations.append(use)
        return self._caught(mean, [use])

    def backward(
        self, output: Tensor, probe: Tensor, *, keep: bool = False, create: bool = False
    ) -> None:
        """Catch the gradients at every use, from the gradient ``probe`` at the output.

        ``keep`` keeps the graph for another pass; ``create`` makes gradients differentiable.
        """
        if not output.requires_grad:  # nothing was intercepted
            return
        with differentiating("; or simulate"):
            torch.autograd.grad(
                output,
                self._roots,
                probe,
                retain_graph=keep,
                create_graph=create,
                allow_unused=True,
            )

    def clear(self) -> None:
        """Forget the gradients that were caught, before the next backward pass."""
        for gradients in [use.caught for use in self.uses] + [a.caught for a in self.activations]:
            gradients.clear()

    def release(self) -> None:
        """Remove the hooks: a backward pass through the gradients' own graph visits them again."""
        for hook in self._hooks:
            hook.remove()

    def _caught(self, output: Tensor, uses: Sequence[WeightUse | ActivationUse]) -> Tensor:
        """The output, made to depend on the root; its gradients are caught for the uses."""
        if not torch.is_grad_enabled():
            return output
        if not output.requires_grad:
            output = output + self._root.to(output.dtype)
        for use in uses:
            handle = output.register_hook(self._hook(use))  # type: ignore[no-untyped-call]
            self._hooks.append(handle)
        return output

    def _hook(self, use: WeightUse | ActivationUse) -> Callable[[Tensor], None]:
        """A hook that refers weakly to the use.

        Uses hold tensors of the graph that holds the hook. Python cannot free a cycle through a
        graph: what an interrupt left would stay in memory.
        """
        weak_self, weak_use = weakref.ref(self), weakref.ref(use)

        def caught(gradient: Tensor) -> None:
            interception, one = weak_self(), weak_use()
            if interception is None or one is None:
                return
            one.caught.append(gradient)
            if interception.each is not None and isinstance(one, WeightUse):
                interception.each(one)

        return caught

    def _uses_of(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[WeightUse]:
        uses = []
        try:
            for read in READERS[func](*args, **kwargs):
                if (found := self._owners.find(read.weight)) is not None:
                    name, offset = found
                    ordinal = self._counts[name]
                    self._counts[name] += 1
                    uses.append(WeightUse(name=name, ordinal=ordinal, read=read, offset=offset))
        except (TypeError, IndexError, RuntimeError):
            return []  # arguments that the reader does not know; the self-check finds the weight
        return uses


def intercepted_pass(
    problem: Problem, means: Mapping[str, Tensor], inputs: Any
) -> tuple[Tensor, Interception]:
    """The output at the mean read of each placed tensor, and the uses of these tensors."""
    interception = Interception(means)
    problem.memory.expect(problem.points, means, interception.observe)
    with interception:
        return problem.memory.call(inputs), interception
