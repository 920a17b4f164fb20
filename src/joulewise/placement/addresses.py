"""Addresses: which tensor a piece of memory belongs to, whatever view of it an operation got."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from torch import Tensor

__all__ = ["Owners", "extent"]


class Owners:
    """Tensors by the addresses that their entries lie between.

    Args:
        tensors: Each its own storage or its own part of one, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._spans = sorted((*extent(tensor), name) for name, tensor in tensors.items())
        self._starts = [span[0] for span in self._spans]

    def find(self, tensor: Tensor) -> tuple[str, int] | None:
        """The tensor of which this one is the whole, a view or a part.

        Returns:
            Its name, and how many entries after its first this one begins; None if there is none.
        """
        pointer = tensor.data_ptr()
        index = bisect_right(self._starts, pointer) - 1
        if index < 0 or pointer >= self._spans[index][1]:
            return None
        start, _, name = self._spans[index]
        return name, (pointer - start) // tensor.element_size()


def extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses that a tensor's entries lie between, the end excluded."""
    start = tensor.data_ptr()
    if not tensor.numel():
        return start, start
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((length - 1) * stride for length, stride in steps)
    return start, start + (last + 1) * tensor.element_size()
