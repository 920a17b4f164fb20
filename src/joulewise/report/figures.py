"""The charts of what was simulated, as plotly figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from joulewise.report.knob import Knob
from joulewise.report.points import PointFigures, point_figures, reliable_total_j
from joulewise.report.split import COMPONENTS, Split, splits
from joulewise.report.style import ACTIVATIONS, WEIGHTS, Style, empty_figure, plain, si, style_of
from joulewise.report.summary import drop_in_words
from joulewise.study import Comparison, ContenderRecord
from joulewise.study.comparison import Saving
from joulewise.units import format_percent

__all__ = ["Scale", "accuracy_figure", "split_figure"]

# What the operating point scales in colours, the rest in greys.
_COMPONENT_COLOURS = (WEIGHTS, ACTIVATIONS, "#B4B4B4", "#808080")
# Accuracy below the lowest perfect-memory accuracy that the chart still shows.
_WINDOW = 0.11
# Energies that span more than this lie on a logarithmic axis.
_LINEAR_UP_TO = 5.0
_PREFIXES = {1e-15: "fJ", 1e-12: "pJ", 1e-9: "nJ", 1e-6: "µJ", 1e-3: "mJ", 1.0: "J"}


Scale = Literal["memory", "share", "total"]
"""What an energy axis shows: joules of placed memory, their share of reliable memory's, or all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """The energy axis: what an x is, in which unit, and which accuracies are in the window."""

    title: str
    factor: float
    scale: Scale
    floor: float

    def x(self, point: PointFigures) -> float:
        joules = {"memory": point.memory_j, "share": point.normalised, "total": point.total_j}
        return self.factor * joules[self.scale]

    def of_memory(self, contender: ContenderRecord, joules: float) -> float:
        """Where joules of placed memory lie."""
        reliable = contender.reliable.energy
        shown = {
            "memory": joules,
            "share": joules / reliable.memory_reliable_j,
            "total": joules + reliable.unplaced_j + reliable.arithmetic_j,
        }
        return self.factor * shown[self.scale]


def accuracy_figure(comparison: Comparison, scale: Scale = "memory") -> go.Figure:
    """Mean accuracy against energy, one line for each network.

    Error bars are 95 % intervals of the mean over chips, bands reach from the 5 % to the 95 %
    quantile of the chips, diamonds are the crossings with their intervals.

    Args:
        comparison: The record.
        scale: What the energy axis shows.
    """
    axis = _axis(comparison, scale)
    bands, lines, crossings = [], [], []
    visible: list[float] = []
    top = 0.0
    for index, contender in enumerate(comparison.contenders):
        style, knob = style_of(index, contender.name), Knob.of(comparison, contender)
        points = point_figures(contender)
        visible += _visible(points, axis)
        top = max([top, *(point.quantiles[2] for point in points)])
        bands.append(_band(points, axis, style))
        lines.append(_line(points, axis, style, knob))
        crossings.append(_crossings(contender, axis, style, knob))
    figure = empty_figure()
    # In this order no band lies over another network's line.
    figure.add_traces([*bands, *lines, *crossings])
    figure.update_layout(
        hovermode="closest",
        height=560,
        xaxis={"title": {"text": axis.title}, **_energy_range(axis, visible)},
        yaxis={
            "title": {"text": "Mean accuracy (%)"},
            "range": [100 * axis.floor, min(100 * top + 0.5, 100.3)],
        },
    )
    return figure


def split_figure(comparison: Comparison) -> go.Figure:
    """Where the energy goes, with reliable memory and at the largest accuracy drop.

    Each network's bars are in per cent of its own total with reliable memory, so that networks of
    all sizes can be read; the joules stand beside them.
    """
    bars = [split for contender in comparison.contenders for split in splits(contender)]
    places = _places(bars)
    figure = empty_figure()
    for component, colour in zip(COMPONENTS, _COMPONENT_COLOURS, strict=True):
        if any(bar.parts_j[component] for bar in bars):
            figure.add_trace(_component(component, colour, bars, places))
    figure.add_trace(_totals(bars, places))
    figure.update_layout(
        barmode="stack",
        height=120 + 38 * len(bars),
        legend={"traceorder": "normal"},
        margin={"r": 70},  # the joules beside the bars
        xaxis={
            "title": {"text": "% of reliable total"},
            "range": [0, 100.5],
            "tickvals": [0, 25, 50, 75, 100],
        },
        yaxis={
            "tickvals": places,
            "ticktext": [_bar_label(bar) for bar in bars],
            "range": [places[-1] + 0.6, -0.6],
            "showgrid": False,
            "fixedrange": True,
        },
    )
    return figure


