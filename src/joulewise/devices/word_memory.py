"""Memories of two's complement words whose cells fail: storage, reads and moments.

A technology adds its knob, the bit error rate at a point, and the energy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.device import Device
from joulewise.devices.fault_kinds import FaultKind, Mask, all_codes
from joulewise.devices.fault_maps import FaultMap, IndependentMap
from joulewise.devices.faulty_words import FaultyWords, samples_are_dense
from joulewise.devices.measured_map import MeasuredMap
from joulewise.devices.moments import ReadMoments, WordClasses, taken
from joulewise.devices.operating_point import Point, as_point
from joulewise.devices.protection import Protection
from joulewise.errors import OperatingPointError, check_in_range, check_kind, refuse
from joulewise.words import FixedPoint, Words, check_storable

__all__ = ["WordMemory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMemory(Device[Words]):
    """Base of memories that store two's complement words in cells that may fail.

    Faults are static and nested: a chip has weak cells, the same at every read, and a cell that
    fails at some operating point fails at every less reliable one.

    Args:
        bits: Bits in a word, 2 to 16.
        fault: Effect of a failing cell on its word: `Mask`, `Flip` or `Stuck`.
        fault_map: Positions of failing cells: `IndependentMap`, `CorrelatedMap`, `MeasuredMap` or
            `SpareRows`.
        channel_dim: The axis along which each index has a separate scale (0: output channels); None
            for one scale per tensor.
        group_size: Consecutive entries of a channel that share a scale, such as 32 inputs of a
            linear layer, beside ``channel_dim``; None for one scale a channel. Scales of groups lie
            in reliable memory, and are counted at 16 bits each; those of channels are not counted.
        limit: The largest magnitude to represent; None takes the largest in the tensor.
        latency_s: Seconds of an inference, in which all words leak or are refreshed, 0 to 1e6.
        protection: Check bits over words, `Parity` or `SECDED`; None for none. Check cells fail,
            leak and take access energy as sign-bit cells do; every access reads or writes a whole
            codeword.

    Raises:
        InputError: if a field is outside its range.
    """

    bits: int = 8
    fault: FaultKind = field(default_factory=Mask)
    fault_map: FaultMap = field(default_factory=IndependentMap)
    channel_dim: int | None = None
    group_size: int | None = None
    limit: float | None = None
    latency_s: float = 0.0
    protection: Protection | None = None

    def __post_init__(self) -> None:
        check_kind("fault", self.fault, FaultKind, "Mask(), Flip() or Stuck()")
        allowed = "IndependentMap(), CorrelatedMap(...), a MeasuredMap or SpareRows(...)"
        check_kind("fault_map", self.fault_map, FaultMap, allowed)
        check_kind("channel_dim", self.channel_dim, int | None, "an axis, such as 0, or None")
        check_in_range("latency_s", self.latency_s, 0.0, 1e6)
        self._format(None)
        self.fault_map.check(self.bits)
        check_kind("protection", self.protection, Protection | None, "Parity(), SECDED() or None")
        if self.protection is not None:
            self.protection.code(self.bits)
            if isinstance(self.fault, Mask):
                allowed = "Flip() or Stuck() beside a protection: masks take every error as located"
                refuse("fault", "Mask()", allowed)

    @abstractmethod
    def bit_error_rate(self, point: Point) -> Tensor:
        """Probability that a cell fails; float64, the shape of ``point``, differentiable."""

    @abstractmethod
    def access_bit_j(self, point: Point) -> Tensor:
        """Joules per access to one bit; float64, the shape of ``point``, differentiable."""

    @abstractmethod
    def holding_bit_w(self, point: Point) -> Tensor:
        """Watts to hold one bit, by leakage or refresh; the shape of ``point``, differentiable."""

    @property
    def independent_words(self) -> bool:
        """True for an `IndependentMap` without codewords of several words.

        Other maps have weak rows, columns or positions; the words of a codeword are decoded
        together.
        """
        alone = self.protection is None or self.protection.words == 1
        return alone and isinstance(self.fault_map, IndependentMap)

    @property
    def _channels(self) -> bool:
        """True if output channels can have operating points of their own."""
        return self.protection is None and self.fault_map.channels

    @property
    def states_moments(self) -> bool:
        """False where a word's read depends on more than its own content and independent cells.

        So it is for protected words on other maps than `IndependentMap`, whose faults cluster in
        codewords, and in codewords of several words if zeros and ones fail at different rates.
        """
        if self.protection is None:
            return True
        known = self.fault.symmetric or self.protection.words == 1
        return known and isinstance(self.fault_map, IndependentMap)

    @property
    def smooth(self) -> bool:
        """False for a `MeasuredMap`, whose moments are step functions, and for estimated ones."""
        return self.states_moments and not isinstance(self.fault_map, MeasuredMap)

    @property
    def reliable_bit_j(self) -> float:
        """Joules per bit at the most reliable operating point."""
        return float(self.access_bit_j(self.knob.most_reliable))

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Words:
        """Round a tensor to words."""
        format = self._format(limit)
        check_storable(tensor, name, format.channel_dim)
        return format.encode(tensor.detach())

    def ideal(self, stored: Words) -> Tensor:
        """The values rounded to words."""
        return stored.values.to(stored.dtype)

    def read(self, stored: Words, point: Point, chip: Chip) -> Tensor:
        """The values as read on one chip, at the part that holds this tensor."""
        self._check_channels(point, len(stored.codes) if stored.codes.ndim else 0)
        values = stored.values
        self._replace(values[None], stored.scale, values.numel(), point, chip)
        return values.to(stored.dtype)

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch of activations and read it back; see `Device.round_trip`.

        Points ``[rows, 1]`` or ``[rows, bits]`` are those of equal parts of ``words``, one for each
        index of the first axis of a sample.
        """
        used = inputs[0].numel()
        held = max(words or used, used)
        self._check_channels(point, held * inputs.shape[1] // used if inputs.ndim > 1 else 0)
        # One scale: ``channel_dim`` is an axis of weights, and axis 0 is the batch here.
        format = replace(self._format(limit), channel_dim=None, group_size=None)
        values, scale = format.rounded(inputs.detach())
        values = values if samples_are_dense(values) else values.contiguous()
        if chip is not None:
            self._replace(values, scale, held, point, chip)
        return values.to(inputs.dtype)

    def moments(self, stored: Words, point: Point) -> ReadMoments:
        """Element-wise mean and variance of `read` over chips; differentiable in ``point``.

        Exact for an `IndependentMap`, a `MeasuredMap` and `SpareRows`; for a `CorrelatedMap` up to
        the quadrature error that the class states. With a protection, see `Code.moments`, or
        estimated from reads where `states_moments` is False.
        """
        if not self.states_moments:
            return Device.moments(self, stored, point)
        self._check_channels(point, len(stored.codes) if stored.codes.ndim else 0)
        scale, index, points = stored.scale, self._index(stored), as_point(point)
        if points.ndim < 2:
            mean, var = (taken(of_code.to(scale), index) for of_code in self.code_moments(point))
        else:
            index = index.long()
            which = torch.arange(len(points))
            if not points.requires_grad:  # equal points are worked out once
                points, which = torch.unique(points, dim=0, return_inverse=True)
            mean, var = (
                torch.stack(of_code)[which].to(scale).gather(1, index.flatten(1)).view_as(index)
                for of_code in zip(*map(self.code_moments, points), strict=True)
            )
        # In the precision of the scale: squares would underflow in half precision.
        return ReadMoments(mean=mean.mul_(scale), var=var.mul_(scale**2))

    def word_classes(self, stored: Words) -> WordClasses:
        """One class for each code; for each word if moments are estimated."""
        if not self.states_moments:
            return Device.word_classes(self, stored)
        index, scale = self._index(stored), stored.scale
        return WordClasses(
            index=index, scale=scale, count=1 << self.bits, moments=self.code_moments
        )

    def _index(self, stored: Words) -> Tensor:
        """Index of the code of each word in ``all_codes(bits)``, uint8 up to 8 bits, else int32."""
        dtype = torch.uint8 if self.bits <= 8 else torch.int32
        return stored.codes.to(dtype).add_(1 << (self.bits - 1))  # uint8 wraps around

    def code_moments(self, point: Point) -> tuple[Tensor, Tensor]:
        """Mean and variance of the code that is read, for each stored code.

        ``point`` is one number, or one for each bit plane; the moments are two float64 tensors
        ``[2**bits]``, in the order of ``all_codes(bits)``.
        """
        return self._moments_at(self.bit_error_rate(point).expand(self.bits))

    def plane_variances(self, point: Point) -> Tensor:
        """Variance of each stored code with faults in one bit plane alone, ``[bits, 2**bits]``."""
        rate = self.bit_error_rate(point).expand(self.bits)
        planes = torch.eye(self.bits, dtype=rate.dtype)
        return torch.stack([self._moments_at(rate * plane)[1] for plane in planes])

    def _moments_at(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each code for bit error rates ``[bits]``."""
        weights, rates = self.fault_map.mixture(self.fault.rates(rate))
        if len(rates) == 1:
            return self._word_moments(rates[0])
        means, variances = torch.func.vmap(self._word_moments)(rates)
        # Law of total variance, Var = E[Var] + Var[E], in a form without cancellation.
        mean = weights @ means
        return mean, weights @ (variances + (means - mean) ** 2)

    def _word_moments(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of each code where cells fail independently at ``rates [2, bits]``."""
        if self.protection is None:
            return self.fault.moments(rates, self.bits)
        code = self.protection.code(self.bits)
        return code.moments(self.fault.errors(rates), self.protection.on_detected)

    @property
    def single_faults(self) -> tuple[Tensor, Tensor]:
        """Codes of words with one wrong cell, less those stored, and what that cell holds.

        Two tensors int64 ``[bits, 2**bits]``, the codes in the order of ``all_codes(bits)``.
        """
        codes, cells = all_codes(self.bits), torch.arange(self.bits, dtype=torch.int32)
        hit = (1 << cells)[:, None]
        read = self.fault.read(codes.expand(self.bits, -1), hit, hit, self.bits)
        return (read - codes).long(), ((codes >> cells[:, None]) & 1).long()

    def wrong_rates(self, point: Point) -> Tensor:
        """Rates of wrong reads of cells that hold 0 and 1, ``[2, bits]``; mean over rows.

        ``point`` is one number, or one for each bit plane; differentiable.
        """
        rate = self.bit_error_rate(point).expand(self.bits)
        weights, rates = self.fault_map.mixture(self.fault.rates(rate))
        return self.fault.errors(torch.einsum("c,chb->hb", weights, rates))

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: those of accesses, and of holding all words for `latency_s`.

        With points for channels, their mean.
        """
        return self._word_j(traffic, point).mean()

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each channel: equal accesses, each at its channel's point."""
        return self._word_j(traffic, point).expand(channels) / channels

    def _word_j(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference of all words at each channel's point: scalar or ``[channels]``.

        `energy` is the mean.
        """
        access = self.access_bit_j(point)
        watts = self.holding_bit_w(point) if self.latency_s else access * 0
        return self._joules(traffic, access, watts)

    def _joules(self, traffic: Traffic, access: Tensor, watts: Tensor) -> Tensor:
        """Joules per inference of all words and their check cells.

        Args:
            traffic: Accesses.
            access: Joules per access to one bit, in the shape of a point.
            watts: Watts to hold one bit, in the shape of a point.
        """
        accesses = traffic.reads + traffic.writes
        each = self._in_planes(accesses * access + traffic.words * self.latency_s * watts)
        if self.protection is None:
            return each.sum(-1)
        checks = self.protection.overhead(self.bits) * self.bits
        decoded = accesses / self.protection.words * self.protection.decode_j
        return each.sum(-1) + checks * each[..., -1] + decoded

    def _in_planes(self, figures: Tensor) -> Tensor:
        """Expand a function of the point to all bit planes: ``[bits]`` or ``[channels, bits]``."""
        return figures.expand(*figures.shape[:-1], self.bits)

    def _check_channels(self, point: Point, channels: int) -> None:
        """Refuse points of another number of channels than a tensor has."""
        if isinstance(point, float) or as_point(point).ndim < 2 or len(point) == channels:
            return
        allowed = f"one number, or one for each of {channels} output channels"
        refuse(self.knob.name, f"for {len(point)} channels", allowed, OperatingPointError)

    def describe(self) -> dict[str, Any]:
        """Plain data for records: words and faults."""
        described: dict[str, Any] = {
            "bits": self.bits,
            "channel_dim": self.channel_dim,
            "limit": self.limit,
            **self.fault.describe(),
            **self.fault_map.describe(),
        }
        if self.latency_s:
            described["latency_s"] = self.latency_s
        for name in ("group_size", "step_s"):
            if getattr(self, name) is not None:
                described[name] = getattr(self, name)
        return described | ({} if self.protection is None else self.protection.describe())

    def _format(self, limit: float | None) -> FixedPoint:
        # The limit of the device takes precedence over the observed one.
        chosen = limit if self.limit is None else self.limit
        if chosen is not None:
            return FixedPoint(bits=self.bits, limit=chosen)
        return FixedPoint(bits=self.bits, channel_dim=self.channel_dim, group_size=self.group_size)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        """Bits of the scales of groups of a weight of some shape; 0 without groups."""
        one = self.limit is not None or len(shape) < 2
        if one or self.group_size is None or self.channel_dim is None:
            return 0
        channels = shape[self.channel_dim]
        # Rounded up: the last group of a channel may be short.
        return 16 * channels * -(-prod(shape) // channels // self.group_size)

    def _replace(self, values: Tensor, scale: Tensor, words: int, point: Point, chip: Chip) -> None:
        """Replace what is not read as it was stored, in a batch of samples, in place.

        Args:
            values: Fault-free values ``[batch, ...]``, dense within each sample.
            scale: The value of one code step; broadcasts against a sample.
            words: Words of this part of the chip, as many as a sample has or more.
            point: The operating point.
            chip: The chip, at the part that holds them.
        """
        rates, used = self._rates(point), values[0].numel()
        if self.protection is None:
            faulty = self._faulty(words, rates, self.bits, chip).first(used)
            faulty.replace_in(values, scale, self.fault, self.bits)
            return
        code = self.protection.code(self.bits)
        codewords, touched = -(-words // code.words), -(-used // code.words)
        # The last codeword is filled up with zeros, whose cells fail as those of other words do.
        faulty = self._faulty(codewords * code.words, rates, self.bits, chip)
        faulty = faulty.first(touched * code.words)
        # Check cells lie in words of their own, each as reliable as a sign bit.
        check_words = -(-(codewords * code.check_bits) // self.bits)
        checks = np.repeat(rates[..., -1:], self.bits, axis=-1)
        there = chip.region(f"{chip.part}/check bits")
        check = self._faulty(check_words, checks, code.check_bits, there)
        check = check.first(touched)
        faulty.decode_in(values, scale, self.fault, code, check, self.protection.on_detected)

    def _rates(self, point: Point) -> NDArray[np.float64]:
        """Failure rates of cells, ``[2, bits]`` or ``[2, channels, bits]``; see `FaultMap`."""
        # A user's memory may not be hashable.
        if isinstance(point, float) and isinstance(self, Hashable):
            return _common_rates(self, point)
        rate = self._in_planes(self.bit_error_rate(point).detach())
        found: NDArray[np.float64] = self.fault.rates(rate).cpu().numpy()
        return found

    def _faulty(
        self, words: int, rates: NDArray[np.float64], width: int, chip: Chip
    ) -> FaultyWords:
        """Draw failing cells of ``words`` words, and group them by ``width`` cells."""
        on_zero, on_one = self.fault_map.failing(words, rates, chip)
        on_zero = self.fault.select(on_zero, 0, chip)
        return FaultyWords.of_cells(on_zero, self.fault.select(on_one, 1, chip), width)


@lru_cache(maxsize=1024)
def _common_rates(memory: WordMemory, point: float) -> NDArray[np.float64]:
    """Failure rates of cells at one point, cached: each chip of a sweep needs them."""
    rate = memory.bit_error_rate(point).expand(memory.bits)
    rates: NDArray[np.float64] = memory.fault.rates(rate).numpy()
    rates.setflags(write=False)
    return rates
