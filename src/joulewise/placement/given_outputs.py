"""Outputs of the model as given, in little memory.

Logits of a language model take a hundred times the memory of the inputs of the layer that gives
them. Beyond a number of bytes, those inputs are kept, and the logits are computed from them again
when they are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GivenOutputs", "LinearOutput", "output_layer"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearOutput:
    """An output that is that of a linear layer.

    Args:
        layer: The layer.
        inputs: Its inputs, ``[..., in_features]``.
    """

    layer: nn.Linear
    inputs: Tensor


class _Recomputed:
    """A `LinearOutput` with the present weights, which do not follow those of the layer."""

    def __init__(self, output: LinearOutput) -> None:
        self._inputs = output.inputs.detach().clone()
        self._weight, bias = output.layer.weight.detach(), output.layer.bias
        self._bias = None if bias is None else bias.detach()

    def tensor(self) -> Tensor:
        return nn.functional.linear(self._inputs, self._weight, self._bias)

    def gives(self, output: Tensor) -> bool:
        one_type = self._inputs.dtype == self._weight.dtype == output.dtype
        return one_type and torch.equal(self.tensor(), output)


class GivenOutputs(Sequence[Any]):
    """Main tensors of the outputs, one a batch, float32 or float64; None where one has none.

    Args:
        kept_bytes: Outputs beyond this size are computed again at each access, if they are those
            of a linear layer with more outputs than inputs.

    Attributes:
        shapes: Their shapes; None where there is no tensor.
    """

    def __init__(self, kept_bytes: int) -> None:
        self.shapes: list[torch.Size | None] = []
        self._left = kept_bytes
        self._each: list[Tensor | _Recomputed | None] = []

    def append(self, output: Tensor | None, source: LinearOutput | None) -> None:
        """Add the output of the next batch, and the layer that it comes from, if any."""
        self.shapes.append(None if output is None else output.shape)
        if output is None:
            self._each.append(None)
            return
        kept: Tensor | _Recomputed | None = None
        if self._left < output.nbytes and source and source.inputs.numel() < output.numel():
            again = _Recomputed(source)
            # Hooks, reparametrisations and autocast may change what the layer computes.
            kept = again if again.gives(output) else None
        if kept is None:
            # A copy: a model may return its own buffer, and a metric may work in place.
            kept = output.to(_precise(output.dtype), copy=True)
            self._left -= kept.nbytes
        self._each.append(kept)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        one = self._each[number]
        if not isinstance(one, _Recomputed):
            return one
        found = one.tensor()
        return found.to(_precise(found.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _same(one: Tensor, other: Tensor) -> bool:
    """True if two tensors are the same numbers in memory."""
    layouts = [(x.data_ptr(), x.shape, x.stride()) for x in (one, other)]
    return layouts[0] == layouts[1]


@contextmanager
def output_layer(
    layers: Iterable[nn.Linear],
) -> Iterator[Callable[[Tensor | None], LinearOutput | None]]:
    """Track which of some linear layers gives the output of a model.

    Yields:
        A function to call after each pass with the model's output: the layer whose output it is,
        unchanged; None if there is none, or if that layer was used several times.
    """
    uses = Counter[nn.Linear]()
    last: list[tuple[nn.Linear, Tensor, int, Tensor, int]] = []

    def remember(layer: Any, args: Any, output: Tensor) -> None:
        uses[layer] += 1
        last.clear()
        if args and isinstance(output, Tensor):
            last.append((layer, args[0], args[0]._version, output, output._version))

    def source(found: Any) -> LinearOutput | None:
        calls, once = list(last), {layer for layer, number in uses.items() if number == 1}
        last.clear()
        uses.clear()
        for layer, inputs, inputs_version, output, version in calls:
            unwritten = output._version == version and inputs._version == inputs_version
            if unwritten and layer in once and isinstance(found, Tensor) and _same(found, output):
                return LinearOutput(layer, inputs)
        return None

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(remember).remove)
        yield source
