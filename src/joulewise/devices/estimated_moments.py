"""Estimated moments of devices without a closed form, from reads of simulated chips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from joulewise.devices.chip import Chip
from joulewise.devices.moments import MomentEstimate, ReadMoments

__all__ = ["estimated_moments"]

# Far from the seeds of simulated chips and of those that predictions draw.
_SEED = 1 << 45


def estimated_moments(read: Callable[[Chip], Tensor], ideal: Tensor, chips: int) -> ReadMoments:
    """Mean and unbiased variance of each word over chips of fixed seeds.

    By Welford's recursion, read ``x_k`` adds ``(x_k - m)^2 (k - 1) / k`` to the sum of squares,
    ``m`` the mean of the reads before it. Each addend is an unbiased estimate of the variance, so
    the spread of its sums over words gives the standard error, also for correlated words.

    Args:
        read: Function from a chip to the tensor that it reads.
        ideal: The fault-free tensor; its digest names the region of the chips, so that tensors with
            different contents have independent noise.
        chips: Number of chips, 3 or more.

    Returns:
        float64 moments in the shape of ``ideal``, with their `MomentEstimate`.
    """
    content = ideal.detach().cpu().float().contiguous().numpy().tobytes()
    part = hashlib.blake2b(content, digest_size=8).hexdigest()
    mean = read(Chip(seed=_SEED, part=part)).detach().double()
    squares, sums = torch.zeros_like(mean), []
    for k in range(2, chips + 1):
        away = read(Chip(seed=_SEED + k - 1, part=part)).detach().double() - mean
        addend = away.square() * ((k - 1) / k)
        mean = mean + away / k
        squares += addend
        sums.append(float(addend.sum()))
    each = torch.tensor(sums, dtype=torch.float64)
    error = float(each.std()) / len(each) ** 0.5 / max(float(each.mean()), 1e-300)
    estimate = MomentEstimate(chips=chips, relative_error=error)
    return ReadMoments(mean=mean, var=squares / (chips - 1), estimate=estimate)
