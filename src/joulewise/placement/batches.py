"""Batching: data as batches on the model's device, in its memory layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from joulewise.data import Batches, Dataset, Split, check_entries
from joulewise.errors import DataError, check_count, refuse
from joulewise.nested import batch_size, map_tensors, tensors_in
from joulewise.placement.process_state import SameDraws

__all__ = ["NOT_COUNTED", "Batch", "attention_mask", "prepare", "take"]

NOT_COUNTED = -100
"""Target that metrics of tokens ignore, as the losses of torch do."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs on the model's device, and targets where there are any.

    Args:
        inputs: As for `joulewise.placement.execution.call`.
        targets: A tensor with the batch as its first axis, or anything else that a metric takes.
        labels: True if the targets were the entry ``labels`` of a mapping, for a causal model.
    """

    inputs: Any
    targets: Any
    labels: bool = False


def prepare(data: Split | Iterable[Any], model: nn.Module, batch: int | None = None) -> list[Batch]:
    """Data as a list of batches on the model's device, in its layout.

    Args:
        data: A split, a torch ``Dataset`` (``TensorDataset``, for instance) or an iterable of
            batches, such as a ``DataLoader`` or a list. A batch is a pair ``(inputs, targets)``, a
            mapping whose entry ``labels``, if there is one, are the targets, or inputs alone.
            Labels at which an entry ``attention_mask`` is 0 become -100, which does not count.
            A list that this function returned is returned as it is.
            Inputs are a tensor, a tuple of positional or a mapping of keyword arguments.
        model: The model that the batches are for.
        batch: Samples in a batch, where ``data`` is a split or a dataset; None for as many as hold
            about 800,000 numbers (256 images of 32 x 32), between 32 and 2048.

    Returns:
        At least one batch.

    Raises:
        DataError: if there is no batch, or batches are of different kinds.
    """
    if batch is not None:
        check_count("batch_size", batch, 1)
    parameter = next(iter(model.parameters()), torch.zeros(()))
    channels_last = any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
    if isinstance(data, list) and data and all(isinstance(item, Batch) for item in data):
        return data
    with SameDraws(None):  # a DataLoader draws its base seed
        items = list(_iterable(data, batch))
    batches = []
    for item in items:
        inputs, targets, labels = _parts(item, model)
        # Detached: no gradient is taken in inputs, and none flows into the caller's graph.
        inputs = map_tensors(lambda tensor: tensor.detach().to(parameter.device), inputs)
        if channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if isinstance(inputs, Tensor) and isinstance(data, Split) and inputs.is_floating_point():
            inputs = inputs.to(parameter.dtype)  # a split holds float32, whatever the model is
        targets = _targets(targets, inputs, parameter.device)
        if not _is_encoder_decoder(model):  # whose attention mask is that of other tokens
            targets = _without_masked(targets, inputs, shifted=labels)
        batches.append(Batch(inputs, targets, labels))
    if not batches:
        raise DataError("the data holds no batch; allowed: at least one batch of samples")
    if len({(b.targets is None, b.labels, _kind(b.inputs)) for b in batches}) > 1:
        got = "batches of different kinds, such as (inputs, targets) beside inputs alone"
        refuse("the data", got, "batches that are all alike", DataError)
    return batches


def _iterable(data: Any, batch: int | None) -> Iterable[Any]:
    batches = "(inputs, targets), batches of such, a DataLoader, a torch Dataset or a Split"
    if isinstance(data, Split):
        return data.batches(batch or _fitting(data.inputs[0].numel()))
    if isinstance(data, IterableDataset):
        refuse(
            "data", "an IterableDataset, which knows no batches", "a DataLoader of it", DataError
        )
    if isinstance(data, TorchDataset):
        if not hasattr(data, "__len__"):
            refuse("data", "a Dataset without a length", "a DataLoader of it", DataError)
        count = sum(t.numel() for t in tensors_in(data[0])) if len(data) else 1
        return DataLoader(data, batch_size=batch or _fitting(count))
    if isinstance(data, (Dataset, Batches)):
        got = f"a {type(data).__name__}"
        refuse("data", got, "one of its splits, such as data.test", DataError)
    if isinstance(data, (Tensor, str, bytes, Mapping)) or not isinstance(data, Iterable):
        refuse("data", f"a {type(data).__name__}", batches, DataError)
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        # As many axes as the inputs: they may be two batches of inputs.
        alike = len(data) == 2 and len(data[0]) == len(data[1]) > 0 and data[1].ndim < data[0].ndim
        if alike:
            size = batch or _fitting(data[0][0].numel())
            return zip(*(part.split(size) for part in data), strict=True)
        got = f"a tuple of {len(data)} tensors, which may be a batch or several"
        refuse("data", got, "a list: [(inputs, targets)] for one batch", DataError)
    return data


def _fitting(numbers: int) -> int:
    """Default batch size for samples of ``numbers`` elements each."""
    return min(max(800_000 // max(numbers, 1), 32), 2048)


def _parts(item: Any, model: nn.Module) -> tuple[Any, Any, bool]:
    """Inputs and targets of a batch, and True if the targets are labels of the next token."""
    if isinstance(item, Mapping):
        check_entries(item)
        inputs = dict(item)
        labels = inputs.get("labels")
        _check_ids(inputs.get("input_ids"), model)
        if _is_encoder_decoder(model):  # derives decoder inputs from labels
            return inputs, labels, False
        inputs.pop("labels", None)
        _check_labels(labels, inputs.get("input_ids"))
        # Losses of transformers that compare labels with the output at their own position.
        own = getattr(model, "loss_type", None) in ("ForMaskedLM", "ForTokenClassification")
        return inputs, labels, labels is not None and not own
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1], False
    return item, None, False


def _is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _check_ids(ids: Any, model: nn.Module) -> None:
    """Refuse token ids that the model's input table does not have."""
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):  # no model of transformers
        return
    rows = getattr(table, "num_embeddings", None)
    if not isinstance(ids, Tensor) or not isinstance(rows, int):
        return
    if ids.is_floating_point():
        got = str(ids.dtype).removeprefix("torch.")
        refuse("the type of input_ids", got, "integers", DataError)
    if not ids.numel():
        refuse("the shape of input_ids", list(ids.shape), "one token or more", DataError)
    if int(ids.min()) < 0 or int(ids.max()) >= rows:
        wrong = ids[(ids < 0) | (ids >= rows)][0]
        refuse("a token of input_ids", int(wrong), f"0 to {rows - 1}", DataError)


