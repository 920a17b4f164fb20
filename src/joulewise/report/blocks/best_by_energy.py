"""The best network at each energy: the envelope of all curves and verified plans of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Replicates, View
from joulewise.units import format_point, format_si

__all__ = ["best_by_energy"]


# Segments that a sentence names.
_SEGMENTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Replicates at one operating point or with one kind of plan.

    Args:
        group: The networks.
        at: The point, or the granularity of the plans.
        total_j: Energy of an inference, mean over seeds, J.
        values: Mean of the metric for each seed.
    """

    group: Replicates
    at: str
    total_j: float
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean of the metric over seeds."""
        return float(np.mean(self.values))


def best_by_energy(view: View) -> Block | None:
    """The block; None for a single network on each memory."""
    groups: dict[str, list[Replicates]] = {}
    for group in view.replicates:
        groups.setdefault(group.first.memory, []).append(group)
    compared = {memory: _envelope(view, found) for memory, found in groups.items() if found[1:]}
    if not any(compared.values()):
        return None
    several = len(groups) > 1
    sentences = [
        f"{f'On {memory}, the' if several else 'The'} best {view.metric.name} at an energy is "
        f"that of {_segments(view, best)}."
        for memory, best in compared.items()
        if best
    ]
    return Block(
        name="best-by-energy",
        title="The best network at each energy",
        sentence=" ".join(sentences),
        tables=[
            _table(view, best, f", on {memory}" if several else "")
            for memory, best in compared.items()
            if best
        ],
        note=(
            "Means over seeds and chips. Plans count where they hold for each seed. Left out: what "
            f"gains less than {view.metric.drop(view.drop)} on the row above, of the same network."
        ),
    )


def _segments(view: View, best: Sequence[_Candidate]) -> str:
    """Models, or trainings of a single model, with the energy from which each is the best."""
    models = len({network.model for network in view.networks}) > 1
    first = [one.group.first for one in best]
    names = [one.model if models else one.training or one.model for one in first]
    starts = [k for k in range(len(best)) if k == 0 or names[k] != names[k - 1]]
    if len(starts) == 1:
        return f"{names[0]}, at any energy"
    parts = [f"{names[k]} from {format_si(best[k].total_j, 'J')}" for k in starts]
    if len(parts) > _SEGMENTS:
        return f"{parts[0]}, then of several in turn, and of {parts[-1]} on"
    return f"{', '.join(parts[:-1])} and {parts[-1]} on"


def _table(view: View, best: Sequence[_Candidate], where: str) -> Table:
    seeds = len(view.file.seeds) > 1
    rows = [
        [
            view.name(one.group.first, memory=False),
            one.at,
            format_si(one.total_j, "J"),
            view.metric.text(one.mean),
            *([_range(view, one)] if seeds else []),
        ]
        for one in best
    ]
    columns = ["network", "at", "energy", view.metric.name, *(["seeds"] if seeds else [])]
    return Table(
        caption="Points and plans that no other network betters at the same energy or less"
        f"{where}. The energy is that of an inference: memory, placed or not, and arithmetic.",
        columns=columns,
        rows=rows,
        words=2,
    )


def _range(view: View, one: _Candidate) -> str:
    low, high = min(one.values), max(one.values)
    return f"{view.metric.text(low).removesuffix(' %')} to {view.metric.text(high)}"


def _envelope(view: View, groups: Sequence[Replicates]) -> list[_Candidate]:
    """Candidates that are better than every cheaper one, the cheapest first.

    Those of a network that gain less than the study's drop on the one before are left out, but for
    the best.
    """
    found = [one for group in groups for one in (*_points(group), *_plans(view, group))]
    best: list[_Candidate] = []
    direction, limit = view.metric.direction, view.metric.lost_by(view.drop)
    for one in sorted(found, key=lambda one: (one.total_j, -direction * one.mean)):
        if not best or direction * one.mean > direction * best[-1].mean:
            best.append(one)
    kept: list[_Candidate] = []
    for one, following in zip(best, [*best[1:], None], strict=True):
        last = following is None or following.group is not one.group
        gains = not kept or abs(view.metric.lost(one.mean, kept[-1].mean)) >= limit
        if last or gains or kept[-1].group is not one.group:
            kept.append(one)
    return kept


def _points(group: Replicates) -> list[_Candidate]:
    """Points that the curves of all seeds share, where no chip failed."""
    found = []
    curves = [{(p.knob, p.point): p for p in network.points} for network in group.networks]
    for key in curves[0]:
        points = [curve[key] for curve in curves if key in curve]
        if (
            key[0]
            and len(points) == len(curves)
            and all(np.isfinite(p.values).all() for p in points)
        ):
            found.append(
                _Candidate(
                    group=group,
                    at=f"{key[0]} {format_point(*key)}",
                    total_j=float(np.mean([point.total_j for point in points])),
                    values=[point.mean for point in points],
                )
            )
    return found


def _plans(view: View, group: Replicates) -> list[_Candidate]:
    """Kinds of plans that hold for all seeds."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for network in group.networks:
        for one in network.allocations:
            if one.holds and one.mean is not None:
                kinds.setdefault(view.plan(one), []).append((one.total_j, one.mean))
    return [
        _Candidate(
            group=group,
            at=plan,
            total_j=float(np.mean([joules for joules, _ in rows])),
            values=[mean for _, mean in rows],
        )
        for plan, rows in kinds.items()
        if len(rows) == len(group.networks)
    ]
