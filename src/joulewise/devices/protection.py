"""Protection of words by check bits: parity and single-error-correcting codes.

A codeword holds the protected bits of several neighbouring words and check bits that lie in further
cells of the memory. Reads are decoded exactly; moments are closed forms for independent cells, if
they do not depend on what other words hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from joulewise.devices.fault_kinds import all_codes, planes_of
from joulewise.errors import check_count, check_in_range, refuse

__all__ = ["SECDED", "Code", "Parity", "Protection"]

OnDetected = Literal["zero", "keep"]
"""Handling of a detected, uncorrectable error: ``"zero"`` reads all words of the codeword as 0,
``"keep"`` returns them uncorrected."""

_CORRECT, _DETECTED = -1, -2
"""Entries of a decoder for syndromes without an error in the data, and for detected errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection(ABC):
    """Base of protections: check bits over the most significant bits of neighbouring words.

    Args:
        words: Words in a codeword, 1 or more.
        planes: Most significant bit planes that are protected; None for all.
        on_detected: ``"zero"`` or ``"keep"``; see `OnDetected`.
        decode_j: Joules to decode one codeword, 0 to 1; spent at every access.
    """

    words: int = 8
    planes: int | None = None
    on_detected: OnDetected = "zero"
    decode_j: float = 0.0

    def __post_init__(self) -> None:
        check_count("words", self.words, 1, 4096)
        if self.planes is not None:
            check_count("planes", self.planes, 1, 16)
        check_in_range("decode_j", self.decode_j, 0.0, 1.0)
        if self.on_detected not in get_args(OnDetected):
            refuse("on_detected", repr(self.on_detected), " or ".join(get_args(OnDetected)))

    @abstractmethod
    def code(self, bits: int) -> Code:
        """The code over words of ``bits`` bits."""

    def overhead(self, bits: int) -> float:
        """Check cells over data cells: extra area, accesses and leakage."""
        return self.code(bits).check_bits / (self.words * bits)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"protection": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity(Protection):
    """One parity bit: any odd number of errors in a codeword is detected.

    Args:
        words: See `Protection`; 1 by default, so that a word with an error reads 0.
    """

    words: int = 1

    def code(self, bits: int) -> Code:
        """A code with one check bit over all protected bits; it locates no error."""
        return _parity(bits, self.words, _planes(self, bits))


@dataclass(frozen=True, slots=True, kw_only=True)
class SECDED(Protection):
    """Single-error-correcting, double-error-detecting code with columns of odd weight.

    With 8 words of 8 bits it has 8 check bits, the (72, 64) code. Three errors are mostly taken for
    one and corrected wrongly, as in real decoders.

    References:
        M. Y. Hsiao, "A class of optimal minimum odd-weight-column SEC-DED codes", IBM J. Res. Dev.
        14(4), 1970.
    """

    def code(self, bits: int) -> Code:
        """A Hsiao code: columns of odd weight from 3, those of least weight first."""
        return _secded(bits, self.words, _planes(self, bits))


def _planes(protection: Protection, bits: int) -> int:
    check_count("bits", bits, 2, 16)
    planes = bits if protection.planes is None else protection.planes
    if planes > bits:
        refuse("planes", planes, f"at most the {bits} bits of a word")
    return planes


@lru_cache(maxsize=64)
def _parity(bits: int, words: int, planes: int) -> Code:
    columns = (1,) * (planes * words)
    return Code(
        bits=bits, words=words, planes=planes, check_bits=1, columns=columns, corrects=False
    )


@lru_cache(maxsize=64)
def _secded(bits: int, words: int, planes: int) -> Code:
    check = 2
    while 2 ** (check - 1) - check < planes * words:
        check += 1
    odd = (v for v in range(1 << check) if v.bit_count() % 2 and v.bit_count() > 1)
    columns = tuple(sorted(odd, key=int.bit_count)[: planes * words])
    return Code(
        bits=bits, words=words, planes=planes, check_bits=check, columns=columns, corrects=True
    )


