"""Interception of the torch functions of a forward pass that consume placed weights.

Every torch function that the model calls passes by, whatever module or plain function calls it.
Calls with a reader (`op_readers`) that got a placed weight, or a view of one, are recorded with
what their per-sample gradients need, and hooks catch the gradient at their output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from joulewise.errors import ModelError
from joulewise.placement.function_mode import CompositeMode
from joulewise.placement.storage import Owners
from joulewise.prediction.linearisation.op_readers import READERS, WeightRead

__all__ = ["Interception", "Key", "WeightUse"]

Key = tuple[str, int]
"""A placed tensor and the zero-based index of one of its uses."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightUse:
    """One use of a placed weight in one forward pass.

    Args:
        name: The placed tensor.
        ordinal: Zero-based index of this use of it in the pass.
        read: The weight as the call read it.
        offset: The entry of the placed tensor at which that weight begins.
    """

    name: str
    ordinal: int
    read: WeightRead
    offset: int

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
        strides = (_span(whole), *weight.stride())
        flat = parts.new_zeros(len(parts), strides[0])
        seen = flat.as_strided(parts.shape, strides, self.offset)
        seen += parts
        return flat.as_strided((len(parts), *whole.shape), (strides[0], *whole.stride()))


def _span(tensor: Tensor) -> int:
    """Entries from the first to the last one in memory."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((length - 1) * stride for length, stride in steps)


Receiver = Callable[[WeightUse], Callable[[Tensor], None] | None]
"""Takes a use; returns a function of the gradient at the operation's output, or None."""


class Interception(CompositeMode):
    """Records the uses of placed weights while it is active as a context manager.

    Args:
        weights: The placed weights that the model computes with, by name.
        receive: Called with each use, in order.

    Attributes:
        root: A scalar zero that every output of a recorded operation depends on: asking autograd
            for its gradient makes the backward pass visit every use.
    """

    def __init__(self, weights: Mapping[str, Tensor], receive: Receiver) -> None:
        super().__init__()
        some = next(iter(weights.values()), torch.zeros(()))
        self.root = torch.zeros((), device=some.device, requires_grad=True)
        self._receive = receive
        self._owners = Owners(weights)
        self._uses: dict[str, int] = {}
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
        output = self.rooted(output)
        for use in uses:
            caught = self._receive(use)
            if caught is not None and output.requires_grad:
                self.catch(output, caught)
        return output

    def catch(self, output: Tensor, caught: Callable[[Tensor], None]) -> None:
        """Call a function with the gradient at a tensor in every backward pass until `release`."""
        handle = output.register_hook(caught)  # type: ignore[no-untyped-call]
        self._hooks.append(handle)

    def release(self) -> None:
        """Remove the hooks: a backward pass through the gradients' own graph visits them again."""
        for hook in self._hooks:
            hook.remove()

    def rooted(self, output: Tensor) -> Tensor:
        """The output, made to depend on the root unless it requires a gradient already."""
        if output.requires_grad or not torch.is_grad_enabled():
            return output
        return output + self.root.to(output.dtype)

    def _uses_of(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[WeightUse]:
        try:
            reads = READERS[func](*args, **kwargs)
            return [use for read in reads if (use := self._use(read)) is not None]
        except (TypeError, IndexError, RuntimeError):
            return []  # arguments that the reader does not know; the self-check finds the weight

    def _use(self, read: WeightRead) -> WeightUse | None:
        if (found := self._owners.find(read.weight)) is None:
            return None
        name, offset = found
        ordinal = self._uses.get(name, 0)
        self._uses[name] = ordinal + 1
        return WeightUse(name=name, ordinal=ordinal, read=read, offset=offset)