def _check_labels(labels: Any, ids: Any) -> None:
    """Refuse labels of tokens that are not those of the batch."""
    tokens = isinstance(labels, Tensor) and isinstance(ids, Tensor) and labels.ndim == ids.ndim > 1
    if tokens and labels.shape != ids.shape:
        got = f"{list(labels.shape)} beside input_ids {list(ids.shape)}"
        allowed = f"that of input_ids, {NOT_COUNTED} at tokens that do not count"
        refuse("the shape of labels", got, allowed, DataError)


def _kind(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return tuple(sorted(inputs))
    return len(inputs) if isinstance(inputs, (tuple, list)) else None


def _targets(targets: Any, inputs: Any, device: torch.device) -> Any:
    if targets is None:
        return None
    several = not isinstance(targets, Tensor) and any(t.ndim for t in tensors_in(targets))
    try:
        tensor = None if several else torch.as_tensor(targets).to(device)
    except (TypeError, ValueError, RuntimeError):  # one dict per image, say, for the metric
        tensor = None
    if tensor is None:
        return map_tensors(lambda tensor: tensor.to(device), targets)
    samples = batch_size(inputs)
    if tensor.ndim == 0 or len(tensor) != samples:
        raise DataError(
            f"a batch has inputs whose first axis is {samples} and targets of shape "
            f"{tuple(tensor.shape)}; allowed: the batch as the first axis of both"
        )
    return tensor


def _without_masked(targets: Any, inputs: Any, *, shifted: bool) -> Any:
    """Labels without those of positions that the attention mask leaves out.

    Args:
        targets: The labels.
        inputs: Inputs of the batch.
        shifted: True for labels of the next token, which do not count if the token before them is
            left out either: its output is that of padding.
    """
    if not isinstance(targets, Tensor) or targets.ndim < 2 or targets.is_floating_point():
        return targets
    mask = attention_mask(inputs, targets.shape)
    if mask is None:
        return targets
    if shifted:
        mask = mask.clone()
        mask[:, 1:] &= mask[:, :-1].clone()
    return targets.masked_fill(~mask, NOT_COUNTED)


def attention_mask(inputs: Any, shape: torch.Size) -> Tensor | None:
    """True at the positions that the attention mask of a batch keeps, if it has that shape."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask != 0 if isinstance(mask, Tensor) and mask.shape == shape else None


def take(nested: Any, of: int, chosen: Any) -> Any:
    """Selected samples of a batch, copied and detached.

    Args:
        nested: A batch.
        of: Number of samples that it holds.
        chosen: A slice or indices, for the first axis of every tensor that is ``of`` long.
    """

    def cut(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        # Copies: a model may work in place on its input.
        return (tensor[chosen] if tensor.ndim and len(tensor) == of else tensor).clone()

    return map_tensors(cut, nested)
