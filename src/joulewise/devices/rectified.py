"""Rectified Gaussians: what noise does to a conductance that cannot be negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["rectified_moments"]

# Past this many standard deviations from 0, nothing is clipped in float64.
_FAR = 40.0


def rectified_moments(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``max(0, X)``, ``X`` normal; differentiable.

    With ``a = mean / std``, ``phi`` and ``Phi`` the normal density and distribution, and
    ``h = phi(a) - a Phi(-a)``, the mean is ``mean + std h`` and the variance
    ``std^2 (Phi(a) - a phi(a) + a^2 Phi(-a) - h^2)``: no difference of large numbers.

    Args:
        mean: Mean of ``X``, 0 or more, float64.
        std: Its standard deviation, 0 or more, broadcastable.

    Returns:
        Mean and variance, broadcast.

    References:
        N. L. Johnson, S. Kotz, N. Balakrishnan, "Continuous Univariate Distributions" 1, 1994,
        section 10.1.

    Example:
        >>> idle = rectified_moments(torch.tensor(0.0), torch.tensor(1.0))
        >>> [round(float(x), 4) for x in idle]
        [0.3989, 0.3408]
    """
    std = std + torch.zeros_like(mean)
    noisy = std > 0
    # A standard deviation of 0 would make a slope of infinity times 0.
    away = (mean / torch.where(noisy, std, 1.0)).clamp(max=_FAR)
    away = torch.where(noisy, away, _FAR)
    below = torch.special.ndtr(-away)
    density = torch.exp(-away.square() / 2) / math.sqrt(2 * math.pi)
    clipped = density - away * below
    share = 1 - below - away * density + away.square() * below - clipped.square()
    return mean + std * clipped, std.square() * share
