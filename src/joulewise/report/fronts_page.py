"""The page of fronts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from joulewise.report.fronts_figure import View, front_figure
from joulewise.report.fronts_summary import (
    FrontRow,
    front_ideal,
    front_rows,
    fronts_answer,
    has_accuracy,
    one_baseline,
)
from joulewise.report.html import render_page, standard_error, write_page
from joulewise.report.provenance import (
    Fact,
    about_device,
    asked_facts,
    chips_in_words,
    device_facts,
    machine_facts,
)
from joulewise.report.summary import points
from joulewise.study import FrontComparison, FrontRecord
from joulewise.units import format_percent, format_si

__all__ = ["render_fronts", "write_fronts_report"]

_VIEWS: dict[View, str] = {
    "accuracy": "Accuracy",
    "lost": "Accuracy lost",
    "mse": "Output error",
}


def render_fronts(comparison: FrontComparison) -> str:
    """The page, as one HTML document with charts, tables and the record itself.

    The record is the JSON text of the element with the id ``joulewise-record``.

    Args:
        comparison: The record.

    Returns:
        HTML of about 5 MB, nearly all of it plotly.js; it refers to nothing outside itself.
    """
    views, rows = _views(comparison), front_rows(comparison)
    known = has_accuracy(comparison)
    lowest = min(front_ideal(front) for front in comparison.fronts)
    devices = {repr(front.device): front.device for front in comparison.fronts}
    return render_page(
        "fronts.html.j2",
        comparison,
        {view: front_figure(comparison, view) for view in views},
        run=_run(comparison),
        title=f"The least energy for every error, on {comparison.data}",
        answer=fronts_answer(comparison),
        views={view: _VIEWS[view] for view in views},
        known=known,
        alone=one_baseline(comparison),
        drops=[points(drop) for drop in comparison.drops] if known else [],
        fronts=[_front(front, rows) for front in comparison.fronts],
        about=[text for text in map(about_device, devices.values()) if text],
        devices=_devices(comparison),
        test_error=standard_error(lowest, comparison.images) if known else "",
    )


def write_fronts_report(comparison: FrontComparison, path: str | Path) -> None:
    """Write the page, whole or not at all; an older file of that name is replaced.

    Args:
        comparison: The record.
        path: Where the page goes, for instance ``"report.html"``.

    Raises:
        InputError: if the folder is not there, or the file cannot be written.
    """
    write_page(path, lambda: render_fronts(comparison))


def _views(comparison: FrontComparison) -> list[View]:
    """What can be shown, the best in front: where networks differ, what each of them loses."""
    if not has_accuracy(comparison):
        return ["mse"]
    if len({front_ideal(front) for front in comparison.fronts}) == 1:
        return ["accuracy", "mse"]
    return ["accuracy", "lost", "mse"]


def _front(front: FrontRecord, rows: list[FrontRow]) -> dict[str, Any]:
    return {
        "name": front.name,
        "ideal": format_percent(front_ideal(front)),
        "reliable": format_si(front.reliable_j, "J"),
        "rows": [row for row in rows if row.name == front.name],
        "points": [_cells(front, index) for index in range(len(front.front.points))],
    }


def _cells(front: FrontRecord, index: int) -> list[str]:
    """One row of the full table: plain numbers in SI units, for copying."""
    point = front.front.points[index]
    simulation = point.simulation
    accuracy = ["", "", ""]
    if simulation.accuracy:
        ends = simulation.accuracy_interval() if simulation.chips > 1 else ()
        accuracy = [f"{figure:.5f}" for figure in (simulation.mean_accuracy, *ends)]
    return [
        f"{simulation.energy.memory_total_j:.5g}",
        f"{point.energy:.5f}",
        *(accuracy + ["", ""])[:3],
        f"{point.predicted_mse:.4g}",
        f"{simulation.mean_mse:.4g}",
    ]


def _devices(comparison: FrontComparison) -> list[tuple[str, list[Fact]]]:
    """Every memory under a heading that says what lies on it."""
    names: dict[str, list[str]] = {}
    for front in comparison.fronts:
        names.setdefault(repr(front.device), []).append(front.name)
    found = {repr(front.device): front.device for front in comparison.fronts}
    return [
        (
            f"Memory of {'; '.join(alike)}" if len(names) > 1 else "Memory",
            device_facts(found[key]),
        )
        for key, alike in names.items()
    ]


def _run(comparison: FrontComparison) -> list[Fact]:
    chips = chips_in_words(comparison.chips, comparison.seed)
    passes = ", ".join(f"{front.front.evaluations:,}" for front in comparison.fronts)
    return [
        *asked_facts(comparison.command, comparison.data, comparison.images),
        Fact("Chips", f"{chips}; the same for all plans"),
        Fact("Prediction", f"{passes} passes of the network over samples of the data"),
        *machine_facts(comparison.environment),
    ]
