"""Sampling: how many there are of what, and some of the data to predict with."""

from __future__ import annotations

from typing import Any

from joulewise.data import Split
from joulewise.data.nested import batch_size
from joulewise.errors import check_in_range, check_whole

__all__ = ["check_counts", "some_of"]


def check_counts(**counts: tuple[float, int]) -> None:
    """Refuse what is no whole number, or too small.

    Args:
        **counts: By name, what was given and the least that is allowed.
    """
    for name, (value, low) in counts.items():
        check_in_range(name, value, low, 2**40)
        check_whole(name, value)


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
