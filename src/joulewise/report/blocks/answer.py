"""The question, and the least energy of each network in a sentence and a table."""

from __future__ import annotations

import numpy as np

from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, Replicates, View
from joulewise.simulation import mean_interval
from joulewise.units import format_percent, format_point, format_si

__all__ = ["answer"]

# Knobs that are interpolated as they are; others by their logarithm, above 0.
_LINEAR = ("eta", "v_dd", "verified_fraction")


def answer(view: View) -> Block | None:
    """The block; None without curves."""
    if not view.networks:
        return None
    drop, metric = view.drop, view.metric
    # Networks are compared at one accuracy: each at its own would favour the worst.
    several = len({(network.model, network.training) for network in view.networks}) > 1
    within = [
        (_total_j(view, group, energies), group, energies)
        for group in view.replicates
        if (energies := _energies(group, drop, view.best if several else None))
    ]
    lost = f"{metric.drop(drop)} of "
    lost += f"the best {metric.name}, {metric.text(view.best)}" if several else metric.name
    sentence = f"No network stays within {lost} at any simulated point."
    if within:
        joules, group, energies = min(within, key=lambda one: one[0])
        fraction = format_percent(sum(energies) / len(energies), 1)
        sentence = (
            f"Within {lost}, the memory of {view.name(group.first)} needs {fraction} of the energy "
            f"of reliable memory: {format_si(joules, 'J')} an inference in all, "
            f"{format_percent(1 - joules / _all_reliable_j(view, group), 1)} less"
        )
        others = "networks" if several else "memories"
        sentence += f", and the least of all {others}." if len(view.replicates) > 1 else "."
    return Block(
        name="answer",
        title=view.file.question or "The least energy within a drop",
        sentence=sentence,
        tables=[_table(view, several)],
        note=(
            "Drops are against a perfect memory of the same words. Intervals are over chips "
            "(bootstrap) for one seed, over seeds (Student's t of logarithms) for several."
        ),
    )


def _total_j(view: View, group: Replicates, energies: list[float]) -> float:
    """All energy of an inference, J: memories that compute replace arithmetic of others."""
    mean = sum(energies) / len(energies)
    return mean * view.reliable_j(group.first) + view.fixed_j(group.first)


def _all_reliable_j(view: View, group: Replicates) -> float:
    """All energy of an inference with reliable memory, J."""
    return view.reliable_j(group.first) + view.fixed_j(group.first)


def _energies(group: Replicates, drop: float, baseline: float | None = None) -> list[float]:
    """The least energy of each seed; empty if one of them is never within the drop.

    Args:
        group: The networks.
        drop: The loss that is allowed.
        baseline: The value that is lost from; None for that of each with a perfect memory.
    """
    found = [network.least_energy(drop, baseline).energy for network in group.networks]
    known = [energy for energy in found if energy is not None]
    return known if len(known) == len(found) else []


def _table(view: View, several: bool) -> Table:
    own = "its own" if several else "its"
    rows = [
        [view.name(group.first), view.metric.drop(drop), *_cells(view, group, drop)]
        for group in view.replicates
        for drop in sorted(view.file.drops)
    ]
    columns = ["network", "drop", "perfect", "at", "memory", "of reliable [95 %]", "total"]
    return Table(
        caption="The least energy of an inference, with one point for all tensors, at which the "
        f"mean is within the drop, from {own} value with a perfect memory.",
        columns=columns,
        rows=rows,
        words=2,
    )


def _cells(view: View, group: Replicates, drop: float) -> list[str]:
    energies = _energies(group, drop)
    if not energies:
        return [view.metric.text(group.ideal), "not reached", "", "", ""]
    mean = sum(energies) / len(energies)
    least = [network.least_energy(drop) for network in group.networks]
    low, high = least[0].low, least[0].high
    if len(energies) > 1:
        low, high = mean_interval(energies, geometric=True)
        high = min(high, 1.0)
    reliable = view.reliable_j(group.first)
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    edge = "at most " if any(one.at_edge for one in least) else ""
    return [
        view.metric.text(group.ideal),
        _point_at(group.first, mean),
        f"{edge}{format_si(mean * reliable, 'J')}",
        f"{edge}{format_percent(mean, 1)}{interval}",
        format_si(mean * reliable + view.fixed_j(group.first), "J"),
    ]


def _point_at(network: Network, energy: float) -> str:
    """Common point of an energy, interpolated between those of the curve; empty for plans."""
    points = sorted(network.points, key=lambda one: one.energy)
    if any(not one.knob for one in points):
        return ""
    at, values = [p.energy for p in points], [p.point for p in points]
    if points[0].knob in _LINEAR:
        found = float(np.interp(energy, at, values))
    else:
        found = float(np.exp(np.interp(energy, at, np.log(values))))
    return f"{points[0].knob} {format_point(points[0].knob, float(f'{found:.3g}'))}"
