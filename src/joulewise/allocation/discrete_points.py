"""Levels: operating points from a list, such as the few supplies that a chip has.

Which level each variable gets is a knapsack of many choices, whose weights do not add up: means
that shift together raise the error by more than each alone, or less. So the error is kept as the
square that it is. Few choices are all tried. Of many, those are taken that are best at a price of
error, one variable after the other until none changes, and the price is the one that meets the
limit; then single choices and pairs are exchanged as long as that saves energy. No step depends on
time or chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Alternatives", "chosen"]

Floats = NDArray[np.float64]
Choice = NDArray[np.int64]

# So many combinations are all tried; so many alternatives are exchanged in pairs.
_COMBINATIONS, _IN_PAIRS = 20_000, 800
# Of the search for the price of error: decades to both sides, halvings, rounds over all variables.
_DECADES, _HALVINGS, _ROUNDS = 5.0, 20, 12
_EXCHANGES = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Alternatives:
    """What each level of each variable costs and does, others as they are in one plan.

    The error of a choice is ``|off + sum moves|^2 / numbers + sum variances``, the sums over what
    is chosen: exact for single changes of that plan, and where no two variables are planes of one
    word.

    Args:
        costs: Energy, ``[variables, levels]``; energies add up.
        variances: Added to the error, ``[variables, levels]``.
        moves: How far each probed output moves, ``[variables, levels, samples]``.
        off: How far they are from what is wanted, ``[samples]``.
        numbers: Outputs of all samples.
    """

    costs: Floats
    variances: Floats
    moves: Floats
    off: Floats
    numbers: float

    @cached_property
    def squares(self) -> Floats:
        """Of each move alone, ``[variables, levels]``."""
        squares: Floats = np.einsum("vls,vls->vl", self.moves, self.moves)
        return squares

    @cached_property
    def products(self) -> Floats:
        """Of each two moves, ``[variables * levels, variables * levels]``."""
        flat = self.moves.reshape(self.costs.size, -1)
        products: Floats = flat @ flat.T
        return products

    def off_at(self, choice: Choice) -> Floats:
        """How far outputs are from what is wanted at a choice, ``[samples]``."""
        off: Floats = self.off + self.moves[np.arange(len(choice)), choice].sum(0)
        return off

    def cost(self, choice: Choice) -> float:
        """The energy of a choice."""
        return float(self.costs[np.arange(len(choice)), choice].sum())

    def error(self, choice: Choice) -> float:
        """The error of a choice."""
        variance = self.variances[np.arange(len(choice)), choice].sum()
        return float(np.square(self.off_at(choice)).sum() / self.numbers + variance)

    def changes(self, choice: Choice) -> tuple[Floats, Floats]:
        """What each single change of a choice adds to energy and error, ``[variables, levels]``."""
        rows = np.arange(len(choice))
        off = self.off_at(choice)
        at = self.moves[rows, choice]
        # |off - at + move|^2 - |off|^2, from products and squares.
        cross = self.moves @ off - np.einsum("vls,vs->vl", self.moves, at)
        own = np.square(at).sum(1) - 2 * at @ off
        shift = 2 * cross + self.squares + own[:, None]
        harms = shift / self.numbers + self.variances - self.variances[rows, choice][:, None]
        saved = self.costs - self.costs[rows, choice][:, None]
        return saved, harms


def chosen(
    alternatives: Alternatives, limit: float, start: Choice, most: int | None = None
) -> Choice:
    """The level of each variable, so that energy is least and the error at most a limit.

    Args:
        alternatives: What there is.
        limit: Of the error.
        start: ``[variables]``; where to look from.
        most: How many variables may change, about; None for all.

    Returns:
        ``[variables]``: the best choice where all can be tried, a good one elsewhere; the choice of
        least error that was met where none within the limit was.

    Example:
        >>> alternatives = Alternatives(
        ...     costs=np.array([[1.0, 2.0], [1.0, 2.0]]),
        ...     variances=np.array([[3.0, 1.0], [9.0, 2.0]]),
        ...     moves=np.zeros((2, 2, 1)),
        ...     off=np.zeros(1),
        ...     numbers=1,
        ... )
        >>> chosen(alternatives, 5.0, np.array([1, 1])).tolist()
        [0, 1]

    References:
        H. Everett, "Generalized Lagrange multiplier method for solving problems of optimum
        allocation of resources", Operations Research 11(3), 1963 (the price). The exchanges are
        ours.
    """
    variables, levels = alternatives.costs.shape
    if most is None and variables * np.log(levels) <= np.log(_COMBINATIONS):
        return _best_of_all(alternatives, limit)
    found = [_met(alternatives, limit, start, most)]
    if most is None and variables * levels <= _IN_PAIRS:  # starts are cheap, and ends differ
        ends = (np.full(variables, level) for level in range(levels))
        found += [_met(alternatives, limit, end, None) for end in ends]
    return min(found, key=lambda choice: _worth(alternatives, limit, choice))


def _met(alternatives: Alternatives, limit: float, start: Choice, most: int | None) -> Choice:
    found = _priced(alternatives, limit, start, most)
    if alternatives.error(found) > limit:
        return found
    return _exchanged(alternatives, limit, found)


def _worth(alternatives: Alternatives, limit: float, choice: Choice) -> tuple[float, float]:
    """How good a choice is, less being better: within the limit by energy, beyond it by error."""
    return max(alternatives.error(choice) / limit, 1.0), alternatives.cost(choice)


def _best_of_all(alternatives: Alternatives, limit: float) -> Choice:
    variables, levels = alternatives.costs.shape
    every = np.indices((levels,) * variables).reshape(variables, -1).T
    rows = np.arange(variables)
    index = every + rows * levels
    shift = 2 * (alternatives.moves @ alternatives.off).reshape(-1)[index].sum(1)
    for row in rows:
        for other in rows:
            shift += alternatives.products[index[:, row], index[:, other]]
    shift += np.square(alternatives.off).sum()
    errors = shift / alternatives.numbers + alternatives.variances[rows, every].sum(1)
    costs = alternatives.costs[rows, every].sum(1)
    within = errors <= limit
    best = np.where(within, costs, np.inf).argmin() if within.any() else errors.argmin()
    choice: Choice = every[best]
    return choice


def _priced(
    alternatives: Alternatives,
    limit: float,
    start: Choice,
    most: int | None,
) -> Choice:
    """The cheapest choice within the limit of those that are best at some price of error."""
    scale = np.ptp(alternatives.costs, axis=1).sum() / limit
    low, high = -_DECADES, _DECADES
    choice, best, least = start.copy(), None, np.inf
    reliable, least_error = start, np.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        first = choice if most is None else start
        choice = _at_price(alternatives, scale * 10**middle, first, most)
        error, cost = alternatives.error(choice), alternatives.cost(choice)
        if error < least_error:
            reliable, least_error = choice, error
        if error <= limit:
            high = middle
            if cost < least:
                best, least = choice, cost
        else:
            low = middle
    return reliable if best is None else best


def _at_price(alternatives: Alternatives, price: float, start: Choice, most: int | None) -> Choice:
    choice = start.copy()
    off = alternatives.off_at(choice)
    for _ in range(_ROUNDS):
        saved, harms = alternatives.changes(choice)
        gains = (saved + price * harms).min(1)
        wanted = gains.argsort(kind="stable")[: np.count_nonzero(gains < 0)][:most]
        moved = False
        for row in wanted:
            moves = alternatives.moves[row]
            rest = off - moves[choice[row]]
            shift = (2 * moves @ rest + alternatives.squares[row]) / alternatives.numbers
            worth = alternatives.costs[row] + price * (shift + alternatives.variances[row])
            best = int(worth.argmin())
            if worth[best] < worth[choice[row]]:
                choice[row], moved = best, True
                off = rest + moves[best]
        if not moved or most is not None:
            break
    return choice


def _exchanged(alternatives: Alternatives, limit: float, choice: Choice) -> Choice:
    """Single changes and pairs of changes that save energy within the limit, the best first."""
    variables, levels = alternatives.costs.shape
    in_pairs = variables * levels <= _IN_PAIRS
    choice = choice.copy()
    for _ in range(_EXCHANGES):
        saved, harms = (x.reshape(-1) for x in alternatives.changes(choice))
        left = limit - alternatives.error(choice)
        allowed = np.where(harms <= left, saved, np.inf)
        first = int(allowed.argmin())
        change = [first] if allowed[first] < 0 else []
        if not change and in_pairs:
            change = _pair(alternatives, saved, harms, choice, left)
        if not change:
            break
        for one in change:
            choice[one // levels] = one % levels
    return choice


def _pair(
    alternatives: Alternatives, saved: Floats, harms: Floats, choice: Choice, left: float
) -> list[int]:
    """The two changes of different variables that together save most within what is left."""
    variables, levels = alternatives.costs.shape
    products = alternatives.products
    rows = np.repeat(np.arange(variables), levels)
    now = rows * levels + choice[rows]
    # What two changes do together, beyond what each does alone.
    both = products - products[now] - products[:, now] + products[np.ix_(now, now)]
    harm = harms[:, None] + harms + 2 * both / alternatives.numbers
    save = saved[:, None] + saved
    useful = (harm <= left) & (save < 0) & (rows[:, None] != rows)
    if not useful.any():
        return []
    best = int(np.where(useful, save, np.inf).argmin())
    return [best // len(saved), best % len(saved)]
