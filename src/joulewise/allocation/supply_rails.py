"""Supply rails: a few operating points that many variables share.

Variables that share a rail are neighbours in the order of their unrestricted optimal levels: the
assignment is given by the positions of the cuts in that order, which are improved by local search.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RailPlan", "assign_rails"]

# Cuts move by an eighth of all variables at first, by a thirty-second in the end: each move costs
# an optimisation of the rails.
_COARSE, _FINE = 8, 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RailPlan:
    """The best levels of rails for one assignment.

    Args:
        levels: Level of each variable, float64 ``[variables]``.
        rails: Level of each rail, float64 ``[rails]``.
        cost: The objective; infinite where no feasible rails were found.
        multiplier: The Lagrange multiplier there, in the unit of `minimise`.
    """

    levels: Tensor
    rails: Tensor
    cost: float
    multiplier: float


def assign_rails(
    levels: Tensor, rails: int, optimise: Callable[[Tensor, Tensor, float | None], RailPlan]
) -> RailPlan:
    """Assign variables to rails by cuts in the order of their levels.

    Args:
        levels: Unrestricted optimal levels, float64 ``[variables]``.
        rails: Number of rails, at most that of variables.
        optimise: From the rail of each variable, ``[variables]``, levels of rails to start from and
            a guess of the multiplier, to the best rails for that assignment.

    Returns:
        A local optimum: no cut moved by a thirty-second of all variables costs less.
    """
    order, count = levels.argsort(stable=True), len(levels)
    known: dict[tuple[int, ...], RailPlan] = {}

    def cost(cuts: tuple[int, ...]) -> float:
        if cuts not in known:
            rail_of = torch.zeros(count, dtype=torch.long)
            for cut in cuts:
                rail_of[order[cut:]] += 1
            if known:
                known[cuts] = optimise(rail_of, known[best].rails, known[best].multiplier)
            else:
                means = [levels[rail_of == rail].mean() for rail in range(rails)]
                known[cuts] = optimise(rail_of, torch.stack(means), None)
        return known[cuts].cost

    best = tuple(count * rail // rails for rail in range(1, rails))
    step, finest = max(count // _COARSE, 1), max(count // _FINE, 1)
    while True:
        following = min([best, *_neighbours(best, step, count)], key=cost)
        if following == best and step == finest:
            return known[best]
        step = step if following != best else max(step // 2, finest)
        best = following


def _neighbours(cuts: tuple[int, ...], step: int, count: int) -> list[tuple[int, ...]]:
    """Each cut moved to both sides, where every rail keeps a variable."""
    moved = [
        (*cuts[:k], cuts[k] + by, *cuts[k + 1 :]) for k in range(len(cuts)) for by in (-step, step)
    ]
    return [m for m in moved if all(a < b for a, b in itertools.pairwise((0, *m, count)))]