def _axis(comparison: Comparison, scale: Scale) -> _Axis:
    ideals = [contender.reliable.ideal_accuracy or 0.0 for contender in comparison.contenders]
    floor = max(0.0, min(ideals) - _WINDOW)
    if scale == "share":
        title = "Memory energy (% of reliable)"
        return _Axis(title=title, factor=100.0, scale=scale, floor=floor)
    largest = _reliable_j if scale == "memory" else reliable_total_j
    prefix, unit = _unit(max(largest(contender) for contender in comparison.contenders))
    what = "Memory energy" if scale == "memory" else "All energy"
    title = f"{what} per inference ({unit})"
    return _Axis(title=title, factor=1 / prefix, scale=scale, floor=floor)


def _reliable_j(contender: ContenderRecord) -> float:
    return contender.reliable.energy.memory_reliable_j


def _unit(joules: float) -> tuple[float, str]:
    """The largest prefix that keeps ``joules`` at 1 or more: its value, and the unit's name."""
    fitting = [scale for scale in _PREFIXES if scale <= joules]
    scale = max(fitting, default=min(_PREFIXES))
    return scale, _PREFIXES[scale]


def _visible(points: list[PointFigures], axis: _Axis) -> list[float]:
    """Where a line is inside the window, and the one point where it has just left."""
    found = []
    for point in points:
        found.append(axis.x(point))
        if point.mean < axis.floor:
            break
    return found


def _energy_range(axis: _Axis, visible: list[float]) -> dict[str, Any]:
    low, high = min(visible), max(visible)
    if axis.scale == "share" or high <= _LINEAR_UP_TO * low:
        pad = 0.03 * (high - low) or 0.1 * high
        return {"range": [low - pad, high + pad]}
    return {
        "type": "log",
        "range": [math.log10(low) - 0.03, math.log10(high) + 0.03],
        "tickvals": (ticks := _log_ticks(low, high)),
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on, each written in full, where plotly writes single digits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 5)]


def _faint(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _band(points: list[PointFigures], axis: _Axis, style: Style) -> go.Scatter:
    """The range of the chips, as one closed shape."""
    x = [axis.x(point) for point in points]
    low = [100 * point.quantiles[0] for point in points]
    high = [100 * point.quantiles[2] for point in points]
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        fillcolor=_faint(style.colour, 0.13),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=style.group,
    )


