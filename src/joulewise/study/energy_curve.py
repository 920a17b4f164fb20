"""The energy curve: a metric against the operating point, with points placed where it falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from joulewise.devices import Knob
from joulewise.errors import InputError
from joulewise.placement import Placement
from joulewise.progress import Report, silent
from joulewise.simulation import Simulation, simulate, sweep
from joulewise.study.least_energy import Floats, lost

__all__ = ["common_knob", "energy_curve", "losses"]

# Levels of the knob, from the most to the least reliable, that few chips are simulated at first.
_COARSE = (1.0, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.0)
_SCOUTS = 10
# Spacing of levels between the first and the last drop, and the most points there.
_STEP, _MOST_FINE = 0.02, 12
# The search goes on to this multiple of the largest drop, past which no network is used.
_FAR = 8.0


def losses(simulation: Simulation) -> Floats:
    """Loss of each chip against a perfect memory, ``[chips]``; see `lost`.

    Raises:
        InputError: without targets.
    """
    metric, ideal = simulation.metric, simulation.ideal
    if metric is None or ideal is None:
        raise InputError("a curve needs a metric; allowed: data with targets")
    return lost(
        np.array(simulation.values, dtype=float),
        ideal,
        higher_is_better=metric.higher_is_better,
        geometric=metric.geometric,
    )


def common_knob(placement: Placement) -> Knob:
    """The knob of all placed tensors.

    Raises:
        InputError: if they have several.
    """
    knobs = {placed.device.knob.range: placed.device.knob for placed in placement.placed}
    if len(knobs) > 1:
        names = ", ".join(sorted(knob.name for knob in knobs.values()))
        raise InputError(
            f"the memories have several knobs or ranges ({names}); allowed: one kind of memory"
        )
    return next(iter(knobs.values()))


def energy_curve(
    placement: Placement,
    data: Any,
    *,
    points: Sequence[Mapping[str, float]] = (),
    drops: Sequence[float] = (0.005, 0.01),
    chips: int = 200,
    seed: int = 0,
    metric: Any = None,
    report: Report = silent,
    executor: Executor | None = None,
) -> list[Simulation]:
    """Simulate common operating points, all on the same chips, the most reliable first.

    Without ``points``, a few chips scout a coarse grid; then all chips run on points from reliable
    operation to well past the largest drop, close together around the drops.

    Args:
        placement: The placement.
        data: See `joulewise.simulate`.
        points: Operating points; none to choose them.
        drops: Losses that the curve will be read at, as by `lost`; above 0.
        chips: Chips at each point.
        seed: Seed of the first chip.
        metric: See `joulewise.simulate`.
        report: Called with the progress.
        executor: See `joulewise.simulate`; chips of the scouts are not spread.

    Raises:
        InputError: without targets, or if points are to be chosen and memories differ.
    """
    chosen = list(points)
    if not chosen:
        knob = common_knob(placement)
        levels = _scout(placement, data, knob, drops, min(chips, _SCOUTS), seed, metric, report)
        distinct = dict.fromkeys(_rounded(knob, level) for level in levels)
        chosen = [{knob.name: point} for point in distinct]
    plans = [placement.plan(point) for point in chosen]
    found = sweep(
        placement,
        data,
        at=plans,
        chips=chips,
        seed=seed,
        metric=metric,
        progress=report,
        executor=executor,
    )
    return sorted(found, key=lambda one: -one.energy.normalised)


def _scout(
    placement: Placement,
    data: Any,
    knob: Knob,
    drops: Sequence[float],
    chips: int,
    seed: int,
    metric: Any,
    report: Report,
) -> list[float]:
    """Levels worth simulating, the most reliable first."""
    found: list[float] = []
    for number, level in enumerate(_COARSE):
        at = {knob.name: _rounded(knob, level)}
        result = simulate(placement, data, at=at, chips=chips, seed=seed, metric=metric)
        found.append(float(losses(result).mean()))
        report("scouting", number + 1, len(_COARSE))
        # Of a fraction such as accuracy, 0.2 at least.
        bounded = result.metric is not None and result.metric.bounds == (0.0, 1.0)
        far = found[-1] > max(_FAR * max(drops), 0.2 if bounded else 0.0)
        if far and found[-1] > min(found):  # with IR drop, the most reliable end may lose most
            break
    seen = dict(zip(_COARSE, found, strict=False))
    best = min(seen, key=lambda level: (seen[level], -level))
    start = min((s for s, d in seen.items() if d < 0.4 * min(drops)), default=best)
    stop = max((s for s, d in seen.items() if s < start and d > 2 * max(drops)), default=min(seen))
    steps = min(_MOST_FINE, max(1, round((start - stop) / _STEP)))
    fine = [stop + (start - stop) * k / steps for k in range(steps + 1)]
    return sorted({*seen, *fine}, reverse=True)


def _rounded(knob: Knob, level: float) -> float:
    """The point of a level, to four digits; the ends are exact."""
    point = float(knob.point(level))
    if level in (0.0, 1.0) or point == 0.0 or not math.isfinite(point):
        return point
    low, high = sorted((float(knob.least_reliable), float(knob.most_reliable)))
    return min(max(float(f"{point:.4g}"), low), high)