@dataclass(frozen=True, kw_only=True)
class Code:
    """A linear code over the most significant bits of words.

    Args:
        bits: Bits in a word.
        words: Words in a codeword.
        planes: Most significant bits that are protected.
        check_bits: Check bits.
        columns: Column of the parity-check matrix of each protected bit: word by word, from the
            least significant protected bit.
        corrects: True if a single error is corrected.
    """

    bits: int
    words: int
    planes: int
    check_bits: int
    columns: tuple[int, ...]
    corrects: bool

    @cached_property
    def _masks(self) -> Tensor:
        """Bits of each word that a check bit covers, int32 ``[check_bits, words]``."""
        masks = torch.zeros(self.check_bits, self.words, dtype=torch.int32)
        for place, column in enumerate(self.columns):
            word, bit = divmod(place, self.planes)
            for check in range(self.check_bits):
                if column >> check & 1:
                    masks[check, word] |= 1 << (bit + self.bits - self.planes)
        return masks

    @cached_property
    def _decoder(self) -> Tensor:
        """Number of the bit to flip for each syndrome, or `_CORRECT` or `_DETECTED`."""
        table = torch.full((1 << self.check_bits,), _DETECTED, dtype=torch.int64)
        table[0] = _CORRECT
        if not self.corrects:
            return table
        for check in range(self.check_bits):
            table[1 << check] = _CORRECT
        for place, column in enumerate(self.columns):
            word, bit = divmod(place, self.planes)
            table[column] = word * self.bits + bit + self.bits - self.planes
        return table

    @cached_property
    def miscorrected(self) -> float:
        """Fraction of odd-weight syndromes of several errors that look like one error."""
        if not self.corrects:
            return 0.0
        return (len(self.columns) + self.check_bits) / (1 << (self.check_bits - 1))

    def _syndrome(self, words: Tensor) -> Tensor:
        """Syndrome of data ``[..., words]``, int32 ``[...]``."""
        found = torch.zeros(words.shape[:-1], dtype=torch.int32, device=words.device)
        for check, mask in enumerate(self._masks.to(words.device)):
            covered = words & mask
            folded = covered[..., 0]
            for word in range(1, self.words):
                folded = folded ^ covered[..., word]
            for shift in (8, 4, 2, 1):
                folded = folded ^ (folded >> shift)
            found |= (folded & 1) << check
        return found

    def decode(
        self,
        codes: Tensor,
        read: Tensor,
        check_on_zero: Tensor,
        check_on_one: Tensor,
        on_detected: OnDetected,
    ) -> Tensor:
        """Decoded words of codewords.

        Args:
            codes: Stored codes, int32 ``[..., words]``.
            read: Codes as their cells read, the same shape.
            check_on_zero: Check cells that fail holding 0, bit patterns that broadcast against
                ``[...]``.
            check_on_one: Those that fail holding 1.
            on_detected: See `OnDetected`.
        """
        held = self._syndrome(codes)
        failing = (~held & check_on_zero) | (held & check_on_one)
        syndrome = self._syndrome(codes ^ read) ^ failing
        place = self._decoder.to(codes.device)[syndrome.long()]
        flipped = torch.zeros_like(read)
        located = place.clamp(min=0)
        bit = torch.ones_like(syndrome) << (located % self.bits).to(torch.int32)
        bit = torch.where(place >= 0, bit, torch.zeros_like(bit))
        flipped.scatter_(-1, (located // self.bits)[..., None], bit[..., None])
        unused = 32 - self.bits
        decoded = ((read ^ flipped) << unused) >> unused  # sign-extended
        if on_detected == "keep":
            return decoded
        return torch.where((place == _DETECTED)[..., None], torch.zeros_like(decoded), decoded)

    def moments(self, rates: Tensor, on_detected: OnDetected) -> tuple[Tensor, Tensor]:
        """Mean and variance of the code that is read, for each stored code; differentiable.

        Cells fail independently. For codes that correct, an odd number of three or more errors is
        miscorrected with probability `miscorrected`, at a uniformly drawn cell, and an even number
        is taken as detected.

        Args:
            rates: Rates of errors of cells that hold 0 and 1, ``[2, bits]``; equal ones, unless a
                codeword has one word, whose check bits are then known.
            on_detected: See `OnDetected`.

        Returns:
            Two float64 tensors ``[2**bits]``, in the order of `all_codes`.
        """
        codes = all_codes(self.bits)
        ones = planes_of(codes, self.bits)  # [bits, codes]
        powers = 2.0 ** torch.arange(self.bits, dtype=torch.float64)
        weights = torch.cat([powers[:-1], -powers[-1:]])
        # Below 1, so that the odds of an error are finite.
        error = (rates[1, :, None] * ones + rates[0, :, None] * (1 - ones)).clamp(max=1 - 1e-12)
        step = weights[:, None] * (1 - 2 * ones)  # change of the code by an error
        guarded = torch.arange(self.bits) >= self.bits - self.planes
        own = _Errors(error[guarded], step[guarded])
        held: Tensor | float = 0.5  # by the check cells, which are as reliable as sign bits
        if self.words == 1:
            held = planes_of(self._syndrome(codes[:, None]), self.check_bits)
        sign = rates[:, -1]
        check = (sign[1] * held + sign[0] * (1 - held)) * rates.new_ones(self.check_bits, 1)
        others = rates.mean(0)[guarded].repeat(self.words - 1)[:, None]
        rest = torch.cat([others.expand(-1, check.shape[1]), check]).clamp(max=1 - 1e-12)
        read, detected = self._outcomes(own, rest, step[guarded])
        if on_detected == "keep":
            read, detected = _plus(read, detected), _times(detected, 0.0)
        free = _Errors(error[~guarded], step[~guarded]).total
        # Deviations from the stored code, whose squares do not cancel: errors of the cells where
        # none is detected, else minus the code.
        mean = read[1] + read[0] * free[1] - detected[0] * codes
        square = read[2] + 2 * read[1] * free[1] + read[0] * free[2] + detected[0] * codes**2
        return codes + mean, (square - mean**2).clamp(min=0)

    def _outcomes(self, own: _Errors, rest: Tensor, step: Tensor) -> tuple[Sums, Sums]:
        """Sums over patterns that are read as they are, or corrected, and over detected ones.

        Args:
            own: Errors of the protected cells of a word.
            rest: Error rates of the other cells of its codeword, ``[cells, codes]``, or
                ``[cells, 1]`` for all codes.
            step: Change of the code by an error in each protected plane, ``[planes, codes]``.
        """
        # Sums over patterns of an even and an odd number of errors in the codeword are those of
        # (P + S) / 2 and (P - S) / 2, with P the chance of a pattern and S that with the sign of
        # its parity, a product over cells: 1 - 2 p for each of the others.
        none, odds = (1 - rest).prod(0), (rest / (1 - rest)).sum(0)
        parity = _times(own.signed, (1 - 2 * rest).prod(0))
        even, odd = (_times(_plus(own.total, _times(parity, sign)), 0.5) for sign in (1.0, -1.0))
        if not self.corrects:
            return even, odd
        # One error, in the word or in another cell, is corrected: its patterns read right.
        clean = _times(own.none, none)
        right = clean[0] + none * (own.one[0] + own.none[0] * odds)
        several = _plus(odd, _times(own.one, -none), _times(own.none, -none * odds))
        # Three or more, if odd, look like one error with this chance; even numbers are detected.
        wrong = self.miscorrected
        # A wrong correction changes one cell more.
        chance = several[0] * wrong / (len(self.columns) + self.check_bits)
        more = (chance * 0, chance * step.sum(0), chance * step.square().sum(0))
        read = _plus((right, right * 0, right * 0), _times(several, wrong), more)
        return read, _plus(even, _times(clean, -1.0), _times(several, 1 - wrong))


Sums = tuple[Tensor, Tensor, Tensor]
"""Sums of 1, x and x^2 over patterns of errors, x the change of the code: ``[codes]`` each."""


class _Errors:
    """Independent errors of cells at rates ``[cells, codes]``, each adding a step to the code.

    Attributes:
        total: Sums over all patterns, by their probability.
        signed: The same with ``(-1)^errors``.
        none: Over the pattern without errors.
        one: Over the patterns with one error.
    """

    def __init__(self, rate: Tensor, step: Tensor) -> None:
        self.total, self.signed = _product(rate, step, 1.0), _product(rate, step, -1.0)
        kept = (1 - rate).prod(0)
        odds = rate / (1 - rate)
        self.none: Sums = (kept, kept * 0, kept * 0)
        first, second = (kept * (odds * step**power).sum(0) for power in (1, 2))
        self.one: Sums = (kept * odds.sum(0), first, second)


def _product(rate: Tensor, step: Tensor, sign: float) -> Sums:
    """Sums for a product measure, with a factor ``sign`` for each error."""
    mass = torch.ones(rate.shape[1], dtype=torch.float64)
    first = second = torch.zeros_like(mass)
    # Cell by cell: x + s with an error, so that E (x + s)^2 = E x^2 + 2 s E x + s^2.
    for p, s in zip(rate, step, strict=True):
        wrong, both = sign * p, 1 - p + sign * p
        second = second * both + (2 * first * s + mass * s**2) * wrong
        first = first * both + mass * wrong * s
        mass = mass * both
    return mass, first, second


def _times(sums: Sums, factor: Tensor | float) -> Sums:
    return sums[0] * factor, sums[1] * factor, sums[2] * factor


def _plus(*several: Sums) -> Sums:
    mass, first, second = (torch.stack(parts).sum(0) for parts in zip(*several, strict=True))
    return mass, first, second
