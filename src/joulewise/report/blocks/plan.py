"""The plans along the network: an operating point for each tensor, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
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
        drawn[view.name(network)] = _chart(network)
    held = [(network, best) for network, best in found if _held(best)]
    sentence = "No goal was shown to hold."
    if held:
        network, best = min(held, key=lambda pair: _energy(pair[1]))
        saved = format_percent(1 - _energy(best), 1)
        sentence = (
            f"The cheapest plan saves {saved} of the memory energy: {view.name(network)}, "
            f"{_asked(best)}."
        )
    return Block(
        name="plan",
        title="The plan along the network",
        sentence=sentence,
        charts=drawn,
        tables=[_table(view)],
        note=(
            "Plans are verified on chips that had no part in choosing them. Savings are against "
            "the most reliable point, and against the best common point of the same goal."
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


def _asked(record: Record) -> str:
    row = record.rows()[0]
    return f"{row['goal']}, {row['granularity']}"


def _table(view: View) -> Table:
    rows = []
    for network in view.networks:
        common = {
            record.rows()[0]["goal"]: record
            for record in network.allocations
            if record.trial.ask.granularity.per == "network" and _held(record)  # type: ignore[union-attr]
        }
        for record in network.allocations:
            row = record.rows()[0]
            held = row["holds"]
            first = common.get(row["goal"])
            against = None if first is None or first is record else first
            rows.append(
                [
                    view.name(network),
                    row["goal"],
                    row["granularity"],
                    "shown" if held else "predicted" if held is None else "not shown",
                    view.metric.text(row["mean"]) if row.get("mean") is not None else "",
                    format_si(row["memory_j"], "J"),
                    format_percent(1 - row["energy"], 1),
                    *_against(against, record),
                ]
            )
    columns = ["network", "goal", "granularity", "goal holds", view.metric.name, "memory energy"]
    return Table(
        caption="Plans by goal and granularity.",
        columns=[*columns, "saved", "against common", "both just at the goal"],
        rows=rows,
        words=4,
    )


def _chart(network: Network) -> Any:
    """Operating points by tensor, a line for each allocation."""
    rows = []
    for record in network.allocations:
        name = _asked(record)
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
