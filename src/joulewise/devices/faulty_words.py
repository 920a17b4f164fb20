"""Faulty words: bit patterns of the failing cells of words, and their replacement in tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.fault_kinds import Cells, FaultKind
from joulewise.devices.fault_maps import starts_run

__all__ = ["FaultyWords", "samples_are_dense"]


@dataclass(frozen=True, slots=True)
class FaultyWords:
    """The words of one part of a chip that have failing cells.

    Args:
        places: Word numbers, ascending, int64 ``[words]``.
        on_zero: Bit patterns of the cells that fail while they hold 0, int32 ``[words]``.
        on_one: Bit patterns of the cells that fail while they hold 1, int32 ``[words]``.
    """

    places: Tensor
    on_zero: Tensor
    on_one: Tensor

    @classmethod
    def of_cells(cls, on_zero: Cells, on_one: Cells, bits: int) -> FaultyWords:
        """Group failing cells, ascending, by word; the two are one object if they are equal."""
        if on_zero is on_one:
            places, found = _patterns(on_zero, bits)
            pattern = torch.from_numpy(found.astype(np.int32))
            return cls(torch.from_numpy(places), pattern, pattern)
        # Both at once, as words of twice the bits: the pattern on one above the pattern on zero.
        wide = [cells + cells // bits * bits + at for cells, at in ((on_zero, 0), (on_one, bits))]
        places, found = _patterns(np.sort(np.concatenate(wide)), 2 * bits)
        low, high = ((found >> at) & ((1 << bits) - 1) for at in (0, bits))
        parts = (places, low.astype(np.int32), high.astype(np.int32))
        return cls(*(torch.from_numpy(part) for part in parts))

    def first(self, words: int) -> FaultyWords:
        """The faulty words among the first ``words`` words."""
        count = int(torch.searchsorted(self.places, words))
        if count == len(self.places):
            return self
        return FaultyWords(self.places[:count], self.on_zero[:count], self.on_one[:count])

    def replace_in(self, values: Tensor, scale: Tensor, fault: FaultKind, bits: int) -> None:
        """Replace the faulty words of every sample by what is read of them, in place.

        Args:
            values: Fault-free values ``[batch, ...]``, dense within each sample.
            scale: The value of one code step; broadcasts against a sample.
            fault: Effect of failing cells.
            bits: Bits in a word.
        """
        if not len(self.places):
            return
        shape, device = values.shape[1:], values.device
        places = self.places.to(device)
        if scale.ndim:
            scale = scale.expand(shape)[torch.unravel_index(places, shape)]
        # Activations may be channels-last: a view of each sample as words in memory order, since
        # indexing all axes of a batch takes ten times as long.
        rows = values.as_strided((len(values), values[0].numel()), (values.stride(0), 1))
        offsets = _offsets(places, values)
        codes = torch.round(rows.index_select(1, offsets) / scale).to(torch.int32)
        on_zero = on_one = self.on_zero.to(device)
        if self.on_one is not self.on_zero:
            on_one = self.on_one.to(device)
        read = fault.read(codes, on_zero, on_one, bits).to(values.dtype) * scale
        rows.scatter_(1, offsets.expand_as(read), read)


def _patterns(cells: Cells, width: int) -> tuple[Cells, Cells]:
    """Word numbers of ascending cells, each once, and the pattern of the cells in each word."""
    words, bits = np.divmod(cells, width)
    starts: NDArray[np.intp] = np.flatnonzero(starts_run(words))
    return words[starts], np.bitwise_or.reduceat(np.left_shift(1, bits), starts)


def samples_are_dense(values: Tensor) -> bool:
    """True if the words of each sample are contiguous in memory, in any order of axes."""
    sizes, strides = values.shape[1:], values.stride()[1:]
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return last == values[0].numel() - 1


def _offsets(places: Tensor, values: Tensor) -> Tensor:
    """Offsets in memory, within a sample, of words that are numbered in logical order."""
    if values.is_contiguous():
        return places
    axes = torch.unravel_index(places, values.shape[1:])
    return torch.stack([axis * values.stride(dim) for dim, axis in enumerate(axes, 1)]).sum(0)
