"""What the charts have in common, so that they look like one report.

They leave out the colours of text, grid and background, which the page's light or dark theme sets.
Data colours are those of Okabe and Ito, told apart by readers of all colour visions; symbols differ
too.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import plotly.graph_objects as go

from joulewise.units import format_si

__all__ = [
    "ACTIVATIONS",
    "OTHER",
    "WEIGHTS",
    "Style",
    "empty_figure",
    "micro",
    "plain",
    "short_name",
    "si",
    "style_of",
]

# Blue, vermillion, bluish green, reddish purple, orange, sky blue.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SYMBOLS = ("circle", "square", "triangle-up", "diamond-wide", "pentagon", "x")
WEIGHTS, ACTIVATIONS, OTHER = "#56B4E9", "#E69F00", "#909090"
# What fits beside bars on a phone.
_MOST_LETTERS, _LAST_LETTERS = 26, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How one network is drawn, and its name with ``<`` and ``&`` made harmless."""

    name: str
    colour: str
    symbol: str
    group: str


def empty_figure() -> go.Figure:
    """A figure to add traces to, legend on top."""
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 13},
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
            },
            "xaxis": {"automargin": True, "zeroline": False},
            "yaxis": {"automargin": True, "zeroline": False},
        }
    )


def plain(text: str) -> str:
    """Text for plotly, which reads a few tags and entities wherever text goes."""
    return html.escape(text, quote=False)


def short_name(name: str) -> str:
    """A long name without its middle: blocks differ at the start, layers of a block at the end."""
    if len(name) <= _MOST_LETTERS:
        return name
    start, end = name[: _MOST_LETTERS - _LAST_LETTERS - 1], name[-_LAST_LETTERS:]
    return f"{start.rstrip('.')}…{end.lstrip('.')}"


def style_of(index: int, name: str) -> Style:
    """The style of the network at a place in the comparison; a network keeps it in every chart."""
    return Style(
        name=plain(name),
        colour=COLOURS[index % len(COLOURS)],
        symbol=SYMBOLS[index % len(SYMBOLS)],
        group=str(index),
    )


def si(joules: float) -> str:
    """Joules as print has them, with a Greek micro."""
    return micro(format_si(joules, "J"))


def micro(figures: str) -> str:
    """Figures with their units, with a Greek micro."""
    return figures.replace(" u", " µ")
