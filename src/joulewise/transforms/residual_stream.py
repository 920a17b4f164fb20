"""Readers and writers of the residual stream of a decoder, as one pass shows them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from joulewise.errors import ModelError, refuse
from joulewise.nested import tensors_in
from joulewise.transforms.folding import Offset

__all__ = ["ResidualStream", "matrix_of", "watch"]


@dataclass(frozen=True, slots=True)
class ResidualStream:
    """Modules around a residual stream.

    Args:
        writers: Embeddings, linear layers and offsets whose sum enters a norm.
        readers: Linear layers whose input is the output of such a norm, and that norm.
    """

    writers: dict[Any, None] = field(default_factory=dict)
    readers: dict[Any, nn.Module] = field(default_factory=dict)


def matrix_of(layer: Any) -> Tensor:
    """The weight of a linear layer, ``[out, in]``, a view; GPT-2 stores the transpose."""
    weight: Tensor = layer.weight if isinstance(layer, nn.Linear) else layer.weight.mT
    return weight


def watch(model: nn.Module, block: ExitStack) -> ResidualStream:
    """Follow the residual stream through the passes of a model until a block closes.

    Args:
        model: A model that takes hooks.
        block: Takes what ends the watch.

    Returns:
        The stream, filled by the passes.
    """
    sums = _Sums()
    block.enter_context(sums)
    for module in model.modules():
        if not list(module.children()):
            block.callback(module.register_forward_hook(sums.look, with_kwargs=True).remove)
    return sums.stream


# A sum of outputs, scaled or in another dtype, is still one.
_LINEAR = {
    getattr(torch.ops.aten, name)
    for name in ("add", "add_", "mul", "mul_", "div", "div_", "clone", "_to_copy")
}


class _Sums(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Modules whose outputs add up to a tensor, by its storage, which views share."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = ResidualStream()
        self._terms: dict[int, dict[nn.Module, None]] = {}
        self._norms: dict[int, nn.Module] = {}
        self._alive: list[Tensor] = []  # keeps addresses from being given to other tensors

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in _LINEAR:
            # Scalars are factors. One tensor of unknown terms makes those of the sum unknown.
            terms = [self._terms_of(x) for x in tensors_in(args) if x.ndim]
            if all(terms):
                self._mark(out, {module: None for some in terms for module in some})
        return out

    def _terms_of(self, tensor: Tensor) -> dict[nn.Module, None]:
        return self._terms.get(_address(tensor), {})

    def _mark(self, tensor: Tensor, terms: dict[nn.Module, None]) -> None:
        self._terms[_address(tensor)] = terms
        self._alive.append(tensor)

    def look(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Forward hook of modules without children."""
        x = next(tensors_in((args, kwargs)), None)
        if x is None or not isinstance(output, Tensor):
            return
        terms = self._terms_of(x)
        if isinstance(module, nn.Embedding):
            self._mark(output, {module: None})
        elif isinstance(module, Offset):
            self._mark(output, terms | {module: None})
        elif isinstance(module, nn.Linear) or _is_transposed(module, x, output):
            norm = self._norms.get(_address(x))
            if norm is not None and self.stream.readers.setdefault(module, norm) is not norm:
                refuse("a layer", "one that reads two norms", "a layer for each norm", ModelError)
            self._mark(output, {module: None})
        # Any other module that reads a sum with an embedding in it: a norm of the stream.
        elif any(isinstance(term, nn.Embedding) for term in terms) and output.shape == x.shape:
            self._norms[_address(output)] = module
            self._alive.append(output)
            self.stream.writers.update(terms)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_transposed(module: Any, x: Tensor, output: Tensor) -> bool:
    """True for a layer that computes ``x @ weight + bias``, as GPT-2's do."""
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    if not isinstance(weight, Tensor) or weight.ndim != 2 or x.shape[-1] != len(weight):
        return False
    product = x @ weight if bias is None else x @ weight + bias
    return product.shape == output.shape and torch.allclose(product, output, rtol=1e-3, atol=1e-4)
