"""The page of a comparison of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from joulewise.errors import InputError
from joulewise.report.figures import Scale, accuracy_figure, split_figure
from joulewise.report.forecast_figures import MOST_LAYERS, agreement_figure, layers_figure
from joulewise.report.forecasts import (
    agreement_in_words,
    layer_cells,
    layer_shares,
    pair_cells,
    pairs,
    shares_in_words,
)
from joulewise.report.html import render_page, standard_error, write_page
from joulewise.report.knob import Knob, title_of
from joulewise.report.points import PointFigures, point_figures, reliable_total_j
from joulewise.report.provenance import (
    about_devices,
    devices,
    network_facts,
    run_facts,
    training_facts,
)
from joulewise.report.summary import answer, iso_rows, several_devices
from joulewise.study import Comparison
from joulewise.units import format_percent, format_si

__all__ = ["render", "write_report"]

_MOST_NAMES = 4
_SCALES: dict[Scale, str] = {
    "memory": "Memory",
    "share": "Share of reliable memory",
    "total": "All energy",
}


def render(comparison: Comparison) -> str:
    """The page, as one HTML document with charts, tables and the record itself.

    The record is the JSON text of the element with the id ``joulewise-record``.

    Args:
        comparison: The record.

    Returns:
        HTML of about 5 MB, nearly all of it plotly.js; it refers to nothing outside itself.

    Raises:
        InputError: if the record has no network, or no accuracies.
    """
    if not comparison.contenders:
        raise InputError("the comparison has no network; allowed: at least one, to report on")
    said = answer(comparison)
    return render_page(
        "comparison.html.j2",
        comparison,
        _figures(comparison),
        run=run_facts(comparison),
        title=_title(comparison),
        answer=said,
        knob=title_of(comparison),
        scales=_scales(comparison),
        least=_least(comparison),
        networks=[_network(comparison, index) for index in range(len(comparison.contenders))],
        agreement=agreement_in_words(comparison),
        most_layers=MOST_LAYERS,
        notes=[row for row in iso_rows(comparison) if row.note],
        about_devices=about_devices(comparison),
        several_devices=several_devices(comparison),
        devices=devices(comparison),
        training=training_facts(comparison),
        one_image=f"{100 / comparison.images:.2g}",
        test_error=_test_error(comparison),
    )


def write_report(comparison: Comparison, path: str | Path) -> None:
    """Write the page, whole or not at all; an older file of that name is replaced.

    Args:
        comparison: The record.
        path: Where the page goes, for instance ``"report.html"``.

    Raises:
        InputError: if the folder is not there, or the file cannot be written.
    """
    write_page(path, lambda: render(comparison))


def _title(comparison: Comparison) -> str:
    names = [contender.name for contender in comparison.contenders]
    if len(names) > _MOST_NAMES:
        return f"Energy against accuracy: {len(names)} networks on {comparison.data}"
    *most, last = names
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"Energy against accuracy: {listed} on {comparison.data}"


def _scales(comparison: Comparison) -> dict[Scale, str]:
    """The energy axes and what their buttons say, the one to show first in front."""
    names = list(_SCALES)
    order = (
        sorted(names, key=lambda name: name != "total") if several_devices(comparison) else names
    )
    return {name: _SCALES[name] for name in order}


def _least(comparison: Comparison) -> str:
    found = {Knob.of(comparison, contender).least for contender in comparison.contenders}
    return found.pop() if len(found) == 1 else "least reliable operating point"


def _figures(comparison: Comparison) -> dict[str, go.Figure]:
    figures: dict[str, go.Figure] = {scale: accuracy_figure(comparison, scale) for scale in _SCALES}
    figures["split"] = split_figure(comparison)
    if any(pairs(contender) for contender in comparison.contenders):
        figures["agreement"] = agreement_figure(comparison)
    for number, contender in enumerate(comparison.contenders):
        shares = layer_shares(contender)
        if shares is not None:
            figures[f"layers-{number}"] = layers_figure(shares)
    return figures


def _network(comparison: Comparison, index: int) -> dict[str, Any]:
    contender = comparison.contenders[index]
    reliable, knob, shares = (
        contender.reliable,
        Knob.of(comparison, contender),
        layer_shares(contender),
    )
    rows = [row for row in iso_rows(comparison) if row.name == contender.name]
    return {
        "index": index,
        "name": contender.name,
        "facts": network_facts(contender),
        "ideal": format_percent(reliable.ideal_accuracy or 0.0),
        "memory": format_si(reliable.energy.memory_reliable_j, "J"),
        "total": format_si(reliable_total_j(contender), "J"),
        "rows": rows,
        "points": [[knob.name, *_cells(point)] for point in point_figures(contender)],
        "pairs": [pair_cells(pair, knob) for pair in pairs(contender)],
        "refused": contender.forecast_refused,
        "hurts": "" if shares is None else shares_in_words(shares, knob),
        "layers": [] if shares is None else layer_cells(shares, knob),
    }


def _cells(point: PointFigures) -> list[str]:
    """One row of the full table: plain numbers in SI units, for copying."""
    ends = ["" if end is None else f"{end:.5f}" for end in (point.low, point.high)]
    return [
        f"{point.point:g}",
        "" if point.bit_error_rate is None else f"{point.bit_error_rate:.4g}",
        f"{point.memory_j:.5g}",
        f"{point.normalised:.5f}",
        f"{point.total_j:.5g}",
        f"{point.mean:.5f}",
        *ends,
        *(f"{quantile:.5f}" for quantile in point.quantiles),
        f"{point.good:.4f}",
    ]


def _test_error(comparison: Comparison) -> str:
    """One binomial standard error of the lowest perfect-memory accuracy, in points."""
    accuracy = min(contender.reliable.ideal_accuracy or 0.0 for contender in comparison.contenders)
    return standard_error(accuracy, comparison.images)
