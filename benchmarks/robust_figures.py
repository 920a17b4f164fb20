"""The table and the figure of the experiment on robust training.

    python benchmarks/robust_figures.py results/robust-training

reads `sram/comparison.json` and `crossbar/comparison.json` of `joulewise compare-training`, and
`test.json` of `robust_training.py test`; prints the tables, and writes `figures.html`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from robust_training import ARMS

from joulewise.report import arm_rows
from joulewise.simulation import mean_interval
from joulewise.study import ArmComparison, ArmRecord

Curves = dict[str, dict[float, list[float]]]
"""For each arm, the accuracy of each of its networks at each x."""

SHOWN = (("mask", 0.4), ("additive", 0.04), ("proportional", 0.3))
TITLES = {
    "mask": "Bit masking: eta",
    "additive": "Additive: std over largest weight",
    "proportional": "Proportional: std over weight",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")


def main() -> None:
    folder = Path(sys.argv[1])
    sram, crossbar = (
        ArmComparison.model_validate_json((folder / name / "comparison.json").read_text())
        for name in ("sram", "crossbar")
    )
    sigma = crossbar.device["sigma"]
    curves = {
        "mask": curves_of(sram, lambda eta: eta),
        # Both devices of a pair are noisy.
        "additive": curves_of(crossbar, lambda g_max: round(2**0.5 * sigma / g_max, 4)),
        "proportional": tested(folder / "test.json"),
    }
    clean = {arm.name: [n.clean for n in arm.networks] for arm in sram.arms}
    table(curves, clean)
    for comparison in (sram, crossbar):
        energy_table(comparison)
    draw(curves, folder / "figures.html")


def curves_of(comparison: ArmComparison, x: Callable[[float], float]) -> Curves:
    def curve(arm: ArmRecord) -> dict[float, list[float]]:
        return {x(point): arm.accuracies(k) for k, point in enumerate(arm.points)}

    return {arm.name: curve(arm) for arm in comparison.arms}


def tested(path: Path) -> Curves:
    found: Curves = {}
    for row in json.loads(path.read_text())["rows"]:
        curve = found.setdefault(row["arm"] + (" long" if row["long"] else ""), {})
        for point, chips in row["accuracy"].items():
            curve.setdefault(float(point), []).append(sum(chips) / len(chips))
    return found


def table(curves: dict[str, Curves], clean: dict[str, list[float]]) -> None:
    print("| trained by | gradients | clean | " + " | ".join(f"{m} {x:g}" for m, x in SHOWN) + " |")
    print("|---" * (3 + len(SHOWN)) + "|")
    for name, found in clean.items():
        arm = ARMS[name.removesuffix(" long")]
        twice = name.endswith(" long") or arm.method != "sgd"
        cells = [figure(found), *(figure(at(curves[m][name], x)) for m, x in SHOWN)]
        print(f"| {name} | {'2' if twice else '1'} | " + " | ".join(cells) + " |")


def at(curve: dict[float, list[float]], x: float) -> list[float]:
    return curve[min(curve, key=lambda other: abs(other - x))]


def figure(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{100 * mean:.2f} ± {100 * mean_interval(values).half_width:.2f}"


def energy_table(comparison: ArmComparison) -> None:
    print(f"\n{comparison.command}\n")
    for row in arm_rows(comparison):
        cells = [row.name, row.drop, row.point, row.point_interval, row.saved, row.saved_interval]
        print("| " + " | ".join([*cells, row.memory_energy, row.against_first]) + " |")


def draw(curves: dict[str, Curves], path: Path) -> None:
    figure = make_subplots(
        cols=3, subplot_titles=list(TITLES.values()), horizontal_spacing=0.06, shared_yaxes=False
    )
    for column, (memory, arms) in enumerate(curves.items(), 1):
        for name, curve in arms.items():
            figure.add_trace(line(name, curve, first=column == 1), row=1, col=column)
        top = max(max(max(values) for values in curve.values()) for curve in arms.values())
        figure.update_yaxes(range=[100 * top - 22, 100 * top + 0.5], row=1, col=column)
        if memory == "mask":
            figure.update_xaxes(autorange="reversed", row=1, col=column)
        else:
            figure.update_xaxes(type="log", tickvals=ticks(arms), row=1, col=column)
    figure.update_yaxes(title="Mean accuracy (%)", row=1, col=1)
    figure.update_layout(template="simple_white", width=1500, height=560)
    figure.update_layout(legend={"orientation": "h", "y": -0.12})
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})
    print(f"\n{path}")


def line(name: str, curve: dict[float, list[float]], *, first: bool) -> go.Scatter:
    short = name.removesuffix(" long")
    xs = sorted(curve)
    return go.Scatter(
        x=xs,
        y=[100 * sum(curve[x]) / len(curve[x]) for x in xs],
        error_y={
            "array": [100 * mean_interval(curve[x]).half_width for x in xs],
            "thickness": 1,
            "width": 2,
        },
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        line={
            "color": COLOURS[list(ARMS).index(short) % len(COLOURS)],
            "dash": "dot" if name != short else "solid",
        },
    )


def ticks(arms: Curves) -> list[Any]:
    return sorted({x for curve in arms.values() for x in curve})


if __name__ == "__main__":
    main()
