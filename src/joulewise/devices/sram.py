"""SRAM under voltage scaling: words whose cells fail more often as the supply falls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.device import Device
from joulewise.devices.fault_kinds import FaultKind, Mask
from joulewise.devices.fault_maps import FaultMap, Independent, Measured
from joulewise.devices.moments import Moments, WordClasses
from joulewise.devices.operating_point import Point, as_point
from joulewise.devices.reliability_laws import ExponentialLaw, ReliabilityLaw
from joulewise.errors import OperatingPointError, check_in_range, refuse
from joulewise.words import FixedPoint, decode, encode

__all__ = ["SRAM", "StoredWords"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWords:
    """A tensor that was written to an SRAM.

    Args:
        values: What a perfect memory reads back, each value a code times its scale; float32 or
            float64, so that codes of any width can be told apart.
        scale: The real value of one code step; broadcasts against ``values``.
        dtype: The dtype that is read back.
    """

    values: Tensor
    scale: Tensor
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Upsets:
    """The words that a chip reads wrongly: their places, and which of their cells fail."""

    places: Tensor
    on_zero: Tensor
    on_one: Tensor

    def first(self, words: int) -> _Upsets:
        """Those among the first ``words`` words."""
        count = int(torch.searchsorted(self.places, words))
        if count == len(self.places):
            return self
        return _Upsets(self.places[:count], self.on_zero[:count], self.on_one[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class SRAM(Device[StoredWords]):
    """A static memory of two's complement words; the operating point is ``eta``.

    ``eta`` is the energy of an access over that of a reliable one. Faults are static: a chip has
    weak cells, the same at every read, and those that fail at some ``eta`` fail at any lower one.

    Args:
        bits: Bits in a word, 2 to 16.
        law: Bit error rate and energy as functions of ``eta``.
        fault: What a failing cell does to its word: `Mask`, `Flip` or `Stuck`.
        fault_map: Where the failing cells are: `Independent`, `Correlated` or `Measured`.
        channel_dim: The axis with a scale of its own for each index (0: output channels); None for
            one scale per tensor.
        limit: The largest magnitude to represent; None takes the largest present.

    Raises:
        InputError: if a field is outside its range.

    Example:
        >>> memory = SRAM(bits=8)
        >>> stored = memory.store(torch.linspace(-1, 1, 1000))
        >>> a = memory.read(stored, 0.3, Chip(seed=1))
        >>> bool((a == memory.read(stored, 0.3, Chip(seed=1))).all())
        True
        >>> float(memory.energy(Traffic(words=1000, reads=1000, writes=0), 0.5))  # joules
        1.25e-09

    References:
        Hacene et al., ISCAS 2019, arXiv 1911.10287.
    """

    bits: int = 8
    law: ReliabilityLaw = field(default_factory=ExponentialLaw)
    fault: FaultKind = field(default_factory=Mask)
    fault_map: FaultMap = field(default_factory=Independent)
    channel_dim: int | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        """Check the fields once."""
        self._format(None)
        self.fault_map.check(self.bits)

    @property
    def knob(self) -> str:
        """``eta``."""
        return "eta"

    @property
    def most_reliable(self) -> float:
        """The upper end of the law's range."""
        return self.law.eta_range[1]

    @property
    def independent_words(self) -> bool:
        """Whether the fault map is `Independent`: others have weak rows, columns or places."""
        return isinstance(self.fault_map, Independent)

    @property
    def smooth(self) -> bool:
        """Whether the fault map is not `Measured`, whose cells fail one after the other."""
        return not isinstance(self.fault_map, Measured)

    @property
    def planes(self) -> int:
        """The bits of a word."""
        return self.bits

    @property
    def channel_points(self) -> bool:
        """A weight's words lie channel by channel, and each channel may have a supply."""
        return True

    @property
    def reliable_bit_j(self) -> float:
        """The law's energy at its most reliable point."""
        return float(self.law.energy_per_bit_j(as_point(self.most_reliable)))

    @property
    def least_reliable(self) -> float:
        """The lower end of the law's range."""
        return self.law.eta_range[0]

    def point(self, **setting: Point) -> Point:
        """An operating point from ``eta=`` or ``v_dd=`` (volts, or the unit of the law's table).

        One number, or one for each bit plane, least significant first: ``[bits]``. For a weight,
        also one for each output channel, ``[channels, 1]``, or for both, ``[channels, bits]``.

        Raises:
            OperatingPointError: if the setting is neither, or out of the law's range.
        """
        if list(setting) not in (["eta"], ["v_dd"]):
            got = ", ".join(setting) or "no setting"
            raise OperatingPointError(f"an SRAM was given {got}; allowed: one of eta, v_dd")
        (name, value), *_ = setting.items()
        point = as_point(value)
        for_all = point.shape in ((), (self.bits,))
        by_channel = point.ndim == 2 and len(point) > 0 and point.shape[1] in (1, self.bits)
        if not (for_all or by_channel):
            allowed = f"one number, or {self.bits}, one for each bit plane; or [channels, 1] or "
            allowed += f"[channels, {self.bits}], for each output channel"
            refuse(name, f"of shape {tuple(point.shape)}", allowed, OperatingPointError)
        if name == "v_dd":
            point = self.law.eta(point)
        for eta in point.detach().reshape(-1).tolist():
            check_in_range("eta", eta, *self.law.eta_range, error=OperatingPointError)
        # A tensor keeps its graph; one number is plain, so that what follows from it can be kept.
        return point if point.ndim or isinstance(value, Tensor) else float(point)

    def bit_error_rate(self, point: Point) -> Tensor:
        """The probability that a cell fails; float64, the shape of ``point``."""
        return self.law.bit_error_rate(as_point(point))

    def store(
        self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor"
    ) -> StoredWords:
        """Round a tensor to words."""
        words = encode(tensor.detach(), self._format(limit), name)
        values = decode(replace(words, dtype=words.scale.dtype))
        return StoredWords(values=values, scale=words.scale, dtype=tensor.dtype)

    def ideal(self, stored: StoredWords) -> Tensor:
        """The rounded values."""
        return stored.values.to(stored.dtype)

    def read(self, stored: StoredWords, point: Point, chip: Chip) -> Tensor:
        """The values, with this chip's failing cells.

        Args:
            stored: From `store`.
            point: ``eta``.
            chip: The chip, at the part that holds this tensor.
        """
        self._check_channels(point, len(stored.values) if stored.values.ndim else 0)
        upsets = self._upsets(stored.values.numel(), point, chip)
        values = stored.values.clone()
        self._strike(values[None], stored.scale, upsets)
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
        """Write a batch of activations and read it back with this chip's failing cells.

        Args:
            inputs: Any shape ``[batch, ...]``; a sample's words occupy the same cells as those of
                every other sample.
            point: ``eta``.
            chip: The chip, at the part that holds these activations; None for a perfect memory.
            limit: The largest magnitude to represent, where the device was not given one; None
                takes the largest in the batch.
            words: Words of this part of the chip, of which a shorter sample uses the first; None
                for as many as a sample has.
        """
        self._check_channels(point, 0)
        # One scale: ``channel_dim`` is an axis of weights, and would be the batch here.
        format = replace(self._format(limit), channel_dim=None)
        inputs = inputs.detach()
        scale = format.scale(inputs)
        steps = torch.div(inputs.to(scale.dtype), scale).round_()
        if not _samples_are_dense(steps):
            steps = steps.contiguous()
        values = steps.clamp_(format.lowest, format.highest).mul_(scale)
        if chip is not None:
            used = values[0].numel()
            upsets = self._upsets(max(words or used, used), point, chip)
            self._strike(values, scale, upsets.first(used))
        return values.to(inputs.dtype)

    def moments(self, stored: StoredWords, point: Point) -> Moments:
        """Mean and variance over chips of what `read` returns, each word on its own.

        Exact for `Independent` and `Measured` maps; for `Correlated` ones up to the quadrature
        error that the class states. Differentiable in ``point``.
        """
        self._check_channels(point, len(stored.values) if stored.values.ndim else 0)
        scale, index = stored.scale, self._index(stored)
        if isinstance(point, float) or as_point(point).ndim < 2:
            mean, var = (of_code.to(scale).take(index) for of_code in self.code_moments(point))
        else:
            found = zip(self._moments_of_rows(as_point(point)), index, strict=True)
            rows = [(m.to(scale).take(own), v.to(scale).take(own)) for (m, v), own in found]
            mean, var = (torch.stack(part) for part in zip(*rows, strict=True))
        # Half precision only after the scale: squares would underflow in it.
        return Moments(mean=mean * scale, var=var * scale**2)

    def _moments_of_rows(self, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """`code_moments` at each of several points; without gradients, of each point once."""
        known: dict[tuple[float, ...], tuple[Tensor, Tensor]] = {}
        for point in points:
            if points.requires_grad:
                yield self.code_moments(point)
                continue
            key = tuple(point.tolist())
            if key not in known:
                known[key] = self.code_moments(point)
            yield known[key]

    def word_classes(self, stored: StoredWords) -> WordClasses:
        """A class for each code."""
        return WordClasses(
            index=self._index(stored),
            scale=stored.scale,
            count=1 << self.bits,
            moments=self.code_moments,
        )

    def _index(self, stored: StoredWords) -> Tensor:
        """Which of ``all_codes(bits)`` each word holds."""
        return torch.round(stored.values / stored.scale).long() - self._format(None).lowest

    def code_moments(self, point: Point) -> tuple[Tensor, Tensor]:
        """Mean and variance of the code that is read, for every code that can be stored.

        Args:
            point: One number, or one for each bit plane.

        Returns:
            Two float64 tensors of shape ``[2**bits]``, in the order of ``all_codes(bits)``.
        """
        rate = self.bit_error_rate(point).expand(self.bits)
        weights, rates = self.fault_map.mixture(self.fault.rates(rate))
        parts = [self.fault.moments(component, self.bits) for component in rates]
        if len(parts) == 1:
            return parts[0]
        means, variances = (torch.stack(part) for part in zip(*parts, strict=True))
        # Var = E[Var] + Var[E], about the mean: no difference of large squares.
        mean = weights @ means
        return mean, weights @ (variances + (means - mean) ** 2)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: bits accessed times the energy of an access at ``point``."""
        return (traffic.reads + traffic.writes) * self._word_j(point).mean()

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """An equal share of the accesses, each at the energy of the channel's own point."""
        accesses = (traffic.reads + traffic.writes) / channels
        return accesses * self._word_j(point).expand(channels)

    def _word_j(self, point: Point) -> Tensor:
        """Joules of an access to a word: one number, or one for each channel."""
        return self._in_planes(self.law.energy_per_bit_j(as_point(point))).sum(-1)

    def _in_planes(self, figures: Tensor) -> Tensor:
        """Figures of a point, one for each bit plane: ``[bits]``, or ``[channels, bits]``."""
        return figures.expand(*figures.shape[:-1], self.bits)

    def _check_channels(self, point: Point, channels: int) -> None:
        """Refuse points for other channels than there are; 0 for none, as activations have."""
        if isinstance(point, float) or as_point(point).ndim < 2 or len(point) == channels:
            return
        allowed = f"one number, or one for each of {channels} output channels"
        if not channels:
            allowed = "one number, or one for each bit plane: only weights have output channels"
        refuse(self.knob, f"for {len(point)} channels", allowed, OperatingPointError)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "device": "sram",
            "bits": self.bits,
            "channel_dim": self.channel_dim,
            "limit": self.limit,
            **self.fault.describe(),
            **self.fault_map.describe(),
            **self.law.describe(),
        }

    def _format(self, limit: float | None) -> FixedPoint:
        # A range that the device was given wins over one that was observed.
        chosen = limit if self.limit is None else self.limit
        channel_dim = self.channel_dim if chosen is None else None
        return FixedPoint(bits=self.bits, limit=chosen, channel_dim=channel_dim)

    def _rates(self, point: Point) -> NDArray[np.float64]:
        if isinstance(point, float):
            return _common_rates(self.law, self.fault, self.bits, point)
        rate = self._in_planes(self.bit_error_rate(point).detach())
        return self.fault.rates(rate).cpu().numpy()

    def _upsets(self, words: int, point: Point, chip: Chip) -> _Upsets:
        """Draw the failing cells of one part of a chip."""
        on_zero, on_one = self.fault_map.failing(words, self._rates(point), chip)
        shared = on_zero is on_one
        on_zero, on_one = (
            self.fault.select(on_zero, 0, chip),
            self.fault.select(on_one, 1, chip),
        )
        if shared and on_zero is on_one:
            places, pattern = _gather_patterns(on_zero, self.bits)
            return _Upsets(places, pattern, pattern)
        return _merge_patterns(on_zero, on_one, self.bits)

    def _strike(self, values: Tensor, scale: Tensor, upsets: _Upsets) -> None:
        """Replace upset words, in place, in every sample of ``values`` (batch first)."""
        if not len(upsets.places):
            return
        shape, device = values.shape[1:], values.device
        places = upsets.places.to(device)
        if scale.ndim:
            scale = scale.expand(shape)[torch.unravel_index(places, shape)]
        columns = _memory_order(places, values)
        rows = _rows(values)
        right = rows.index_select(1, columns)
        codes = torch.round(right / scale).to(torch.int32)
        on_zero, on_one = upsets.on_zero.to(device), upsets.on_one.to(device)
        read = self.fault.read(codes, on_zero, on_one, self.bits)
        wrong = read.to(values.dtype) * scale
        rows.scatter_(1, columns.expand_as(wrong), wrong)


