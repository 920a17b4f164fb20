"""Draws of noise for each batch, the error of their mean, and the number of further draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch

__all__ = ["NoiseDraw", "NoiseDraws", "further_draws"]

# Candidates of the share that the first draws keep.
_SHARES = 100


class NoiseDraw(NamedTuple):
    """Additions of one draw of a batch to the divergence, summed over its rows, nats.

    Args:
        weight: Weight of the draw among those of its batch.
        curvature_weight: The same among those with a backward pass; 0 without one.
        noise: By the noise of weights, to all orders; 0 if they are not asked for.
        curvature: By the same, from the information.
        others: By large faults of the body, and by activations.
        excess: Increase of the loss by noise less that of the divergence.
    """

    weight: float
    curvature_weight: float
    noise: float
    curvature: float
    others: float
    excess: float


class NoiseDraws:
    """Draws by batch. The sum of their weights is the same for all batches.

    Attributes:
        all_orders: False to take the noise of weights from the information alone.
    """

    all_orders = True

    def __init__(self) -> None:
        self._draws: dict[int, list[NoiseDraw]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._draws.values()))

    def add(self, draws: Iterable[tuple[int, NoiseDraw]]) -> None:
        """Add draws, each with the number of its batch."""
        for number, draw in draws:
            self._draws.setdefault(number, []).append(draw)

    @property
    def weight(self) -> float:
        """Sum of the weights of a batch."""
        return sum(draw.weight for draw in self._one)

    @property
    def curvature_weight(self) -> float:
        """The same of draws with a backward pass."""
        return sum(draw.curvature_weight for draw in self._one)

    @property
    def _one(self) -> list[NoiseDraw]:
        return next(iter(self._draws.values()), [])

    def mean_of(self, field: Literal["noise", "curvature", "others", "excess"]) -> float:
        """Mean of a field over draws, summed over batches."""
        curved, found = field == "curvature" or not self.all_orders, 0.0
        for draws in self._draws.values():
            for draw in draws:
                weight = draw.curvature_weight if curved else draw.weight
                found += weight * float(getattr(draw, field))
        return found / (self.curvature_weight if curved else self.weight)

    def _values(self, *, loss: bool = False) -> list[list[tuple[float, float]]]:
        """Weight and addend of the draws of each batch: to the divergence, or to the loss."""
        batches = self._draws.values()
        if self.all_orders:
            return [
                [(one.weight, one.noise + one.others + loss * one.excess) for one in own]
                for own in batches
            ]
        return [
            [
                (one.curvature_weight, one.curvature + one.others)
                for one in own
                if one.curvature_weight
            ]
            for own in batches
        ]

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error; 0 without one."""
        numbers = [len(own) for own in self._values()]
        return sum(numbers) - len(numbers) if min(numbers) > 1 else len(numbers) - 1

    def variances(self, *, loss: bool = False) -> list[float]:
        """Variance of a draw of each batch; see `squared_error`.

        With one draw a batch, that of all batches, which the differences between them increase.
        """
        values = [torch.tensor(own, dtype=torch.float64)[:, 1] for own in self._values(loss=loss)]
        if min(map(len, values)) > 1:
            return [float(own.var()) for own in values]
        return [float(torch.stack([own.mean() for own in values]).var())] * len(values)

    def squared_error(self, *, loss: bool = False) -> float | None:
        """Squared standard error of the sum over batches of means over draws.

        Args:
            loss: True for the error of the loss, False for that of the divergence.

        Returns:
            A number of nats squared; None for one draw of one batch.
        """
        if not self.freedom:
            return None
        # Draws of different batches are independent: the variances of their means add up.
        found = 0.0
        for own, variance in zip(self._values(loss=loss), self.variances(loss=loss), strict=True):
            weights = torch.tensor(own, dtype=torch.float64)[:, 0]
            found += variance * float(weights.square().sum() / weights.sum() ** 2)
        return found


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
        variances: Sample variance of the first draws of each batch.
        done: Number of first draws of each batch, 2 or more.
        error: Standard error of the sum to reach, 0 or more.
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
