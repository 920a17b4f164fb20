"""Breakdown of the energy: memory by role, converters, reliable memory and arithmetic."""

from __future__ import annotations

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
from joulewise.units import format_percent, format_si

__all__ = ["energy_breakdown"]

_COLOURS = {
    "weights": "#56B4E9",
    "converters": "#0072B2",
    "activations": "#E69F00",
    "other memory": "#B4B4B4",
    "arithmetic": "#808080",
}


def energy_breakdown(view: View) -> Block | None:
    """The block; None without curves."""
    if not view.networks:
        return None
    breakdowns = {}
    for group in view.replicates:
        network = group.first
        breakdowns[f"{view.name(network)}, reliable"] = _parts(network, 1.0)
        least = network.least_energy(view.drop).energy
        if least is not None:
            name = f"{view.name(network)}, {view.metric.drop(view.drop)} drop"
            breakdowns[name] = _parts(network, least)
    digital = not any(parts["converters"] for parts in breakdowns.values())
    shown = [part for part in _COLOURS if not (digital and part == "converters")]
    bars, cells = [], []
    for name, parts in breakdowns.items():
        total = sum(parts.values())
        joules = [*(parts[part] for part in shown), total]
        cells.append([name, *(format_si(one, "J") for one in joules)])
        bars += [
            {
                "name": name,
                "part": part,
                "rank": rank,
                "x": parts[part],
                "tooltip": f"{name}: {part} {format_si(parts[part], 'J')}, "
                f"{format_percent(parts[part] / total, 1)}",
            }
            for rank, part in enumerate(shown)
            if parts[part]
        ]
    network = view.networks[0]
    parts = _parts(network, 1.0)
    largest = max(parts, key=parts.__getitem__)
    share = format_percent(parts[largest] / sum(parts.values()), 0)
    return Block(
        name="energy-breakdown",
        title="Where the energy goes",
        sentence=(
            f"With reliable memory, {share} of the energy of {view.name(network)} is that of "
            f"{largest}."
        ),
        charts={
            "Energy": charts.bars(
                bars,
                x="energy of an inference (J)",
                parts=shown,
                colours=[_COLOURS[part] for part in shown],
            )
        },
        tables=[
            Table(
                caption="Energy of an inference.",
                columns=["network", *shown, "all"],
                rows=cells,
            )
        ],
    )


def _parts(network: Network, energy: float) -> dict[str, float]:
    """Joules of each part, with placed memory at a fraction of its most reliable energy."""
    result = network.record.result
    roles = {tensor["name"]: tensor["role"] for tensor in result["tensors"]}
    reliable = result["reliable"]
    by_role = {"weight": 0.0, "activation": 0.0}
    for name, joules in reliable["memory_j"].items():
        by_role[roles[name]] += joules * energy
    # Analog memories hold weights alone.
    return {
        "weights": by_role["weight"] - reliable["converters_j"],
        "converters": reliable["converters_j"],
        "activations": by_role["activation"],
        "other memory": reliable["unplaced_j"],
        "arithmetic": reliable["arithmetic_j"],
    }
