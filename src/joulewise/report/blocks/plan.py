"""The plans along the network: an operating point for each tensor."""

from __future__ import annotations

from typing import Any

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
from joulewise.study.entries import GoalEntry
from joulewise.study.record import Record
from joulewise.units import format_percent, format_point, format_si

__all__ = ["energy_of", "goal_in_words", "held", "plan"]


def plan(view: View) -> Block | None:
    """The block; None without allocations."""
    allocated = [network for network in view.networks if network.allocations]
    if not allocated:
        return None
    found, drawn = [], {}
    for network in allocated:
        best = min(network.allocations, key=lambda one: (not held(one), energy_of(one)))
        found.append((network, best))
        drawn[f"{view.name(network)}, seed {network.seed}"] = _chart(view, network)
    holding = [(network, best) for network, best in found if held(best)]
    sentence = "No goal was shown to hold."
    if holding:
        network, best = min(holding, key=lambda pair: energy_of(pair[1]))
        asked = _asked(view, best)
        sentence = (
            f"{asked[0].upper()}{asked[1:]}: {view.name(network)} needs "
            f"{format_percent(energy_of(best), 1)} of the energy of reliable memory."
        )
    return Block(
        name="plan",
        title="The plan along the network",
        sentence=sentence,
        charts=drawn,
        tables=[_table(view), *(_points(view, network) for network in allocated)],
        note="Plans are verified on chips that had no part in choosing them.",
    )


def held(record: Record) -> bool:
    """True if simulation has shown the goal of an allocation to hold."""
    held: bool | None = record.result["allocation"]["holds"]
    return held is True


def energy_of(record: Record) -> float:
    """Memory energy of an allocation over that of the most reliable point."""
    energy: float = record.rows()[0]["energy"]
    return energy


def _asked(view: View, record: Record) -> str:
    """Goal and granularity of an allocation."""
    ask = record.ask
    return f"{goal_in_words(view, ask.goal)}, {ask.granularity.name}"


def goal_in_words(view: View, goal: GoalEntry) -> str:
    """A goal, its drop in the unit of the metric."""
    if goal.drop is None or goal.relative:
        return goal.name
    return goal.name.replace(f"{goal.drop:g}", view.metric.drop(goal.drop))


def _points(view: View, network: Network) -> Table:
    """Operating points of every placed tensor, a column for each allocation."""
    plans = [record.result["allocation"]["plan"] for record in network.allocations]
    names = [record.ask.granularity.name for record in network.allocations]
    rows = []
    for tensor in network.record.result["tensors"]:
        cells = []
        for one in plans:
            ((knob, value),) = one[tensor["name"]].items()
            points = _numbers(value)
            ends = dict.fromkeys(format_point(knob, end) for end in (min(points), max(points)))
            cells.append(f"{knob} {' to '.join(ends)}")
        rows.append([tensor["name"], str(tensor["words"]), *cells])
    caption = f"Operating points of {view.name(network)}, seed {network.seed}."
    return Table(caption=caption, columns=["tensor", "words", *names], rows=rows)


def _table(view: View) -> Table:
    rows = []
    for network in view.networks:
        for record in network.allocations:
            row = record.rows()[0]
            holds = row["holds"]
            rows.append(
                [
                    view.name(network),
                    goal_in_words(view, record.ask.goal),
                    row["granularity"],
                    "yes" if holds else "predicted" if holds is None else "not shown",
                    view.metric.text(row["mean"]) if row.get("mean") is not None else "",
                    format_si(row["memory_j"], "J"),
                    format_percent(row["energy"], 1),
                ]
            )
    columns = ["network", "goal", "granularity", "holds", view.metric.name, "memory"]
    return Table(
        caption="Plans by goal and granularity.",
        columns=[*columns, "of reliable"],
        rows=rows,
        words=4,
    )


def _chart(view: View, network: Network) -> Any:
    """Operating points by tensor, a line for each allocation."""
    rows = []
    for record in network.allocations:
        name = _asked(view, record)
        for tensor, setting in record.result["allocation"]["plan"].items():
            ((knob, value),) = setting.items()
            points = _numbers(value)
            mean = sum(points) / len(points)
            spread = "" if len(points) == 1 else f", mean of {len(points)} points"
            tooltip = f"{tensor}: {knob} {format_point(knob, mean)}{spread}; {name}"
            rows.append({"name": name, "at": tensor, "y": mean, "tooltip": tooltip})
    knob = network.record.result["knob"]
    values = [row["y"] for row in rows]
    log = min(values) > 0 and max(values) > 10 * min(values)
    return charts.series(rows, x="", y=knob, log=log)


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)):
        return [float(value)]
    return [number for one in value for number in _numbers(one)]
