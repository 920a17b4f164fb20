"""Fault kinds: the effect of failing cells on the word that they are part of.

Failing cells of a word are given as two bit patterns: bit k of ``on_zero`` is set if cell k fails
while it holds 0, bit k of ``on_one`` if it fails while it holds 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.errors import check_in_range, refuse

__all__ = ["FaultKind", "Flip", "Mask", "Stuck", "all_codes", "planes_of"]

Cells = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """Base of fault kinds: undetected faults, where failing cells read the opposite."""

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """Failure rates of cells that hold 0 and of cells that hold 1; by default the same.

        Args:
            bit_error_rate: ``[bits]`` or ``[channels, bits]``, one rate for each bit plane.

        Returns:
            ``[2, *bit_error_rate]``: the rates of cells that hold 0, then of those that hold 1.
        """
        return torch.stack([bit_error_rate, bit_error_rate])

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Subset of the failing ``cells`` that read wrongly if they hold ``holds``, 0 or 1."""
        return cells

    def errors(self, rates: Tensor) -> Tensor:
        """Rates of wrong reads of cells that hold 0 and 1, from their failure rates."""
        return rates

    @property
    def symmetric(self) -> bool:
        """True if cells that hold 0 and cells that hold 1 are read wrongly at equal rates."""
        on_zero, on_one = self.errors(self.rates(torch.full((1,), 0.1, dtype=torch.float64)))
        return torch.equal(on_zero, on_one)

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """Codes as read back; all arguments int32, of shapes that broadcast."""
        flipped = codes ^ ((~codes & on_zero) | (codes & on_one))
        # Patterns end at the sign bit: extend it to the upper bits of the int32.
        unused = 32 - bits
        return (flipped << unused) >> unused

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the code that is read, if cells fail independently.

        Args:
            rates: ``[2, bits]``, from `rates`.
            bits: Bits in a word.

        Returns:
            Mean and variance for each stored code, float64 ``[2**bits]`` in the order of
            `all_codes`.
        """
        rates = self.errors(rates)
        ones = planes_of(all_codes(bits), bits)
        zeros, weights = 1 - ones, _powers(bits)
        weights[-1] = -weights[-1]  # the sign bit, in two's complement
        # A bit is read as 1 if it is 1 and does not fail, or is 0 and fails; bits are independent.
        mean = (weights * (1 - rates[1])) @ ones + (weights * rates[0]) @ zeros
        spread = weights**2 * rates * (1 - rates)
        return mean, spread[1] @ ones + spread[0] @ zeros

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"fault": type(self).__name__.lower(), **asdict(self)}


def all_codes(bits: int) -> Tensor:
    """All codes of words of ``bits`` bits, ascending: int32 ``[2**bits]``.

    Example:
        >>> all_codes(2).tolist()
        [-2, -1, 0, 1]
    """
    return torch.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=torch.int32)


def planes_of(codes: Tensor, bits: int) -> Tensor:
    """Bits of two's complement codes, float64 ``[bits, codes]``, least significant first."""
    return ((codes >> torch.arange(bits)[:, None]) & 1).double()


def _powers(bits: int) -> Tensor:
    return 2.0 ** torch.arange(bits, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Mask(FaultKind):
    """Bit masking: faults are detected bit by bit, and masking moves the word towards zero.

    With a fault on the sign bit the word reads 0; any other faulty bit reads as the sign bit. In
    two's complement the read then never grows in magnitude and never changes sign.

    Moments: let ``m = q`` for codes ``q >= 0`` and ``m = -q - 1`` for ``q < 0``, with bits ``m_k``.
    Without a fault on the sign bit, ``E m' = sum_k (1 - p_k) m_k 2^k`` and
    ``Var m' = sum_k p_k (1 - p_k) m_k 4^k``; with one, the word is 0.

    References:
        G. B. Hacene et al., "Training modern deep neural networks for memory-fault robustness",
        ISCAS 2019, arXiv 1911.10287.
    """

    def read(self, codes: Tensor, on_zero: Tensor, on_one: Tensor, bits: int) -> Tensor:
        """Failing bits read as the sign bit; a failing sign bit zeroes the word."""
        hit = on_zero if on_zero is on_one else on_zero | on_one
        # Failing bits that differ from the sign are inverted: few operations, as draws are short.
        held = codes ^ ((codes ^ (codes >> 31)) & hit)
        return held.masked_fill_((hit & (1 << (bits - 1))).bool(), 0)

    def moments(self, rates: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """The closed form of the class docstring."""
        codes = all_codes(bits)
        ones = planes_of(torch.where(codes >= 0, codes, -codes - 1), bits)[:-1]
        p, p_sign = rates[0, :-1], rates[0, -1]
        powers = _powers(bits)[:-1]
        held_mean = (powers * (1 - p)) @ ones
        held_var = (powers**2 * p * (1 - p)) @ ones
        held_mean = torch.where(codes >= 0, held_mean, -held_mean - 1)
        mean = (1 - p_sign) * held_mean
        # Var = E[Var | sign] + Var[E | sign]: no difference of large squares.
        return mean, (1 - p_sign) * held_var + p_sign * (1 - p_sign) * held_mean**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(FaultKind):
    """Undetected faults: a failing cell reads the opposite of its content.

    If every bit flips with probability p, the mean squared error of a word of B bits, over all
    words, is exactly ``p (4^B - 1) / 3`` squared code steps.

    Args:
        zero_to_one: Failure rate of cells that hold 0 over the bit error rate, 0 to 2.
        one_to_zero: The same for cells that hold 1. If the two add up to 2, the bit error rate is
            the mean over equally frequent zeros and ones. One of the two is above 0.
    """

    zero_to_one: float = 1.0
    one_to_zero: float = 1.0

    def __post_init__(self) -> None:
        check_in_range("zero_to_one", self.zero_to_one, 0.0, 2.0)
        check_in_range("one_to_zero", self.one_to_zero, 0.0, 2.0)
        if self.zero_to_one == self.one_to_zero == 0:
            refuse("zero_to_one and one_to_zero", "both 0", "one above 0, or no cell ever fails")

    def rates(self, bit_error_rate: Tensor) -> Tensor:
        """The multiples of the bit error rate, at most 1."""
        both = torch.stack([self.zero_to_one * bit_error_rate, self.one_to_zero * bit_error_rate])
        return both.clamp(max=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck(FaultKind):
    """Stuck-at faults: a failing cell always reads the same value.

    Args:
        at_one: Fraction of failing cells that are stuck at 1, 0 to 1; the others are stuck at 0.
    """

    at_one: float = 0.5

    def __post_init__(self) -> None:
        check_in_range("at_one", self.at_one, 0.0, 1.0)

    def select(self, cells: Cells, holds: int, chip: Chip) -> Cells:
        """Cells that are stuck at the opposite of their content."""
        stuck_at_one = _cell_uniform(cells, chip) < self.at_one
        return cells[stuck_at_one] if holds == 0 else cells[~stuck_at_one]

    def errors(self, rates: Tensor) -> Tensor:
        """``at_one * p`` for zeros and ``(1 - at_one) * p`` for ones."""
        return rates * torch.tensor([[self.at_one], [1 - self.at_one]], dtype=torch.float64)


def _cell_uniform(cells: Cells, chip: Chip) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each cell, a function of chip, part and cell alone.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as a hash: cost is by failing cells, not by cells.
    """
    key = chip.generator("stuck value").integers(2**63, dtype=np.uint64)
    x = (cells.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
