"""The least energy within a drop of the metric, interpolated between simulated plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from joulewise.errors import InputError, check_in_range

__all__ = ["Floats", "LeastEnergy", "least_energy", "lost", "lost_by"]

Floats = NDArray[np.float64]
_RESAMPLES = 2000
# Losses are counts over samples and chips, and often tie with a drop: more than rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastEnergy:
    """The least energy at which no more than ``drop`` is lost.

    Args:
        drop: The loss that is allowed.
        energy: The energy, interpolated; None if every plan loses more.
        low: Lower end of its 95 % interval over chips; None for one chip.
        high: Upper end; None too where a resampled set of chips never is within the drop.
        at_edge: True if the cheapest plan is still within the drop, so that less may do.
    """

    drop: float
    energy: float | None
    low: float | None
    high: float | None
    at_edge: bool


def lost(values: ArrayLike, baseline: float, *, higher_is_better: bool, geometric: bool) -> Floats:
    """Loss of each value of a metric against a baseline, above 0 for a worse value.

    The logarithm of their ratio for metrics whose mean over chips is geometric, so that the mean of
    the losses is the loss of the mean; for all others the difference, in the unit of the metric.

    Args:
        values: Values; NaN for a failed chip, whose loss is infinite.
        baseline: The value that is lost from.
        higher_is_better: Direction of the metric.
        geometric: True if means are geometric.
    """
    found = np.asarray(values, dtype=np.float64)
    difference = np.log(baseline / found) if geometric else baseline - found
    return np.where(np.isnan(found), np.inf, difference if higher_is_better else -difference)


def lost_by(drop: float, *, geometric: bool) -> float:
    """Loss, as by `lost`, that a drop allows: a fraction where means over chips are geometric."""
    return math.log1p(drop) if geometric else drop


def least_energy(
    energies: Sequence[float], losses: ArrayLike, drop: float, *, seed: int = 0
) -> LeastEnergy:
    """The least energy within a drop, and a bootstrap interval over chips.

    Losses are made monotone, the largest at this energy or any higher one, and interpolated
    linearly between plans. Plans of more energy than all within the drop are left out: with IR drop
    in a crossbar, the largest conductances lose more than smaller ones. Chips are resampled as
    wholes, each with its losses under all plans.

    Args:
        energies: Energy of each plan, in any unit and order.
        losses: Loss of each chip under each plan, ``[chips, plans]``; infinite for a failed chip.
        drop: The loss that is allowed, above 0.
        seed: Seed of the bootstrap.

    Raises:
        InputError: if the shapes do not fit.

    Example:
        >>> found = least_energy([1.0, 0.5, 0.4], [[0.0, 0.0, 0.04]], 0.02)
        >>> round(found.energy, 3), found.at_edge
        (0.45, False)
    """
    check_in_range("drop", drop, 0.0, 1e30, open_low=True)
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or losses.shape[1] != len(energies) or not losses.size:
        raise InputError(
            f"losses has the shape {losses.shape} for {len(energies)} energies; allowed: [chips, "
            "plans]"
        )
    order = np.argsort(energies, kind="stable")[::-1]
    within = losses[:, order].mean(0) <= drop + _ROUNDING
    order = order[within.argmax() :]  # all, where none is within the drop
    spent, losses = np.asarray(energies, dtype=np.float64)[order], losses[:, order]
    (found,) = _crossings(spent, losses.mean(0)[None], drop)
    low = high = None
    if len(losses) > 1 and np.isfinite(found):
        chips = len(losses)
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(chips, np.full(chips, 1 / chips), size=_RESAMPLES)
        with np.errstate(invalid="ignore"):
            means = np.where(np.isfinite(losses).all(0), weights @ _finite(losses) / chips, np.inf)
        crossings = _crossings(spent, means, drop)
        # Outward to crossings that occurred: a resample without one counts as infinity.
        low = float(np.quantile(crossings, 0.025, method="lower"))
        high = float(np.quantile(crossings, 0.975, method="higher"))
    return LeastEnergy(
        drop=drop,
        energy=float(found) if np.isfinite(found) else None,
        low=low,
        high=high if high is not None and np.isfinite(high) else None,
        at_edge=bool(found == spent[-1]),
    )


def _finite(losses: Floats) -> Floats:
    return np.where(np.isfinite(losses), losses, 0.0)


def _crossings(spent: Floats, lost: Floats, drop: float) -> Floats:
    """Energy where each row first loses more than the drop, from the highest energy down.

    The lowest energy where nothing crosses, infinity where the highest already loses more.
    """
    worst = np.maximum.accumulate(lost, axis=1)
    above = worst > drop + _ROUNDING
    first = np.where(above.any(1), above.argmax(1), len(spent))
    inside = np.clip(first, 1, max(len(spent) - 1, 1))
    rows = np.arange(len(lost))
    upper, lower = worst[rows, inside - 1], worst[rows, np.minimum(inside, len(spent) - 1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.nan_to_num((drop - upper) / (lower - upper)).clip(0.0, 1.0)
    between = spent[inside - 1] + part * (
        spent[np.minimum(inside, len(spent) - 1)] - spent[inside - 1]
    )
    crossing = np.where(first == len(spent), spent[-1], between)
    return np.where(first == 0, np.inf, crossing)
