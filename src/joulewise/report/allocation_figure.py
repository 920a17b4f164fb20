"""The picture of a plan: operating points, energy and error along the network."""

from __future__ import annotations

import math
import os.path
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from joulewise.allocation import Granularity
from joulewise.devices import PlainPoint
from joulewise.report.allocation_summary import (
    TensorShare,
    allocation_knob,
    flat_points,
    tensor_shares,
)
from joulewise.report.knob import Knob
from joulewise.report.style import (
    ACTIVATIONS,
    OTHER,
    WEIGHTS,
    empty_figure,
    micro,
    plain,
    short_name,
    si,
)
from joulewise.study import AllocationRecord
from joulewise.units import format_percent

__all__ = ["allocation_figure", "plane_names", "points_in_words"]

# Pixels of a panel, of a row of bit planes, between panels, and above and below all of them.
_PANEL, _PLANE, _GAP, _ABOVE, _BELOW = 150, 24, 48, 78, 16
# Pixels of a letter of a tensor's name, set upright.
_LETTER = 6.4
# Columns in which a figure can be read, and names that stand side by side on a small screen.
_FEW, _MANY = 12, 64
# Levels that colours tell apart.
_MOST_LEVELS = 10
# Settings that span more lie on a logarithmic scale, but for shares and voltages.
_DECADE = 10.0
_LINEAR = ("eta", "v_dd")
_SCALE = "Viridis"
_ROLES = (("weight", "Weights", WEIGHTS), ("activation", "Activations", ACTIVATIONS))


