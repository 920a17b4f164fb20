"""Accuracy against energy: each network from reliable memory down to where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import CurvePoint, Network, Replicates, View
from joulewise.results import format_estimate
from joulewise.units import format_percent, format_point, format_si

__all__ = ["accuracy_energy"]

# Title of a chart: the field of a row, the label of the axis and the format of its ticks.
_AXES = {
    "Memory energy": ("memory", "memory energy of an inference (J)", "~s"),
    "Of reliable memory": ("energy", "memory energy over that of reliable memory", "%"),
    "All energy": ("total", "energy of an inference (J)", "~s"),
}
# Knobs in words, for a reader who meets them first here.
_KNOBS = {
    "eta": "eta is the energy of a memory access over that of a reliable one",
    "v_dd": "v_dd is the supply voltage of the memory",
    "bit_error_rate": "bit_error_rate is the probability that a bit is faulty",
    "g_max": "g_max is the conductance, in siemens, that stands for the largest weight",
    "seconds": "seconds is the time between programming and reading",
}
# Loss of a network that the chart still shows.
_WINDOW = 0.12


def accuracy_energy(view: View) -> Block | None:
    """The block; None without curves."""
    if not view.networks:
        return None
    memories = list(dict.fromkeys(network.memory for network in view.networks))
    found: dict[str, Any] = {}
    for title, axis in _AXES.items():
        for memory in memories if len(memories) > 1 else [None]:
            groups = [g for g in view.replicates if memory in (None, g.first.memory)]
            found[title if memory is None else f"{memory}: {title}"] = _chart(view, groups, *axis)
    bands = "; bands reach from the 5 % to the 95 % quantile of the chips" if _bands(view) else ""
    return Block(
        name="accuracy-energy",
        title=f"{view.metric.name[0].upper()}{view.metric.name[1:]} against energy",
        sentence=(
            f"Each point is a mean over {view.file.chips_of_curves} chips with its 95 % interval"
            f"{bands}; diamonds mark the drops. {_explained(view)}"
        ),
        charts=found,
        tables=[_table(view)],
        note=_note(view),
    )


def _bands(view: View) -> bool:
    """True if some chart has few enough lines for bands."""
    memories = [group.first.memory for group in view.replicates]
    return min(memories.count(memory) for memory in memories) <= charts.BANDS


def _chart(view: View, groups: Sequence[Replicates], field: str, label: str, form: str) -> Any:
    """Curves of some networks over one measure of energy."""
    networks = [group.first for group in groups]
    rows = [_row(view, group.first, point) for group in groups for point in _shown(group)]
    marks = [mark for network in networks for mark in _marks(view, network)]
    ends = [end for n in networks for end in (n.ideal, n.metric.after(n.ideal, _WINDOW))]
    low, high = min(ends), max(ends)
    # The better end shows all chips; the other cuts those off that are worse than the window.
    if view.metric.higher_is_better:
        high = max([high, *(row["best"] for row in rows)])
    else:
        low = min([low, *(row["worst"] for row in rows)])
    return charts.curves(
        rows,
        marks,
        field=field,
        x=label,
        y=view.metric.name,
        x_format=form,
        y_format=view.metric.tick_format,
        y_domain=(low, high),
    )


def _shown(group: Replicates) -> list[CurvePoint]:
    """Points down to the first one below the window."""
    found: list[CurvePoint] = []
    metric, ideal = group.first.metric, group.first.ideal
    for point in group.first.points:
        if not len(point.known):
            break
        found.append(point)
        if metric.lost(point.mean, ideal) > metric.lost_by(_WINDOW):
            break
    return found


def _row(view: View, network: Network, point: CurvePoint) -> dict[str, Any]:
    low, high = point.interval or (point.mean, point.mean)
    worst, best = np.quantile(point.known, [0.05, 0.95])
    text = view.metric.text
    tooltip = [
        f"{view.name(network, memory=False)}: {point.knob} {format_point(point.knob, point.point)}",
        f"{format_si(point.memory_j, 'J')}, {format_percent(point.energy, 1)} of reliable memory",
        f"{view.metric.name} {text(point.mean)} [{text(low)}, {text(high)}]",
    ]
    return {
        "name": view.name(network, memory=False),
        "energy": point.energy,
        "memory": point.memory_j,
        "total": point.total_j,
        "y": point.mean,
        "low": low,
        "high": high,
        "worst": float(worst),
        "best": float(best),
        "tooltip": "; ".join(tooltip),
    }


def _marks(view: View, network: Network) -> list[dict[str, Any]]:
    """The least energy within each drop."""
    found = []
    reliable, fixed = view.reliable_j(network), view.fixed_j(network)
    for drop in view.file.drops:
        least = network.least_energy(drop)
        if least.energy is None or least.at_edge:
            continue
        lost = f"{view.name(network, memory=False)}: {view.metric.drop(drop)} lost at "
        found.append(
            {
                "name": view.name(network, memory=False),
                "energy": least.energy,
                "memory": least.energy * reliable,
                "total": least.energy * reliable + fixed,
                "y": network.metric.after(network.ideal, drop),
                "tooltip": f"{lost}{format_percent(least.energy, 1)} of reliable memory's energy",
            }
        )
    return found


def _table(view: View) -> Table:
    """All simulated points of all networks."""
    rows, seeds = [], len(view.file.seeds) > 1
    for network in view.networks:
        for point in network.points:
            text = view.metric.text(point.mean) if len(point.known) else "all chips failed"
            if point.interval is not None:
                text = format_estimate(point.mean, point.interval, view.metric.bounds)
            rows.append(
                [
                    view.name(network),
                    *([str(network.seed)] if seeds else []),
                    f"{point.knob} {format_point(point.knob, point.point)}",
                    format_si(point.memory_j, "J"),
                    format_percent(point.energy, 1),
                    text,
                ]
            )
    words = ["network", "seed", "point"] if seeds else ["network", "point"]
    columns = [*words, "memory", "of reliable", f"{view.metric.name} [95 %]"]
    return Table(caption="Every simulated point.", columns=columns, rows=rows, words=len(words))


def _explained(view: View) -> str:
    knobs = dict.fromkeys(point.knob for n in view.networks for point in n.points if point.knob)
    meanings = "; ".join(_KNOBS[knob] for knob in knobs if knob in _KNOBS)
    return f"Here {meanings}." if meanings else ""


def _note(view: View) -> str:
    seeds = len(view.file.seeds)
    return (
        f"The chart shows the first of {seeds} seeds." if seeds > 1 and view.file.training else ""
    )
