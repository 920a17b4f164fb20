"""Charts as Vega-Lite, by Altair: colours that readers of all colour visions tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

__all__ = ["BANDS", "bars", "curves", "dots", "pairs", "series"]

# Okabe and Ito: blue, vermillion, bluish green, reddish purple, orange, sky blue, black, yellow.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#7F7F7F", "#B8A500"),
)
_HEIGHT = 380
# Series up to which bands can be told apart; dashes tell series of one colour apart.
BANDS, _DASHES = 4, ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
# Energies that span more than this have a logarithmic axis.
_LINEAR_UP_TO = 5.0
# Values below this have prefixes of SI units on their axis.
_SMALL = 1e-2

Rows = Sequence[Mapping[str, Any]]


def _legend(names: Sequence[str]) -> alt.Legend | None:
    """One column, so that names are whole on a phone; None for a single name."""
    if len(names) < 2:
        return None
    return alt.Legend(orient="bottom", title=None, columns=1, direction="vertical")


def _colour(rows: Rows, field: str) -> alt.Color:
    names = list(dict.fromkeys(row[field] for row in rows))
    scale = alt.Scale(domain=names, range=[COLOURS[k % len(COLOURS)] for k in range(len(names))])
    return alt.Color(f"{field}:N", scale=scale, legend=_legend(names))


def _dash(rows: Rows) -> alt.StrokeDash:
    """Dashes of lines, which change where the colours begin again."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    dashes = [_DASHES[k // len(COLOURS) % len(_DASHES)] for k in range(len(names))]
    scale = alt.Scale(domain=names, range=dashes)
    return alt.StrokeDash("name:N", scale=scale, legend=_legend(names))


def _scale(values: Sequence[float], *, zero: bool = False) -> alt.Scale:
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and positive and max(values) > _LINEAR_UP_TO * min(values):
        return alt.Scale(type="log", nice=False, padding=8)
    return alt.Scale(zero=zero, nice=True, padding=8)


def curves(
    rows: Rows,
    marks: Rows,
    *,
    field: str,
    x: str,
    y: str,
    x_format: str,
    y_format: str,
    y_domain: tuple[float, float],
    log: bool = False,
) -> Any:
    """Lines with 95 % intervals, bands of chips where there are few lines, and crossings marked.

    Args:
        rows: Points with ``name``, ``field``, ``y``, ``low``, ``high``, ``worst``, ``best`` and
            ``tooltip``.
        marks: Crossings with ``name``, ``field``, ``y`` and ``tooltip``.
        field: Name of the horizontal coordinate.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        x_format: d3 format of its ticks.
        y_format: Likewise.
        y_domain: Ends of the vertical axis; points beyond are cut off.
        log: True for a logarithmic vertical axis.
    """
    data = alt.InlineData(values=[dict(row) for row in rows])
    base = alt.Chart(data).encode(
        x=alt.X(
            f"{field}:Q",
            title=x,
            scale=_scale([row[field] for row in rows]),
            axis=alt.Axis(format=x_format, tickCount=8, grid=False),
        ),
        color=_colour(rows, "name"),
    )
    # Each layer states the scale: one without would add 0 to the axis.
    scale = alt.Scale(type="log" if log else "linear", domain=list(y_domain), nice=False)

    def vertical(field: str) -> alt.Y:
        # Few ticks, so that the labels of a logarithmic axis are powers of ten.
        axis = alt.Axis(format=y_format, tickCount=5 if log else alt.Undefined)
        return alt.Y(f"{field}:Q", title=y, scale=scale, axis=axis)

    band = base.mark_area(opacity=0.13, clip=True).encode(y=vertical("worst"), y2="best:Q")
    line = base.mark_line(strokeWidth=2, clip=True).encode(y=vertical("y"), strokeDash=_dash(rows))
    reach = base.mark_rule(strokeWidth=1.2, clip=True).encode(y=vertical("low"), y2="high:Q")
    point = base.mark_point(size=36, filled=True, clip=True).encode(
        y=vertical("y"),
        shape=alt.Shape("name:N", legend=None),
        tooltip=alt.Tooltip("tooltip:N", title=" "),
    )
    few = len({row["name"] for row in rows}) <= BANDS
    layers = [*([band] if few else []), line, reach, point]
    if marks:
        mark = alt.Chart(alt.InlineData(values=[dict(row) for row in marks]))
        layers.append(
            mark.mark_point(shape="diamond", size=160, filled=True, stroke="white").encode(
                x=f"{field}:Q",
                y=vertical("y"),
                color=alt.Color("name:N"),
                tooltip=alt.Tooltip("tooltip:N", title=" "),
            )
        )
    return alt.layer(*layers).properties(width="container", height=_HEIGHT)


