"""Batches of mappings, as language models of transformers take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import DataError, refuse
from joulewise.nested import batch_size

__all__ = ["Batches", "check_entries"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batches:
    """Batches to test a model on, each a mapping of its arguments with the entry ``labels``.

    Args:
        name: Name in reports.
        test: Batches such as ``{"input_ids": ids, "attention_mask": mask, "labels": ids}``, at
            least one; all with the same entries, tensors whose first axis is the batch.

    Raises:
        DataError: if a batch is malformed.

    Example:
        >>> ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        >>> data = Batches(name="text", test=[{"input_ids": ids, "labels": ids}])
        >>> len(data), data.input_shape, len(data.subset(1))
        (2, (3,), 1)
    """

    name: str
    test: Sequence[Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        if not self.test:
            refuse(f"the batches of {self.name}", "empty", "at least one batch", DataError)
        for number, batch in enumerate(self.test):
            if [*batch] != [*self.test[0]]:
                got = f"with {', '.join(batch)}, beside batches with {', '.join(self.test[0])}"
                refuse(f"batch {number} of {self.name}", got, "the same entries", DataError)
            _check_batch(f"of batch {number} of {self.name}", batch)

    def __len__(self) -> int:
        return sum(map(batch_size, self.test))

    @property
    def longest(self) -> Mapping[str, Tensor]:
        """The batch with the largest samples, of the longest sequences for instance."""
        return max(self.test, key=lambda batch: next(iter(batch.values()))[0].numel())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first entry of a sample of that batch, for instance ``(tokens,)``."""
        return tuple(next(iter(self.longest.values())).shape[1:])

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        labels = [batch["labels"] for batch in self.test if "labels" in batch]
        return 1 + max((int(some.max()) for some in labels), default=0)

    def subset(self, count: int) -> Batches:
        """A random choice of so many samples, in their order; always the same."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        found: list[Mapping[str, Tensor]] = []
        start = 0
        for batch in self.test:
            size = batch_size(batch)
            rows = (chosen[(chosen >= start) & (chosen < start + size)] - start).sort().values
            if len(rows):
                found.append({name: tensor[rows] for name, tensor in batch.items()})
            start += size
        return Batches(name=self.name, test=found)


def _check_batch(where: str, batch: Mapping[str, Any]) -> None:
    """Refuse entries that are no tensors ``[batch, ...]`` of as many samples each."""
    check_entries(batch, where)
    sizes = {}
    for name, value in batch.items():
        if not isinstance(value, Tensor) or not value.ndim or not len(value):
            got = f"a {type(value).__name__}"
            if isinstance(value, Tensor):
                got = f"of shape {list(value.shape)}"
            refuse(f"{name} {where}", got, "a tensor whose first axis is the batch", DataError)
        sizes[name] = len(value)
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} with {size}" for name, size in sizes.items())
        refuse(f"the first axis {where}", got, "one number of samples", DataError)


def check_entries(batch: Mapping[str, Any], where: str = "of a batch") -> None:
    """Refuse tokens that are not ``[batch, tokens]``, and a mask that is not theirs.

    Args:
        batch: Entries by name.
        where: Names the batch in messages.

    Raises:
        DataError: naming the entry.
    """
    for name in ("input_ids", "attention_mask", "labels"):
        value = batch.get(name)
        if not isinstance(value, (list, tuple)):
            continue
        sequences = [
            one
            for one in value
            if isinstance(one, Sequence) or isinstance(one, Tensor) and one.ndim
        ]
        lengths = sorted({*map(len, sequences)})
        if len(lengths) > 1 or (lengths and name != "labels"):
            got = f"a list of {len(value)} sequences of {' and '.join(map(str, lengths))} tokens"
            allowed = "a tensor [batch, tokens]"
            if len(lengths) > 1:
                allowed += ", sequences padded to one length, and an attention_mask of 0 at padding"
            refuse(f"{name} {where}", got, allowed, DataError)
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if not isinstance(ids, Tensor):
        return
    if ids.ndim < 2:
        allowed = "[batch, tokens], such as ids[None] for one sequence"
        refuse(f"the shape of input_ids {where}", list(ids.shape), allowed, DataError)
    if isinstance(mask, Tensor) and ids.ndim == mask.ndim and ids.shape != mask.shape:
        got = f"{list(mask.shape)} beside input_ids {list(ids.shape)}"
        refuse(f"the shape of attention_mask {where}", got, "that of input_ids", DataError)
