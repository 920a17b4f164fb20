"""Fault kinds: what a failing cell does to the word that it is part of.

A kind answers for whole words. ``on_zero`` is the pattern of cells that fail when they hold a 0,
``on_one`` of those that fail when they hold a 1; bit k of a pattern is bit k of the word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.errors import check_in_range, refuse
from joulewise.words import to_bit_planes

__all__ = ["FaultKind", "Flip", "Mask", "Stuck", "all_codes"]

Cells = NDArray[np.int64]


class FaultKind(Protocol):
    """What an SRAM asks of a fault kind: a frozen, hashable value."""

    def __hash__(self) -> int: ...

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """How often a cell fails when it holds a 0 and a 1.

        Args:
            bit_error_rate: For each bit plane, shape ``[bits]``; or ``[channels, bits]``.

        Returns:
            Shape ``[2, *bit_error_rate]``: the rate at which a cell that holds 0, and 1, is hit.
        """

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Of the cells that were hit while they hold ``holds``, those that change the read."""

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """The codes that are read back; all int32 and of shapes that broadcast."""

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the read code, for every code, cells failing independently.

        Args:
            rates: Shape ``[2, bits]``, from `rates`.
            bits: Bits in a word.

        Returns:
            Two float64 tensors of shape ``[2**bits]``, in the order of `all_codes`.
        """

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""


def all_codes(bits: int) -> Tensor:
    """Every code of a width, ascending: int32, shape ``[2**bits]``.

    Example:
        >>> all_codes(2).tolist()
        [-2, -1, 0, 1]
    """
    return torch.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=torch.int32)


def _powers(bits: int) -> Tensor:
    return 2.0 ** torch.arange(bits, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Mask:
    """Bit masking: faults are detected, bit by bit, and the word is moved towards zero.

    A fault on the sign bit makes the word read 0. A fault on another bit makes that bit read as the
    sign bit. In two's complement the read never grows in magnitude and never changes sign.

    Moments, with ``m = q`` for ``q >= 0`` and ``m = -q - 1`` below, bits ``m_k``, and the sign bit
    held: ``E m' = sum_k (1 - p_k) m_k 2^k`` and ``Var m' = sum_k p_k (1 - p_k) m_k 4^k``; with the
    probability of a fault on the sign bit the word is 0.

    References:
        Hacene et al., ISCAS 2019, arXiv 1911.10287; the deck, "Bit-masking faults".
    """

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """A detected fault does not depend on what the cell holds."""
        return torch.stack([bit_error_rate, bit_error_rate])

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Every failing cell matters."""
        return cells

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """Masked bits become the sign; a masked sign zeroes the word."""
        hit = on_zero if on_zero is on_one else on_zero | on_one
        # Hit bits that differ from the sign are turned over: few operations, as draws are short.
        held = codes ^ ((codes ^ (codes >> 31)) & hit)
        return held.masked_fill_((hit & (1 << (bits - 1))).bool(), 0)

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """See the class."""
        codes = all_codes(bits)
        magnitude = torch.where(codes >= 0, codes, -codes - 1)
        ones = to_bit_planes(magnitude, bits).to(torch.float64)[:-1]
        p, p_sign = rates[0, :-1], rates[0, -1]
        powers = _powers(bits)[:-1]
        held_mean = (powers * (1 - p)) @ ones
        held_var = (powers**2 * p * (1 - p)) @ ones
        held_mean = torch.where(codes >= 0, held_mean, -held_mean - 1)
        mean = (1 - p_sign) * held_mean
        # Var = E[Var | sign] + Var[E | sign]: no difference of large squares.
        return mean, (1 - p_sign) * held_var + p_sign * (1 - p_sign) * held_mean**2

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"fault": "mask"}


def _independent_bit_moments(rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Moments of a word of independent bits: a 0 reads 1 at ``rates[0]``, a 1 reads 0 at [1]."""
    ones = to_bit_planes(all_codes(bits), bits).to(torch.float64)
    zeros = 1 - ones
    weights = _powers(bits).clone()
    weights[-1] = -weights[-1]
    mean = (weights * (1 - rates[1])) @ ones + (weights * rates[0]) @ zeros
    spread = weights**2 * rates * (1 - rates)
    return mean, spread[1] @ ones + spread[0] @ zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Undetected faults: a failing cell reads the opposite of what it holds.

    Args:
        zero_to_one: A cell that holds 0 fails at this multiple of the bit error rate, 0 to 2.
        one_to_zero: The same for a cell that holds 1. Two rates that add up to 2 keep the mean over
            equally frequent zeros and ones.

    Raises:
        InputError: if a field is outside its range.

    With both 1, every bit flips with probability p and the mean squared change of a word of B bits,
    over all words, is exactly ``p (4^B - 1) / 3`` squared code steps.
    """

    zero_to_one: float = 1.0
    one_to_zero: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("zero_to_one", self.zero_to_one, 0.0, 2.0)
        check_in_range("one_to_zero", self.one_to_zero, 0.0, 2.0)
        if self.zero_to_one == self.one_to_zero == 0:
            refuse("zero_to_one and one_to_zero", "both 0", "one above 0, or no cell ever fails")

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """Each polarity's multiple of the bit error rate, at most 1."""
        both = torch.stack([self.zero_to_one * bit_error_rate, self.one_to_zero * bit_error_rate])
        return both.clamp(max=1.0)

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Every failing cell matters."""
        return cells

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """Failing zeros become ones, failing ones become zeros."""
        return _flip(codes, on_zero, on_one, bits)

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Sums over independent bits."""
        return _independent_bit_moments(rates, bits)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "fault": "flip",
            "zero_to_one": self.zero_to_one,
            "one_to_zero": self.one_to_zero,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A failing cell always reads the same value, whatever was written.

    Args:
        at_one: The share of failing cells that are stuck at 1, 0 to 1; the others are stuck at 0.

    Raises:
        InputError: if ``at_one`` is outside its range.
    """

    at_one: float = 0.5

    def __post_init__(self) -> None:
        """Check the field once."""
        check_in_range("at_one", self.at_one, 0.0, 1.0)

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """A cell is stuck whatever it holds; `select` settles at which value."""
        return torch.stack([bit_error_rate, bit_error_rate])

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Cells stuck at the opposite of what they hold."""
        stuck_at_one = _cell_uniform(cells, chip) < self.at_one
        return cells[stuck_at_one] if holds == 0 else cells[~stuck_at_one]

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """Stuck cells show their own value."""
        return _flip(codes, on_zero, on_one, bits)

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """As flips at ``at_one * p`` for a 0 and ``(1 - at_one) * p`` for a 1."""
        shares = torch.tensor([[self.at_one], [1 - self.at_one]], dtype=torch.float64)
        return _independent_bit_moments(rates * shares, bits)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"fault": "stuck", "at_one": self.at_one}


def _flip(codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
    flipped = codes ^ ((~codes & on_zero) | (codes & on_one))
    # Patterns reach only up to the sign bit: copy it into the int32's upper bits.
    unused = 32 - bits
    return (flipped << unused) >> unused


def _cell_uniform(cells: Cells, chip: Chip) -> NDArray[np.float64]:
    """A number in [0, 1) for each cell that depends only on the chip, the part and the cell.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as a hash: the cost is by faults, not by cells.
    """
    key = chip.generator("stuck value").integers(2**63, dtype=np.uint64)
    x = (cells.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
