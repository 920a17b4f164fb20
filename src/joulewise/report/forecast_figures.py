"""The charts of what was predicted, as plotly figures."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from joulewise.report.forecasts import Layer, LayerShares, Pair, hover, pairs
from joulewise.report.knob import Knob
from joulewise.report.style import (
    ACTIVATIONS,
    WEIGHTS,
    Style,
    empty_figure,
    plain,
    short_name,
    style_of,
)
from joulewise.study import Comparison
from joulewise.units import format_percent

__all__ = ["MOST_LAYERS", "agreement_figure", "layers_figure"]

MOST_LAYERS = 40
"""Of a deeper network only those with the largest shares are drawn."""

_GREY = "#909090"
_TICKS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def agreement_figure(comparison: Comparison) -> go.Figure:
    """Predicted against simulated accuracy loss; on the diagonal they agree.

    Axes are in square roots of points, so that small losses, where networks are run, have room.
    """
    figure = empty_figure()
    top, bottom = 1.0, -0.02
    for index, contender in enumerate(comparison.contenders):
        found = [pair for pair in pairs(contender) if pair.predicted is not None]
        if found:
            figure.add_trace(
                _points(found, style_of(index, contender.name), Knob.of(comparison, contender))
            )
            top = max([top, *(100 * max(p.high or p.lost, p.predicted or 0.0) for p in found)])
            # Chips may on average do better than a perfect memory.
            bottom = min([bottom, *(100 * min(p.lost, p.predicted or 0.0) for p in found)])
    ends = [_root(1.12 * bottom), _root(1.12 * top)]
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": _GREY, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    ticks = [tick for tick in _TICKS if tick <= 1.12 * top]
    axis = {
        "tickvals": [_root(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "range": ends,
    }
    figure.update_layout(
        hovermode="closest",
        height=480,
        xaxis={"title": {"text": "Simulated accuracy loss (points)"}, **axis},
        yaxis={"title": {"text": "Predicted accuracy loss (points)"}, **axis},
    )
    return figure


def _root(points: float) -> float:
    """The square root, with the sign of its argument."""
    return math.copysign(math.sqrt(abs(points)), points)


def _points(found: list[Pair], style: Style, knob: Knob) -> go.Scatter:
    x = [_root(100 * pair.lost) for pair in found]
    low = [_root(100 * (pair.lost if pair.low is None else pair.low)) for pair in found]
    high = [_root(100 * (pair.lost if pair.high is None else pair.high)) for pair in found]
    return go.Scatter(
        x=x,
        y=[_root(100 * (pair.predicted or 0.0)) for pair in found],
        error_x={
            "array": [end - middle for middle, end in zip(x, high, strict=True)],
            "arrayminus": [middle - end for middle, end in zip(x, low, strict=True)],
            "symmetric": False,
            "thickness": 1.2,
            "width": 3,
        },
        mode="markers",
        name=style.name,
        marker={"symbol": style.symbol, "size": 9, "color": style.colour},
        legendgroup=style.group,
        text=[_hover(pair, style, knob) for pair in found],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(pair: Pair, style: Style, knob: Knob) -> str:
    lines = [f"<b>{style.name}</b>, {plain(knob.named(pair.point))}"]
    interval = ""
    if pair.low is not None and pair.high is not None:
        interval = f", 95 % interval {100 * pair.low:.2f} to {100 * pair.high:.2f}"
    lines.append(f"Simulated: {100 * pair.lost:.2f} points lost{interval}")
    lines.append(f"Predicted: {100 * (pair.predicted or 0.0):.2f} points lost")
    shift = pair.forecast.mean_shift / pair.forecast.mse if pair.forecast.mse else 0.0
    lines.append(f"Mean shift: {format_percent(shift, 1)} of the predicted output error")
    return "<br>".join(lines)


def layers_figure(shares: LayerShares) -> go.Figure:
    """Who hurts and who pays in one network, from input to output.

    Of a deep network only the layers with the largest shares are drawn.
    """
    layers = _drawn(shares.layers)
    figure = empty_figure()
    for role, name, colour in (
        ("weight", "Weights: share of the predicted error", WEIGHTS),
        ("activation", "Activations: the same", ACTIVATIONS),
    ):
        chosen = [(place, layer) for place, layer in enumerate(layers) if layer.placed.role == role]
        if chosen:
            shown = [(place, layer, layer.error_share) for place, layer in chosen]
            figure.add_trace(_bars(shown, name, colour, offset=-0.42, width=0.5))
    paid = [(place, layer, layer.energy_share) for place, layer in enumerate(layers)]
    figure.add_trace(_bars(paid, "Share of memory energy", "#B4B4B4", offset=0.08, width=0.26))
    figure.update_layout(
        barmode="overlay",
        hovermode="closest",
        height=110 + 30 * len(layers),
        legend={"traceorder": "normal"},
        xaxis={"title": {"text": "Share (%)"}, "rangemode": "tozero"},
        yaxis={
            "tickvals": list(range(len(layers))),
            "ticktext": [plain(short_name(layer.placed.name)) + " " for layer in layers],
            "range": [len(layers) - 0.4, -0.6],
            "showgrid": False,
            "fixedrange": True,
        },
    )
    return figure


def _drawn(layers: tuple[Layer, ...]) -> list[Layer]:
    ranked = sorted(layers, key=lambda layer: max(layer.error_share, layer.energy_share))
    chosen = {layer.placed.name for layer in ranked[-MOST_LAYERS:]}
    return [layer for layer in layers if layer.placed.name in chosen]


def _bars(
    shown: list[tuple[int, Layer, float]], name: str, colour: str, *, offset: float, width: float
) -> go.Bar:
    return go.Bar(
        orientation="h",
        name=name,
        x=[100 * share for _, _, share in shown],
        y=[place for place, _, _ in shown],
        offset=offset,
        width=width,
        marker={"color": colour},
        text=[
            "<br>".join([f"<b>{plain(layer.placed.name)}</b>", *hover(layer)])
            for _, layer, _ in shown
        ],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
