"""Constrained optimisation of continuous levels: one smooth figure, another within a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

__all__ = ["Optimum", "minimise"]

Floats = NDArray[np.float64]
Figures = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The objective and the ratio of the constrained figure to its limit, as functions of levels."""

# The constraint is met within this fraction of its limit, from below: solvers end on either side.
_TOLERANCE = 1e-3
_INSIDE = 1 + _TOLERANCE
# Augmented Lagrangian: rounds, iterations of L-BFGS-B in each, a multiplier of an objective of
# order 1 to begin with, and the factor of the penalty where a round did not halve the violation.
_ROUNDS, _ITERATIONS, _MULTIPLIER, _HEAVIER = 12, 150, 0.1, 4.0
_HALVINGS = 30  # to 1e-9 of the way between feasible and infeasible levels
# SLSQP solves a dense quadratic programme in each step: quicker than L-BFGS-B for few variables.
_FEW, _STEPS, _PRECISION = 8, 40, 1e-8
# Slopes left over at an optimum, relative to the objective's largest: SLSQP stops early at kinks.
_STATIONARY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Optimum:
    """A constrained minimum.

    Args:
        levels: float64 ``[variables]``, 0 to 1.
        objective: The objective there.
        ratio: The constrained figure over its limit; at most 1, if it is so at the start.
        multiplier: The derivative of the objective in the logarithm of the limit, negated.
    """

    levels: Tensor
    objective: float
    ratio: float
    multiplier: float


def minimise(figures: Figures, start: Tensor, multiplier: float | None = None) -> Optimum:
    """Minimise the objective within the limit and the unit box, near a start.

    The method of multipliers (augmented Lagrangian) on the logarithm of the constraint, each round
    by L-BFGS-B. Few levels go through sequential quadratic programming first, whose answer is taken
    if it is feasible and stationary.

    Args:
        figures: The objective, of order 1, and the constrained figure over its limit, above 0;
            float64 scalars, differentiable.
        start: float64 ``[variables]``, 0 to 1.
        multiplier: A first guess of the multiplier; None for the default.

    References:
        D. P. Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods", Academic Press
        1982, chapter 3; C. Zhu, R. H. Byrd, P. Lu, J. Nocedal, "Algorithm 778: L-BFGS-B", ACM TOMS
        23(4), 1997. D. Kraft, "A software package for sequential quadratic programming", DFVLR
        1988 (SLSQP).
    """
    found = _by_quadratic_programmes(figures, start.clamp(0, 1)) if len(start) <= _FEW else None
    first = _MULTIPLIER if multiplier is None else multiplier
    return found or _by_multipliers(figures, start, first)


def _by_multipliers(figures: Figures, start: Tensor, multiplier: float) -> Optimum:
    """The augmented Lagrangian ``f + w / 2 max(0, log(g) + lambda / w)^2`` of Bertsekas, ch. 3."""
    penalty, levels, before = 1.0, start.clamp(0, 1).numpy().copy(), np.inf

    def evaluated(x: Floats) -> tuple[float, float]:
        with torch.no_grad():
            objective, ratio = figures(torch.from_numpy(x))
        return float(objective), float(ratio)

    def lagrangian(x: Floats) -> tuple[float, Floats]:
        at = torch.tensor(x, requires_grad=True)
        with torch.enable_grad():
            objective, ratio = figures(at)
            beyond = torch.relu((ratio * _INSIDE).log() + multiplier / penalty)
            whole = objective + penalty / 2 * beyond.square()
            (slope,) = torch.autograd.grad(whole, at)
        return float(whole.detach()), slope.numpy()

    inside, least = levels.copy(), np.inf  # the best feasible levels so far
    for _ in range(_ROUNDS):
        found = minimize(
            lagrangian,
            levels,
            jac=True,
            bounds=[(0.0, 1.0)] * len(levels),
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS},
        )
        levels = np.clip(found.x, 0.0, 1.0)
        objective, ratio = evaluated(levels)
        if ratio <= 1.0 and objective < least:
            inside, least = levels, objective
        violation = float(np.log(ratio * _INSIDE))
        multiplier = max(0.0, multiplier + penalty * violation)
        if abs(violation) < _TOLERANCE or (multiplier == 0 and violation < 0):
            break
        if abs(violation) > before / 2:
            penalty *= _HEAVIER
        before = abs(violation)
    # Infeasible by a little, the last levels are still the best to go towards.
    levels = inside if ratio <= 1.0 else _last_feasible(evaluated, inside, levels)
    if least <= evaluated(levels)[0]:
        levels = inside
    objective, ratio = evaluated(levels)
    return Optimum(
        levels=torch.from_numpy(levels), objective=objective, ratio=ratio, multiplier=multiplier
    )


def _last_feasible(
    evaluated: Callable[[Floats], tuple[float, float]], inside: Floats, outside: Floats
) -> Floats:
    """The feasible levels nearest to infeasible ones on the line between, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        feasible = evaluated(inside + middle * (outside - inside))[1] <= 1.0
        low, high = (middle, high) if feasible else (low, middle)
    return inside + low * (outside - inside)


def _by_quadratic_programmes(figures: Figures, start: Tensor) -> Optimum | None:
    """The minimum by SLSQP; None where it ends infeasible, not stationary, or above the start."""

    @cache  # SLSQP asks for values and slopes one by one
    def at(x: tuple[float, ...]) -> tuple[float, float, Floats, Floats]:
        levels = torch.tensor(x, dtype=torch.float64).clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            objective, ratio = figures(levels)
            left = -(ratio * _INSIDE).log()
            (slope,) = torch.autograd.grad(objective, levels, retain_graph=True)
            (slope_left,) = torch.autograd.grad(left, levels)
        return float(objective.detach()), float(left.detach()), slope.numpy(), slope_left.numpy()

    found = minimize(
        lambda x: at(tuple(x))[0],
        start.numpy(),
        jac=lambda x: at(tuple(x))[2],
        bounds=[(0.0, 1.0)] * len(start),
        constraints=[
            {"type": "ineq", "fun": lambda x: at(tuple(x))[1], "jac": lambda x: at(tuple(x))[3]}
        ],
        method="SLSQP",
        options={"maxiter": _STEPS, "ftol": _PRECISION},
    )
    levels = np.clip(found.x, 0.0, 1.0)
    objective, left, slope, slope_left = at(tuple(levels))
    ratio = float(np.exp(-left)) / _INSIDE
    first, first_left, _, _ = at(tuple(start.tolist()))
    if ratio > 1.0 or (first_left >= 0 and objective > first):
        return None
    # Karush-Kuhn-Tucker: the multiplier is fitted to the slopes of levels between their bounds, 0
    # where the limit does not bind; a level at a bound may only want to go beyond it.
    free = (levels > 0) & (levels < 1) & (left < _TOLERANCE)
    squares = float(slope_left[free] @ slope_left[free])
    multiplier = float(slope[free] @ slope_left[free]) / max(squares, 1e-300)
    rest = slope - multiplier * slope_left
    rest = np.where(levels <= 0, np.minimum(rest, 0), rest)
    rest = np.where(levels >= 1, np.maximum(rest, 0), rest)
    if np.abs(rest).max() > _STATIONARY * np.abs(slope).max():
        return None
    return Optimum(
        levels=torch.from_numpy(levels), objective=objective, ratio=ratio, multiplier=multiplier
    )
