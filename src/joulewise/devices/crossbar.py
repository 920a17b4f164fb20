"""Memristor crossbars: weights as differential pairs of noisy conductances.

A weight ``w`` is two conductances, ``c |w|`` on the device of its sign and 0 on the other, with
``c = g_max / limit``; their difference over ``c`` is read back. With a larger ``g_max``, the knob,
additive noise is smaller relative to the weights and power is higher.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.conductance_pairs import PairDevice, Pairs, normals, rectified_moments
from joulewise.devices.moments import ReadMoments, WordClasses
from joulewise.devices.operating_point import Knob, Point, as_point
from joulewise.errors import WeightsError, check_in_range, check_kind, refuse

__all__ = ["Crossbar"]

# Positive targets, and as many negative ones, that `word_classes` rounds weights to.
_TARGETS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossbar(PairDevice):
    """A crossbar of differential pairs of memristors; the operating point is ``g_max``.

    Weights become targets as stated, with their fields, in `PairDevice`.

    A device, also one with target 0, has the conductance
    ``max(0, target (1 + variability n1) + sigma n2)``, and each read adds ``read_noise n3``. All
    ``n`` are independent standard normal numbers; ``n1`` and ``n2`` are drawn once per chip.

    The two kinds of programming noise rank training methods differently, so state which one a
    result is for. Additive noise (``sigma``) is reduced by a smaller range of weights and by a
    larger ``g_max``; proportional noise (``variability``) by neither.

    Args:
        sigma: Standard deviation of a programmed conductance, siemens, 0 to 1.
        variability: Standard deviation of a programmed conductance over its target, 0 to 1.
        read_noise: Standard deviation of the noise that each read adds to a device, siemens, 0 to
            1. A read is one forward pass over one batch.
        clip: True if programmed conductances are clipped at 0, as physical ones are; False if they
            may be negative, as published closed forms assume.
        g_range: Lowest and highest ``g_max``, siemens, above 0 to 1.

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
    clip: bool = True
    g_range: tuple[float, float] = (1e-7, 1e-3)

    def __post_init__(self) -> None:
        PairDevice.__post_init__(self)  # super() would fail: slots make a new class
        check_in_range("sigma", self.sigma, 0.0, 1.0)
        check_in_range("variability", self.variability, 0.0, 1.0)
        check_in_range("read_noise", self.read_noise, 0.0, 1.0)
        self._check_ends("g_range", 0.0, 1.0, "siemens")
        check_kind("clip", self.clip, bool, "True or False")

    @property
    def knob(self) -> Knob:
        """``g_max`` in siemens, within ``g_range``; output columns can have separate points."""
        low, high = self.g_range
        return Knob(name="g_max", least_reliable=low, most_reliable=high, channels=True)

    @property
    def fresh(self) -> bool:
        """True if there is read noise."""
        return self.read_noise > 0

    def read(self, stored: Pairs, point: Point, chip: Chip) -> Tensor:
        """The tensor as read on one chip: differences of conductances, in the tensor's unit."""
        unit = self._unit(stored, point)
        weights = stored.weights
        if self.clip and (self.sigma or self.variability):
            active, idle = normals(chip, "programming", (2, *weights.shape))
            target = weights.abs()
            held = target + self._std(target, unit) * active.to(weights)
            pair = held.clamp(min=0)
            pair -= (self._std(target * 0, unit) * idle.to(weights)).clamp(min=0)
            read = torch.where(weights < 0, -pair, pair)
        elif self.sigma or self.variability:
            # Unclipped noise of the two devices is Gaussian: one draw has the variance of both.
            (noise,) = normals(chip, "programming", (1, *weights.shape))
            read = weights + self._std(weights.abs(), unit, devices=2) * noise.to(weights)
        else:
            read = weights.clone()
        if self.read_noise:
            (fresh,) = normals(chip, "read", (1, *weights.shape), fresh=True)
            read += 2**0.5 * self.read_noise * unit.to(weights) * fresh.to(weights)
        return read.to(stored.dtype)

    def moments(self, stored: Pairs, point: Point) -> ReadMoments:
        """Mean and variance over chips and reads, exact; differentiable in ``point``."""
        unit, wide = self._unit(stored, point), stored.weights.dtype
        plus, minus = self._devices(stored, unit)
        return ReadMoments(
            mean=(plus.mean - minus.mean).to(wide), var=(plus.var + minus.var).to(wide)
        )

    def word_classes(self, stored: Pairs) -> WordClasses:
        """One class for each of 1025 uniform targets from ``-g_max`` to ``g_max``.

        Exact if ``levels`` is 512 or a divisor of it; otherwise weights are rounded to the nearest
        target, within 0.1 % of ``g_max``.
        """
        share = stored.weights.double() / stored.limit
        return WordClasses(
            index=((share + 1) * _TARGETS).round().long(),
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

    def _devices(self, stored: Pairs, unit: Tensor) -> tuple[ReadMoments, ReadMoments]:
        """Moments of the positive and negative devices, float64, in the tensor's unit."""
        weights = stored.weights.double()
        found = []
        for target in (weights.clamp(min=0), (-weights).clamp(min=0)):
            std = self._std(target, unit)
            mean, var = rectified_moments(target, std) if self.clip else (target, std.square())
            found.append(ReadMoments(mean=mean, var=var + (self.read_noise * unit).square()))
        return found[0], found[1]

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference of devices, amplifiers and converters; see `ReadOut`."""
        return self._energy(traffic, point, by_channel=False)

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each output column; see `ReadOut`."""
        return self._energy(traffic, point, by_channel=True)

    def _energy(self, traffic: Traffic, point: Point, *, by_channel: bool) -> Tensor:
        stored = self.traced_weight(traffic)
        unit = self._unit(stored, point)
        plus, minus = (
            ReadMoments(mean=m.mean / unit, var=m.var / unit.square())
            for m in self._devices(stored, unit)
        )
        inputs = traffic.matrix_inputs
        return self.readout.energy_j(inputs, plus, minus, self.array, by_channel=by_channel)

    def _unit(self, stored: Pairs, point: Point) -> Tensor:
        """Weight per siemens, ``1 / c``, float64, broadcastable against the weights.

        Raises:
            WeightsError: if the number of points is neither 1 nor that of the columns.
        """
        g_max, weights = as_point(point).to(stored.weights.device), stored.weights
        if g_max.ndim:
            axis = len(weights) if weights.ndim > 1 else 1
            if weights.ndim < 2 or len(g_max) != axis:
                allowed = f"one, or {axis}, one for each index of the first axis"
                refuse("g_max", f"{len(g_max)} numbers", allowed, WeightsError)
            g_max = g_max.reshape(-1, *(1,) * (weights.ndim - 1))
        return stored.limit.double() / g_max

    def _std(self, target: Tensor, unit: Tensor, devices: int = 1) -> Tensor:
        """Standard deviation of one programmed device, or of a pair, in the tensor's unit."""
        own = self.variability * target
        if not self.sigma:  # the gradient of hypot is undefined at (0, 0)
            return own
        added = (devices**0.5 * self.sigma * unit).to(target.dtype)
        return torch.hypot(added, own) if self.variability else added.expand(target.shape)
