"""Chips: manufactured instances, their random streams, and what one inference asks of a memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from joulewise.errors import check_in_range

__all__ = ["Chip", "Load", "Traffic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One manufactured instance: everything that is drawn once and then stays.

    Args:
        seed: Names the chip, 0 or more. The same seed is the same chip, on any machine.
        part: Names the region of the chip that holds one tensor; regions are independent.
        use: Counts forward passes on the chip: noise that is fresh at each read differs by it.
    """

    seed: int
    part: str = ""
    use: int = 0

    def __post_init__(self) -> None:
        """Check the seed once."""
        check_in_range("seed", self.seed, 0, 2**63)

    def at(self, part: str) -> Chip:
        """The region of this chip that holds the tensor ``part``."""
        return replace(self, part=part)

    def again(self) -> Chip:
        """This chip in its next use."""
        return replace(self, use=self.use + 1)

    def generator(self, purpose: str) -> np.random.Generator:
        """A random stream that depends on the chip, the part and the purpose, and on nothing else.

        NumPy draws it on the CPU, so that a chip is the same whatever computes on it.
        """
        return _stream(self.seed, _digest(self.part, purpose))

    def fresh(self, purpose: str) -> np.random.Generator:
        """A random stream as from `generator`, another one in every use of the chip."""
        # The first use is 1: a stream with a 0 at its end is the same as without.
        return _stream(self.seed, _digest(self.part, purpose), self.use + 1)


def _stream(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=4096)
def _digest(part: str, purpose: str) -> int:
    text = f"{part}\0{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Load:
    """One use of a weight as a matrix, as a memory that computes has to know it.

    Args:
        inputs: Some of the vectors that the matrix meets, evenly from all of them, over
            ``largest``: ``[vectors, groups, rows]``, within +-1.
        largest: The largest magnitude among all inputs.
        uses: Vectors that it meets per inference.
        weight: The weight, ``[groups * columns, *rows]``.
        rows_first: Whether its first axis runs over the rows instead.
        view: Shape, strides and offset, in entries, of the matrix ``[columns, rows]`` within the
            weight as it is laid out, where it is a part of it or turned; None for all of it.
    """

    inputs: Tensor
    largest: float
    uses: float
    weight: Tensor
    rows_first: bool = False
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None

    def matrix(self, tensor: Tensor) -> Tensor:
        """A tensor in the weight's shape as ``[groups, columns, rows]``."""
        groups, rows = self.inputs.shape[1:]
        if self.view is not None:
            shape, strides, offset = self.view
            laid_out = torch.empty_like(self.weight, dtype=tensor.dtype).copy_(tensor)
            return laid_out.as_strided(shape, strides, offset)[None]
        if self.rows_first:
            return tensor.reshape(groups, rows, -1).mT
        return tensor.reshape(groups, -1, rows)

    def channels(self) -> Tensor | None:
        """The output channel that each column belongs to, the first axis of the weight.

        Returns:
            int64 ``[groups, columns]``; None where that axis does not run over the columns.
        """
        first = torch.arange(len(self.weight), device=self.weight.device)
        index = first.reshape(-1, *(1,) * (self.weight.ndim - 1)).expand(self.weight.shape)
        found = self.matrix(index)
        return found[..., 0] if bool((found == found[..., :1]).all()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How often the words of one placed tensor are accessed in one inference.

    Args:
        words: Words stored.
        reads: Words read per inference (all words once: ``reads == words``).
        writes: Words written per inference; 0 for weights.
        loads: What a memory that computes is used for; empty for others.
    """

    words: int
    reads: float
    writes: float
    loads: tuple[Load, ...] = ()
