"""Phase-change memory: conductances that are written inexactly, drift, and flicker when read.

A weight ``w`` becomes two conductances, ``g_max |w| / limit`` on the device of its sign and 0 on
the other. The longer it is until they are written again, the less energy writing takes, and the
more they have drifted: the time of the read is the knob. All laws are in shares of ``g_max``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.conductance_pairs import (
    PairDevice,
    Pairs,
    Rounding,
    normals,
    point_of,
    rectified_moments,
)
from joulewise.devices.crossbar_energy import ISAAC, ReadOut, check_loads
from joulewise.devices.drift_compensation import (
    PairMoments,
    believable,
    columns,
    compensating_factor,
)
from joulewise.devices.moments import Common, Moments
from joulewise.devices.operating_point import Point, as_point
from joulewise.errors import OperatingPointError, check_in_range, check_whole, refuse

__all__ = ["PCM"]

# Seconds from programming to the first read, from which drift counts.
_START = 20.0
# Seconds that a read takes in the law of read noise.
_READ = 250e-9
# The largest mean exponent in the law of drift.
_FASTEST = 0.1
# Pieces of the quadrature over programming noise: standard deviations, nodes.
_PIECE, _NODES = 3.0, 12

_ILLUSTRATIVE = (
    "Illustrative, from no publication: the order of magnitude of one RESET pulse, some 0.5 mA at "
    "2 V for 100 ns; iterative programming takes several pulses."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PCM(PairDevice):
    """A crossbar of differential pairs of phase-change devices; the knob is ``seconds``.

    With ``x`` a target over ``g_max``, ``t = seconds + 20 s`` and independent standard normal
    numbers ``n``, a device

    1. is programmed to ``g = max(0, x + s n1)``, ``s = (0.26348 + 1.9650 x - 1.1731 x^2) / 25``;
    2. drifts to ``g (t / 20 s)^-|mu + sigma n2|``, ``mu = -0.0155 ln x + 0.0244`` within 0.049 to
       0.1, ``sigma = -0.0125 ln x - 0.0059`` within 0.008 to 0.045;
    3. reads ``max(0, 1 + q sqrt(ln((t + t_r) / (2 t_r))) n3)`` times that, with
       ``q = min(0.0088 / g^0.65, 0.2)`` and ``t_r`` = 250 ns.

    Chips draw ``n1`` and ``n2`` once, ``n3`` at every read: a forward pass over one batch.

    Drift compensation multiplies what is read of a tensor by one number: the sum over columns of
    ``|I+ - I-|``, for inputs of one, with the conductances as programmed (1) over the same with
    those that are read (3). A column is an index of the first axis; a tensor with fewer than two
    axes is one column. The number is kept between 1 and ``(t / 20 s)^0.1``, the largest mean drift:
    with few columns the sums can be near 0, and their ratio would have no mean.

    Args:
        g_max: The conductance of the largest weight, siemens, above 0, at most 1. Noise is in
            proportion to it, so it only sets the power.
        programming: Whether there is programming noise.
        drift: Whether conductances drift.
        read_noise: Whether there is read noise.
        compensate: Whether drift is compensated.
        devices: Devices in parallel on each side of a pair, each with the target ``x``; 1 to 1000.
            What is read is their average; what they cost is their sum.
        levels: Steps from 0 to ``g_max``; see `PairFormat`.
        rounding: See `PairFormat`.
        limit: See `PairFormat`: give the largest weight of a network for a range common to it.
        channel_dim: See `PairFormat`.
        time_range: Shortest and longest ``seconds``, 1 to 1e12.
        readout: The circuits around it, for its energy.
        program_j: Joules to program one device once, 0 to 1.
        program_source: Where ``program_j`` comes from.
        inferences_per_second: Among which the energy of programming is shared, above 0.

    Raises:
        InputError: if a field is outside its range.

    References:
        The laws: the public code of IBM's aihwkit, ``inference/noise/pcm.py``, which counts
        ``seconds`` as here; V. Joshi et al., Nat. Commun. 11, 2473, 2020; S. R. Nandakumar et al.,
        ICECS 2019. Fitted to an array of a million devices with ``g_max`` = 25 uS, on which a
        network was measured for one day: other ``g_max`` and longer times extrapolate. That code
        compensates by another sum, of ``|g+ - g-|`` over all pairs.

    Example:
        >>> memory = PCM(programming=False, read_noise=False, compensate=False)
        >>> stored = memory.store(torch.tensor([1.0, -0.5, 0.25]))
        >>> day = memory.moments(stored, 86400.0)
        >>> [round(float(m), 3) for m in day.mean]  # 4321^-0.049 = 0.664
        [0.665, -0.333, 0.167]
    """

    g_max: float = 25e-6
    programming: bool = True
    drift: bool = True
    read_noise: bool = True
    compensate: bool = True
    devices: int = 1
    levels: int | None = None
    rounding: Rounding = "nearest"
    limit: float | None = None
    channel_dim: int | None = None
    time_range: tuple[float, float] = (1.0, 3.2e8)
    readout: ReadOut = ISAAC
    program_j: float = 100e-12
    program_source: str = _ILLUSTRATIVE
    inferences_per_second: float = 1000.0

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("g_max", self.g_max, 0.0, 1.0, open_low=True)
        check_in_range("devices", self.devices, 1, 1000)
        check_whole("devices", self.devices)
        check_in_range("program_j", self.program_j, 0.0, 1.0)
        rate = self.inferences_per_second
        check_in_range("inferences_per_second", rate, 0.0, 1e15, open_low=True)
        low, high = self.time_range
        check_in_range("time_range", low, 1.0, 1e12)
        if not low < high <= 1e12:
            refuse("time_range", self.time_range, "two numbers of seconds, ascending, 1 to 1e12")
        _ = self.format  # checks its fields

    @property
    def knob(self) -> str:
        """``seconds``, from programming to the read."""
        return "seconds"

    @property
    def most_reliable(self) -> float:
        """The lower end of ``time_range``; programming noise is there at any time."""
        return self.time_range[0]

    @property
    def least_reliable(self) -> float:
        """The upper end of ``time_range``."""
        return self.time_range[1]

    @property
    def adjustable(self) -> bool:
        """Time passes by itself."""
        return False

    @property
    def independent_words(self) -> bool:
        """Whether nothing is compensated: one random factor for a tensor couples all its words.

        That of 64 columns of 128 weights varies by 2.5 % among chips after a year.
        """
        return not self._compensated

    @property
    def fresh(self) -> bool:
        """Whether there is read noise."""
        return self.read_noise

    def point(self, **setting: Point) -> Point:
        """An operating point from ``seconds=``, one number: a tensor is read at one time.

        Raises:
            OperatingPointError: if the setting is another, or out of ``time_range``.
        """
        value = setting.get("seconds")
        if value is not None and (shape := as_point(value).shape):
            got = f"of shape {tuple(shape)}"
            refuse("seconds", got, "one number: a tensor is read at one time", OperatingPointError)
        return point_of("seconds", *self.time_range, setting)

    def read(self, stored: Pairs, point: Point, chip: Chip) -> Tensor:
        """The differences of this chip's conductances, in the unit of the tensor."""
        times = _times(point, stored).detach()
        sign = stored.weights.sign() + (stored.weights == 0)
        programmed, now = (sign * (g[0] - g[1]) for g in self._conductances(stored, times, chip))
        if self._compensated:
            sums = [columns(pair.double()).sum(1).abs().sum() for pair in (programmed, now)]
            now = now * believable(sums[0], sums[1], times**_FASTEST)
        read: Tensor = now * stored.limit
        return read.to(stored.dtype)

    def _conductances(self, stored: Pairs, times: Tensor, chip: Chip) -> tuple[Tensor, Tensor]:
        """As programmed and as read: ``[2, *shape]`` each, the active devices and the idle ones."""
        active = stored.targets.to(stored.weights.dtype)
        target = torch.stack([active, torch.zeros_like(active)])[:, None]
        shape = (2, self.devices, *active.shape)
        programmed = target
        if self.programming:
            noise = normals(chip, "programming", shape).to(target)
            programmed = (target + _programming_std(target) * noise).clamp(min=0)
        now = programmed
        if self.drift:
            mean, std = _exponent(target)
            exponent = (mean + std * normals(chip, "drift", shape).to(target)).abs()
            now = now * torch.exp(-torch.log(times) * exponent)
        if self.read_noise:
            noise = normals(chip, "read", shape, fresh=True).to(target)
            noise = _read_growth(times) * _read_noise(programmed) * noise
            now = now * (1 + noise).clamp(min=0)
        return programmed.mean(1), now.mean(1)

    def moments(self, stored: Pairs, point: Point) -> Moments:
        """Mean and variance over chips and reads; differentiable.

        Without compensation, the mean and the variance of a device are within 2e-5 of themselves;
        without programming noise, variances of targets below 0.01 within 2e-9 of ``g_max^2``.

        With it, see `compensating_factor`. Measured up to a year, with Gaussian weights: the mean
        is within 0.3 %; the variance within 1 % for 16 columns or more of 128 weights, and off by
        up to 9 % for 4 columns. A lone weight is restored to what was programmed, and columns of
        weights that nearly cancel have moments that are wrong by tens of per cent.
        """
        times = _times(point, stored)
        pair, unit = self._pairs(stored, times), stored.limit.double()
        mean, var, common = pair.mean, pair.var, None
        if self._compensated:
            factor, spread, coupling = compensating_factor(pair, times**_FASTEST)
            var, mean = factor.square() * var, factor * mean
            var = var + spread * mean.square() + 2 * mean * coupling
            mean = mean + coupling
            common = Common(var=spread, coupling=unit * coupling)
        wide = stored.weights.dtype
        return Moments(
            mean=(unit * mean).to(wide), var=(unit.square() * var).to(wide), common=common
        )

    def _pairs(self, stored: Pairs, times: Tensor) -> PairMoments:
        """Differences of conductances, in the shape of the tensor."""
        active, idle = self._devices(stored, times)
        sign = stored.weights.double().sign()
        return PairMoments(
            mean=sign * (active.mean - idle.mean),
            programmed=sign * (active.programmed - idle.programmed),
            var=active.var + idle.var,
            programmed_var=active.programmed_var + idle.programmed_var,
            covariance=active.covariance + idle.covariance,
        )

    def _devices(self, stored: Pairs, times: Tensor) -> tuple[PairMoments, PairMoments]:
        """The active devices of a tensor, in its shape, and the idle ones, which are all alike."""
        target = stored.targets.contiguous()  # else a search is slow, and says so
        grid = torch.from_numpy(_quadrature().targets).to(target.device)
        table = torch.stack(self._state(grid, times), 1)
        row = torch.bucketize(target, grid[1:-1], right=True)
        part = ((target - grid[row]) / (grid[row + 1] - grid[row]))[..., None]
        below, above = (torch.nn.functional.embedding(row + k, table) for k in range(2))
        return PairMoments(*torch.lerp(below, above, part).unbind(-1)), PairMoments(*table[0])

    def _state(self, target: Tensor, times: Tensor) -> PairMoments:
        """What is known of devices with the targets of the grid; `devices` of them averaged."""
        programmed, programmed_var = target, torch.zeros_like(target)
        if self.programming:
            programmed, programmed_var = rectified_moments(target, _programming_std(target))
        mean, var, covariance = programmed, programmed_var, programmed_var
        flicker = torch.zeros_like(target)
        if self.read_noise and self.programming:
            mean, var, flicker, covariance = _averages(programmed, times)
        elif self.read_noise:
            mean, flicker = _flicker(target, times)
        if self.drift:
            decay, decay_var = _decay(target, torch.log(times))
            flicker = flicker * (decay.square() + decay_var) + decay_var * (var + mean.square())
            mean, var, covariance = decay * mean, decay.square() * var, decay * covariance
        noise = (part / self.devices for part in (var + flicker, programmed_var, covariance))
        return PairMoments(mean, programmed, *noise)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: read-out (see `ReadOut`), and a share of programming.

        Every device is programmed once in ``seconds``, for all inferences of that time.

        Raises:
            InputError: if it is not known how the tensor is used.
        """
        check_loads(traffic.loads)
        stored = self.store(traffic.loads[0].weight)
        active, idle = self._devices(stored, _times(point, stored))
        positive = stored.weights > 0
        scale = self.devices * self.g_max
        plus, minus = (
            Moments(
                mean=scale * torch.where(chosen, active.mean, idle.mean),
                var=scale**2 * torch.where(chosen, active.var, idle.var),
            )
            for chosen in (positive, ~positive)
        )
        program_j = 2 * self.devices * traffic.words * self.program_j
        shared = program_j / (self.inferences_per_second * as_point(point))
        read = self.readout.energy_j(traffic.loads, plus, minus)
        return read + shared.to(read.device)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "device": "pcm",
            "g_max": self.g_max,
            "programming": self.programming,
            "drift": self.drift,
            "read_noise": self.read_noise,
            "compensate": self.compensate,
            "devices": self.devices,
            "levels": self.levels,
            "rounding": self.rounding,
            "limit": self.limit,
            "channel_dim": self.channel_dim,
            "time_range": list(self.time_range),
            "program_j": self.program_j,
            "program_source": self.program_source,
            "inferences_per_second": self.inferences_per_second,
            **self.readout.describe(),
        }

    @property
    def _compensated(self) -> bool:
        return self.compensate and self.drift


def _times(point: Point, stored: Pairs) -> Tensor:
    """Time since the first read over 20 s, above 1."""
    return as_point(point).to(stored.weights.device) / _START + 1


def _programming_std(target: Tensor) -> Tensor:
    """Of a programmed conductance, in shares of ``g_max``; positive from 0 to 1."""
    return (0.26348 + 1.9650 * target - 1.1731 * target.square()) / 25


def _exponent(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the drift exponent, before its sign is dropped."""
    log = torch.log(target)
    mean = (0.0244 - 0.0155 * log).clamp(0.049, _FASTEST)
    return mean, (-0.0059 - 0.0125 * log).clamp(0.008, 0.045)


