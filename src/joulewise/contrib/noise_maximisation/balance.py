"""Moves of operating points that balance the cost of noise against the cost of energy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOWEST", "moves", "price_of"]

LOWEST = 0.05
"""Lowest level, in [0, 1] of the knob's range.

At level 0 an SRAM reads zeros, whatever is stored: the gradient vanishes there, and a point that
reached it by chance would never leave it.
"""

Numbers = NDArray[np.float64]


def moves(benefits: Numbers, costs: Numbers, price: float, lr: float, levels: Numbers) -> Numbers:
    """Moves of the levels, ``lr (b - price c) / (b + price c)``, kept within the range.

    They are 0 in balance, at most ``lr``, and independent of the units of b and c. In another form,
    ``lr tanh(log(b / (price c)) / 2)``: near balance a Newton step on the logarithms, which are
    about linear in the level; far from balance a step of fixed length.

    Args:
        benefits: Decrease of the loss per unit of level; below 0 counts as 0.
        costs: Increase of the energy per unit of level; below 0 counts as 0.
        price: Price of energy, in units of the loss, 0 or more.
        lr: Longest move.
        levels: Present levels, 0 to 1.

    Example:
        >>> one = np.ones(3)
        >>> moves(np.array([1.0, 3.0, -2.0]), one, 1.0, 0.1, 0.5 * one).round(3).tolist()
        [0.0, 0.05, -0.1]
    """
    saved, spent = np.maximum(benefits, 0.0), price * np.maximum(costs, 0.0)
    both = saved + spent
    steps = lr * np.divide(saved - spent, both, out=np.zeros_like(both), where=both > 0)
    moved: Numbers = np.clip(levels + steps, LOWEST, 1.0) - levels
    return moved


def price_of(change: float, benefits: Numbers, costs: Numbers, lr: float, levels: Numbers) -> float:
    """The price at which `moves` change the energy by ``change``, to first order; by bisection.

    The energy falls with the price, so there is one such price; if none reaches the change, the
    nearest end of the prices that make a difference.

    Args:
        change: Wanted change of the energy, in the unit of ``costs`` times a level.
        benefits: As for `moves`.
        costs: As for `moves`.
        lr: As for `moves`.
        levels: As for `moves`.

    Example:
        >>> benefits, costs = np.array([1.0, 4.0]), np.array([2.0, 2.0])
        >>> price = price_of(0.0, benefits, costs, 0.1, np.full(2, 0.5))
        >>> round(price, 6), moves(benefits, costs, price, 0.1, np.full(2, 0.5)).round(4).tolist()
        (1.0, [-0.0333, 0.0333])
    """
    known = (benefits > 0) & (costs > 0)
    if not known.any():
        return 0.0
    balances = np.log(benefits[known] / costs[known])
    # e^-14 is about a millionth: there every move is at its longest, to within a millionth.
    low, high = balances.min() - 14.0, balances.max() + 14.0
    for _ in range(45):
        middle = (low + high) / 2
        moved = moves(benefits, costs, float(np.exp(middle)), lr, levels)
        low, high = (middle, high) if float(costs @ moved) > change else (low, middle)
    return float(np.exp((low + high) / 2))
