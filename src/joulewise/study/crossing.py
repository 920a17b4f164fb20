"""Crossings: how far down a network can go before it has lost a given share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from joulewise.study.curve import by_ratios

__all__ = ["Ladder"]

Floats = NDArray[np.float64]
# Losses are counts over images and chips, and often tie with a limit: less than one, more than
# rounding.
_ROUNDING = 1e-9


class Ladder:
    """Operating points from the most to the least reliable, and where a loss crosses a limit.

    Places between two points are interpolated linearly, or by ratios where the points span more
    than two decades. A place is a number that falls towards less reliable points.

    Args:
        points: Operating points, in any order.
        rising: Whether a larger point is more reliable, or less.

    Example:
        >>> ladder = Ladder([0.4, 0.6, 0.5], rising=True)
        >>> ladder.order.tolist()
        [1, 2, 0]
        >>> places = ladder.crossings(np.array([[0.0, 0.02, 0.06], [0.03, 0.05, 0.09]]), 0.03)
        >>> [ladder.setting(place) for place in places]
        [0.475, 0.6]
        >>> ladder.setting(ladder.last_within(np.array([[0.05, 0.01, 0.03]]), 0.02)[0])
        0.45
    """

    def __init__(self, points: Sequence[float], *, rising: bool) -> None:
        self._sign = 1.0 if rising else -1.0
        scale = np.asarray(points, dtype=np.float64)
        self._ratios = by_ratios(scale.min(), scale.max())
        places = self._sign * (np.log(scale) if self._ratios else scale)
        self.order: NDArray[np.int64] = np.argsort(places)[::-1]
        self.places: Floats = places[self.order]
        self._points = [float(points[i]) for i in self.order]

    @cached_property
    def _given(self) -> dict[float, float]:
        """A point that was simulated comes back as it was given, whatever logarithms round."""
        return dict(zip(self.places.tolist(), self._points, strict=True))

    def setting(self, place: float) -> float | None:
        """The operating point at a place; None at infinity, where there was no crossing.

        An interval may reach to places beyond any number, whose point is infinite.
        """
        if not np.isfinite(place):
            return None
        with np.errstate(over="ignore"):
            found = float(np.exp(self._sign * place)) if self._ratios else self._sign * float(place)
        return self._given.get(float(place), found)

    def crossings(self, lost: Floats, limit: float) -> Floats:
        """Where each row first loses more than ``limit``, on the way down.

        Losses are made monotone: the largest at this point or any more reliable one.

        Args:
            lost: ``[rows, points]``, in the order of ``order``.
            limit: The loss that is allowed.

        Returns:
            A place for each row: the last one where nothing crosses, infinity where the most
            reliable point already loses more.
        """
        worst = np.maximum.accumulate(lost, axis=1)
        above = worst > limit + _ROUNDING
        return self._between(worst, np.where(above.any(1), above.argmax(1), lost.shape[1]), limit)

    def last_within(self, lost: Floats, limit: float) -> Floats:
        """The least reliable place where each row loses no more than ``limit``.

        A network that was trained for a faulty memory may lose more on a better one, which is no
        reason not to use it where it is good.

        Args:
            lost: ``[rows, points]``, in the order of ``order``.
            limit: The loss that is allowed.

        Returns:
            A place for each row: the last one where the last point is within, infinity where none
            is.
        """
        within = lost <= limit + _ROUNDING
        last = lost.shape[1] - within[:, ::-1].argmax(1)
        return self._between(lost, np.where(within.any(1), last, 0), limit)

    def _between(self, lost: Floats, first: NDArray[np.int64], limit: float) -> Floats:
        """Where each row passes the limit, before its first point beyond it."""
        if len(self.places) == 1:
            return np.where(first == 0, np.inf, self.places[0])
        inside = np.clip(first, 1, len(self.places) - 1)
        rows = np.arange(len(lost))
        upper, lower = lost[rows, inside - 1], lost[rows, inside]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = ((limit - upper) / (lower - upper)).clip(0.0, 1.0)
            gap = self.places[inside] - self.places[inside - 1]
            crossing = self.places[inside - 1] + share * gap
        crossing = np.where(first == len(self.places), self.places[-1], crossing)
        return np.where(first == 0, np.inf, crossing)