def series(rows: Rows, *, x: str, y: str, log: bool = False) -> Any:
    """Values along named positions, a line for each name: operating points by tensor.

    Args:
        rows: Values with ``name``, ``at`` (the position), ``y`` and ``tooltip``.
        x: Title of the positions.
        y: Title of the values.
        log: True for a logarithmic axis of values.
    """
    order = list(dict.fromkeys(row["at"] for row in rows))
    small = max(row["y"] for row in rows) < _SMALL  # in microsiemens, not 0.00003
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        x=alt.X("at:N", title=x, sort=order, axis=alt.Axis(labelAngle=-60, labelLimit=150)),
        y=alt.Y(
            "y:Q",
            title=y,
            scale=alt.Scale(type="log" if log else "linear", zero=False, nice=True, padding=6),
            axis=alt.Axis(format="~s" if small else "~g"),
        ),
        color=_colour(rows, "name"),
        tooltip=alt.Tooltip("tooltip:N", title=" "),
    )
    line = base.mark_line(interpolate="step", strokeWidth=1.5)
    point = base.mark_point(size=40, filled=True).encode(shape=alt.Shape("name:N", legend=None))
    return (line + point).properties(width="container", height=_HEIGHT)


def dots(rows: Rows, *, x: str) -> Any:
    """Values on a line for each position: energies of a plan and of what it is compared with.

    Args:
        rows: Values with ``name``, ``at`` (the position), ``x`` and ``tooltip``.
        x: Title of the axis.
    """
    order = list(dict.fromkeys(row["at"] for row in rows))
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        x=alt.X(
            "x:Q",
            title=x,
            scale=_scale([row["x"] for row in rows], zero=True),
            axis=alt.Axis(format="~s", tickCount=6),
        ),
        y=alt.Y("at:N", title=None, sort=order, axis=alt.Axis(labelLimit=260, grid=True)),
    )
    span = base.mark_line(color="#8A8F94", strokeWidth=1).encode(detail="at:N")
    point = base.mark_point(size=80, filled=True, opacity=1).encode(
        color=_colour(rows, "name"),
        shape=alt.Shape("name:N", legend=None),
        tooltip=alt.Tooltip("tooltip:N", title=" "),
    )
    return (span + point).properties(width="container", height=34 * len(order) + 20)


def pairs(rows: Rows, *, x: str, y: str) -> Any:
    """Values against what they should be, with the diagonal.

    Args:
        rows: Pairs with ``name``, ``x``, ``low``, ``high`` (ends of the interval of x), ``y`` and
            ``tooltip``.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
    """
    values = [row[field] for row in rows for field in ("x", "y")]
    scale = alt.Scale(type="log", domain=[min(values) / 1.5, max(values) * 1.5], nice=False)
    axis = alt.Axis(format=".0e", tickCount=5)
    ends = [{"x": value, "y": value} for value in (min(values) / 1.5, max(values) * 1.5)]
    diagonal = (
        alt.Chart(alt.InlineData(values=ends))
        .mark_line(strokeDash=[5, 4], color="#8A8F94", strokeWidth=1)
        .encode(
            x=alt.X("x:Q", title=x, scale=scale, axis=axis),
            y=alt.Y("y:Q", title=y, scale=scale, axis=axis),
        )
    )
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        color=_colour(rows, "name")
    )
    reach = base.mark_rule(strokeWidth=1.2).encode(x="low:Q", x2="high:Q", y="y:Q")
    point = base.mark_point(size=60, filled=True).encode(
        x="x:Q",
        y="y:Q",
        shape=alt.Shape("name:N", legend=None),
        tooltip=alt.Tooltip("tooltip:N", title=" "),
    )
    return (diagonal + reach + point).properties(width="container", height=_HEIGHT)


def bars(rows: Rows, *, x: str, parts: Sequence[str], colours: Sequence[str]) -> Any:
    """Stacked horizontal bars.

    Args:
        rows: Parts with ``name`` (the bar), ``part``, ``x`` and ``tooltip``.
        x: Title of the axis.
        parts: Names of the parts, in order.
        colours: Their colours.
    """
    order = list(dict.fromkeys(row["name"] for row in rows))
    return (
        alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))
        .mark_bar()
        .encode(
            x=alt.X("sum(x):Q", title=x, axis=alt.Axis(format="~s", tickCount=6)),
            y=alt.Y("name:N", title=None, sort=order, axis=alt.Axis(labelLimit=260)),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(parts), range=list(colours)),
                legend=alt.Legend(orient="top", title=None),
            ),
            order=alt.Order("rank:Q"),
            tooltip=alt.Tooltip("tooltip:N", title=" "),
        )
        .properties(width="container", height=30 * len(order))
    )
