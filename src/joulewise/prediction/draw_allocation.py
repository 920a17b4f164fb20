"""Number of further draws of each batch, from the variances of the first few."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["further_draws"]

# Candidates of the share that the first draws keep.
_SHARES = 100


def further_draws(
    variances: Sequence[float], done: int, error: float, most: int
) -> tuple[float, list[int]]:
    """Share of the first draws in the estimate, and the further draws of each batch.

    The first draws of all batches were added up, so one share ``k`` holds for all: the estimate of
    batch ``b`` is ``k`` times the mean of its ``done`` first draws plus ``1 - k`` times the mean of
    its ``m_b`` further ones. The variance of the sum over batches,

        sum_b v_b [k^2 / done + (1 - k)^2 / m_b],

    reaches ``error^2`` with the fewest draws where ``m_b`` is proportional to ``sqrt(v_b)``
    (J. Neyman, "On the two different aspects of the representative method", Journal of the Royal
    Statistical Society 97, 1934). ``v_b`` is estimated from few draws: half-way between its own and
    the mean of all batches for two draws, nearer to its own for more.

    Args:
        variances: Sample variance of the first draws of each batch, not all 0.
        done: Number of first draws of each batch, 2 or more.
        error: Standard error of the sum to reach, above 0.
        most: The most further draws of a batch, 1 or more; the error may then not be reached.

    Returns:
        ``k``, above 0 and below 1, and ``m_b``, each 1 or more.
    """
    own = torch.tensor(variances, dtype=torch.float64)
    v = ((done - 1) * own + own.mean()) / done
    std = v.sqrt()
    found = []
    for k in torch.arange(1, _SHARES, dtype=torch.float64) / _SHARES:
        left = (error**2 - k**2 * v.sum() / done).clamp(min=1e-300)
        m = ((1 - k) ** 2 * std * std.sum() / left).ceil().clamp(1, most)
        reached = (v * (k**2 / done + (1 - k) ** 2 / m)).sum()
        found.append((max(float(reached), error**2), float(m.sum()), float(k), m))
    *_, share, draws = min(found, key=lambda one: one[:2])
    return share, [int(m) for m in draws]
