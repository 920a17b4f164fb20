"""The plans along the network: an operating point for each tensor, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
from joulewise.study.entries import GoalEntry
from joulewise.study.record import Record
from joulewise.units import format_percent, format_point, format_si

__all__ = ["plan", "saving_at_goal"]


def plan(view: View) -> Block | None:
    """The block; None without allocations."""
    allocated = [network for network in view.networks if network.allocations]
    if not allocated:
        return None
    found, drawn = [], {}
    for network in allocated:
        best = min(network.allocations, key=lambda one: (not _held(one), _energy(one)))
        found.append((network, best))
        drawn[f"{view.name(network)}, seed {network.seed}"] = _chart(view, network)
    held = [(network, best) for network, best in found if _held(best)]
    sentence = "No goal was shown to hold."
    if held:
        network, best = min(held, key=lambda pair: _energy(pair[1]))
        common = _common(network).get(best.rows()[0]["goal"])
        sentence = (
            f"{_asked(view, best)}: {view.name(network)} needs "
            f"{format_percent(_energy(best), 1)} of the energy of reliable memory"
        )
        if common is not None and common is not best:
            sentence += f", {_against(common, best)[0]} less than the best common point"
        sentence += "."
    return Block(
        name="plan",
        title="The plan along the network",
        sentence=sentence,
        charts=drawn,
        tables=[_table(view), *(_points(view, network) for network in allocated)],
        note=(
            "Plans are verified on chips that had no part in choosing them. Saved: against the "
            "most reliable point; vs common: against the best common point that holds; at goal: "
            "the same where both just meet the goal."
        ),
    )


def _held(record: Record) -> bool:
    held: bool | None = record.result["allocation"]["holds"]
    return held is True


def _energy(record: Record) -> float:
    energy: float = record.rows()[0]["energy"]
    return energy


def _against(common: Record | None, other: Record) -> tuple[str, str]:
    """Energy saved against the best common point that holds."""
    if common is None:
        return "", ""
    saved = format_percent(1 - _energy(other) / _energy(common), 1)
    return saved, saving_at_goal(*(one.result["allocation"]["at_goal"] for one in (common, other)))


def saving_at_goal(first: Mapping[str, float] | None, second: Mapping[str, float] | None) -> str:
    """Energy saved by a second allocation where both just meet their goal, with its interval.

    Intervals of the two add up as those of independent figures, in logarithms.

    Args:
        first: The ``at_goal`` of an allocation as plain data.
        second: That of another one, of the same network, memory and goal.

    Returns:
        Empty where one of them is not known.
    """
    if first is None or second is None or min(first["low"], second["low"]) <= 0:
        return ""
    ups = [math.log(one["high"] / one["energy"]) for one in (first, second)]
    downs = [math.log(one["energy"] / one["low"]) for one in (first, second)]
    ratio = math.log(second["energy"] / first["energy"])
    high = 1 - math.exp(ratio - math.hypot(downs[1], ups[0]))
    low = 1 - math.exp(ratio + math.hypot(ups[1], downs[0]))
    return f"{100 * (1 - math.exp(ratio)):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _asked(view: View, record: Record) -> str:
    """Goal and granularity of an allocation."""
    ask = record.ask
    return f"{_goal(view, ask.goal)}, {ask.granularity.name}"


def _goal(view: View, goal: GoalEntry) -> str:
    """A goal, its drop in the unit of the metric."""
    if goal.drop is None or goal.relative:
        return goal.name
    return goal.name.replace(f"{goal.drop:g}", view.metric.drop(goal.drop))


def _common(network: Network) -> dict[str, Record]:
    """The allocation of one common point that holds, by goal."""
    return {
        record.rows()[0]["goal"]: record
        for record in network.allocations
        if record.ask.granularity.per == "network" and _held(record)
    }


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
        common = _common(network)
        for record in network.allocations:
            row = record.rows()[0]
            held = row["holds"]
            first = common.get(row["goal"])
            against = None if first is None or first is record else first
            rows.append(
                [
                    view.name(network),
                    _goal(view, record.ask.goal),
                    row["granularity"],
                    "yes" if held else "predicted" if held is None else "not shown",
                    view.metric.text(row["mean"]) if row.get("mean") is not None else "",
                    format_si(row["memory_j"], "J"),
                    format_percent(1 - row["energy"], 1),
                    *_against(against, record),
                ]
            )
    columns = ["network", "goal", "granularity", "holds", view.metric.name, "memory"]
    return Table(
        caption="Plans by goal and granularity.",
        columns=[*columns, "saved", "vs common", "at goal"],
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
            said = f"{tensor}: {knob} {format_point(knob, mean)}{spread}; {name}"
            rows.append({"name": name, "at": tensor, "y": mean, "said": said})
    knob = network.record.result["knob"]
    values = [row["y"] for row in rows]
    log = min(values) > 0 and max(values) > 10 * min(values)
    return charts.series(rows, x="", y=knob, log=log)


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)):
        return [float(value)]
    return [number for one in value for number in _numbers(one)]
