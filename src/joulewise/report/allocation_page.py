"""The page of allocations of one network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from joulewise.report.allocation_figure import allocation_figure
from joulewise.report.allocation_summary import (
    TensorShare,
    allocation_answer,
    allocation_knob,
    allocation_name,
    allocation_rows,
    allocation_words,
    attempt_cells,
    flat_points,
    goal_in_words,
    round_cells,
    tensor_shares,
)
from joulewise.report.html import render_page, standard_error, write_page
from joulewise.report.knob import Knob
from joulewise.report.provenance import (
    Fact,
    about_device,
    asked_facts,
    chips_in_words,
    device_facts,
    machine_facts,
)
from joulewise.study import AllocationEvidence, AllocationRecord, CoDesignRecord
from joulewise.units import format_percent

__all__ = ["render_allocation", "write_allocation_report"]

# Levels that one sentence can list.
_MOST_LEVELS = 10


def render_allocation(record: AllocationRecord) -> str:
    """The page, as one HTML document with charts, tables and the record itself.

    The record is the JSON text of the element with the id ``joulewise-record``.

    Args:
        record: The record.

    Returns:
        HTML of about 5 MB, nearly all of it plotly.js; it refers to nothing outside itself.
    """
    last = record.allocations[-1]
    figures = {
        f"plan-{index}": allocation_figure(record, index)
        for index in range(len(record.allocations))
    }
    return render_page(
        "allocation.html.j2",
        record,
        figures,
        run=_run(record),
        title=f"Who deserves the energy: {record.network} on {record.data}",
        answer=allocation_answer(record),
        knob=allocation_knob(record).title,
        goal=goal_in_words(last.goal),
        kind=last.goal["goal"],
        rows=allocation_rows(record),
        first=allocation_words(record, 0),
        rounds=round_cells(record),
        plans=[_plan(record, index) for index in range(len(record.allocations))],
        confidence=f"{100 * last.confidence:g}",
        miss=f"{100 * (1 - last.confidence):.3g}",
        about=about_device(record.device),
        device=device_facts(record.device),
        test_error=_test_error(record, last),
    )


def write_allocation_report(record: AllocationRecord, path: str | Path) -> None:
    """Write the page, whole or not at all; an older file of that name is replaced.

    Args:
        record: The record.
        path: Where the page goes, for instance ``"report.html"``.

    Raises:
        InputError: if the folder is not there, or the file cannot be written.
    """
    write_page(path, lambda: render_allocation(record))


def _plan(record: AllocationRecord, index: int) -> dict[str, Any]:
    found, knob = record.allocations[index], allocation_knob(record)
    shares = tensor_shares(record, found)
    return {
        "index": index,
        "name": allocation_name(record, index),
        "words": allocation_words(record, index),
        "button": _button(record, index),
        "planes": any(share.planes > 1 for share in shares),
        "shift": format_percent(found.predicted_shift / (found.predicted_mse or 1.0), 1),
        "levels": _levels(found, knob),
        "attempts": [attempt_cells(found, attempt) for attempt in found.attempts],
        "tensors": [_cells(share) for share in shares],
    }


def _button(record: AllocationRecord, index: int) -> str:
    """What the plan is called where one of them is chosen."""
    if isinstance(record, CoDesignRecord):
        return allocation_name(record, index)
    return allocation_words(record, index).removeprefix("a point for ")


def _levels(found: AllocationEvidence, knob: Knob) -> str:
    """How often each level is used, where they are few on purpose."""
    points = found.plan.values()
    used = Counter(p for point in points for p in flat_points(point))
    restricted = found.granularity.rails is not None or found.granularity.levels
    if not restricted or len(used) > _MOST_LEVELS:
        return ""
    what = "channels" if found.granularity.per == "channel" else "tensors"
    what = "bit planes" if found.granularity.bit_planes else what
    each = [f"{knob.text(level)} for {used[level]}" for level in sorted(used)]
    return f"{knob.title} is {', '.join(each)} of the {used.total()} {what}"


def _cells(share: TensorShare) -> list[str]:
    """One row of the full table: plain numbers in SI units, for copying."""
    return [
        share.placed.name,
        share.placed.role,
        str(share.placed.words),
        "" if share.placed.bits is None else str(share.placed.bits),
        " ".join(f"{point:.6g}" for point in share.points),
        f"{share.memory_j:.5g}",
        f"{share.of_reliable:.5f}",
        f"{share.energy_share:.5f}",
        f"{share.error_share:.5f}",
    ]


def _run(record: AllocationRecord) -> list[Fact]:
    last = record.allocations[-1]
    facts = [
        *asked_facts(record.command, record.data, record.images),
        Fact("Goal", goal_in_words(last.goal)),
    ]
    if last.simulation is not None:
        chips = chips_in_words(last.simulation.chips, last.simulation.seed)
        others = "; plans were chosen by others" if last.attempts else ""
        facts.append(Fact("Fresh chips", f"{chips}{others}"))
    passes = f"{last.evaluations:,} passes of the network over samples of the data"
    facts.append(Fact("Prediction", passes))
    return facts + machine_facts(record.environment)


def _test_error(record: AllocationRecord, last: AllocationEvidence) -> str:
    """One standard error of the accuracy, in points; empty without targets."""
    simulation = last.simulation
    if simulation is None or not simulation.accuracy:
        return ""
    return standard_error(simulation.mean_accuracy, record.images)
