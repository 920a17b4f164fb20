"""The energy curve: accuracy against the operating point, with points placed where they matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from joulewise.data import Split
from joulewise.errors import InputError, refuse
from joulewise.placement import Placement
from joulewise.simulation import simulate, sweep
from joulewise.study.records import SimulationRecord

__all__ = ["Curve", "by_ratios", "energy_curve"]

# As shares of the device's range, from its least to its most reliable point.
_COARSE = (1.0, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.0)
_SCOUTS = 10
_STEP, _MOST_FINE = 0.02, 12
_DECADES = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Simulations of one network over common operating points, all with the same chips.

    Args:
        points: Operating points, most reliable first.
        simulations: One for each point.
        rising: Whether a larger point is more reliable, or less.
    """

    points: tuple[float, ...]
    simulations: tuple[SimulationRecord, ...]
    rising: bool


def energy_curve(
    placement: Placement,
    data: Split,
    *,
    points: Sequence[float] | None = None,
    knob: str = "eta",
    drops: Sequence[float] = (0.005, 0.01),
    chips: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, expected: None,
) -> Curve:
    """Accuracy of a placement over a range of operating points, the same for all placed tensors.

    Without ``points``, a few chips scout a coarse grid; then all chips run on points from reliable
    operation down to well past the largest drop, close together around the drops.

    Args:
        placement: What is stored where.
        data: The samples that accuracy is measured on.
        points: Operating points; None to choose them.
        knob: The setting that a point is, for instance ``"eta"`` or ``"v_dd"``.
        drops: The accuracy drops that will be asked for.
        chips: Chips at each point.
        seed: Of the first chip.
        progress: Called with passes done and passes expected.

    Returns:
        The curve.

    Raises:
        InputError: if there is no drop, if points are to be chosen on a knob that is not the
            devices' own, or some devices are more reliable the higher they are set and some the
            lower.
    """
    rising = _rising(placement)
    if not drops:
        refuse("drops", "empty", "at least one")
    scouted = 0
    if points is None and any(knob != tensor.device.knob.name for tensor in placement.placed):
        raise InputError(f"points on {knob} cannot be chosen; give points=, or leave out the knob")
    if points is None:
        chosen, scouted = _scout(placement, data, knob, drops, min(chips, _SCOUTS), seed)
    else:
        chosen = sorted(set(points), reverse=rising)
    total = len(chosen) * chips + scouted
    simulations = sweep(
        placement,
        data,
        at=[{knob: point} for point in chosen],
        chips=chips,
        seed=seed,
        progress=lambda _, done, expected: progress(round(done) + scouted, total),
    )
    records = tuple(SimulationRecord.of(placement, simulation) for simulation in simulations)
    return Curve(points=tuple(chosen), simulations=records, rising=rising)


def _rising(placement: Placement) -> bool:
    """Whether devices are more reliable the higher they are set.

    Raises:
        InputError: if some are and some are not.
    """
    knobs = [tensor.device.knob for tensor in placement.placed]
    found = {own.most_reliable > own.least_reliable for own in knobs}
    if len(found) > 1:
        names = ", ".join(sorted({own.name for own in knobs}))
        raise InputError(f"no curve is made over {names}: they run in opposite directions")
    return found.pop()


def _scout(
    placement: Placement, data: Split, knob: str, drops: Sequence[float], chips: int, seed: int
) -> tuple[list[float], int]:
    """Points worth simulating, most reliable first, and how many passes it took to find them."""
    rising = _rising(placement)
    knobs = [tensor.device.knob for tensor in placement.placed]
    # What all devices can be set to.
    inner, outer = (max, min) if rising else (min, max)
    floor = inner(own.least_reliable for own in knobs)
    scale = _Scale(floor, outer(own.most_reliable for own in knobs))
    lost: list[float] = []
    for share in _COARSE:
        result = simulate(placement, data, at={knob: scale.point(share)}, chips=chips, seed=seed)
        lost.append((result.ideal or 0.0) - result.mean)
        if lost[-1] > max(8 * max(drops), 0.2):
            break
    seen = _COARSE[: len(lost)]
    above = [p for p, d in zip(seen, lost, strict=True) if d < 0.4 * min(drops)]
    below = [p for p, d in zip(seen, lost, strict=True) if d > 2 * max(drops)]
    start, stop = min(above, default=seen[0]), max(below, default=seen[-1])
    steps = min(_MOST_FINE, max(1, round((start - stop) / _STEP)))
    fine = [stop + (start - stop) * k / steps for k in range(steps + 1)]
    chosen = {scale.point(share) for share in (*seen, *fine)}
    return sorted(chosen, reverse=rising), len(seen) * chips


@dataclass(frozen=True, slots=True)
class _Scale:
    """From the least to the most reliable point; several decades are divided by ratios."""

    least: float
    most: float

    def point(self, share: float) -> float:
        """The point at a share of the way, to four digits; the ends are exact."""
        if share in (0.0, 1.0):
            return self.most if share else self.least
        low, high = sorted((self.least, self.most))
        if by_ratios(low, high):
            point = self.least * (self.most / self.least) ** share
        else:
            point = self.least + (self.most - self.least) * share
        return min(max(float(f"{point:.4g}"), low), high)


def by_ratios(low: float, high: float) -> bool:
    """Whether settings from ``low`` to ``high`` span decades, and ratios say more of them."""
    return low > 0 and high / low > _DECADES
