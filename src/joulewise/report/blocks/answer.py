"""The question, and the least energy of each network in a sentence and a table."""

from __future__ import annotations

from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Arm, View, energy_interval
from joulewise.units import format_percent, format_si

__all__ = ["answer"]


def answer(view: View) -> Block | None:
    """The block; None without curves."""
    if not view.networks:
        return None
    drop = min(view.file.drops)
    found = [(arm, _energies(arm, drop)) for arm in view.arms]
    lost = f"{view.metric.drop(drop)} of {view.metric.name}"
    within = [(_total_j(view, arm, energies), arm) for arm, energies in found if energies]
    sentence = f"No network stays within {lost} at any simulated point."
    if within:
        joules, arm = min(within, key=lambda pair: pair[0])
        energies = _energies(arm, drop)
        saved = format_percent(1 - sum(energies) / len(energies), 1)
        sentence = (
            f"Within {lost}, {view.name(arm.first)} needs the least energy: "
            f"{format_si(joules, 'J')} an inference, its memory {saved} less than reliable memory."
        )
    return Block(
        name="answer",
        title=view.file.question or "The least energy within a drop",
        sentence=sentence,
        tables=[_table(view)],
        note=(
            "Drops are against a perfect memory of the same words. Intervals are over chips "
            "(bootstrap) for one seed, over seeds (Student's t of logarithms) for several."
        ),
    )


def _total_j(view: View, arm: Arm, energies: list[float]) -> float:
    """All energy of an inference, J: memories that compute replace arithmetic of others."""
    mean = sum(energies) / len(energies)
    return mean * view.reliable_j(arm.first) + view.fixed_j(arm.first)


def _energies(arm: Arm, drop: float) -> list[float]:
    """The least energy of each seed; empty if one of them is never within the drop."""
    found = [network.least_energy(drop).energy for network in arm.networks]
    known = [energy for energy in found if energy is not None]
    return known if len(known) == len(found) else []


def _table(view: View) -> Table:
    rows = [
        [view.name(arm.first), view.metric.drop(drop), *_cells(view, arm, drop)]
        for arm in view.arms
        for drop in sorted(view.file.drops)
    ]
    columns = ["network", "drop", "perfect", "memory energy", "of reliable", "95 %", "all energy"]
    return Table(
        caption="The least energy of an inference at which the mean is within the drop.",
        columns=columns,
        rows=rows,
        words=2,
    )


def _cells(view: View, arm: Arm, drop: float) -> list[str]:
    ideal = sum(network.ideal for network in arm.networks) / len(arm.networks)
    energies = _energies(arm, drop)
    if not energies:
        return [view.metric.text(ideal), "not reached", "", "", ""]
    mean = sum(energies) / len(energies)
    least = [network.least_energy(drop) for network in arm.networks]
    low, high = least[0].low, least[0].high
    if len(energies) > 1:
        low, high = energy_interval(energies)
    reliable = view.reliable_j(arm.first)
    interval = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    edge = "at most " if any(one.at_edge for one in least) else ""
    return [
        view.metric.text(ideal),
        f"{edge}{format_si(mean * reliable, 'J')}",
        f"{edge}{format_percent(mean, 1)}",
        interval,
        format_si(mean * reliable + view.fixed_j(arm.first), "J"),
    ]
