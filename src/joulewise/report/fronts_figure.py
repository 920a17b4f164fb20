"""The charts of fronts: accuracy, or the error of the outputs, against memory energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import plotly.graph_objects as go

from joulewise.report.fronts_summary import (
    accuracy_words,
    front_ideal,
    one_baseline,
    plan_in_words,
)
from joulewise.report.style import OTHER, Style, empty_figure, plain, si, style_of
from joulewise.report.summary import points
from joulewise.simulation import Interval
from joulewise.study import FrontComparison, FrontPointRecord, FrontRecord
from joulewise.units import format_percent

__all__ = ["View", "front_figure"]

View = Literal["accuracy", "lost", "mse"]
"""What is against energy: accuracy, points of it that are lost, or the error of the outputs."""

# Accuracy below the lowest perfect-memory accuracy that the chart still shows.
_WINDOW = 0.12
# Points between lines that can both be written on.
_APART = 0.5


def front_figure(comparison: FrontComparison, view: View = "accuracy") -> go.Figure:
    """Every plan of every front, one colour for each front.

    Error bars are 95 % intervals over chips; diamonds mark where a front has lost a given drop,
    with the interval of that place.

    Args:
        comparison: The record.
        view: What is against energy.
    """
    figure = empty_figure()
    seen: list[float] = []
    for index, front in enumerate(comparison.fronts):
        style = style_of(index, front.name)
        figure.add_trace(_line(front, style, view))
        if view != "mse":
            figure.add_trace(_crossings(front, style, view))
        seen += _seen(front, view)
    low, high = min(seen), max(seen)
    pad = 0.04 * (high - low) or 1.0
    figure.update_layout(
        hovermode="closest",
        height=580,
        xaxis={
            "title": {"text": "Memory energy (% of reliable)"},
            "range": [max(low - pad, 0.0), high + pad],
        },
        yaxis=_axis(comparison, view),
    )
    for height, label in _levels(comparison, view):
        annotation: dict[str, Any] = {}
        if label:
            annotation = {"annotation": {"text": label, "font": {"size": 11}}}
            annotation["annotation_position"] = "top left"
        figure.add_hline(
            y=height,
            line={"dash": "dot", "width": 1, "color": OTHER},
            **annotation,
        )
    return figure


def _height(front: FrontRecord, point: FrontPointRecord, view: View) -> tuple[float, float, float]:
    """What a plan reaches, and how far its interval reaches up and down."""
    simulation = point.simulation
    if view == "mse":
        return simulation.mean_mse, *_reaches(
            simulation.mean_mse, simulation.mse_interval, simulation.chips
        )
    mean = simulation.mean_accuracy
    up, down = _reaches(mean, simulation.accuracy_interval, simulation.chips)
    if view == "lost":
        return 100 * (front_ideal(front) - mean), 100 * down, 100 * up
    return 100 * mean, 100 * up, 100 * down


def _reaches(mean: float, interval: Callable[[], Interval], chips: int) -> tuple[float, float]:
    """Of one chip nothing is known of the others."""
    if chips == 1:
        return 0.0, 0.0
    low, high = interval()
    return high - mean, mean - low


def _seen(front: FrontRecord, view: View) -> list[float]:
    """Energies where a front is inside the window, and where it has just left."""
    found = []
    for point in front.front.points:
        found.append(100 * point.energy)
        if view != "mse" and front_ideal(front) - point.simulation.mean_accuracy > _WINDOW:
            break
    return found


def _line(front: FrontRecord, style: Style, view: View) -> go.Scatter:
    points = front.front.points
    heights = [_height(front, point, view) for point in points]
    return go.Scatter(
        x=[100 * point.energy for point in points],
        y=[height for height, _, _ in heights],
        error_y={
            "array": [up for _, up, _ in heights],
            "arrayminus": [down for _, _, down in heights],
            "symmetric": False,
            "thickness": 1.2,
            "width": 2,
        },
        mode="lines+markers",
        name=style.name,
        line={"color": style.colour, "width": 2},
        marker={"symbol": style.symbol, "size": 7},
        legendgroup=style.group,
        text=["<br>".join(_hover(front, point, style)) for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(front: FrontRecord, point: FrontPointRecord, style: Style) -> list[str]:
    simulation = point.simulation
    chips = f"{simulation.chips:,} chip{'' if simulation.chips == 1 else 's'}"
    lines = [f"<b>{style.name}</b>"]
    energy = simulation.energy
    lines.append(
        f"Memory {si(energy.memory_total_j)}, {format_percent(point.energy, 1)} of reliable"
    )
    if accuracy := accuracy_words(point):
        lines.append(f"Mean accuracy {accuracy}, {chips}")
    lines.append(
        f"Output MSE {simulation.mean_mse:.3g}, predicted {point.predicted_mse:.3g}"
        + ("" if accuracy else f", {chips}")
    )
    return lines + [plain(line) for line in plan_in_words(front, point)]


def _crossings(front: FrontRecord, style: Style, view: View) -> go.Scatter:
    """Where a front has lost each drop; those at its end are not crossings."""
    found = [one for one in front.within if one.point is not None and not one.at_edge]
    x = [100 * (one.point or 0.0) for one in found]
    ideal = front_ideal(front)
    heights = [one.drop if view == "lost" else ideal - one.drop for one in found]
    return go.Scatter(
        x=x,
        y=[100 * height for height in heights],
        error_x={
            "array": [_reach(one.high, one.point) for one in found],
            "arrayminus": [_reach(one.point, one.low) for one in found],
            "symmetric": False,
            "thickness": 2,
            "width": 6,
        },
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": style.colour, "line": {"width": 1.5}},
        showlegend=False,
        legendgroup=style.group,
        text=[
            f"<b>{style.name}</b><br>{points(one.drop)} lost at {place:.1f} % of reliable"
            for one, place in zip(found, x, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _reach(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else 100 * max(high - low, 0.0)


def _axis(comparison: FrontComparison, view: View) -> dict[str, Any]:
    if view == "mse":
        found = [p.simulation.mean_mse for f in comparison.fronts for p in f.front.points]
        title = {"text": "Output MSE, mean over chips"}
        # Errors span decades; without any at all there are no logarithms.
        return {"title": title, "type": "log" if min(found) > 0 else "linear"}
    ideals = [front_ideal(front) for front in comparison.fronts]
    means = [p.simulation.mean_accuracy for f in comparison.fronts for p in f.front.points]
    if view == "lost":
        gains = [
            front_ideal(front) - point.simulation.mean_accuracy
            for front in comparison.fronts
            for point in front.front.points
        ]
        most = min(max(gains), _WINDOW)
        return {
            "title": {"text": "Accuracy lost (points)"},
            "range": [100 * most + 0.5, 100 * min(0.0, *gains) - 0.5],
        }
    floor = max(0.0, min(ideals) - _WINDOW, min(means) - 0.005)
    top = max(*ideals, *means)
    return {
        "title": {"text": "Mean accuracy (%)"},
        "range": [100 * floor, min(100 * top + 0.6, 100.6)],
    }


def _levels(comparison: FrontComparison, view: View) -> list[tuple[float, str]]:
    """Heights of lines to stay above, with what is written on them."""
    if view == "mse":
        return []
    drops = [(100 * drop, f"{100 * drop:g} lost") for drop in comparison.drops]
    if view == "lost":
        return [(0.0, "perfect memory"), *drops]
    if one_baseline(comparison):
        ideal = 100 * front_ideal(comparison.fronts[0])
        below = [(ideal - drop, label) for drop, label in drops]
        return [(ideal, f"perfect memory {ideal:.2f} %"), *below]
    ideals = sorted({100 * front_ideal(front) for front in comparison.fronts}, reverse=True)
    # Of several networks there is no room for what is written on every line.
    lines: list[tuple[float, str]] = []
    written = math.inf
    for ideal in ideals:
        apart = written - ideal > _APART
        lines.append((ideal, f"perfect memory {ideal:.2f} %" if apart else ""))
        written = ideal if apart else written
    return lines + [(ideal - drop, "") for ideal in ideals for drop, _ in drops]
