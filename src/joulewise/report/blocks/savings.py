"""Memory energy saved by each plan, against every known reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.blocks.plan import goal_in_words, held
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
from joulewise.study.record import Record
from joulewise.units import format_percent, format_si

__all__ = ["saving_at_goal", "savings"]

_RELIABLE, _COMMON = "the most reliable point", "the best common point"
_CURVE = "the common point of the curve"
# References from the largest to the smallest, as a rule, and their columns.
_COLUMNS = {
    "nominal supply": "vs nominal",
    "V_min": "vs V_min",
    _RELIABLE: "vs reliable",
    _COMMON: "vs common",
    _CURVE: "vs curve",
}

Compared = tuple[Network, Record, Mapping[str, float]]
"""A network, an allocation that holds, and the memory energy at each reference, J."""


def savings(view: View) -> Block | None:
    """The block; None without plans that hold."""
    found: list[Compared] = [
        (network, record, _references(network, record))
        for network in view.networks
        for record in network.allocations
        if held(record)
    ]
    if not found:
        return None
    # The plan that saves most on a common point, if one is known: the strictest reference.
    strictest = next(n for n in reversed(_COLUMNS) if any(n in one for _, _, one in found))
    network, record, references = min(
        (one for one in found if strictest in one[2]),
        key=lambda one: _spent(one[1]) / one[2][strictest],
    )
    saved = [f"{_saved(record, references[n])} against {n}" for n in _COLUMNS if n in references]
    return Block(
        name="savings",
        title="Savings against each reference",
        sentence=f"{view.name(network)}, {_plan(view, record)}, saves {', '.join(saved)}.",
        charts={"Energy": _chart(view, found)},
        tables=[_table(view, found), *_tables_at_goal(view, found)],
        note=(
            "vs nominal, vs V_min: the nominal supply and the lowest supply without an error, if "
            "the law states them. vs reliable: the upper end of the law. vs common: "
            "the best plan of one point for all that holds for the same goal. vs curve: the "
            "interpolated common point of the same drop, not verified on fresh chips."
        ),
    )


def _references(network: Network, record: Record) -> dict[str, float]:
    """Memory energy of an inference at each reference, J."""
    reliable = network.record.result["reliable"]["memory_reliable_j"]
    found = {**network.record.result.get("supply_energies_j", {}), _RELIABLE: reliable}
    common = _common_plans(network).get(record.rows()[0]["goal"])
    if common is not None and common is not record:
        found[_COMMON] = _spent(common)
    goal = record.ask.goal
    if common is None and goal.drop is not None and not goal.relative and goal.chips is None:
        least = network.least_energy(goal.drop)
        if least.energy is not None and not least.at_edge:
            found[_CURVE] = least.energy * reliable
    return {name: joules for name, joules in found.items() if joules > 0}


def _common_plans(network: Network) -> dict[str, Record]:
    """The allocation of one common point that holds, by goal."""
    return {
        record.rows()[0]["goal"]: record
        for record in network.allocations
        if record.ask.granularity.per == "network" and held(record)
    }


def _spent(record: Record) -> float:
    joules: float = record.rows()[0]["memory_j"]
    return joules


def _saved(record: Record, reference: float) -> str:
    return format_percent(1 - _spent(record) / reference, 1)


def _table(view: View, found: list[Compared]) -> Table:
    names = [n for n in _COLUMNS if any(n in references for _, _, references in found)]
    rows = [
        [
            view.name(network),
            _plan(view, record),
            *(_saved(record, references[name]) if name in references else "" for name in names),
        ]
        for network, record, references in found
    ]
    return Table(
        caption="Memory energy saved by plans that hold, against each reference.",
        columns=["network", "plan", *(_COLUMNS[name] for name in names)],
        rows=rows,
        words=2,
    )


def _tables_at_goal(view: View, found: list[Compared]) -> list[Table]:
    """Savings where both plans just meet their goal, with their intervals."""
    rows = []
    for network, record, references in found:
        if _COMMON in references:
            common = _common_plans(network)[record.rows()[0]["goal"]]
            both = (one.result["allocation"]["at_goal"] for one in (common, record))
            if saved := saving_at_goal(*both):
                rows.append([view.name(network), _plan(view, record), saved])
    caption = "Saved against the best common point, where both just meet the goal."
    columns = ["network", "plan", "saved [95 %]"]
    return [Table(caption=caption, columns=columns, rows=rows, words=2)] if rows else []


def _plan(view: View, record: Record) -> str:
    return f"{record.ask.granularity.name}, {goal_in_words(view, record.ask.goal)}"


def _chart(view: View, found: list[Compared]) -> object:
    """Memory energy of each plan and of its references."""
    rows = []
    for network, record, references in found:
        seed = f", seed {network.seed}" if len(view.file.seeds) > 1 else ""
        name = f"{view.name(network)}, {_plan(view, record)}{seed}"
        for which, joules in {**references, "the plan": _spent(record)}.items():
            tooltip = f"{name}: {which} {format_si(joules, 'J')}"
            rows.append({"name": which, "at": name, "x": joules, "tooltip": tooltip})
    return charts.dots(rows, x="memory energy of an inference, J")


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
