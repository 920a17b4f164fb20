"""The plans along the network: an operating point for each tensor."""

from __future__ import annotations

from typing import Any

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Allocated, Network, View
from joulewise.units import format_percent, format_point, format_si

__all__ = ["plan"]


def plan(view: View) -> Block | None:
    """The block; None without allocations."""
    allocated = [network for network in view.networks if network.allocations]
    if not allocated:
        return None
    drawn = {f"{view.name(one)}, seed {one.seed}": _chart(view, one) for one in allocated}
    holding = [
        (plan.energy, view.plan(plan), view.name(network))
        for network in allocated
        for plan in network.allocations
        if plan.holds
    ]
    sentence = _shortfall(view, allocated)
    if holding:
        energy, asked, name = min(holding)
        sentence = (
            f"{asked[0].upper()}{asked[1:]}: {name} needs {format_percent(energy, 1)} of the "
            "energy of reliable memory."
        )
    return Block(
        name="plan",
        title="The plan along the network",
        sentence=sentence,
        charts=drawn,
        tables=[
            _table(view),
            *(_points(view, network) for network in allocated),
            *(table for network in allocated for table in _planes(view, network)),
        ],
        note="Plans are verified on chips that had no part in choosing them.",
    )


def _shortfall(view: View, allocated: list[Network]) -> str:
    """The attempt that came nearest, at the most energy, where no goal was shown to hold."""
    attempts = [
        (attempt["energy"], attempt, one, network)
        for network in allocated
        for one in network.allocations
        for attempt in one.found["attempts"]
        if one.goal.error is None and one.goal.chips is None
        if attempt["mean"] is not None and one.found["limit"] is not None
    ]
    sentence = "No goal was shown to hold"
    if not attempts:
        return f"{sentence}."
    energy, attempt, one, network = max(attempts, key=lambda found: found[0])
    return (
        f"{sentence}: with {format_percent(energy, 1)} of the energy of reliable memory "
        f"{view.name(network)} has a mean of {view.metric.text(attempt['mean'])} on "
        f"{attempt['chips']} chips; the limit is {view.metric.text(one.found['limit'])}."
    )


def _planes(view: View, network: Network) -> list[Table]:
    """Operating points of bit planes, a table for each allocation that has them."""
    tables = []
    for one in network.allocations:
        if not one.granularity.bit_planes or one.granularity.per == "channel":
            continue
        knob = network.record.result["knob"]
        rows = [
            [name, *(_short(knob, value) for value in reversed(planes))]
            for name, setting in one.found["plan"].items()
            for planes in setting.values()
            if isinstance(planes, list)
        ]
        if not rows:  # a common point was cheaper
            continue
        bits = max(len(row) - 1 for row in rows)
        tables.append(
            Table(
                caption=f"{knob} of each bit, the sign first: {view.name(network)}, "
                f"{view.plan(one)}.",
                columns=["tensor", *(str(bit) for bit in reversed(range(bits)))],
                rows=[row + [""] * (bits + 1 - len(row)) for row in rows],
            )
        )
    return tables


def _short(knob: str, value: float) -> str:
    """An operating point to four digits; the plan's file has them all."""
    return format_point(knob, float(f"{value:.4g}"))


def _points(view: View, network: Network) -> Table:
    """Operating points of every placed tensor, a column for each allocation."""
    plans = [one.found["plan"] for one in network.allocations]
    names = [one.granularity.name for one in network.allocations]
    rows = []
    for tensor in network.record.result["tensors"]:
        cells = []
        for one in plans:
            ((knob, value),) = one[tensor["name"]].items()
            points = _numbers(value)
            ends = dict.fromkeys(_short(knob, end) for end in (min(points), max(points)))
            cells.append(f"{knob} {' to '.join(ends)}")
        rows.append([tensor["name"], str(tensor["words"]), *cells])
    caption = f"Operating points of {view.name(network)}, seed {network.seed}."
    return Table(caption=caption, columns=["tensor", "words", *names], rows=rows)


def _table(view: View) -> Table:
    rows = []
    for network in view.networks:
        for one in network.allocations:
            holds = "yes" if one.holds else "predicted" if one.holds is None else "not shown"
            if one.goal.chips is not None and one.goal.error is None and one.mean is not None:
                holds += f", {_share(view, one)} of chips"
            rows.append(
                [
                    view.name(network),
                    view.goal(one),
                    one.granularity.name,
                    holds,
                    view.metric.text(one.mean) if one.mean is not None else "",
                    format_si(one.memory_j, "J"),
                    format_percent(one.energy, 1),
                ]
            )
    columns = ["network", "goal", "granularity", "holds", view.metric.name, "memory"]
    found = [one.found["simulation"] for network in view.networks for one in network.allocations]
    chips = sorted({simulation["chips"] for simulation in found if simulation is not None})
    verified = f", on {' or '.join(map(str, chips))} held-out chips" if chips else ""
    return Table(
        caption=f"Plans by goal and granularity{verified}; yes: the goal is shown to hold there.",
        columns=[*columns, "of reliable"],
        rows=rows,
        words=4,
    )


def _share(view: View, one: Allocated) -> str:
    """Fraction of the held-out chips that reach the limit of a yield."""
    values, limit = one.found["simulation"]["values"], one.found["limit"]
    direction = view.metric.direction
    reach = [value is not None and direction * (value - limit) >= 0 for value in values]
    return format_percent(sum(reach) / len(reach), 1)


def _chart(view: View, network: Network) -> Any:
    """Operating points by tensor, a line for each allocation."""
    rows = []
    for allocated in network.allocations:
        name = view.plan(allocated)
        for tensor, setting in allocated.found["plan"].items():
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