@lru_cache(maxsize=1024)
def _common_rates(
    law: ReliabilityLaw, fault: FaultKind, bits: int, point: float
) -> NDArray[np.float64]:
    """Cell failure rates at one point; kept, since every draw of a sweep asks for them."""
    rates: NDArray[np.float64] = fault.rates(
        law.bit_error_rate(as_point(point)).expand(bits)
    ).numpy()
    rates.setflags(write=False)
    return rates


def _samples_are_dense(values: Tensor) -> bool:
    """Whether each sample's words lie side by side in memory, in whatever order."""
    sizes, strides = values.shape[1:], values.stride()[1:]
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return last == values[0].numel() - 1


def _rows(values: Tensor) -> Tensor:
    """A dense tensor seen as ``[batch, words]`` with the words in the order they lie in memory."""
    if values.is_contiguous():
        return values.view(len(values), -1)
    order = sorted(range(1, values.ndim), key=values.stride, reverse=True)
    return values.permute(0, *order).view(len(values), -1)


def _memory_order(places: Tensor, values: Tensor) -> Tensor:
    """Logical word numbers within a sample as columns of `_rows`."""
    if values.is_contiguous():
        return places
    axes = torch.unravel_index(places, values.shape[1:])
    offsets = [axis * values.stride(dim) for dim, axis in enumerate(axes, 1)]
    return torch.stack(offsets).sum(0)


