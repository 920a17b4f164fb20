"""Memristor crossbars: weights as differential pairs, or single devices with an offset column.

A weight ``w`` is two conductances, ``c |w|`` on the device of its sign and 0 on the other, with
``c = g_max / limit``; their difference over ``c`` is read back. With a larger ``g_max``, the knob,
additive noise is smaller relative to the weights and power is higher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from joulewise.devices.analog_cells import AnalogCells
from joulewise.devices.bit_slices import digit_steps, digits_of
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.conductance_pairs import PairDevice, Pairs, normals
from joulewise.devices.conductance_range import G_RANGE, ConductanceRange
from joulewise.devices.conductance_table import ConductanceTable
from joulewise.devices.moments import ReadMoments, WordClasses
from joulewise.devices.operating_point import Knob, Point
from joulewise.devices.wires import tiled_factors
from joulewise.errors import check_count, check_in_range, check_kind, refuse

__all__ = ["Crossbar"]

# Positive targets, and as many negative ones, that `word_classes` rounds weights to.
_TARGETS = 512
# Weights, more than targets, from which moments that save time are worth it.
_FEW = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossbar(AnalogCells, ConductanceRange, PairDevice):
    """A memristor crossbar; the operating point is ``g_max``.

    Weights become targets as stated, with their fields, in `PairDevice`.

    A device, also one with target 0, has the conductance
    ``max(0, target (1 + variability n1) + sigma n2)``, and each read adds ``read_noise n3``. All
    ``n`` are independent standard normal numbers; ``n1`` and ``n2`` are drawn once per chip.

    Targets are ``g_min + (g_max - g_min) |w| / limit``, where ``g_min`` may be stated as a ratio,
    ``g_max / on_off``. Stuck devices hold ``g_min`` or ``g_max`` whatever is
    programmed. With ``mapping="offset"`` a weight is one device between ``g_min`` and ``g_max``,
    and the current of a column of middle conductances is subtracted from each column. With several
    ``slices`` each digit of a weight has its own devices. ``wire_ohm`` adds IR drop along the rows
    and columns of each array; positive and negative devices lie in separate arrays, output channels
    are columns (see `wire_factors`).

    The two kinds of programming noise rank training methods differently, so state which one a
    result is for. Additive noise (``sigma``) is reduced by a smaller range of weights and by a
    larger ``g_max``; proportional noise (``variability``) by neither.

    Args:
        sigma: Standard deviation of a programmed conductance, siemens, 0 to 1.
        variability: Standard deviation of a programmed conductance over its target, 0 to 1.
        read_noise: Standard deviation of the noise that each read adds to a device, siemens, 0 to
            1. A read is one forward pass over one batch.
        programming: Measured mean and standard deviation of programmed conductances, such as one of
            `RERAM`, in place of ``sigma`` and ``variability``; None for those.
        on_off: Ratio of ``g_max`` to the lowest conductance, above 1, which then changes with
            ``g_max``; infinity for ``g_min``.
        g_min: Lowest conductance of a device, siemens, 0 to 0.5; ``g_max`` is at least twice that.
            0 for the lowest target of ``programming``, or devices that can be switched off.
        stuck_off: Fraction of devices stuck at the lowest conductance, 0 to 1.
        stuck_on: Fraction of devices stuck at ``g_max``, 0 to 1; both add up to at most 1.
        mapping: ``"pair"`` or ``"offset"``.
        slices: Bit slices of a weight, 1 to 8; more than 1 needs ``levels``, the steps of a slice.
        wire_ohm: Resistance of the wire between neighbouring devices, ohms, 0 to 1e3.
        clip: True if programmed conductances are clipped at 0, as physical ones are; False if they
            may be negative, as published closed forms assume.
        g_range: Lowest and highest ``g_max``, siemens, above 0 to 1, which lowest conductance and
            ``programming`` must allow; required with ``wire_ohm``: IR drop grows with ``g_max``, so
            that the largest ``g_max`` may not be the most reliable one. Allocation then leaves out
            values beyond that of the least predicted error.

    References:
        J. Kern et al., "MemSE: Fast MSE prediction for noisy memristor-based DNN accelerators",
        AICAS 2022, arXiv 2205.01707 (``sigma``, ``levels``, without clipping); G. Mordido et al.,
        SAMSON, arXiv 2211.11561 (``variability``).

    Example:
        >>> crossbar = Crossbar(sigma=1e-6)
        >>> stored = crossbar.store(torch.tensor([1.0, -0.5, 0.25]))
        >>> moments = crossbar.moments(stored, 25e-6)
        >>> [round(float(v) ** 0.5, 4) for v in moments.var]  # devices with target 0 are clipped
        [0.0463, 0.0463, 0.0463]
    """

    sigma: float = 0.0
    variability: float = 0.0
    read_noise: float = 0.0
    programming: ConductanceTable | None = None
    on_off: float = math.inf
    g_min: float = 0.0
    stuck_off: float = 0.0
    stuck_on: float = 0.0
    mapping: Literal["pair", "offset"] = "pair"
    slices: int = 1
    wire_ohm: float = 0.0
    clip: bool = True
    g_range: tuple[float, float] = G_RANGE

    def __post_init__(self) -> None:
        PairDevice.__post_init__(self)  # super() would fail: slots make a new class
        for name in ("sigma", "variability", "read_noise", "stuck_off", "stuck_on"):
            check_in_range(name, getattr(self, name), 0.0, 1.0)
        check_in_range("stuck_off + stuck_on", self.stuck_off + self.stuck_on, 0.0, 1.0)
        check_in_range("wire_ohm", self.wire_ohm, 0.0, 1e3)
        check_count("slices", self.slices, 1, 8)
        if self.mapping not in ("pair", "offset"):
            refuse("mapping", repr(self.mapping), "'pair' or 'offset'")
        if self.levels is not None:
            digit_steps(self.levels, self.slices)
        elif self.slices > 1:
            refuse("levels", None, "the steps of a slice, since there are several slices")
        self._check_range()
        self._check_wires()
        check_kind("clip", self.clip, bool, "True or False")

    def _check_wires(self) -> None:
        """Refuse wires beside an offset column, and without a range of conductances."""
        if not self.wire_ohm:
            return
        if self.mapping == "offset":
            refuse("mapping", "'offset' beside wire_ohm", "'pair'")
        if self.g_range == G_RANGE:
            allowed = "beside wire_ohm, the range of g_max to consider, such as (1e-06, 40e-6)"
            refuse("g_range", f"{self.g_range}, the default", allowed)

    @property
    def knob(self) -> Knob:
        """``g_max`` in siemens, within ``g_range`` and the table of ``programming``, if any.

        Output columns can have separate points, except with wires.
        """
        low, high = self._g_ends
        channels = not self.wire_ohm
        return Knob(name="g_max", least_reliable=low, most_reliable=high, channels=channels)

    @property
    def fresh(self) -> bool:
        """True if there is read noise."""
        return self.read_noise > 0

    @property
    def steps(self) -> int | None:
        """Steps from 0 to the limit of a weight, ``(levels + 1)**slices - 1``.

        None for continuous weights.
        """
        return self.levels and digit_steps(self.levels, self.slices)

    def read(self, stored: Pairs, point: Point, chip: Chip) -> Tensor:
        """The tensor as read on one chip: differences of conductances, in the tensor's unit."""
        unit, parts = self._unit(stored, point), []
        for number, (digit, factor) in enumerate(digits_of(stored, self.levels, self.slices)):
            there = chip.region(f"{chip.part}/slice {number}") if number else chip
            read = self._read_digit(digit, unit, there)
            parts.append(read if factor == 1.0 else factor * read)
        return sum(parts[1:], parts[0]).to(stored.dtype)

    def _read_digit(self, stored: Pairs, unit: Tensor, chip: Chip) -> Tensor:
        """Reads of one slice."""
        weights = stored.weights
        if self.clip or not self._pair_is_gaussian:
            read = self._difference(self._conductances(stored, unit, chip), stored, unit)
        elif self._noisy:
            # Unclipped noise of the two devices is Gaussian: one draw has the variance of both.
            (noise,) = normals(chip, "programming", (1, *weights.shape))
            read = weights + self._std(weights.abs(), unit, devices=2) * noise.to(weights)
        else:
            read = weights.clone()
        if self.read_noise:
            (fresh,) = normals(chip, "read", (1, *weights.shape), fresh=True)
            devices = 2 if self.mapping == "pair" else 1
            read += devices**0.5 * self.read_noise * unit.to(weights) * fresh.to(weights)
        return read

    @property
    def _pair_is_gaussian(self) -> bool:
        """True for pairs of independent devices, Gaussian unless clipped, of targets |w| and 0."""
        simple = self.programming is None and self.on_off == math.inf and not self._stuck
        return simple and not self.g_min and self.mapping == "pair" and not self.wire_ohm

    def _conductances(self, stored: Pairs, unit: Tensor, chip: Chip) -> list[Tensor]:
        """Conductances of one chip, of the devices in the order of `_targets`."""
        held = list(self._targets(stored, unit))
        shape = (len(held), *stored.weights.shape)
        if self._noisy:
            noise = normals(chip, "programming", shape)
            held = [
                self._programmed(target, unit, one.to(target))
                for target, one in zip(held, noise, strict=True)
            ]
        if self._stuck:
            drawn = torch.from_numpy(chip.generator("stuck devices").random(shape))
            ends = self._ends(stored, unit)
            held = [
                self._with_stuck(one, uniform.to(one.device), *ends)
                for one, uniform in zip(held, drawn, strict=True)
            ]
        return held

    def _difference(self, held: Sequence[Tensor], stored: Pairs, unit: Tensor) -> Tensor:
        """Weights that conductances stand for, through the wires of their arrays."""
        if self.mapping == "offset":
            return held[0] - (stored.limit + self._base(stored, unit)).to(held[0])
        (active, idle), negative = held, stored.weights < 0
        if self.wire_ohm:
            plus, minus = torch.where(negative, idle, active), torch.where(negative, active, idle)
            return plus * self._factors(plus, unit) - minus * self._factors(minus, unit)
        pair = active - idle
        return torch.where(negative, -pair, pair)

    def _sides(
        self, stored: Pairs, active: ReadMoments, idle: ReadMoments
    ) -> tuple[ReadMoments, ...]:
        """Moments of the devices in the arrays of positive and of negative weights.

        An array has the active devices of its sign, and the idle ones of the other.
        """
        return tuple(
            ReadMoments(
                mean=torch.where(own, active.mean, idle.mean),
                var=torch.where(own, active.var, idle.var),
            )
            for own in (stored.weights >= 0, stored.weights < 0)
        )

    def _factors(self, conductances: Tensor, unit: Tensor) -> Tensor:
        """Effective over actual conductances of arrays with wires; see `wire_factors`."""
        columns = len(conductances) if conductances.ndim > 1 else 1
        matrix = (conductances / unit).reshape(columns, -1).T  # [rows, columns]
        found = tiled_factors(matrix, self.array.rows, self.array.columns, self.wire_ohm)
        return found.T.reshape(conductances.shape).to(conductances)

    def moments(self, stored: Pairs, point: Point) -> ReadMoments:
        """Mean and variance over chips and reads; differentiable in ``point``.

        Exact without ``wire_ohm``. With it, the mean is that of an array of mean conductances, and
        variances are scaled as the conductances are.
        """
        unit, wide = self._unit(stored, point), stored.weights.dtype
        fresh = (2 if self.mapping == "pair" else 1) * (self.read_noise * unit).square()
        if self._pair_is_gaussian and self.slices == 1 and stored.weights.numel() > _FEW:
            mean, var = self._pair_moments(stored.weights, unit)
            return ReadMoments(mean=mean, var=var + fresh.to(wide))
        means, variances = [], []
        for digit, factor in digits_of(stored, self.levels, self.slices):
            found = self._devices(digit, unit)
            var = found[0].var if len(found) == 1 else found[0].var + found[1].var
            if self.wire_ohm:
                plus, minus = (
                    side.var * self._factors(side.mean, unit).square()
                    for side in self._sides(digit, *found)
                )
                var = plus + minus
            means.append(factor * self._difference([one.mean for one in found], digit, unit))
            variances.append(factor**2 * (var + fresh))
        mean, var = sum(means[1:], means[0]), sum(variances[1:], variances[0])
        return ReadMoments(mean=mean.to(wide), var=var.to(wide))

    def word_classes(self, stored: Pairs) -> WordClasses:
        """One class for each of 1025 uniform targets from ``-g_max`` to ``g_max``.

        Exact if the levels of a weight are 512 or a divisor of it; otherwise weights are rounded to
        the nearest target, within 0.1 % of ``g_max``. With ``wire_ohm``, each word is a class.
        """
        if self.wire_ohm:
            return PairDevice.word_classes(self, stored)
        targets = (stored.weights / stored.limit.to(stored.weights) * _TARGETS).round_()
        return WordClasses(
            index=targets.add_(_TARGETS).short(),
            scale=stored.limit,
            count=2 * _TARGETS + 1,
            moments=self._class_moments,
        )

    def _class_moments(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of each class of `word_classes`, in units of the limit of a tensor."""
        targets = torch.linspace(-1, 1, 2 * _TARGETS + 1, dtype=torch.float64, device=point.device)
        one = torch.ones((), dtype=torch.float64, device=point.device)
        found = self.moments(Pairs(weights=targets, limit=one, dtype=torch.float64), point)
        return found.mean, found.var

    def _devices(self, stored: Pairs, unit: Tensor) -> list[ReadMoments]:
        """Moments of devices in the order of `_targets`, float64, in the unit of the weights."""
        wide = replace(stored, weights=stored.weights.double())
        low, high = self._ends(stored, unit)
        found = [self._device_moments(one, unit, low, high) for one in self._targets(wide, unit)]
        return [ReadMoments(mean=mean, var=var) for mean, var in found]

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference of devices, amplifiers and converters; see `ReadOut`."""
        return self._energy(traffic, point, by_channel=False)

    def converter_energy(self, traffic: Traffic) -> float:
        """Joules per inference of converters, those of each slice; see `ReadOut`."""
        return self.slices * PairDevice.converter_energy(self, traffic)

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each output column; see `ReadOut`."""
        return self._energy(traffic, point, by_channel=True)

    def _energy(self, traffic: Traffic, point: Point, *, by_channel: bool) -> Tensor:
        stored, joules = self.traced_weight(traffic), []
        unit = self._unit(stored, point)
        inputs, array = traffic.matrix_inputs, self.array
        for digit, _ in digits_of(stored, self.levels, self.slices):
            found = [
                ReadMoments(mean=m.mean / unit, var=m.var / unit.square() + self.read_noise**2)
                for m in self._devices(digit, unit)
            ]
            if self.mapping == "offset":
                middle = ((stored.limit + self._base(stored, unit)) / unit).expand_as(found[0].mean)
                spent = self.readout.offset_energy_j(
                    inputs, found[0], middle, array, by_channel=by_channel
                )
            else:
                plus, minus = self._sides(stored, *found)
                spent = self.readout.energy_j(inputs, plus, minus, array, by_channel=by_channel)
            joules.append(spent)
        return sum(joules[1:], joules[0])

    def describe(self) -> dict[str, Any]:
        """Plain data for records; a ratio of infinity as None."""
        described = PairDevice.describe(self)
        described["on_off"] = None if self.on_off == math.inf else self.on_off
        described["programming"] = None
        if self.programming is not None:
            described |= {"programming": True, **self.programming.describe()}
        return described