def allocation_figure(record: AllocationRecord, index: int) -> go.Figure:
    """One allocation, a column for each placed tensor from input to output.

    Above the operating points, as marks or, for bit planes, as colours; below them the energy of
    each tensor beside that with a reliable memory, then its share of the predicted output error.

    Args:
        record: The record.
        index: Of the allocation.
    """
    found = record.allocations[index]
    shares, knob = tensor_shares(record, found), allocation_knob(record)
    planes = max(share.planes for share in shares)
    panels = _Panels(heights=(_PLANE * planes if planes > 1 else _PANEL, _PANEL, _PANEL))
    figure = empty_figure()
    scale = _Scale.of(shares, found.granularity, knob)
    texts = ["<br>".join(_hover(share, knob)) for share in shares]
    if planes > 1:
        figure.add_trace(_heat_map(shares, planes, scale, panels))
        above = _plane_axis(planes)
    else:
        figure.add_traces(_marks(shares, texts, scale))
        above = scale.axis()
    reliable = sum(placed.reliable_j for placed in record.tensors) or 1.0
    figure.add_traces(_energy(shares, texts, reliable))
    figure.add_traces(_error(shares, texts))
    shift = format_percent(found.predicted_shift / (found.predicted_mse or 1.0), 1)
    most = max(100 * share.error_share for share in shares)
    dearest = max(100 * placed.reliable_j / reliable for placed in record.tensors)
    figure.update_layout(
        barmode="overlay",
        hovermode="closest",
        height=round(panels.total + _ABOVE + _BELOW + _room_for_names(shares)),
        margin={"t": _ABOVE, "b": _BELOW},
        legend={"y": 1 + 30 / panels.total, "traceorder": "normal"},
        xaxis=_tensor_axis(shares),
        yaxis={**above, "domain": panels.domain(0)},
        yaxis2=_share_axis(dearest) | {"domain": panels.domain(1)},
        yaxis3=_share_axis(most) | {"domain": panels.domain(2)},
        annotations=[
            panels.heading(0, f"Operating point ({plain(knob.title)})"),
            panels.heading(1, "Memory energy, % of all with a reliable memory"),
            panels.heading(2, f"Predicted output error, % of all; mean shift {shift}"),
        ],
    )
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panels:
    """Panels on top of each other, the first uppermost, with so many pixels each."""

    heights: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.heights) + _GAP * (len(self.heights) - 1)

    def domain(self, number: int) -> list[float]:
        above = sum(self.heights[:number]) + _GAP * number
        top = 1 - above / self.total
        return [max(top - self.heights[number] / self.total, 0.0), top]

    def heading(self, number: int, text: str) -> dict[str, Any]:
        return {
            "text": text,
            "xref": "paper",
            "yref": "paper",
            "x": 0,
            "y": self.domain(number)[1],
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 3,
            "showarrow": False,
            "font": {"size": 13},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Operating points as heights and as colours.

    Args:
        knob: What they are settings of.
        low: The lowest of a plan.
        high: The highest.
        levels: Those in use, ascending, where they are few on purpose; empty for any number.
    """

    knob: Knob
    low: float
    high: float
    levels: tuple[float, ...]

    @classmethod
    def of(cls, shares: list[TensorShare], granularity: Granularity, knob: Knob) -> _Scale:
        used = sorted({point for share in shares for point in share.points})
        few = granularity.rails is not None or granularity.levels or len(used) == 1
        levels = tuple(used) if few and len(used) <= _MOST_LEVELS else ()
        return cls(knob=knob, low=used[0], high=used[-1], levels=levels)

    @property
    def by_ratios(self) -> bool:
        linear = self.knob.name in _LINEAR
        return not linear and self.low > 0 and self.high >= _DECADE * self.low

    def ticks(self) -> list[float]:
        """Settings to write: the levels that stand apart, or some over decades; else plotly's."""
        if self.levels:
            apart: list[float] = []
            for level in self.levels:
                if not apart or self._height(level) - self._height(apart[-1]) > 0.09:
                    apart.append(level)
            return apart
        if self.by_ratios:
            ratio = (self.high / self.low) ** 0.25
            return [self.low * ratio**step for step in range(5)]
        if self.knob.unit == "S":
            return [self.low + (self.high - self.low) * step / 4 for step in range(5)]
        return []

    def _height(self, point: float) -> float:
        """Where a setting lies between the lowest, 0, and the highest, 1."""
        if self.low == self.high:
            return 0.5
        if self.by_ratios:
            return math.log(point / self.low) / math.log(self.high / self.low)
        return (point - self.low) / (self.high - self.low)

    def axis(self) -> dict[str, Any]:
        """The axis of settings."""
        low, high = self.low, self.high
        axis: dict[str, Any] = {"fixedrange": True}
        if self.by_ratios:
            low, high = math.log10(low), math.log10(high)
            axis["type"] = "log"
        pad = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axis["range"] = [low - pad, high + pad]
        if ticks := self.ticks():
            axis |= {
                "tickvals": ticks,
                "ticktext": [plain(micro(self.knob.text(t))) for t in ticks],
            }
        return axis

    def colour(self, point: float) -> float:
        """The number that a colour stands for."""
        if self.levels:
            return float(self.levels.index(point))
        return math.log10(point) if self.by_ratios else point

    def colours(self) -> dict[str, Any]:
        """Fields of a heat map: in steps, where levels are few, else without."""
        bar: dict[str, Any] = {"thickness": 12, "outlinewidth": 0, "xpad": 6}
        if self.levels:
            count = len(self.levels)
            shown = sample_colorscale(_SCALE, [k / max(count - 1, 1) for k in range(count)])
            steps = [[(k + end) / count, shown[k]] for k in range(count) for end in (0, 1)]
            written = [plain(micro(self.knob.text(level))) for level in self.levels]
            bar |= {"tickvals": list(range(count)), "ticktext": written}
            return {"colorscale": steps, "zmin": -0.5, "zmax": count - 0.5, "colorbar": bar}
        if ticks := self.ticks():
            bar["tickvals"] = [self.colour(tick) for tick in ticks]
            bar["ticktext"] = [plain(micro(self.knob.text(tick))) for tick in ticks]
        ends = {"zmin": self.colour(self.low), "zmax": self.colour(self.high)}
        return {"colorscale": _SCALE, "colorbar": bar, **ends}


def plane_names(planes: int) -> list[str]:
    """What the bit planes of a word are called, low bits first and the sign last.

    Args:
        planes: Bits in a word.

    Example:
        >>> plane_names(4)
        ['bit 0', 'bit 1', 'bit 2', 'sign']
    """
    return [*(f"bit {k}" for k in range(planes - 1)), "sign"]


def points_in_words(point: PlainPoint, knob: Knob) -> str:
    """An operating point, those of the bit planes, or the range of those of the channels.

    Args:
        point: As records have it.
        knob: What they are settings of.

    Example:
        >>> eta = Knob(name="eta")
        >>> points_in_words(0.5, eta), points_in_words((0.25, 0.5), eta)
        ('eta 0.500', 'eta 0.250 0.500 (low bits first)')
        >>> points_in_words(((0.25,), (0.5,)), eta)
        'eta 0.250 to 0.500 (2 channels)'
    """
    if not isinstance(point, tuple):
        return micro(knob.named(point))
    points = flat_points(point)
    if isinstance(point[0], tuple):
        low, high = (micro(knob.text(end(points))) for end in (min, max))
        return f"{knob.name} {low} to {high} ({len(point)} channels)"
    written = " ".join(micro(knob.text(point)) for point in points)
    return f"{knob.name} {written} (low bits first)"


def _hover(share: TensorShare, knob: Knob) -> list[str]:
    placed = share.placed
    bits = "" if placed.bits is None else f" of {placed.bits} bits"
    return [
        f"<b>{plain(placed.name)}</b>",
        f"{placed.words:,} words{bits}",
        plain(points_in_words(share.point, knob)),
        f"Energy {si(share.memory_j)}, {format_percent(share.of_reliable, 1)} of its reliable one",
        f"{format_percent(share.energy_share, 1)} of the energy that is spent",
        f"{format_percent(share.error_share, 1)} of the predicted output error",
    ]


def _rows_of(points: tuple[float, ...], planes: int) -> list[float | None]:
    """The points of one tensor by rows: shorter words have no upper bits, and a sign all the same.

    A tensor with one point has it in all rows.
    """
    if len(points) == 1:
        return [points[0]] * planes
    return [*points[:-1], *[None] * (planes - len(points)), points[-1]]


def _heat_map(shares: list[TensorShare], planes: int, scale: _Scale, panels: _Panels) -> go.Heatmap:
    rows = [_rows_of(share.points, planes) for share in shares]
    names = plane_names(planes)
    z, cells, hovers = [], [], []
    texts = ["<br>".join(_hover(share, scale.knob)) for share in shares]
    for plane in range(planes):
        points = [row[plane] for row in rows]
        z.append([None if point is None else scale.colour(point) for point in points])
        cells.append(
            ["" if point is None else plain(micro(scale.knob.text(point))) for point in points]
        )
        hovers.append(
            [
                ""
                if point is None
                else f"<b>{names[plane]}</b>: {plain(micro(scale.knob.named(point)))}<br>{text}"
                for point, text in zip(points, texts, strict=True)
            ]
        )
    bottom, top = panels.domain(0)
    fields = scale.colours()
    fields["colorbar"] |= {"y": (bottom + top) / 2, "len": top - bottom, "ypad": 0}
    written = {"text": cells, "texttemplate": "%{text}"} if len(shares) <= _FEW else {}
    return go.Heatmap(
        x=list(range(len(shares))),
        y=list(range(planes)),
        z=z,
        xgap=2 if len(shares) <= _MANY else 0.5,
        ygap=2,
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
        **written,
        **fields,
    )


def _plane_axis(planes: int) -> dict[str, Any]:
    return {
        "tickvals": list(range(planes)),
        "ticktext": plane_names(planes),
        "range": [-0.5, planes - 0.5],
        "showgrid": False,
        "fixedrange": True,
    }


def _spread(shares: list[TensorShare], colour: str) -> dict[str, Any]:
    """From the lowest to the highest of the channels; nothing where a tensor has one point."""
    means = [fmean(share.points) for share in shares]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(s.points) - mean for s, mean in zip(shares, means, strict=True)],
        "arrayminus": [mean - min(s.points) for s, mean in zip(shares, means, strict=True)],
        "color": colour,
        "visible": any(len(share.points) > 1 for share in shares),
    }


