"""Chips and their random streams, and the accesses and products that one inference makes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from joulewise.errors import check_in_range

__all__ = ["Chip", "MatrixInputs", "Traffic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One manufactured instance: all that is drawn once and then stays.

    Args:
        seed: Identifier of the chip, 0 or more. The same seed is the same chip on any machine.
        part: Name of the region that holds one tensor; regions are independent.
        use: Zero-based index of the forward pass on this chip; selects the noise that is drawn
            anew at every read.
    """

    seed: int
    part: str = ""
    use: int = 0

    def __post_init__(self) -> None:
        check_in_range("seed", self.seed, 0, 2**63)

    def region(self, part: str) -> Chip:
        """The region of this chip that holds the tensor ``part``."""
        return replace(self, part=part)

    def next_use(self) -> Chip:
        """This chip in its next use."""
        return replace(self, use=self.use + 1)

    def generator(self, purpose: str) -> np.random.Generator:
        """A random stream determined by seed, part and purpose: the same in every use.

        NumPy draws it on the CPU, so that chips do not depend on where a network runs.
        """
        return _stream(self.seed, _digest(self.part, purpose))

    def fresh(self, purpose: str) -> np.random.Generator:
        """A random stream as from `generator`, different in every use of the chip."""
        # Counted from 1: SeedSequence gives the same stream with and without a trailing 0.
        return _stream(self.seed, _digest(self.part, purpose), self.use + 1)


def _stream(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=4096)
def _digest(part: str, purpose: str) -> int:
    text = f"{part}\0{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixInputs:
    """Matrix-vector products with one weight: the inputs of one use of it in the network.

    Args:
        inputs: A sample of the input vectors, evenly spaced among all of them, divided by
            ``largest``: ``[vectors, groups, rows]``, within +-1.
        largest: The largest magnitude among all inputs.
        uses: Input vectors per inference.
        weight: The weight, ``[groups * columns, *rows]``.
        rows_first: True if the first axis of the weight runs over the rows of its matrix.
        view: Shape, strides and offset, in entries, of the matrix ``[columns, rows]`` within the
            weight in memory, if it is a part or a transpose of it; None if it is the whole.
    """

    inputs: Tensor
    largest: float
    uses: float
    weight: Tensor
    rows_first: bool = False
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None

    def matrix(self, tensor: Tensor) -> Tensor:
        """Rearrange a tensor of the weight's shape to ``[groups, columns, rows]``."""
        groups, rows = self.inputs.shape[1:]
        if self.view is not None:
            shape, strides, offset = self.view
            # The strides are those of the weight in memory, which another tensor need not share.
            laid_out = torch.empty_like(self.weight, dtype=tensor.dtype).copy_(tensor)
            return laid_out.as_strided(shape, strides, offset)[None]
        if self.rows_first:
            return tensor.reshape(groups, rows, -1).mT
        return tensor.reshape(groups, -1, rows)

    def channels(self) -> Tensor | None:
        """The output channel (index of the weight's first axis) of each column.

        Returns:
            int64 ``[groups, columns]``; None if that axis does not run over the columns.
        """
        first = torch.arange(len(self.weight), device=self.weight.device)
        index = first.reshape(-1, *(1,) * (self.weight.ndim - 1)).expand(self.weight.shape)
        found = self.matrix(index)
        return found[..., 0] if bool((found == found[..., :1]).all()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Accesses to the words of one placed tensor in one inference.

    Args:
        words: Words stored.
        reads: Words read per inference; equal to ``words`` if each is read once.
        writes: Words written per inference; 0 for weights.
        matrix_inputs: Products with the tensor, if the memory computes them; else empty.
    """

    words: int
    reads: float
    writes: float
    matrix_inputs: tuple[MatrixInputs, ...] = ()
