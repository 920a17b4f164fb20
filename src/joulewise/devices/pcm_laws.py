"""Laws and moments of a phase-change device, and of the compensation of its drift.

Targets and conductances are in units of ``g_max``, ``times`` are ``t / 20 s``; see `PCM` for the
formulas and their source. Drift is undone on average by one factor for each tensor.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from joulewise.devices.conductance_pairs import rectified_moments

__all__ = [
    "LARGEST_EXPONENT",
    "START",
    "PairMoments",
    "believable",
    "columns",
    "compensating_factor",
    "device_moments",
    "drift_exponent",
    "programming_std",
    "quadrature",
    "read_std",
]

# Seconds from programming to the first read, from which drift counts.
START = 20.0
# Seconds that a read takes in the law of read noise.
_READ = 250e-9
# The largest mean exponent in the law of drift.
LARGEST_EXPONENT = 0.1


class PairMoments(NamedTuple):
    """Moments of conductances over ``g_max``, as read and as programmed; float64.

    ``covariance`` is that between a conductance as read and as programmed.
    """

    mean: Tensor
    programmed: Tensor
    var: Tensor
    programmed_var: Tensor
    covariance: Tensor


def programming_std(target: Tensor) -> Tensor:
    """Standard deviation of a programmed conductance over ``g_max``; positive on [0, 1]."""
    return (0.26348 + 1.9650 * target - 1.1731 * target.square()) / 25


def drift_exponent(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the drift exponent before its absolute value is taken."""
    log = torch.log(target)
    mean = (0.0244 - 0.0155 * log).clamp(0.049, LARGEST_EXPONENT)
    return mean, (-0.0059 - 0.0125 * log).clamp(0.008, 0.045)


def read_std(programmed: Tensor, times: Tensor) -> Tensor:
    """Relative standard deviation of a read: ``q sqrt(ln((t + t_r) / (2 t_r)))``."""
    # aihwkit divides by at least 1e-3, which has no effect within the limit of 0.2.
    q = (0.0088 / programmed.pow(0.65)).clamp(max=0.2)
    return torch.log((START * times + _READ) / (2 * _READ)).sqrt() * q


def device_moments(
    target: Tensor, times: Tensor, *, programming: bool, drift: bool, read_noise: bool
) -> PairMoments:
    """Moments of one device for each target of the `quadrature`, ``[targets]``, with some noise."""
    programmed, programmed_var = target, torch.zeros_like(target)
    if programming:
        programmed, programmed_var = rectified_moments(target, programming_std(target))
    mean, var, covariance = programmed, programmed_var, programmed_var
    flicker = torch.zeros_like(target)
    if read_noise and programming:
        mean, var, flicker, covariance = _averaged_moments(programmed, times)
    elif read_noise:
        mean, flicker = _flicker_moments(target, times)
    if drift:
        # Var DG of independent D and G: (E D)^2 Var G, which varies with the programmed
        # conductance, and a rest that does not and counts as flicker.
        decay, decay_var = _decay_moments(target, torch.log(times))
        flicker = flicker * (decay.square() + decay_var) + decay_var * (var + mean.square())
        mean, var, covariance = decay * mean, decay.square() * var, decay * covariance
    return PairMoments(mean, programmed, var + flicker, programmed_var, covariance)


def _flicker_moments(programmed: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over reads of conductances ``programmed``, without drift."""
    std = read_std(programmed, times)
    mean, var = rectified_moments(torch.ones_like(std), std)
    return programmed * mean, programmed.square() * var


def _decay_moments(target: Tensor, log_times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``times^-|N|`` for a normal drift exponent ``N``.

    ``E exp(-s |N|) = exp(s^2 sd^2 / 2) (exp(-s m) Phi(m / sd - s sd) + exp(s m) Phi(-m / sd -
    s sd))``. The variance is a difference of such numbers below 1: its error is 1e-15, a relative
    1e-9 at ``seconds`` = 1, where it is smallest.
    """
    mean, std = drift_exponent(target)

    def transform(rate: Tensor) -> Tensor:
        total = torch.zeros_like(mean)
        for side in (mean, -mean):
            log = torch.special.log_ndtr(side / std - rate * std)
            total = total + torch.exp(log + (rate * std).square() / 2 - rate * side)
        return total

    first = transform(log_times)
    return first, transform(2 * log_times) - first.square()


@lru_cache(maxsize=1)
def quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre quadrature over programmed conductances, for a grid of targets in [0, 1].

    Pieces are 3 standard deviations long and have 12 nodes, up to 9 standard deviations beyond the
    largest target. The first one starts at 0, since clipped conductances add nothing to a mean, and
    ends where read noise has a kink, at its limit. Targets are densest near 0, and include the
    kinks of the law of drift.

    Returns:
        Targets; programmed conductances, ``[nodes]``; weights, ``[targets, nodes]``.
    """
    knees = np.exp([-0.0756 / 0.0155, -0.0246 / 0.0155, -0.0509 / 0.0125, -0.0139 / 0.0125])
    targets = np.sort(np.append(np.linspace(0, 1, 2049) ** 2, knees))
    std = programming_std(torch.from_numpy(targets)).numpy()
    edges = [0.0, (0.0088 / 0.2) ** (1 / 0.65)]
    while edges[-1] < 1 + 9 * std[-1]:
        edges.append(edges[-1] + 3 * float(np.interp(edges[-1], targets, std)))
    at, weight = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    nodes = (np.array(edges)[:-1, None] + half * (1 + at)).ravel()
    away = (nodes - targets[:, None]) / std[:, None]
    density = np.exp(-(away**2) / 2) / (math.sqrt(2 * math.pi) * std[:, None])
    return targets, nodes, density * (half * weight).ravel()


def _averaged_moments(programmed: Tensor, times: Tensor) -> tuple[Tensor, ...]:
    """Moments over programming and read noise, without drift, for the targets of the quadrature.

    Returns:
        Mean; variance over programming of the mean over reads; mean over programming of the
        variance over reads; covariance of the read with the programmed conductance.
    """
    _, *arrays = quadrature()
    nodes, weights = (torch.from_numpy(array).to(programmed.device) for array in arrays)
    read, noise = _flicker_moments(nodes, times)
    sums = weights @ torch.stack([read, read.square(), noise, nodes * read], 1)
    mean, square, flicker, product = sums.unbind(1)
    # Variances are at least 1.7e-3 of squared means: these differences lose three digits.
    return mean, square - mean.square(), flicker, product - programmed * mean


def columns(tensor: Tensor) -> Tensor:
    """Reshape a tensor to ``[columns, rows]``: columns are the first axis of two or more."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)


def believable(before: Tensor, after: Tensor, most: Tensor) -> Tensor:
    """Ratio of two sums of currents, clipped to the range of mean drift, 1 to ``most``."""
    ratio = torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 1.0)
    return torch.minimum(ratio.clamp(min=1), most)