def _marks(shares: list[TensorShare], texts: list[str], scale: _Scale) -> list[Any]:
    """A step for each tensor, and a mark in the colour of its role; channels at their mean."""
    points = [fmean(share.points) for share in shares]
    places = list(range(len(shares)))
    steps = go.Scatter(
        x=[-0.5, *places, len(shares) - 0.5],
        y=[points[0], *points, points[-1]],
        mode="lines",
        line={"shape": "hvh", "width": 1, "color": OTHER},
        hoverinfo="skip",
        showlegend=False,
    )
    traces: list[Any] = [steps]
    for role, _, colour in _ROLES:
        chosen = [place for place in places if shares[place].placed.role == role]
        if chosen:
            traces.append(
                go.Scatter(
                    x=chosen,
                    y=[points[place] for place in chosen],
                    mode="markers",
                    error_y=_spread([shares[place] for place in chosen], colour),
                    marker={"size": 10 if len(shares) <= _FEW else 7, "color": colour},
                    legendgroup=role,
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
    low, high = scale.axis()["range"]
    if scale.by_ratios:
        low, high = 10**low, 10**high
    return [*traces, _targets(texts, "y", low, high)]


def _energy(shares: list[TensorShare], texts: list[str], reliable: float) -> list[Any]:
    wide = go.Bar(
        name="With a reliable memory",
        x=list(range(len(shares))),
        y=[100 * share.placed.reliable_j / reliable for share in shares],
        yaxis="y2",
        width=0.86,
        marker={"color": OTHER, "opacity": 0.35},
        hoverinfo="skip",
        legendgroup="reliable",
        legendrank=2000,
    )
    given = _bars(shares, [100 * share.memory_j / reliable for share in shares], "y2", legend=True)
    top = 1.1 * max(wide.y)
    return [wide, *given, _targets(texts, "y2", 0.0, top)]


def _error(shares: list[TensorShare], texts: list[str]) -> list[Any]:
    heights = [100 * share.error_share for share in shares]
    bars = _bars(shares, heights, "y3", legend=False)
    return [*bars, _targets(texts, "y3", 0.0, 1.1 * max(heights) or 1.0)]


def _bars(
    shares: list[TensorShare], heights: list[float], axis: str, *, legend: bool
) -> list[go.Bar]:
    """Bars in the colours of the roles."""
    bars = []
    for role, name, colour in _ROLES:
        chosen = [k for k, share in enumerate(shares) if share.placed.role == role]
        if chosen:
            bars.append(
                go.Bar(
                    name=name,
                    x=chosen,
                    y=[heights[k] for k in chosen],
                    yaxis=axis,
                    width=0.56,
                    marker={"color": colour},
                    hoverinfo="skip",
                    legendgroup=role,
                    showlegend=legend,
                )
            )
    return bars


def _targets(texts: list[str], axis: str, low: float, high: float) -> go.Bar:
    """What a mouse meets: whole columns, however small a bar is, and nothing that is seen."""
    return go.Bar(
        x=list(range(len(texts))),
        y=[high - low] * len(texts),
        base=[low] * len(texts),
        yaxis=axis,
        width=1,
        marker={"color": "rgba(0,0,0,0)"},
        text=texts,
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _share_axis(most: float) -> dict[str, Any]:
    axis = {"range": [0, 1.1 * most or 1.0], "fixedrange": True, "nticks": 5}
    return {**axis, "automargin": True, "zeroline": False}


def _tensor_axis(shares: list[TensorShare]) -> dict[str, Any]:
    """Names below all panels; of very many, every other, third, and so on."""
    names, step = _names(shares), math.ceil(len(shares) / _MANY)
    shown = range(0, len(shares), step)
    size = 12 if len(shares) <= 2 * _FEW else 10 if len(shares) <= 4 * _FEW else 9
    return {
        "anchor": "y3",
        "tickvals": list(shown),
        "ticktext": [plain(names[k]) for k in shown],
        "tickfont": {"size": size},
        "autotickangles": [0, 90],
        "range": [-0.5, len(shares) - 0.5],
        "showgrid": False,
    }


def _names(shares: list[TensorShare]) -> list[str]:
    """Short ones: what all begin with is left out, and that a weight is one, which colours say."""
    names = [share.placed.name.removesuffix(".weight") for share in shares]
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    return [short_name(name[common.rfind(".") + 1 :]) for name in names]


def _room_for_names(shares: list[TensorShare]) -> float:
    return 24 + _LETTER * max(len(name) for name in _names(shares))
