"""Tracing: one forward pass that counts what it reads, writes and multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from joulewise.devices import MatrixInputs
from joulewise.errors import ModelError, refuse
from joulewise.nested import batch_size, tensors_in
from joulewise.placement.kv_cache import CacheEntries, is_cache_name, watch_cache
from joulewise.placement.matrix_inputs import matrix_inputs_of
from joulewise.placement.private_copy import PrivateModel
from joulewise.placement.process_state import Exact, Opened
from joulewise.placement.storage import Owners, parameter_groups

if TYPE_CHECKING:
    from joulewise.placement.placement import Placement

__all__ = ["ActivationTrace", "Trace", "layer_inputs", "trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationTrace:
    """Activations at one layer input.

    Args:
        shape: Shape of one sample; of the largest if calls differ.
        largest: Largest magnitude over all samples.
        words_per_inference: Words written and read by one inference, all calls together.
        refusal: Reason why a memory cannot hold it, one sentence; None if one can.
    """

    shape: tuple[int, ...]
    largest: float
    words_per_inference: float
    refusal: str | None = None


@dataclass(slots=True)
class Trace:
    """Counts of one inference.

    Args:
        weight_reads: Words read of each parameter.
        activations: Activations by name of the layer input.
        called: Layers that were called as modules.
        macs: Multiply-accumulates, those without a weight (attention) included.
        macs_in_memory: Multiply-accumulates of the products in ``matrix_inputs``.
        matrix_inputs: Inputs of the products with each parameter on a memory that computes.
    """

    weight_reads: dict[str, float] = field(default_factory=dict)
    activations: dict[str, ActivationTrace] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    macs: float = 0.0
    macs_in_memory: float = 0.0
    matrix_inputs: dict[str, list[MatrixInputs]] = field(default_factory=dict)


def layer_inputs(layer: str, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """The distinct floating tensors among a layer's arguments, in order.

    By name: ``conv1:input``, then ``conv1:input1`` for a second one. Self-attention is called with
    one tensor as query, key and value: it is stored once.
    """
    distinct = {id(t): t for t in tensors_in((args, kwargs)) if t.is_floating_point()}
    return {f"{layer}:input{number or ''}": t for number, t in enumerate(distinct.values())}


def trace(
    placement: Placement, inputs: Any, layers: Sequence[str] = (), *, cache: bool = False
) -> Trace:
    """Run one batch through a private copy of the model and count, per sample.

    A weight is read once by each operation that consumes it, whatever the batch (one inference is a
    batch of one), except that an embedding reads only the rows that are looked up, and a mixture of
    experts, stacked in one parameter, those that some token of the batch chose. Work that does
    not depend on the batch (a weight made from parameters, positions looked up once) is counted in
    full; all else is divided by the samples.

    Args:
        placement: The model and its memories.
        inputs: A batch, first axis the samples.
        layers: The modules whose inputs to watch.
        cache: True to watch cached keys and values, too.

    Returns:
        The counts; a model that fails on these inputs is refused with a ``ModelError``.
    """
    owners = {name: group.owners for name, group in parameter_groups(placement.model).items()}
    private = PrivateModel(placement.model, owners, placement.rebuild)
    for name, original in private.originals.items():
        clone = original.clone()
        for parameter in private.parameters[name]:
            parameter.data = clone
    samples, found = batch_size(inputs), Trace()
    computing = [placed.name for placed in placement.placed if placed.device.array is not None]
    counter = _Counter(found, private, samples, computing)
    for layer in layers:
        module = private.modules[layer]
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            hook = partial(_look, found, samples, layer)
            module.register_forward_pre_hook(hook, with_kwargs=True)
    if cache or any(is_cache_name(placed.name) for placed in placement.placed):
        watch_cache(private.model, partial(_look_at_cache, found, samples))
    counter.mark(inputs)
    with Exact(private.model), Opened(), torch.no_grad(), counter:
        private.run(inputs)
    return found


def _look(
    found: Trace, samples: int, layer: str, module: nn.Module, args: Any, kwargs: Any
) -> None:
    """Look at the inputs of a layer, in a pre-hook that leaves them as they are."""
    found.called.add(layer)
    packed = any(isinstance(arg, PackedSequence) for arg in (*args, *kwargs.values()))
    for name, tensor in layer_inputs(layer, args, kwargs).items():
        odd = "a packed sequence" if packed else _odd_layout(module, tensor, name)
        now, before = _activation(name, tensor, odd, samples), found.activations.get(name)
        found.activations[name] = now if before is None else _together(before, now)


def _look_at_cache(
    found: Trace, samples: int, name: str, tensor: Tensor, entries: CacheEntries
) -> Tensor:
    found.activations[name] = _activation(name, tensor, None, samples)
    return tensor


def _activation(name: str, tensor: Tensor, odd: str | None, samples: int) -> ActivationTrace:
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    shape, refusal, advice = tuple(tensor.shape), None, f"exclude '{name}'"
    if odd is not None:
        refusal = f"{name} is {odd}; allowed: a first axis that is the batch; {advice}"
    elif tensor.ndim == 0 or shape[0] % samples:
        allowed = f"a first axis that is a multiple of the batch, {samples}; {advice}"
        refusal = f"the shape of {name} is {shape}; allowed: {allowed}"
    elif not largest < float("inf"):
        refusal = f"{name} is NaN or infinite in the traced pass; allowed: finite ones; {advice}"
    else:
        rows = shape[0] // samples
        shape = shape[1:] if rows == 1 else (rows, *shape[1:])
    words = tensor.numel() / samples
    return ActivationTrace(shape=shape, largest=largest, words_per_inference=words, refusal=refusal)


def _odd_layout(module: nn.Module, tensor: Tensor, name: str) -> str | None:
    """Layout of an input whose batch is not the first axis, by the attributes of the layer."""
    if isinstance(module, nn.RNNBase) and not name.endswith(":input"):
        return "a recurrent state, with the batch on its second axis"
    if getattr(module, "batch_first", True) is False and tensor.ndim == 3:
        return "laid out with the sequence first (batch_first=False)"
    return None


def _together(before: ActivationTrace, now: ActivationTrace) -> ActivationTrace:
    """Several calls of one layer pass through the same memory: it has to hold the largest."""
    return ActivationTrace(
        shape=max(before.shape, now.shape, key=prod),
        largest=max(before.largest, now.largest),
        words_per_inference=before.words_per_inference + now.words_per_inference,
        refusal=before.refusal or now.refusal,
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts consumption of watched storages and multiply-accumulates, operation by operation."""

    def __init__(
        self, found: Trace, private: PrivateModel, samples: int, computing: Collection[str]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found, self.samples, self.computing = found, samples, computing
        self.parameters = {name: own[0].detach() for name, own in private.parameters.items()}
        self.originals = private.originals
        self._owners = Owners(self.parameters)
        self._of_batch = WeakTensorKeyDictionary()

    def mark(self, nested: Any) -> None:
        """Remember tensors as belonging to the batch."""
        for tensor in tensors_in(nested):
            self._of_batch[tensor] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # inference mode shows composite operations whole
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        consumed = list(tensors_in((args, kwargs)))
        out = func(*args, **kwargs)
        operation = func._overloadpacket
        share = 1
        if self._belongs_to_batch(operation, consumed, out):
            self.mark(out)
            share = self.samples
        macs = 0.0
        if operation in flop_registry:
            macs = flop_registry[operation](*args, **kwargs, out_val=out) / 2 / share
        elif operation in _MORE_MACS:
            macs = _MORE_MACS[operation](*consumed, out) / share
        elif operation.__name__ in _GROUPED:
            macs = consumed[0].numel() * out.shape[-1] / share
        self.found.macs += macs
        if not _is_view(func):
            self._count_uses(consumed, operation, args, share, macs)
        return out

    def _belongs_to_batch(self, operation: Any, consumed: Sequence[Tensor], out: Any) -> bool:
        if any(tensor in self._of_batch for tensor in consumed):
            return True
        # Made for the batch without a look at it: a recurrent layer's first state, positions.
        grown = not consumed or operation in (torch.ops.aten.expand, torch.ops.aten.repeat)
        return grown and any(t.ndim > 1 and self.samples in t.shape[:2] for t in tensors_in(out))

    def _count_uses(
        self, consumed: Sequence[Tensor], operation: Any, args: Any, share: int, macs: float
    ) -> None:
        for tensor in consumed:
            if (owner := self._owners.find(tensor)) is None:
                continue
            name, _ = owner
            words: float = min(tensor.numel(), self.parameters[name].numel())
            if operation in _LOOK_UPS:
                words = consumed[1].numel() / share * tensor.shape[-1]
            elif tensor.ndim > 2:
                words = min(words, _experts_read(operation, args, consumed) * tensor[0].numel())
            self.found.weight_reads[name] = self.found.weight_reads.get(name, 0.0) + words
            if name not in self.computing:
                continue
            product = matrix_inputs_of(operation, args, tensor, self.parameters[name], share)
            if product is None:
                continue
            if not math.isfinite(product.largest):
                got = "NaN or infinite in the traced pass"
                refuse(f"what {name} is multiplied with", got, "finite activations", ModelError)
            # Kept as long as the placement: with the user's tensor, not with that of the copy.
            product = replace(product, weight=self.originals[name])
            self.found.matrix_inputs.setdefault(name, []).append(product)
            self.found.macs_in_memory += macs
            macs = 0.0  # once, where two weights are multiplied with each other


# A table and the indices of the rows that are read.
_LOOK_UPS = (
    torch.ops.aten.embedding,
    torch.ops.aten.embedding_renorm_,
    torch.ops.aten._embedding_bag,
    torch.ops.aten._embedding_bag_forward_only,
)

# Products of groups of rows with a matrix each, by ends of the groups: PyTorch's, and that of
# transformers where it does not fit.
_GROUPED = ("_grouped_mm", "grouped_mm_fallback")


def _experts_read(operation: Any, args: Any, consumed: Sequence[Tensor]) -> float:
    """Matrices of a stack that an operation reads; infinity where it may be all."""
    if operation.__name__ in _GROUPED:
        ends = consumed[2]
        return int(torch.diff(ends, prepend=ends.new_zeros(1)).count_nonzero())
    if operation is torch.ops.aten.index and len(args[1]) == 1 and args[1][0].dtype != torch.bool:
        return len(torch.unique(args[1][0]))
    return math.inf


# What torch's flop counter leaves out. A bilinear layer's products with its first input dominate.
_MORE_MACS: Mapping[Any, Callable[..., float]] = {
    torch.ops.aten.dot: lambda a, b, out: a.numel(),
    torch.ops.aten.mv: lambda matrix, vector, out: matrix.numel(),
    torch.ops.aten.addmv: lambda bias, matrix, vector, out: matrix.numel(),
    torch.ops.aten._trilinear: lambda a, w, b, out: w.numel() // len(w) * out.numel(),
}


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write
