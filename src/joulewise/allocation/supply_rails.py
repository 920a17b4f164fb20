"""Rails: a few shares for many variables, each of which is on one of them.

Whatever the rails are, what a variable wants is known from the share that it would have alone: in
that order they are cut into neighbours that share a rail. Cuts are moved as long as that costs
less, by many variables at first and by few in the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tied", "cut_in_order"]

# Shares of all variables by which cuts are moved, at first and in the end.
_COARSE, _FINE = 8, 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tied:
    """Variables on rails.

    Args:
        shares: Of the variables, float64 ``[variables]``.
        rails: float64 ``[rails]``.
        cost: What is to be least; infinite where no rails were found within the limit.
        price: What a relative change of the limit changes the cost by, about, in its own unit.
    """

    shares: Tensor
    rails: Tensor
    cost: float
    price: float


def cut_in_order(
    shares: Tensor, rails: int, tied: Callable[[Tensor, Tensor, float | None], Tied]
) -> Tied:
    """Variables in the order of their shares, cut into rails where it costs least.

    Args:
        shares: Of the variables alone, float64 ``[variables]``.
        rails: How many, at most as many as variables.
        tied: The best rails for variables that belong to them, ``[variables]``, given rails to
            start from and a guess of the price.

    Returns:
        The best that was met: no cut moved by a thirty-second of all variables costs less.
    """
    order, count = shares.argsort(stable=True), len(shares)
    known: dict[tuple[int, ...], Tied] = {}

    def cost(cuts: tuple[int, ...]) -> float:
        if cuts not in known:
            belongs = torch.zeros(count, dtype=torch.long)
            for cut in cuts:
                belongs[order[cut:]] += 1
            if known:
                known[cuts] = tied(belongs, known[best].rails, known[best].price)
            else:
                means = [shares[belongs == rail].mean() for rail in range(rails)]
                known[cuts] = tied(belongs, torch.stack(means), None)
        return known[cuts].cost

    best = tuple(count * rail // rails for rail in range(1, rails))
    step, finest = max(count // _COARSE, 1), max(count // _FINE, 1)
    while True:
        following = min([best, *_moved(best, step, count)], key=cost)
        if following == best and step == finest:
            return known[best]
        step = step if following != best else max(step // 2, finest)
        best = following


def _moved(cuts: tuple[int, ...], step: int, count: int) -> list[tuple[int, ...]]:
    """Each cut moved to both sides, where no rail loses all variables by it."""
    moved = [
        (*cuts[:k], cuts[k] + by, *cuts[k + 1 :]) for k in range(len(cuts)) for by in (-step, step)
    ]
    return [m for m in moved if all(a < b for a, b in itertools.pairwise((0, *m, count)))]
