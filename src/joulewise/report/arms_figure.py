"""The chart of ways to train: accuracy against memory energy, a line for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from joulewise.report.arms_summary import arms_knob
from joulewise.report.knob import Knob
from joulewise.report.style import COLOURS, Style, empty_figure, plain, style_of
from joulewise.simulation import mean_interval
from joulewise.study import ArmComparison, ArmRecord, ArmSaving
from joulewise.units import format_percent

__all__ = ["arms_figure", "shows_intervals"]

# Accuracy below the first arm's that the chart still shows.
_WINDOW = 0.12
_DASHES = ("solid", "dash", "dot")
# Arms whose intervals can still be told apart in one chart.
_FEW = 4


def shows_intervals(comparison: ArmComparison) -> bool:
    """Whether the chart has room for intervals; otherwise the tables and the hover text say them.

    Args:
        comparison: The record.
    """
    return len(comparison.arms) <= _FEW


def arms_figure(comparison: ArmComparison) -> go.Figure:
    """Mean accuracy over networks and chips against memory energy.

    Energies of all are over that of the first at the memory's most reliable point. Error bars are
    95 % intervals over networks, dotted lines the accuracies to stay above, diamonds the places
    where an arm's mean falls below them; of more than four arms only the lines are drawn.
    """
    figure, knob = empty_figure(), arms_knob(comparison)
    reference = comparison.first.clean
    floor = max(0.0, reference - _WINDOW)
    seen: list[float] = []
    top = reference
    for index, arm in enumerate(comparison.arms):
        style = style_of(index, arm.name)
        x = _energies(arm, comparison.first.reliable_j)
        means = [_mean(arm, k) for k in range(len(arm.points))]
        top = max(top, *means)
        seen += [e for e, mean in zip(x, means, strict=True) if mean >= floor]
        dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
        line = _line(arm, x, style, dash, knob)
        if shows_intervals(comparison):
            line.error_y = _bars(arm)
            figure.add_traces([line, _crossings(comparison, arm, style, knob)])
        else:
            figure.add_trace(line)
    for saving in comparison.first.savings:
        label = f"{100 * saving.drop:g} below {plain(comparison.first.name)}"
        figure.add_hline(
            y=100 * (reference - saving.drop),
            line={"dash": "dot", "width": 1, "color": "#808080"},
            annotation={"text": label, "font": {"size": 11}},
            annotation_position="top left",
        )
    low, high = (min(seen), max(seen)) if seen else (0.0, 100.0)
    pad = 0.04 * (high - low) or 1.0
    figure.update_layout(
        hovermode="closest",
        height=600,
        xaxis={
            "title": {"text": f"Memory energy (% of reliable {plain(comparison.first.name)})"},
            "range": [max(low - pad, 0.0), high + pad],
        },
        yaxis={
            "title": {"text": "Mean accuracy (%)"},
            "range": [100 * floor, min(100 * top + 0.5, 100.3)],
        },
    )
    return figure


def _energies(arm: ArmRecord, of: float) -> list[float]:
    """Per cent of so many joules, mean over networks."""
    spent = [[s.energy.memory_total_j for s in network.simulations] for network in arm.networks]
    return [100 * float(e) / of for e in np.mean(spent, axis=0)]


def _mean(arm: ArmRecord, index: int) -> float:
    return float(np.mean(arm.accuracies(index)))


def _line(arm: ArmRecord, x: list[float], style: Style, dash: str, knob: Knob) -> go.Scatter:
    indices = range(len(arm.points))
    return go.Scatter(
        x=x,
        y=[100 * _mean(arm, k) for k in indices],
        mode="lines+markers",
        name=style.name,
        line={"color": style.colour, "width": 2, "dash": dash},
        marker={"symbol": style.symbol, "size": 6},
        legendgroup=style.group,
        text=[_hover(arm, k, style, knob) for k in indices],
        hovertemplate="%{text}<extra></extra>",
    )


def _bars(arm: ArmRecord) -> dict[str, Any]:
    several = len(arm.networks) > 1
    each = [arm.accuracies(k) for k in range(len(arm.points))]
    reach = [100 * mean_interval(found).half_width if several else 0.0 for found in each]
    return {"array": reach, "thickness": 1, "width": 2}


def _hover(arm: ArmRecord, index: int, style: Style, knob: Knob) -> str:
    lines = [f"<b>{style.name}</b>, {plain(knob.named(arm.points[index]))}"]
    lines.append(f"Mean accuracy {format_percent(_mean(arm, index))}")
    if len(arm.networks) > 1:
        low, high = mean_interval(arm.accuracies(index))
        lines.append(f"95 % interval {100 * low:.2f} to {format_percent(high)}")
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in arm.accuracies(index))
    lines.append(f"Each network: {each}")
    return "<br>".join(lines)


def _crossings(comparison: ArmComparison, arm: ArmRecord, style: Style, knob: Knob) -> go.Scatter:
    found = [saving for saving in arm.savings if saving.saved is not None and not saving.at_edge]
    return go.Scatter(
        x=[100 * (1 - (saving.saved or 0.0)) for saving in found],
        y=[100 * (comparison.first.clean - saving.drop) for saving in found],
        error_x={
            "array": [_reach(s.saved, s.saved_low) for s in found],
            "arrayminus": [_reach(s.saved_high, s.saved) for s in found],
            "symmetric": False,
            "thickness": 1.5,
            "width": 5,
        },
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": style.colour, "line": {"width": 1.5}},
        showlegend=False,
        legendgroup=style.group,
        text=[_crossing_hover(saving, style, knob) for saving in found],
        hovertemplate="%{text}<extra></extra>",
    )


def _reach(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else 100 * max(high - low, 0.0)


def _crossing_hover(saving: ArmSaving, style: Style, knob: Knob) -> str:
    place = plain(knob.named(saving.point or 0.0))
    saved = format_percent(saving.saved or 0.0, 1)
    return f"<b>{style.name}</b><br>{place}, saves {saved} of memory energy"
