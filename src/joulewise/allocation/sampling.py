"""Sampling: some of the data, to predict with."""

from __future__ import annotations

from typing import Any

from joulewise.data import Split
from joulewise.placement.calling import batch_size

__all__ = ["some_of"]


def some_of(data: Split | list[Any], samples: int, seed: int) -> Split | list[Any]:
    """Some samples of a split, chosen by chance; or the first batches that hold as many.

    Args:
        data: A split, or batches: ``(inputs, targets)``, or inputs alone.
        samples: How many, 1 or more; all where there are no more.
        seed: Of the choice.
    """
    if isinstance(data, Split):
        return data.subset(min(samples, len(data)), seed=seed)
    taken, count = [], 0
    for batch in data:
        taken.append(batch)
        count += batch_size(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if count >= samples:
            break
    return taken