def _line(points: list[PointFigures], axis: _Axis, style: Style, knob: Knob) -> go.Scatter:
    reach = [0.0 if point.high is None else 100 * (point.high - point.mean) for point in points]
    return go.Scatter(
        x=[axis.x(point) for point in points],
        y=[100 * point.mean for point in points],
        error_y={"array": reach, "thickness": 1.2, "width": 2},
        mode="lines+markers",
        name=style.name,
        line={"color": style.colour, "width": 2},
        marker={"symbol": style.symbol, "size": 6},
        legendgroup=style.group,
        text=[_hover(point, style, knob) for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(point: PointFigures, style: Style, knob: Knob) -> str:
    lines = [f"<b>{style.name}</b>, {plain(knob.named(point.point))}"]
    if point.bit_error_rate is not None:
        lines.append(f"Bit error rate {point.bit_error_rate:.2g}")
    energy = si(point.memory_j)
    lines.append(f"Memory {energy}, {format_percent(point.normalised, 1)} of reliable")
    lines.append(f"Mean accuracy {format_percent(point.mean)}")
    if point.low is not None and point.high is not None:
        lines.append(f"95 % interval {100 * point.low:.2f} to {format_percent(point.high)}")
    low, _, high = point.quantiles
    lines.append(f"Chips from 5 % to 95 %: {100 * low:.2f} to {format_percent(high)}")
    lines.append(f"Chips within one point: {format_percent(point.good, 1)}")
    return "<br>".join(lines)


def _crossings(contender: ContenderRecord, axis: _Axis, style: Style, knob: Knob) -> go.Scatter:
    """Where the mean has fallen by each drop, with the interval of that place.

    A hollow one is at the end of what was simulated, where the mean has not fallen that far.
    """
    found = [saving for saving in contender.savings if saving.memory_j is not None]
    x, below, above, text = [], [], [], []
    reliable = _reliable_j(contender)
    for saving in found:
        joules = saving.memory_j or 0.0
        x.append(axis.of_memory(contender, joules))
        low = (
            joules
            if saving.memory_saved_high is None
            else reliable * (1 - saving.memory_saved_high)
        )
        high = (
            joules if saving.memory_saved_low is None else reliable * (1 - saving.memory_saved_low)
        )
        below.append(max(x[-1] - axis.of_memory(contender, low), 0.0))
        above.append(max(axis.of_memory(contender, high) - x[-1], 0.0))
        text.append(_crossing_hover(saving, style, knob))
    ideal, last = contender.reliable.ideal_accuracy or 0.0, contender.simulations[-1]
    edges = [saving.at.at_edge for saving in found]
    return go.Scatter(
        x=x,
        y=[
            100 * (last.mean_accuracy if edge else ideal - saving.at.drop)
            for saving, edge in zip(found, edges, strict=True)
        ],
        error_x={
            "array": above,
            "arrayminus": below,
            "symmetric": False,
            "thickness": 2,
            "width": 6,
        },
        mode="markers",
        marker={
            "symbol": ["diamond-open" if edge else "diamond" for edge in edges],
            "size": 12,
            "color": style.colour,
            "line": {"width": 1.5},
        },
        showlegend=False,
        legendgroup=style.group,
        text=text,
        hovertemplate="%{text}<extra></extra>",
    )


def _crossing_hover(saving: Saving, style: Style, knob: Knob) -> str:
    place = plain(knob.named(saving.at.point or 0.0))
    saved = format_percent(saving.memory_saved or 0.0, 1)
    if saving.at.at_edge:
        place, saved = knob.bounded(place).capitalize(), f"at least {saved}"
    return (
        f"<b>{style.name}</b>, {drop_in_words(saving.at.drop)} below perfect memory<br>"
        f"{place}, saves {saved} of memory energy"
    )


def _places(bars: list[Split]) -> list[float]:
    """A place for each bar, with a gap between networks."""
    places: list[float] = []
    for index, bar in enumerate(bars):
        same = index > 0 and bars[index - 1].name == bar.name
        places.append(0.0 if not places else places[-1] + (1.0 if same else 1.5))
    return places


def _bar_label(bar: Split) -> str:
    return f"<b>{plain(bar.name)}</b>  {bar.where} " if bar.is_reliable else f"{bar.where} "


def _component(component: str, colour: str, bars: list[Split], places: list[float]) -> go.Bar:
    return go.Bar(
        orientation="h",
        name=component,
        x=[100 * bar.parts_j[component] / bar.reliable_j for bar in bars],
        y=places,
        width=0.86,
        marker={"color": colour},
        text=[_bar_hover(component, bar) for bar in bars],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )


def _bar_hover(component: str, bar: Split) -> str:
    joules = bar.parts_j[component]
    return (
        f"<b>{plain(bar.name)}</b>, {bar.where}<br>{component}: "
        f"{si(joules)}, "
        f"{format_percent(joules / bar.total_j, 1)} of this bar"
    )


def _totals(bars: list[Split], places: list[float]) -> go.Scatter:
    return go.Scatter(
        x=[100 * bar.total_j / bar.reliable_j for bar in bars],
        y=places,
        mode="text",
        text=[f" {si(bar.total_j)}" for bar in bars],
        textposition="middle right",
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
    )