def _gather_patterns(cells: NDArray[np.int64], bits: int) -> tuple[Tensor, Tensor]:
    """Words with failing cells, and each one's pattern of failing bits; ``cells`` ascending."""
    words, places = np.divmod(cells, bits)
    starts = _group_starts(words)
    if not len(starts):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    pattern = np.bitwise_or.reduceat(np.left_shift(1, places), starts)
    return torch.from_numpy(words[starts]), torch.from_numpy(pattern.astype(np.int32))


def _group_starts(words: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each run of equal entries begins."""
    first = np.ones(len(words), dtype=np.bool_)
    np.not_equal(words[1:], words[:-1], out=first[1:])
    return np.flatnonzero(first)


def _merge_patterns(on_zero: NDArray[np.int64], on_one: NDArray[np.int64], bits: int) -> _Upsets:
    """Both polarities at once: the pattern on one sits ``bits`` above the pattern on zero."""
    shifted = [
        (cells // bits) * (2 * bits) + cells % bits + offset
        for cells, offset in ((on_zero, 0), (on_one, bits))
    ]
    merged = np.sort(np.concatenate(shifted))
    words, places = np.divmod(merged, 2 * bits)
    starts = _group_starts(words)
    if not len(starts):
        empty = torch.zeros(0, dtype=torch.int32)
        return _Upsets(torch.zeros(0, dtype=torch.int64), empty, empty)
    pattern = np.bitwise_or.reduceat(np.left_shift(1, places), starts)
    low = (pattern & ((1 << bits) - 1)).astype(np.int32)
    high = (pattern >> bits).astype(np.int32)
    return _Upsets(torch.from_numpy(words[starts]), torch.from_numpy(low), torch.from_numpy(high))
