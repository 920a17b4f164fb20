"""Discrete operating points: a multiple-choice knapsack with a quadratic constraint.

Each variable gets one of the listed levels. Energies add up, errors do not: shifts of the mean add
up in the outputs before they are squared, so they may raise each other's error or cancel it, and
the quadratic form is kept. Small problems are enumerated. Larger ones are relaxed by a Lagrange
multiplier: at each value, variables are set one by one to the level of least energy plus weighted
error until none changes, and the multiplier is bisected until the error is within its limit. Then
single variables and pairs change as long as that saves energy. All steps are deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Knapsack", "solve"]

Floats = NDArray[np.float64]
Choice = NDArray[np.int64]
"""The index of the level of each variable, ``[variables]``."""

# The most combinations that are enumerated, in a fraction of a second, and the most alternatives
# whose pairs are tried: a matrix of 800 by 800 for each exchange.
_COMBINATIONS, _IN_PAIRS = 20_000, 800
# Bisection of the multiplier: decades to both sides of the ratio of all energies to the limit, and
# halvings of their logarithm, to 1e-5 of a decade.
_DECADES, _HALVINGS = 5.0, 20
# Bounds on the time: passes over all variables at one multiplier, which settle in two or three,
# and changes after it.
_PASSES, _EXCHANGES = 12, 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Knapsack:
    """Energy and error of each level of each variable, the others as they are in one plan.

    The error of a choice is ``|offset + sum shifts|^2 / numbers + sum variances``, with the sums
    over the chosen levels: exact for single changes of that plan, and for any choice where no two
    variables are bit planes of one word.

    Args:
        energies: ``[variables, levels]``; they add up.
        variances: Variance of the outputs, ``[variables, levels]``; they add up.
        shifts: Shift of the probed output of each sample, ``[variables, levels, samples]``.
        offset: Error of the probed outputs without the shifts, ``[samples]``.
        numbers: Number of outputs of all samples.
    """

    energies: Floats
    variances: Floats
    shifts: Floats
    offset: Floats
    numbers: float

    @cached_property
    def squares(self) -> Floats:
        """Squared norm of each shift, ``[variables, levels]``."""
        squares: Floats = np.einsum("vls,vls->vl", self.shifts, self.shifts)
        return squares

    @cached_property
    def products(self) -> Floats:
        """Inner products of all shifts, ``[variables * levels, variables * levels]``."""
        flat = self.shifts.reshape(self.energies.size, -1)
        products: Floats = flat @ flat.T
        return products

    def output_errors(self, choice: Choice) -> Floats:
        """Error of the probed outputs at a choice, ``[samples]``."""
        errors: Floats = self.offset + self.shifts[np.arange(len(choice)), choice].sum(0)
        return errors

    def energy(self, choice: Choice) -> float:
        """The energy of a choice."""
        return float(self.energies[np.arange(len(choice)), choice].sum())

    def error(self, choice: Choice) -> float:
        """The output error of a choice."""
        variance = self.variances[np.arange(len(choice)), choice].sum()
        return float(np.square(self.output_errors(choice)).sum() / self.numbers + variance)

    def changes(self, choice: Choice) -> tuple[Floats, Floats]:
        """Differences in energy and error by each single change, ``[variables, levels]``."""
        rows = np.arange(len(choice))
        outputs = self.output_errors(choice)
        now = self.shifts[rows, choice]
        # |o - n + s|^2 - |o|^2 = 2 s.(o - n) + |s|^2 + |n|^2 - 2 n.o, outputs o, now n, shift s.
        cross = self.shifts @ outputs - np.einsum("vls,vs->vl", self.shifts, now)
        own = np.square(now).sum(1) - 2 * now @ outputs
        shift = 2 * cross + self.squares + own[:, None]
        errors = shift / self.numbers + self.variances - self.variances[rows, choice][:, None]
        return self.energies - self.energies[rows, choice][:, None], errors


def solve(
    knapsack: Knapsack, max_error: float, start: Choice, max_changes: int | None = None
) -> Choice:
    """The choice of least energy whose error is within a limit.

    Args:
        knapsack: The problem.
        max_error: The limit on the error.
        start: ``[variables]``; where the search starts.
        max_changes: Variables that may change from the start, before exchanges; None for all.

    Returns:
        ``[variables]``: the optimum where all combinations are enumerated, a good choice elsewhere;
        where none within the limit is found, the one of least error.

    Example:
        >>> knapsack = Knapsack(
        ...     energies=np.array([[1.0, 2.0], [1.0, 2.0]]),
        ...     variances=np.array([[3.0, 1.0], [9.0, 2.0]]),
        ...     shifts=np.zeros((2, 2, 1)),
        ...     offset=np.zeros(1),
        ...     numbers=1,
        ... )
        >>> solve(knapsack, 5.0, np.array([1, 1])).tolist()
        [0, 1]

    References:
        H. Everett, "Generalized Lagrange multiplier method for solving problems of optimum
        allocation of resources", Operations Research 11(3), 1963 (the relaxation). The exchanges
        are ours.
    """
    variables, levels = knapsack.energies.shape
    if max_changes is None and variables * np.log(levels) <= np.log(_COMBINATIONS):
        return _enumerated(knapsack, max_error)
    starts = [start]
    if max_changes is None and variables * levels <= _IN_PAIRS:  # several local optima, cheaply
        starts += [np.full(variables, level) for level in range(levels)]
    found = []
    for first in starts:
        choice = _relaxed(knapsack, max_error, first, max_changes)
        if knapsack.error(choice) <= max_error:
            choice = _exchanged(knapsack, max_error, choice)
        found.append(choice)
    # Feasible choices by energy, others by error.
    return min(found, key=lambda c: (max(knapsack.error(c) / max_error, 1.0), knapsack.energy(c)))


def _enumerated(knapsack: Knapsack, max_error: float) -> Choice:
    variables, levels = knapsack.energies.shape
    every = np.indices((levels,) * variables).reshape(variables, -1).T
    rows = np.arange(variables)
    index = every + rows * levels
    # |offset + sum s|^2 = |offset|^2 + 2 offset.sum s + sum s.s', from the products of all shifts.
    shift = 2 * (knapsack.shifts @ knapsack.offset).reshape(-1)[index].sum(1)
    for row in rows:
        for other in rows:
            shift += knapsack.products[index[:, row], index[:, other]]
    shift += np.square(knapsack.offset).sum()
    errors = shift / knapsack.numbers + knapsack.variances[rows, every].sum(1)
    energies = knapsack.energies[rows, every].sum(1)
    within = errors <= max_error
    best = np.where(within, energies, np.inf).argmin() if within.any() else errors.argmin()
    choice: Choice = every[best]
    return choice


def _relaxed(
    knapsack: Knapsack, max_error: float, start: Choice, max_changes: int | None
) -> Choice:
    """The cheapest choice within the limit among the optima at each multiplier; else the safest."""
    scale = np.ptp(knapsack.energies, axis=1).sum() / max_error
    low, high = -_DECADES, _DECADES
    choice, cheapest, least_energy = start.copy(), None, np.inf
    safest, least_error = start, np.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        first = choice if max_changes is None else start
        choice = _at_multiplier(knapsack, scale * 10**middle, first, max_changes)
        error, energy = knapsack.error(choice), knapsack.energy(choice)
        if error < least_error:
            safest, least_error = choice, error
        if error <= max_error:
            high = middle
            if energy < least_energy:
                cheapest, least_energy = choice, energy
        else:
            low = middle
    return safest if cheapest is None else cheapest


def _at_multiplier(
    knapsack: Knapsack, multiplier: float, start: Choice, max_changes: int | None
) -> Choice:
    """Coordinate descent of ``energy + multiplier * error``, the largest gains first."""
    choice = start.copy()
    outputs = knapsack.output_errors(choice)
    for _ in range(_PASSES):
        energies, errors = knapsack.changes(choice)
        gains = (energies + multiplier * errors).min(1)
        improvable = gains.argsort(kind="stable")[: np.count_nonzero(gains < 0)][:max_changes]
        changed = False
        for row in improvable:
            shifts = knapsack.shifts[row]
            rest = outputs - shifts[choice[row]]
            shift = (2 * shifts @ rest + knapsack.squares[row]) / knapsack.numbers
            total = knapsack.energies[row] + multiplier * (shift + knapsack.variances[row])
            best = int(total.argmin())
            if total[best] < total[choice[row]]:
                choice[row], changed = best, True
                outputs = rest + shifts[best]
        if not changed or max_changes is not None:
            break
    return choice


def _exchanged(knapsack: Knapsack, max_error: float, choice: Choice) -> Choice:
    """Local search: the single change, else the pair, that saves most energy within the limit."""
    variables, levels = knapsack.energies.shape
    choice = choice.copy()
    for _ in range(_EXCHANGES):
        energies, errors = (x.reshape(-1) for x in knapsack.changes(choice))
        left = max_error - knapsack.error(choice)
        allowed = np.where(errors <= left, energies, np.inf)
        best = int(allowed.argmin())
        change = [best] if allowed[best] < 0 else []
        if not change and variables * levels <= _IN_PAIRS:
            change = _best_pair(knapsack, energies, errors, choice, left)
        if not change:
            break
        for one in change:
            choice[one // levels] = one % levels
    return choice


def _best_pair(
    knapsack: Knapsack, energies: Floats, errors: Floats, choice: Choice, left: float
) -> list[int]:
    """The changes of two variables that save most energy for at most ``left`` more error."""
    variables, levels = knapsack.energies.shape
    products = knapsack.products
    rows = np.repeat(np.arange(variables), levels)
    now = rows * levels + choice[rows]
    # Two changes a and b together add 2 (s_a - n_a).(s_b - n_b) to the errors of each alone.
    both = products - products[now] - products[:, now] + products[np.ix_(now, now)]
    error = errors[:, None] + errors + 2 * both / knapsack.numbers
    energy = energies[:, None] + energies
    useful = (error <= left) & (energy < 0) & (rows[:, None] != rows)
    if not useful.any():
        return []
    best = int(np.where(useful, energy, np.inf).argmin())
    return [best // len(energies), best % len(energies)]