def compensating_factor(pair: PairMoments, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the compensating factor ``A / B``.

    ``A`` and ``B`` are sums over columns of ``|S|``, as programmed and as read, where the current
    ``S`` of a column is approximately Gaussian, so that ``E A`` and ``E B`` are means of folded
    Gaussians. To second order in ``a = A / E A - 1`` and ``b = B / E B - 1``, the mean is
    ``E A / E B (1 + E b (b - a))`` and the relative variance ``E (b - a)^2``, if no column changes
    its sign. The factor is then approximated as Gaussian and clipped as in `believable`.

    Args:
        pair: Differences of conductances, in the shape of the tensor.
        most: Upper bound of the factor, above 1.

    Returns:
        Mean of the factor; its variance over its squared mean; and, in the shape of the tensor, the
        covariance of the compensated read of each pair with the factor over its mean.
    """
    column = PairMoments(*(columns(part).sum(1) for part in pair))
    before = _folded(column.programmed, column.programmed_var).sum()
    after = _folded(column.mean, column.var).sum()
    if not bool(after > 0):  # all weights are 0: there is no current to compare
        return torch.ones_like(after), torch.zeros_like(after), torch.zeros_like(pair.mean)
    kept = after / before
    # E b (b - a) = (Var B - kept Cov) / (E B)^2, and E (b - a)^2 adds kept (kept Var A - Cov).
    own = (column.var - kept * column.covariance).sum()
    rest = own + kept * (kept * column.programmed_var - column.covariance).sum()
    raw = before / after * (1 + own / after.square())
    factor, var, inside = _clipped_moments(raw, raw.square() * rest / after.square(), most)
    # Covariance of a pair with a - b, to which it contributes; a clipped factor does not vary.
    sign = column.mean.sign().reshape(-1, *(1,) * (pair.mean.ndim - 1))
    coupling = raw * inside * sign * (kept * pair.covariance - pair.var) / after
    return factor, var / factor.square(), coupling.reshape(pair.mean.shape)


def _clipped_moments(mean: Tensor, var: Tensor, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of a Gaussian clipped to the interval from 1 to ``most``.

    Returns:
        Mean and variance after clipping, and the probability that nothing is clipped.

    Example:
        >>> numbers = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 1e-4, 2.0))
        >>> [round(float(x), 6) for x in _clipped_moments(*numbers)]  # the lower half is clipped
        [1.003989, 3.4e-05, 0.5]
    """
    std = torch.where(var > 0, var, 1e-30).sqrt()
    low, high = ((end - mean) / std for end in (torch.ones_like(mean), most))
    low, high = low.clamp(-40, 40), high.clamp(-40, 40)
    below, above = torch.special.ndtr(low), torch.special.ndtr(-high)
    heights = [torch.exp(-end.square() / 2) / math.sqrt(2 * math.pi) for end in (low, high)]
    inside = 1 - below - above
    # In standard deviations from the mean: no difference of large numbers.
    first = low * below + high * above + heights[0] - heights[1]
    second = low.square() * below + high.square() * above + inside
    second = second + low * heights[0] - high * heights[1]
    return mean + std * first, std.square() * (second - first.square()), inside


def _folded(mean: Tensor, var: Tensor) -> Tensor:
    """Mean of ``|X|`` for normal ``X``: twice that of ``max(0, X)``, less that of ``X``."""
    positive, _ = rectified_moments(mean.abs(), torch.where(var > 0, var, 1.0).sqrt() * (var > 0))
    return 2 * positive - mean.abs()