def _read_noise(programmed: Tensor) -> Tensor:
    """Relative standard deviation of a read, before it grows with time."""
    # The public code divides by at least 1e-3, which the limit of 0.2 never lets show.
    return (0.0088 / programmed.pow(0.65)).clamp(max=0.2)


def _read_growth(times: Tensor) -> Tensor:
    """By how much read noise has grown at a time, given over 20 s."""
    return torch.log((_START * times + _READ) / (2 * _READ)).sqrt()


def _flicker(programmed: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over reads of a conductance that was programmed so, without drift."""
    noise = _read_noise(programmed) * _read_growth(times)
    mean, var = rectified_moments(torch.ones_like(noise), noise)
    return programmed * mean, programmed.square() * var


def _decay(target: Tensor, log_times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``times^-|N|``, ``N`` the drift exponent, normal.

    ``E exp(-s |N|) = exp(s^2 sd^2 / 2) (exp(-s m) Phi(m / sd - s sd) + exp(s m) Phi(-m / sd -
    s sd))``. The variance is a difference of such numbers below 1: exact to 1e-15, and to nine
    digits at ``seconds`` = 1, where it is smallest.
    """
    mean, std = _exponent(target)

    def transform(rate: Tensor) -> Tensor:
        total = torch.zeros_like(mean)
        for side in (mean, -mean):
            log = torch.special.log_ndtr(side / std - rate * std)
            total = total + torch.exp(log + (rate * std).square() / 2 - rate * side)
        return total

    first = transform(log_times)
    return first, transform(2 * log_times) - first.square()


class _Quadrature(NamedTuple):
    """Means over programming noise: targets, programmed conductances, ``[targets, nodes]``."""

    targets: NDArray[np.float64]
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


@lru_cache(maxsize=1)
def _quadrature() -> _Quadrature:
    """Gauss-Legendre, for targets from 0 to 1 that lie closest near 0.

    On pieces of 3 standard deviations, to 9 beyond the largest target. Two pieces meet where read
    noise reaches its limit, and the first starts at 0: clipped conductances add nothing to a mean.
    Where the law of drift has a kink, there is a target.
    """
    knees = np.exp([-0.0756 / 0.0155, -0.0246 / 0.0155, -0.0509 / 0.0125, -0.0139 / 0.0125])
    targets = np.sort(np.append(np.linspace(0, 1, 2049) ** 2, knees))
    std = _programming_std(torch.from_numpy(targets)).numpy()
    edges = [0.0, (0.0088 / 0.2) ** (1 / 0.65)]
    while edges[-1] < 1 + 9 * std[-1]:
        edges.append(edges[-1] + _PIECE * float(np.interp(edges[-1], targets, std)))
    at, weight = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2
    nodes = (np.array(edges)[:-1, None] + half * (1 + at)).ravel()
    away = (nodes - targets[:, None]) / std[:, None]
    density = np.exp(-(away**2) / 2) / (math.sqrt(2 * math.pi) * std[:, None])
    return _Quadrature(targets, nodes, density * (half * weight).ravel())


def _averages(programmed: Tensor, times: Tensor) -> tuple[Tensor, ...]:
    """What programming and read noise leave, without drift, for the targets of the grid.

    Returns:
        Mean over both noises; variance over programming of the mean over reads; mean over
        programming of the variance over reads; covariance with what was ``programmed``, of which
        the means are given.
    """
    _, *arrays = _quadrature()
    nodes, weights = (torch.from_numpy(array).to(programmed.device) for array in arrays)
    read, noise = _flicker(nodes, times)
    sums = weights @ torch.stack([read, read.square(), noise, nodes * read], 1)
    mean, square, flicker, product = sums.unbind(1)
    # Variances are at least 1.7e-3 of squared means: differences that lose three digits.
    return mean, square - mean.square(), flicker, product - programmed * mean
