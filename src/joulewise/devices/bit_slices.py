"""Bit slices: weights as digits, each on analog devices of its own."""

from __future__ import annotations

from dataclasses import replace

from joulewise.devices.conductance_pairs import Pairs
from joulewise.errors import refuse

__all__ = ["digit_steps", "digits_of"]

# Steps that a float32 weight holds exactly.
_MOST_STEPS = 1 << 24


def digit_steps(levels: int, slices: int) -> int:
    """Steps from 0 to the limit of a weight with ``slices`` digits of ``levels`` steps.

    Raises:
        InputError: if there are more than a float32 weight has.

    Example:
        >>> digit_steps(3, 2)
        15
    """
    steps = int((levels + 1) ** slices - 1)
    if slices > 1 and steps > _MOST_STEPS:
        refuse("levels", levels, f"fewer, for at most {_MOST_STEPS} steps of {slices} digits")
    return steps


def digits_of(stored: Pairs, levels: int | None, slices: int) -> list[tuple[Pairs, float]]:
    """Weights of each digit as if it were alone, the most significant first, and its factor.

    Args:
        stored: Weights, rounded to `digit_steps`.
        levels: Steps of a digit; None for one continuous digit.
        slices: Number of digits.

    Returns:
        Pairs whose sum, weighted by the factors, is ``stored``.
    """
    if slices == 1 or levels is None:
        return [(stored, 1.0)]
    steps = digit_steps(levels, slices)
    rest, found = (stored.targets * steps).round(), []
    for place in reversed(range(slices)):
        size = (levels + 1) ** place
        digit = (rest / size).floor()
        rest = rest - digit * size
        fraction_of_limit = (digit / levels).to(stored.weights)
        weights = stored.weights.sign() * fraction_of_limit * stored.limit
        found.append((replace(stored, weights=weights), levels * size / steps))
    return found
