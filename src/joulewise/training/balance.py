"""Balance: how far operating points move, by what noise costs and what reliability costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOWEST", "moves", "price_of"]

LOWEST = 0.05
"""The lowest share of a range that is learned.

At the very end an SRAM reads zeros, whatever was stored: the loss has no slope there, and a point
that got there by chance would never come back.
"""

Numbers = NDArray[np.float64]


def moves(harms: Numbers, costs: Numbers, price: float, lr: float, shares: Numbers) -> Numbers:
    """How far each point moves, in shares of its range; towards reliability is above 0.

    ``lr (h - price c) / (h + price c)``, within the range: 0 where the two balance, at most ``lr``
    to either side, and the same whatever the unit of both. It is ``lr tanh(log(h / (price c)) /
    2)``: near balance a step of Newton on the logarithms, which are about linear in a share, far
    from it a step of fixed length.

    Args:
        harms: The loss that a share of the range towards reliability saves; below 0 counts as 0.
        costs: The energy that it costs; below 0 counts as 0.
        price: Of energy, in units of the loss, 0 or more.
        lr: The longest move.
        shares: Where the points are, 0 to 1.

    Example:
        >>> one = np.ones(3)
        >>> moves(np.array([1.0, 3.0, -2.0]), one, 1.0, 0.1, 0.5 * one).round(3).tolist()
        [0.0, 0.05, -0.1]
    """
    saved, spent = np.maximum(harms, 0.0), price * np.maximum(costs, 0.0)
    both = saved + spent
    steps = lr * np.divide(saved - spent, both, out=np.zeros_like(both), where=both > 0)
    moved: Numbers = np.clip(shares + steps, LOWEST, 1.0) - shares
    return moved


def price_of(change: float, harms: Numbers, costs: Numbers, lr: float, shares: Numbers) -> float:
    """The price at which the moves change the energy by so much, to first order.

    The energy falls as the price grows, so there is one such price; where no price changes it as
    much, the nearest end of those that matter.

    Args:
        change: In the unit of ``costs`` times a share.
        harms: As for `moves`.
        costs: As for `moves`.
        lr: As for `moves`.
        shares: As for `moves`.

    Example:
        >>> harms, costs = np.array([1.0, 4.0]), np.array([2.0, 2.0])
        >>> price = price_of(0.0, harms, costs, 0.1, np.full(2, 0.5))
        >>> round(price, 6), moves(harms, costs, price, 0.1, np.full(2, 0.5)).round(4).tolist()
        (1.0, [-0.0333, 0.0333])
    """
    known = (harms > 0) & (costs > 0)
    if not known.any():
        return 0.0
    balances = np.log(harms[known] / costs[known])
    # At a millionth of the lowest balance every move is at its longest, to within a millionth.
    low, high = balances.min() - 14.0, balances.max() + 14.0
    for _ in range(45):
        middle = (low + high) / 2
        moved = moves(harms, costs, float(np.exp(middle)), lr, shares)
        low, high = (middle, high) if float(costs @ moved) > change else (low, middle)
    return float(np.exp((low + high) / 2))
