"""Refining: the least of one smooth figure of a plan while another stays within a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

__all__ = ["Refined", "least"]

Figures = Callable[[Tensor], tuple[Tensor, Tensor]]

_ROUNDS, _EVALUATIONS, _MET, _PRICE = 12, 150, 1e-3, 0.1
# What a violation weighs more where the last round did not halve it.
_HEAVIER, _HALVINGS = 4.0, 30
# The limit is met to _MET, from within.
_INSIDE = 1 + _MET
# Of sequential quadratic programming: shares, steps, and how near slopes are to those of a least.
_FEW, _STEPS, _EXACT, _STATIONARY = 8, 40, 1e-8, 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refined:
    """What was found.

    Args:
        shares: float64 ``[variables]``.
        objective: There.
        excess: The other figure there, over its limit: at most 1, if it is so at the start.
        price: What a relative change of the limit changes the objective by.
        evaluations: How often both figures were worked out.
    """

    shares: Tensor
    objective: float
    excess: float
    price: float
    evaluations: int


def least(figures: Figures, start: Tensor, price: float | None = None) -> Refined:
    """Find shares of least objective, near a start.

    The method of multipliers on the logarithm of the constraint, each round by L-BFGS-B within
    the bounds; where there are few shares, sequential quadratic programming comes first, and is
    all, if it ends within the limit.

    Args:
        figures: From shares, the objective, of order 1, and the other figure over its limit, above
            0; float64 scalars, differentiable.
        start: float64 ``[variables]``, 0 to 1.
        price: A first guess of the price; None where nothing is known of it.

    References:
        D. P. Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods", Academic Press
        1982, chapter 3; C. Zhu, R. H. Byrd, P. Lu, J. Nocedal, "Algorithm 778: L-BFGS-B", ACM TOMS
        23(4), 1997. D. Kraft, "A software package for sequential quadratic programming", DFVLR
        1988 (SLSQP).
    """
    found = _of_few(figures, start.clamp(0, 1)) if len(start) <= _FEW else None
    return found or _by_multipliers(figures, start, _PRICE if price is None else price)


def _by_multipliers(figures: Figures, start: Tensor, price: float) -> Refined:
    weight, shares, evaluations = 1.0, start.clamp(0, 1).numpy().copy(), 0
    bounds = [(0.0, 1.0)] * len(shares)

    def evaluated(x: NDArray[np.float64]) -> tuple[float, float]:
        with torch.no_grad():
            objective, excess = figures(torch.from_numpy(x))
        return float(objective), float(excess)

    def lagrangian(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal evaluations
        evaluations += 1
        at = torch.tensor(x, requires_grad=True)
        with torch.enable_grad():
            objective, excess = figures(at)
            beyond = torch.relu((excess * _INSIDE).log() + price / weight)
            whole = objective + weight / 2 * beyond.square()
            (slope,) = torch.autograd.grad(whole, at)
        return float(whole.detach()), slope.numpy()

    best: tuple[float, NDArray[np.float64]] | None = None
    first, before = shares.copy(), np.inf
    for _ in range(_ROUNDS):
        options = {"maxiter": _EVALUATIONS}
        found = minimize(
            lagrangian, shares, jac=True, bounds=bounds, method="L-BFGS-B", options=options
        )
        shares = np.clip(found.x, 0.0, 1.0)
        objective, excess = evaluated(shares)
        if excess <= 1.0 and (best is None or objective < best[0]):
            best = objective, shares
        off = float(np.log(excess * _INSIDE))
        price = max(0.0, price + weight * off)
        if abs(off) < _MET or (price == 0 and off < 0):
            break
        if abs(off) > before / 2:
            weight *= _HEAVIER
        before = abs(off)
    inside = first if best is None else best[1]
    # Beyond the limit by a little, the last round may still be the best to go towards.
    shares = inside if excess <= 1.0 else _within(evaluated, inside, shares)
    if best is not None and best[0] <= evaluated(shares)[0]:
        shares = inside
    objective, excess = evaluated(shares)
    return Refined(
        shares=torch.from_numpy(shares),
        objective=objective,
        excess=excess,
        price=price,
        evaluations=evaluations,
    )


def _of_few(figures: Figures, start: Tensor) -> Refined | None:
    """Few shares; None where what it ends at is beyond the limit, or no least."""
    evaluations = 0

    @cache
    def at(x: tuple[float, ...]) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
        nonlocal evaluations
        evaluations += 1
        shares = torch.tensor(x, dtype=torch.float64).clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            objective, excess = figures(shares)
            left = -(excess * _INSIDE).log()
            (slope,) = torch.autograd.grad(objective, shares, retain_graph=True)
            (steep,) = torch.autograd.grad(left, shares)
        return float(objective.detach()), float(left.detach()), slope.numpy(), steep.numpy()

    found = minimize(
        lambda x: at(tuple(x))[0],
        start.numpy(),
        jac=lambda x: at(tuple(x))[2],
        bounds=[(0.0, 1.0)] * len(start),
        constraints=[
            {"type": "ineq", "fun": lambda x: at(tuple(x))[1], "jac": lambda x: at(tuple(x))[3]}
        ],
        method="SLSQP",
        options={"maxiter": _STEPS, "ftol": _EXACT},
    )
    shares = np.clip(found.x, 0.0, 1.0)
    objective, left, slope, steep = at(tuple(shares))
    excess = float(np.exp(-left)) / _INSIDE
    first, spare, _, _ = at(tuple(start.tolist()))
    if excess > 1.0 or (spare >= 0 and objective > first):
        return None
    # What moves freely trades one for the other at the price, where the limit binds.
    binds = left < _MET
    free = (shares > 0) & (shares < 1) & binds
    price = float(slope[free] @ steep[free]) / max(float(steep[free] @ steep[free]), 1e-300)
    off = slope - price * steep
    off = np.where(shares <= 0, np.minimum(off, 0), np.where(shares >= 1, np.maximum(off, 0), off))
    if np.abs(off).max() > _STATIONARY * np.abs(slope).max():
        return None
    return Refined(
        shares=torch.from_numpy(shares),
        objective=objective,
        excess=excess,
        price=price,
        evaluations=evaluations,
    )


def _within(
    evaluated: Callable[[NDArray[np.float64]], tuple[float, float]],
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The last shares within the limit on the way from some to others."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        within = evaluated(inside + middle * (outside - inside))[1] <= 1.0
        low, high = (middle, high) if within else (low, middle)
    return inside + low * (outside - inside)
