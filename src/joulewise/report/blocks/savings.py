"""Memory energy saved by each plan, against every known reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Allocated, Network, View
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

Compared = tuple[Network, Allocated, Mapping[str, float]]
"""A network, an allocation that holds, and the memory energy at each reference, J."""


def savings(view: View) -> Block | None:
    """The block; None without plans that hold."""
    found: list[Compared] = [
        (network, one, _references(network, one))
        for network in view.networks
        for one in network.allocations
        if one.holds
    ]
    if not found:
        return None
    # The plan that saves most on a common point, if one is known: the strictest reference.
    strictest = next(n for n in reversed(_COLUMNS) if any(n in one for _, _, one in found))
    network, best, references = min(
        (one for one in found if strictest in one[2]),
        key=lambda one: _saving(one[0], one[1], one[2], strictest)[0],
    )
    saved = [f"{_saving(network, best, references, n)[1]} against {n}" for n in references]
    return Block(
        name="savings",
        title="Savings against each reference",
        sentence=f"{view.name(network)}, {view.plan(best)}, saves {', '.join(saved)}.",
        charts={"Energy": _chart(view, found)},
        tables=[_table(view, found)],
        note=(
            "vs nominal, vs V_min: the nominal supply and the lowest supply without an error, if "
            "the law states them. vs reliable: the upper end of the law. vs common: the best plan "
            "of one point for all that holds for the same goal; where an interval is given, both "
            "at the energies where they just meet it, since verified plans keep different "
            "margins. vs curve: the interpolated common point of the same drop, not verified on "
            "fresh chips."
        ),
    )


def _references(network: Network, one: Allocated) -> dict[str, float]:
    """Memory energy of an inference at each reference, J."""
    reliable = network.record.result["reliable"]["memory_reliable_j"]
    found = {**network.record.result.get("reference_energies_j", {}), _RELIABLE: reliable}
    common, goal = _common(network, one), one.goal
    if common is not None and common is not one:
        found[_COMMON] = common.memory_j
    # Drops of the curve are fractions where those of such goals are.
    alike = goal.relative == network.metric.geometric
    if common is None and goal.drop is not None and alike and goal.chips is None:
        least = network.least_energy(goal.drop)
        if least.energy is not None and not least.at_edge:
            found[_CURVE] = least.energy * reliable
    return {name: found[name] for name in _COLUMNS if found.get(name, 0) > 0}


def _common(network: Network, one: Allocated) -> Allocated | None:
    """The plan of one point for all that holds for the same goal."""
    same = (
        other
        for other in network.allocations
        if other.holds and other.goal == one.goal and other.granularity.per == "network"
    )
    return min(same, key=lambda other: other.energy, default=None)


def _saving(
    network: Network, one: Allocated, references: Mapping[str, float], name: str
) -> tuple[float, str]:
    """Memory energy over a reference, and what is saved in words.

    Over a common point, where both just meet the goal, if that is known.
    """
    common = _common(network, one)
    if name == _COMMON and common is not None:
        first, second = common.found["at_goal"], one.found["at_goal"]
        if saved := saving_at_goal(first, second):
            return second["energy"] / first["energy"], saved
    left = one.memory_j / references[name]
    return left, format_percent(1 - left, 1)


def _table(view: View, found: list[Compared]) -> Table:
    names = [n for n in _COLUMNS if any(n in references for _, _, references in found)]
    rows = [
        [
            view.name(network),
            view.plan(one),
            *(_saving(network, one, references, n)[1] if n in references else "" for n in names),
        ]
        for network, one, references in found
    ]
    return Table(
        caption="Memory energy saved by plans that hold, against each reference.",
        columns=["network", "plan", *(_COLUMNS[name] for name in names)],
        rows=rows,
        words=2,
    )


def _chart(view: View, found: list[Compared]) -> object:
    """Memory energy of each plan and of its references."""
    rows = []
    for network, one, references in found:
        seed = f", seed {network.seed}" if len(view.file.seeds) > 1 else ""
        name = f"{view.name(network)}, {view.plan(one)}{seed}"
        for which, joules in {**references, "the plan": one.memory_j}.items():
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
