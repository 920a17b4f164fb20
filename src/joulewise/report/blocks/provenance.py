"""Provenance: data, chips, seeds, versions and machines behind the figures."""

from __future__ import annotations

import textwrap
from itertools import zip_longest

from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import View
from joulewise.study.memories import Memory
from joulewise.study.trials import Evaluate
from joulewise.units import format_time

__all__ = ["provenance"]


def provenance(view: View) -> Block:
    """The block."""
    file = view.file
    seconds = sum(record.seconds for record in {at.digest: r for at, r in view.records}.values())
    facts = [["data", file.data.source]]
    trial = next((r.trial for _, r in view.records if isinstance(r.trial, Evaluate)), None)
    if trial is not None:
        facts += [
            ["digest of the data", trial.data.content],
            ["test samples", "all" if trial.data.images is None else str(trial.data.images)],
        ]
    for memory in file.memories:
        lines = textwrap.wrap(_settings(memory), 48, break_long_words=False)
        facts += [[name, line] for name, line in zip_longest([memory.name], lines, fillvalue="")]
    facts += [
        ["stored in memory", file.place.store],
        ["chips at each point", str(file.chips_of_curves)],
        ["seed of the first chip", str(file.chip_seed)],
        ["training seeds", ", ".join(map(str, file.seeds)) if file.training else "none"],
        ["trials", f"{view.done} of {view.trials}"],
        ["compute time (one thread)", format_time(seconds)],
    ]
    environments = [record.environment for _, record in view.records]
    for field in ("joulewise", "python", "torch", "machine"):
        facts.append([field, ", ".join(sorted({str(e[field]) for e in environments}))])
    return Block(
        name="provenance",
        title="How it was computed",
        sentence="The study file and all records are in the folder of this page.",
        tables=[Table(caption="", columns=["", ""], rows=facts, words=2)],
    )


def _settings(memory: Memory) -> str:
    """Fields of a memory of a study file that have a value; nested ones by their kind."""
    fields = memory.model_dump(exclude={"label"})
    kinds = {k: v.get("kind") if isinstance(v, dict) else v for k, v in fields.items()}
    return ", ".join(f"{field} {value}" for field, value in kinds.items() if value is not None)
