"""Breakdown of the energy: memory by role, reliable memory and arithmetic."""

from __future__ import annotations

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Network, View
from joulewise.units import format_percent, format_si

__all__ = ["energy_breakdown"]

_PARTS = ("weights", "activations", "other memory", "arithmetic")
_COLOURS = ("#56B4E9", "#E69F00", "#B4B4B4", "#808080")


def energy_breakdown(view: View) -> Block | None:
    """The block; None without curves."""
    if not view.networks:
        return None
    bars, cells = [], []
    drop = view.drop
    for group in view.replicates:
        network = group.first
        least = network.least_energy(drop).energy
        for energy, where in ((1.0, "reliable"), (least, f"{view.metric.drop(drop)} drop")):
            if energy is None:
                continue
            parts = _parts(network, energy)
            total = sum(parts)
            name = f"{view.name(network)}, {where}"
            cells.append([name, *(format_si(part, "J") for part in parts), format_si(total, "J")])
            bars += [
                {
                    "name": name,
                    "part": part,
                    "rank": rank,
                    "x": joules,
                    "tooltip": f"{name}: {part} {format_si(joules, 'J')}, "
                    f"{format_percent(joules / total, 1)}",
                }
                for rank, (part, joules) in enumerate(zip(_PARTS, parts, strict=True))
                if joules
            ]
    network = view.networks[0]
    parts = _parts(network, 1.0)
    largest = max(range(len(parts)), key=lambda k: parts[k])
    share = format_percent(parts[largest] / sum(parts), 0)
    return Block(
        name="energy-breakdown",
        title="Where the energy goes",
        sentence=(
            f"With reliable memory, {share} of the energy of {view.name(network)} is that of "
            f"{_PARTS[largest]}."
        ),
        charts={
            "Energy": charts.bars(
                bars, x="energy of an inference (J)", parts=_PARTS, colours=_COLOURS
            )
        },
        tables=[
            Table(
                caption="Energy of an inference, J.",
                columns=["network", *_PARTS, "all"],
                rows=cells,
            )
        ],
    )


def _parts(network: Network, energy: float) -> list[float]:
    """Joules of each part, with placed memory at a fraction of its most reliable energy."""
    result = network.record.result
    roles = {tensor["name"]: tensor["role"] for tensor in result["tensors"]}
    reliable = result["reliable"]
    by_role = {"weight": 0.0, "activation": 0.0}
    for name, joules in reliable["memory_j"].items():
        by_role[roles[name]] += joules * energy
    return [
        by_role["weight"],
        by_role["activation"],
        reliable["unplaced_j"],
        reliable["arithmetic_j"],
    ]
