"""Batching: data as batches on the model's device, in its layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from joulewise.data import Split
from joulewise.errors import DataError
from joulewise.placement.calling import batch_size, to_device
from joulewise.placement.execution import SameDraws
from joulewise.placement.finiteness import check_finite
from joulewise.placement.private_copy import cloned

if TYPE_CHECKING:
    from joulewise.placement.memory import Memory

__all__ = ["Batch", "outputs_of", "prepare", "take"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs on the model's device, and targets where there are any."""

    inputs: Any
    targets: Tensor | None


def prepare(data: Split | Iterable[Any], model: nn.Module, batch: int | None = None) -> list[Batch]:
    """Data as a list of batches on the model's device, in its layout.

    Args:
        data: A split, or an iterable of batches: ``(inputs, targets)``, or inputs alone.
        model: Where the batches will go.
        batch: Samples in a batch, where ``data`` is a split; None for as many as hold about
            800,000 numbers (256 images of 32 x 32), between 32 and 2048.

    Returns:
        At least one batch.

    Raises:
        DataError: if there is no batch.
    """
    parameter = next(iter(model.parameters()), torch.zeros(()))
    channels_last = any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
    as_split = isinstance(data, Split)
    if isinstance(data, Split):
        data = data.batches(batch or min(max(800_000 // data.inputs[0].numel(), 32), 2048))
    batches: list[Batch] = []
    with SameDraws(None):  # a loader draws the seed of its workers
        items = list(data)
    for item in items:
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        inputs, targets = item if pair else (item, None)
        inputs = to_device(inputs, parameter.device)
        if channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if isinstance(inputs, Tensor) and as_split and inputs.is_floating_point():
            inputs = inputs.to(parameter.dtype)  # a split holds float32, whatever the model is
        batches.append(Batch(inputs, _targets(targets, inputs, parameter.device)))
    if not batches:
        raise DataError("the data holds no batch; allowed: at least one batch of samples")
    return batches


def _targets(targets: Any, inputs: Any, device: torch.device) -> Tensor | None:
    if targets is None:
        return None
    tensor = torch.as_tensor(targets).to(device)
    samples = batch_size(inputs)
    if tensor.ndim == 0 or len(tensor) != samples:
        raise DataError(
            f"a batch has inputs whose first axis is {samples} and targets of shape "
            f"{tuple(tensor.shape)}; allowed: the batch as the first axis of both"
        )
    return tensor


def outputs_of(memory: Memory, batches: Sequence[Batch]) -> list[Tensor]:
    """The outputs of a model as given for every batch, in float32 or float64.

    One that is NaN or infinite is refused with a ``ModelError`` that names the first layer.
    """
    # Clones: this shows whether the model writes to its inputs.
    outputs = [memory.call(cloned(batch.inputs)) for batch in batches]
    for batch, output in zip(batches, outputs, strict=True):
        check_finite(memory.placement.model, batch.inputs, output, "without any fault")
    return [o if o.dtype == torch.float64 else o.float() for o in outputs]


def take(nested: Any, of: int, chosen: Any) -> Any:
    """Some samples of a batch, copied and without gradients.

    Args:
        nested: A batch.
        of: How many samples it holds.
        chosen: A slice or indices, for the first axis of every tensor that is ``of`` long.
    """
    if isinstance(nested, Tensor):
        nested = nested.detach()
        # Copies: a model may work in place on its input.
        return (nested[chosen] if nested.ndim and len(nested) == of else nested).clone()
    if isinstance(nested, Mapping):
        return {key: take(value, of, chosen) for key, value in nested.items()}
    if type(nested) in (tuple, list):
        return type(nested)(take(value, of, chosen) for value in nested)
    return nested
