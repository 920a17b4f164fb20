"""The page of a comparison of ways to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from joulewise.report.arms_figure import arms_figure, shows_intervals
from joulewise.report.arms_summary import ArmRow, arm_rows, arms_answer, arms_knob
from joulewise.report.html import render_page, standard_error, write_page
from joulewise.report.provenance import about_device, device_facts, recipe_facts, run_facts
from joulewise.simulation import mean_interval
from joulewise.study import ArmComparison, ArmRecord

__all__ = ["render_arms", "write_arms_report"]


def render_arms(comparison: ArmComparison) -> str:
    """The page, as one HTML document with a chart, tables and the record itself.

    The record is the JSON text of the element with the id ``joulewise-record``.

    Args:
        comparison: The record.

    Returns:
        HTML of about 5 MB, nearly all of it plotly.js; it refers to nothing outside itself.
    """
    knob = arms_knob(comparison)
    rows = arm_rows(comparison)
    return render_page(
        "arms.html.j2",
        comparison,
        {"accuracy": arms_figure(comparison)},
        run=run_facts(comparison),
        title=f"Ways to train {comparison.model} on {comparison.data}",
        answer=arms_answer(comparison),
        first=comparison.first.name,
        knob=knob.title,
        least=knob.least,
        intervals=shows_intervals(comparison),
        seeds=max(len(arm.networks) for arm in comparison.arms),
        arms=[_arm(arm, rows, comparison.first.reliable_j) for arm in comparison.arms],
        about=about_device(comparison.device),
        device=device_facts(comparison.device),
        training=recipe_facts(comparison),
        test_error=standard_error(comparison.first.clean, comparison.images),
    )


def write_arms_report(comparison: ArmComparison, path: str | Path) -> None:
    """Write the page, whole or not at all; an older file of that name is replaced.

    Args:
        comparison: The record.
        path: Where the page goes, for instance ``"report.html"``.

    Raises:
        InputError: if the folder is not there, or the file cannot be written.
    """
    write_page(path, lambda: render_arms(comparison))


def _arm(arm: ArmRecord, rows: list[ArmRow], reliable_j: float) -> dict[str, Any]:
    own = [row for row in rows if row.name == arm.name]
    return {
        "name": arm.name,
        "recipe": arm.recipe,
        "clean": own[0].clean,
        "clean_interval": own[0].clean_interval,
        "rows": own,
        "points": [_cells(arm, k, reliable_j) for k in range(len(arm.points))],
    }


def _cells(arm: ArmRecord, index: int, reliable_j: float) -> list[str]:
    """One row of the full table: plain numbers in SI units, for copying."""
    each = arm.accuracies(index)
    simulations = [network.simulations[index] for network in arm.networks]
    joules = np.mean([simulation.energy.memory_total_j for simulation in simulations])
    ends = [f"{end:.5f}" for end in mean_interval(each)] if len(each) > 1 else ["", ""]
    return [
        f"{arm.points[index]:g}",
        f"{joules:.5g}",
        f"{joules / reliable_j:.5f}",
        f"{np.mean(each):.5f}",
        *ends,
        " ".join(f"{accuracy:.5f}" for accuracy in each),
    ]
