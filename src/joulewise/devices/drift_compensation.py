"""Drift compensation: one factor per tensor, measured on the chip, that undoes drift on average."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from joulewise.devices.conductance_pairs import rectified_moments

__all__ = ["PairMoments", "believable", "clipped_moments", "columns", "compensating_factor"]


class PairMoments(NamedTuple):
    """Moments of conductances over ``g_max``, as read and as programmed; float64.

    ``covariance`` is that between a conductance as read and as programmed.
    """

    mean: Tensor
    programmed: Tensor
    var: Tensor
    programmed_var: Tensor
    covariance: Tensor


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
    factor, var, inside = clipped_moments(raw, raw.square() * rest / after.square(), most)
    # Covariance of a pair with a - b, to which it contributes; a clipped factor does not vary.
    sign = column.mean.sign().reshape(-1, *(1,) * (pair.mean.ndim - 1))
    coupling = raw * inside * sign * (kept * pair.covariance - pair.var) / after
    return factor, var / factor.square(), coupling.reshape(pair.mean.shape)


def clipped_moments(mean: Tensor, var: Tensor, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of a Gaussian clipped to the interval from 1 to ``most``.

    Returns:
        Mean and variance after clipping, and the probability that nothing is clipped.

    Example:
        >>> numbers = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 1e-4, 2.0))
        >>> [round(float(x), 6) for x in clipped_moments(*numbers)]  # the lower half is clipped
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
