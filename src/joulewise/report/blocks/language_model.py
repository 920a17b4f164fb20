"""Language models: perplexity, divergence, joules per token, and text with and without faults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import CurvePoint, MetricText, Network, View
from joulewise.simulation import mean_interval, mean_value, proportion_interval
from joulewise.units import format_percent, format_point, format_si

__all__ = ["language_model"]

# A chip of this many times the perplexity of a perfect memory has collapsed.
_COLLAPSED = 10.0
_KINDS = ("prompt", "generated")


class _At(NamedTuple):
    """A point of a curve, and its results beside the metric.

    Args:
        point: The point.
        divergences: KL divergence of each chip, nats; empty where it was not simulated.
        forecast: Predicted loss as plain data, or empty.
        tokens: See `joulewise.study.tokens.token_result`; or empty.
    """

    point: CurvePoint
    divergences: Sequence[float]
    forecast: Mapping[str, Any]
    tokens: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.point.knob} {format_point(self.point.knob, self.point.point)}"


def language_model(view: View) -> Block | None:
    """The block; None for metrics that are no loss, and models without tokens."""
    points = {network: list(_points(network)) for network in view.networks}
    tables = [
        table
        for table in (_losses(view, points), _energies(view, points), _texts(view, points))
        if table is not None
    ]
    if not tables:
        return None
    return Block(
        name="language-model",
        title="Perplexity, divergence and tokens",
        sentence=_sentence(view, points),
        charts=_charts(view, points),
        tables=tables,
        note=(
            "The KL divergence is that from the model as given; predictions of it and of the "
            "perplexity, by the Fisher information, use no simulated chip. Energies of tokens are "
            "for a single sequence."
        ),
    )


def _points(network: Network) -> Iterator[_At]:
    result = network.record.result
    beside = (result.get(key, repeat(None)) for key in ("divergences", "tokens_at"))
    forecasts = (f if f and "divergence" in f else {} for f in result["forecasts"])
    for point, forecast, simulated, tokens in zip(network.points, forecasts, *beside, strict=False):
        known = [v for v in (simulated or {"values": ()})["values"] if v is not None]
        yield _At(point, known, forecast, tokens or {})


def _perplexities(metric: MetricText, values: Sequence[float]) -> list[float]:
    """Perplexities of values of a metric; empty for metrics that do not give them."""
    if metric.geometric:
        return list(values)
    if "perplexity" not in metric.derived:
        return []
    return [math.exp(min(value, 700.0)) for value in values]  # of a likelihood; no overflow


def _interval(values: Sequence[float], digits: int = 4, *, geometric: bool = False) -> str:
    """A mean over chips, with its 95 % interval."""
    text = f"{mean_value(values, geometric=geometric):.{digits}g}"
    if len(values) < 2:
        return text
    low, high = mean_interval(values, geometric=geometric)
    return f"{text} [{low:.{digits}g}, {high:.{digits}g}]"


def _collapsed(network: Network, point: CurvePoint) -> int:
    """Chips that have collapsed or failed, by a metric that gives perplexities."""
    found = _perplexities(network.metric, point.known.tolist())
    (ideal,) = _perplexities(network.metric, [network.ideal])
    return len(point.values) - sum(value <= _COLLAPSED * ideal for value in found)


def _rate(bad: int, point: CurvePoint) -> str:
    """A fraction of the chips, and its 95 % interval."""
    low, high = proportion_interval(bad, len(point.values))
    return f"{100 * bad / len(point.values):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _losses(view: View, points: Mapping[Network, Sequence[_At]]) -> Table | None:
    """Perplexity and divergence, simulated and predicted.

    Only at points with results beside the metric, or chips that collapsed: `accuracy_energy` shows
    all points.
    """
    rows = []
    for network, some in points.items():
        for at in some:
            row = {"network": view.name(network), "point": at.name}
            row["of reliable"] = format_percent(at.point.energy, 1)
            found = _perplexities(network.metric, at.point.known.tolist())
            # The perplexity follows from the likelihood, and that from the perplexity.
            likelihood = bool(network.metric.derived)
            collapsed = _collapsed(network, at.point) if likelihood else 0
            if not (at.divergences or at.forecast or (likelihood and at.tokens) or collapsed):
                continue
            row["perplexity [95 %]"] = _interval(found, geometric=True) if found else ""
            predicted = at.forecast.get("perplexity")
            row["predicted perplexity"] = f"{predicted:.4g}" if found and predicted else ""
            row[f"above {_COLLAPSED:g}x [95 %]"] = _rate(collapsed, at.point) if likelihood else ""
            row["KL, nats [95 %]"] = _interval(at.divergences, 2) if at.divergences else ""
            nats = at.forecast.get("divergence")
            row["predicted KL"] = "" if nats is None else f"{nats:.2g}"
            rows.append(row)
    if not rows:
        return None
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return Table(
        caption=f"Perplexity, chips above {_COLLAPSED:g} times that of a perfect memory, and KL "
        "divergence.",
        columns=columns,
        rows=[[row[name] for name in columns] for row in rows],
        words=2,
    )


def _tokens(
    view: View, points: Mapping[Network, Sequence[_At]]
) -> Iterator[tuple[Network, str, Mapping[str, Any]]]:
    """Results of tokens: with reliable memory, at points and of plans."""
    for network, some in points.items():
        if network.record.result.get("tokens"):
            yield network, "no faults", network.record.result["tokens"]
        yield from ((network, at.name, at.tokens) for at in some if at.tokens)
        yield from ((network, view.plan(one), one.tokens) for one in network.allocations)


def _energies(view: View, points: Mapping[Network, Sequence[_At]]) -> Table | None:
    """Joules of a token of the prompt and of a generated one."""
    rows, context = [], 0
    for network, at, found in _tokens(view, points):
        if not found.get("energy"):
            continue
        context = found["energy"]["context"]
        cells = []
        for kind in _KINDS:
            memory, total = _spent(found["energy"][kind])
            cells += [format_si(memory, "J"), format_si(total, "J")]
        rows.append([view.name(network), at, *cells])
    if not rows:
        return None
    columns = ["network", "at", *(f"{t}: {e}" for t in _KINDS for e in ("memory", "in all"))]
    return Table(
        caption=f"Energy of a token of the prompt and of a generated one, at a context of {context}"
        " tokens: placed memory alone, and with other memory and arithmetic.",
        columns=columns,
        rows=rows,
        words=2,
    )


def _spent(energy: Mapping[str, Any]) -> tuple[float, float]:
    """Energy of placed memory, and all energy, J."""
    memory = sum(energy["memory_j"].values())
    return memory, memory + energy["unplaced_j"] + energy["arithmetic_j"]


def _texts(view: View, points: Mapping[Network, Sequence[_At]]) -> Table | None:
    """Text that one chip generates, beside that of a perfect memory."""
    rows = [
        [view.name(network), at, found["text"]]
        for network, at, found in _tokens(view, points)
        if found.get("text") is not None
    ]
    if not rows or view.file.generation is None:
        return None
    prompt = view.file.generation.prompt
    shown = f'"{prompt}"' if isinstance(prompt, str) else f"tokens {' '.join(map(str, prompt))}"
    return Table(
        caption=f"Continuations of {shown} by chip {view.file.chip_seed}, the likeliest token at "
        "each step.",
        columns=["network", "at", "text"],
        rows=rows,
        words=3,
    )


def _sentence(view: View, points: Mapping[Network, Sequence[_At]]) -> str:
    """The plan or the point of least energy: its perplexity, and its generated token."""
    network = next(iter(points))
    name, reliable = view.name(network), network.record.result.get("tokens") or {}
    plans = [one for one in network.allocations if one.holds and one.tokens.get("energy")]
    if plans and reliable.get("energy"):
        best = min(plans, key=lambda one: one.energy)
        spent, before = (
            _spent(found["energy"]["generated"])[0] for found in (best.tokens, reliable)
        )
        return (
            f"With {view.plan(best)}, a generated token of {name} takes {format_si(spent, 'J')} of "
            f"placed memory, {format_percent(spent / before, 1)} of that without faults."
        )
    point = min(
        (at.point for at in points[network] if len(at.point.known)),
        key=lambda p: (network.metric.lost(p.mean, network.ideal) > view.drop, p.energy),
        default=None,
    )
    if point is None:
        return f"All chips of {name} failed."
    metric = network.metric
    return (
        f"At {point.knob} {format_point(point.knob, point.point)}, "
        f"{format_percent(point.energy, 1)} of the energy of reliable memory, the {metric.name} of "
        f"{name} is {metric.text(point.mean)}, {metric.text(network.ideal)} with a perfect memory."
    )


def _charts(view: View, points: Mapping[Network, Sequence[_At]]) -> dict[str, Any]:
    """Perplexity, and simulated and predicted divergence, against energy."""
    perplexities, nats = [], []
    for network, some in points.items():
        name = view.name(network)
        for at in some:
            found = _perplexities(network.metric, at.point.known.tolist())
            if found:
                perplexities.append(_row(name, at, found, geometric=True))
            if at.divergences:
                nats.append(_row(f"{name}, simulated", at, at.divergences, geometric=False))
            if at.forecast:
                one = [at.forecast["divergence"]]
                nats.append(_row(f"{name}, predicted", at, one, geometric=False))
    titles = {"Perplexity": (perplexities, "perplexity"), "KL divergence": (nats, "nats")}
    return {
        title: charts.curves(
            rows,
            [],
            field="energy",
            x="memory energy over that of reliable memory",
            y=label,
            x_format="%",
            y_format="~g",
            y_domain=(
                min(row["low"] for row in rows) / 1.05,
                max(row["high"] for row in rows) * 1.05,
            ),
            log=True,
        )
        for title, (rows, label) in titles.items()
        if rows and min(row["low"] for row in rows) > 0
    }


def _row(name: str, at: _At, values: Sequence[float], *, geometric: bool) -> dict[str, Any]:
    mean = mean_value(values, geometric=geometric)
    several = len(values) > 1
    low, high = mean_interval(values, geometric=geometric) if several else (mean, mean)
    worst, best = np.quantile(values, [0.05, 0.95])
    return {
        "name": name,
        "energy": at.point.energy,
        "y": mean,
        # A logarithmic axis has no values below 0.
        "low": max(low, mean / 10),
        "high": high,
        "worst": float(worst),
        "best": float(best),
        "tooltip": f"{name}, {at.name}: {_interval(values, geometric=geometric)}",
    }
