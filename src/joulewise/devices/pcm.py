"""Phase-change memory (PCM): conductances with programming noise, drift and read noise.

A weight ``w`` is two conductances, ``g_max |w| / limit`` on the device of its sign and 0 on the
other. The operating point is the time from programming to the read, when devices are programmed
anew: with a longer time programming takes less power, and drift is larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.conductance_pairs import PairDevice, Pairs, normals
from joulewise.devices.moments import ReadMoments, SharedFactor
from joulewise.devices.operating_point import Knob, Point, as_point, checked_ends
from joulewise.devices.pcm_laws import (
    LARGEST_EXPONENT,
    START,
    PairMoments,
    believable,
    columns,
    compensating_factor,
    device_moments,
    drift_exponent,
    programming_std,
    quadrature,
    read_std,
)
from joulewise.devices.tables import interpolate
from joulewise.errors import check_count, check_in_range, check_kind

__all__ = ["PCM"]

_ILLUSTRATIVE = (
    "Illustrative, from no publication: the order of magnitude of one RESET pulse, some 0.5 mA at "
    "2 V for 100 ns; iterative programming takes several pulses."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PCM(PairDevice):
    """A crossbar of differential pairs of phase-change devices; the knob is ``seconds``.

    Weights become targets as stated, with their fields, in `PairDevice`.

    With target ``x`` over ``g_max``, ``t = seconds + 20 s`` and independent standard normal numbers
    ``n``, a device

    1. is programmed to ``g = max(0, x + s n1)``, ``s = (0.26348 + 1.9650 x - 1.1731 x^2) / 25``;
    2. drifts to ``g (t / 20 s)^-|mu + sigma n2|``, with ``mu = -0.0155 ln x + 0.0244`` clipped to
       [0.049, 0.1] and ``sigma = -0.0125 ln x - 0.0059`` clipped to [0.008, 0.045];
    3. reads ``max(0, 1 + q sqrt(ln((t + t_r) / (2 t_r))) n3)`` times that, with
       ``q = min(0.0088 / g^0.65, 0.2)`` and ``t_r`` = 250 ns.

    ``n1`` and ``n2`` are drawn once per chip, ``n3`` at every read: a forward pass over one batch.

    Drift compensation multiplies the read of a tensor by one factor: the sum over columns of
    ``|I+ - I-|`` for inputs of one, with the conductances as programmed (1), over the same with
    those that are read (3). A column is an index of the first axis; a tensor with fewer than two
    axes is one column. The factor is clipped to the range from 1 to ``(t / 20 s)^0.1``, the largest
    mean drift: with few columns the sums can be near 0, and their ratio would have no mean.

    Args:
        g_max: Conductance of the largest weight, siemens, above 0, at most 1. All noise is
            proportional to it, so that it affects energy alone.
        programming: True for programming noise.
        drift: True for drift.
        read_noise: True for read noise.
        compensate: True to compensate drift.
        devices: Devices in parallel on each side of a pair, each with target ``x``, 1 to 1000. The
            read is their average, the energy their sum.
        time_range: Shortest and longest ``seconds``, 1 to 1e12.
        program_j: Joules to program one device once, 0 to 1.
        program_source: Origin of ``program_j``.
        inferences_per_second: Inferences that the energy of programming is divided by, above 0.

    References:
        The laws are those of IBM's aihwkit, ``inference/noise/pcm.py``, with the same ``seconds``;
        V. Joshi et al., Nat. Commun. 11, 2473, 2020; S. R. Nandakumar et al., ICECS 2019. They are
        fitted to an array of a million devices with ``g_max`` = 25 uS, on which a network was
        measured for one day: other ``g_max`` and longer times extrapolate. aihwkit compensates
        drift by another sum, of ``|g+ - g-|`` over all pairs.

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
    time_range: tuple[float, float] = (1.0, 3.2e8)
    program_j: float = 100e-12
    program_source: str = _ILLUSTRATIVE
    inferences_per_second: float = 1000.0

    def __post_init__(self) -> None:
        PairDevice.__post_init__(self)  # super() would fail: slots make a new class
        check_in_range("g_max", self.g_max, 0.0, 1.0, open_low=True)
        check_count("devices", self.devices, 1, 1000)
        check_in_range("program_j", self.program_j, 0.0, 1.0)
        rate = self.inferences_per_second
        check_in_range("inferences_per_second", rate, 0.0, 1e15, open_low=True)
        ends = checked_ends("time_range", self.time_range, 1.0, 1e12, "seconds")
        object.__setattr__(self, "time_range", ends)
        for name in ("programming", "drift", "read_noise", "compensate"):
            check_kind(name, getattr(self, name), bool, "True or False")

    @property
    def knob(self) -> Knob:
        """``seconds``, within ``time_range``; programming noise does not depend on time."""
        short, long = self.time_range
        return Knob(name="seconds", least_reliable=long, most_reliable=short, adjustable=False)

    @property
    def independent_words(self) -> bool:
        """False with drift compensation, whose random factor is common to all words of a tensor.

        With 64 columns of 128 weights it varies by 2.5 % between chips after a year.
        """
        return not (self.compensate and self.drift)

    @property
    def fresh(self) -> bool:
        """True if there is read noise."""
        return self.read_noise

    def read(self, stored: Pairs, point: Point, chip: Chip) -> Tensor:
        """The tensor as read on one chip: differences of conductances, in the tensor's unit."""
        times = _times(point, stored).detach()
        sign = stored.weights.sign() + (stored.weights == 0)
        programmed, now = (sign * (g[0] - g[1]) for g in self._conductances(stored, times, chip))
        if not self.independent_words:
            sums = [columns(pair.double()).sum(1).abs().sum() for pair in (programmed, now)]
            now = now * believable(sums[0], sums[1], times**LARGEST_EXPONENT)
        read: Tensor = now * stored.limit
        return read.to(stored.dtype)

    def _conductances(self, stored: Pairs, times: Tensor, chip: Chip) -> tuple[Tensor, Tensor]:
        """Conductances as programmed and as read, each ``[2, *shape]``: active, idle devices."""
        active = stored.targets.to(stored.weights.dtype)
        target = torch.stack([active, torch.zeros_like(active)])[:, None]
        shape = (2, self.devices, *active.shape)
        programmed = target
        if self.programming:
            noise = normals(chip, "programming", shape).to(target)
            programmed = (target + programming_std(target) * noise).clamp(min=0)
        now = programmed
        if self.drift:
            mean, std = drift_exponent(target)
            exponent = (mean + std * normals(chip, "drift", shape).to(target)).abs()
            now = now * torch.exp(-torch.log(times) * exponent)
        if self.read_noise:
            noise = normals(chip, "read", shape, fresh=True).to(target)
            now = now * (1 + read_std(programmed, times) * noise).clamp(min=0)
        return programmed.mean(1), now.mean(1)

    def moments(self, stored: Pairs, point: Point) -> ReadMoments:
        """Mean and variance over chips and reads; differentiable in ``point``.

        Without compensation, the relative error of mean and variance is at most 2e-5; without
        programming noise, variances of targets below 0.01 have an error of 2e-9 ``g_max^2``.

        Compensation is approximated as in `compensating_factor`. Errors measured up to a year, with
        Gaussian weights: of the mean 0.3 %; of the variance 1 % for 16 or more columns of 128
        weights, and up to 9 % for 4 columns. A single weight is restored to its programmed value,
        and moments of columns of weights that nearly cancel are wrong by tens of per cent.
        """
        times = _times(point, stored)
        active, idle = self._devices(stored, times)
        sign, unit = stored.weights.double().sign(), stored.limit.double()
        pair = PairMoments(
            mean=sign * (active.mean - idle.mean),
            programmed=sign * (active.programmed - idle.programmed),
            var=active.var + idle.var,
            programmed_var=active.programmed_var + idle.programmed_var,
            covariance=active.covariance + idle.covariance,
        )
        mean, var, common = pair.mean, pair.var, None
        if not self.independent_words:
            # The product of factor F and pair G, to first order in the deviations of both:
            # E FG = E F E G + Cov(F, G), and Var FG = F^2 Var G + (FG)^2 Var(F) / F^2 + 2 FG Cov.
            factor, spread, coupling = compensating_factor(pair, times**LARGEST_EXPONENT)
            var, mean = factor.square() * var, factor * mean
            var = var + spread * mean.square() + 2 * mean * coupling
            mean = mean + coupling
            common = SharedFactor(var=spread, coupling=unit * coupling)
        wide = stored.weights.dtype
        return ReadMoments(
            mean=(unit * mean).to(wide), var=(unit.square() * var).to(wide), common=common
        )

    def _devices(self, stored: Pairs, times: Tensor) -> tuple[PairMoments, PairMoments]:
        """Moments of the active devices, in the shape of the tensor, and of any idle device."""
        grid = torch.from_numpy(quadrature()[0]).to(stored.weights.device)
        mean, programmed, *noise = device_moments(
            grid, times, programming=self.programming, drift=self.drift, read_noise=self.read_noise
        )
        # The average of several devices has their mean, and its variances are divided by them.
        table = torch.stack([mean, programmed, *(part / self.devices for part in noise)], 1)
        active = interpolate(stored.targets, grid, table)
        return PairMoments(*active.unbind(-1)), PairMoments(*table[0])

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference: read-out (see `ReadOut`), and programming.

        Every device is programmed once in ``seconds``, for all inferences in that time.
        """
        stored = self.traced_weight(traffic)
        active, idle = self._devices(stored, _times(point, stored))
        positive = stored.weights > 0
        scale = self.devices * self.g_max
        plus, minus = (
            ReadMoments(
                mean=scale * torch.where(chosen, active.mean, idle.mean),
                var=scale**2 * torch.where(chosen, active.var, idle.var),
            )
            for chosen in (positive, ~positive)
        )
        program_j = 2 * self.devices * traffic.words * self.program_j
        shared = program_j / (self.inferences_per_second * as_point(point))
        read = self.readout.energy_j(traffic.matrix_inputs, plus, minus, self.array)
        return read + shared.to(read.device)

    def describe(self) -> dict[str, Any]:
        """Plain data for records; arrays of any size with exact converters are left out."""
        described = PairDevice.describe(self)
        whole = self.array.describe() if self.array == Array() else {}
        return {name: value for name, value in described.items() if name not in whole}


def _times(point: Point, stored: Pairs) -> Tensor:
    """``t / 20 s``, above 1."""
    return as_point(point).to(stored.weights.device) / START + 1
