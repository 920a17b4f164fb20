"""Breakdown of the energy: memory by role, converters, reliable memory and arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
                _bars(breakdowns, shown),
                x="energy of an inference (J)",
                parts=shown,
                colours=[_COLOURS[part] for part in shown],
            )
        },
        tables=[
            Table(
                caption="Energy of an inference.",
                columns=["network", *shown, "all"],
                rows=[
                    [
                        name,
                        *(format_si(parts[part], "J") for part in shown),
                        format_si(sum(parts.values()), "J"),
                    ]
                    for name, parts in breakdowns.items()
                ],
            )
        ],
    )


def _bars(
    breakdowns: Mapping[str, Mapping[str, float]], shown: Sequence[str]
) -> list[dict[str, Any]]:
    """Parts of each bar that are not 0."""
    return [
        {
            "name": name,
            "part": part,
            "rank": rank,
            "x": parts[part],
            "tooltip": f"{name}: {part} {format_si(parts[part], 'J')}, "
            f"{format_percent(parts[part] / sum(parts.values()), 1)}",
        }
        for name, parts in breakdowns.items()
        for rank, part in enumerate(shown)
        if parts[part]
    ]


def _parts(network: Network, energy: float) -> dict[str, float]:
    """Joules of each part, with placed memory at a fraction of its most reliable energy."""
    result = network.record.result
    roles = {tensor["name"]: tensor["role"] for tensor in result["tensors"]}
    reliable = result["reliable"]
    by_role = {"weight": 0.0, "activation": 0.0}
    for name, joules in reliable["memory_j"].items():
        by_role[roles[name]] += joules * energy
    # Analog memories hold weights alone. Records of before have no such figure.
    converters = reliable.get("converters_j", 0.0)
    return {
        "weights": by_role["weight"] - converters,
        "converters": converters,
        "activations": by_role["activation"],
        "other memory": reliable["unplaced_j"],
        "arithmetic": reliable["arithmetic_j"],
    }
