"""Faulty words: bit patterns of the failing cells of words, and their replacement in tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.fault_kinds import Cells, FaultKind
from joulewise.devices.fault_maps import starts_run
from joulewise.devices.protection import Code, OnDetected

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
        words = _Places(values, scale, self.places)
        on_zero = on_one = self.on_zero.to(values.device)
        if self.on_one is not self.on_zero:
            on_one = self.on_one.to(values.device)
        words.write(fault.read(words.codes(), on_zero, on_one, bits))

    def decode_in(
        self,
        values: Tensor,
        scale: Tensor,
        fault: FaultKind,
        code: Code,
        check: FaultyWords,
        on_detected: OnDetected,
    ) -> None:
        """Replace the words of codewords with failing cells by what is decoded, in place.

        Args:
            values: See `replace_in`.
            scale: See `replace_in`.
            fault: Effect of failing cells.
            code: The code.
            check: Codewords whose check cells fail, and the patterns of those.
            on_detected: Effect of detected errors.
        """
        size, count = code.words, values[0].numel()
        struck = torch.unique(torch.cat([self.places // size, check.places]))
        if not len(struck):
            return
        places = struck[:, None] * size + torch.arange(size)
        inside = places < count  # the last codeword may be filled up with zeros
        words = _Places(values, scale, places[inside])
        codes = torch.zeros(len(values), *places.shape, dtype=torch.int32, device=values.device)
        codes[:, inside] = words.codes()
        cell = torch.searchsorted(struck, self.places // size), self.places % size
        at = torch.searchsorted(struck, check.places)
        patterns = []
        for of_words, of_check in (
            (self.on_zero, check.on_zero),
            (self.on_one, check.on_one),
        ):
            data, checks = torch.zeros_like(places, dtype=torch.int32), torch.zeros_like(struck)
            data[cell], checks[at] = of_words, of_check.long()
            patterns.append((data.to(values.device), checks.to(torch.int32).to(values.device)))
        (on_zero, check_on_zero), (on_one, check_on_one) = patterns
        read = fault.read(codes, on_zero, on_one, code.bits)
        words.write(code.decode(codes, read, check_on_zero, check_on_one, on_detected)[:, inside])


class _Places:
    """Words of every sample at some places of a batch, to read and to write."""

    def __init__(self, values: Tensor, scale: Tensor, places: Tensor) -> None:
        shape, places = values.shape[1:], places.to(values.device)
        if scale.ndim:
            scale = scale.contiguous()
            scale = scale.view(-1)[_offsets(places, shape, scale.expand(shape).stride())]
        # Activations may be channels-last: a view of each sample as words in memory order, since
        # indexing all axes of a batch takes ten times as long.
        self._rows = values.as_strided((len(values), values[0].numel()), (values.stride(0), 1))
        if not values.is_contiguous():
            places = _offsets(places, shape, values.stride()[1:])
        self._offsets, self._scale = places, scale

    def codes(self) -> Tensor:
        """The codes, int32 ``[batch, places]``."""
        return torch.round(self._rows.index_select(1, self._offsets) / self._scale).to(torch.int32)

    def write(self, codes: Tensor) -> None:
        """Replace the words by those of other codes."""
        read = codes.to(self._rows.dtype) * self._scale
        self._rows.scatter_(1, self._offsets.expand_as(read), read)


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


def _offsets(places: Tensor, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    """Offsets in memory of elements that are numbered in logical order."""
    offsets, inner = torch.zeros_like(places), 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride:  # 0 along axes that share an element
            offsets += places // inner % size * stride
        inner *= size
    return offsets
