"""Runs of studies from a command: engine, progress, tables and page."""

from __future__ import annotations

import json as json_module
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from joulewise.cli import arguments, console

if TYPE_CHECKING:
    from joulewise.study import Study
    from joulewise.study.engine import Engine
    from joulewise.study.loggers import Logger
    from joulewise.study.record import Record
    from joulewise.study.run import Progress
    from joulewise.study.study import Position
    from joulewise.study.study_file import StudyFile

__all__ = ["Runner", "present", "run_options", "tell_damage"]


class Runner:
    """Runs studies with the engine of a command's options.

    Raises:
        InputError: if there is no such engine.
    """

    def __init__(
        self,
        engine: str = "processes",
        workers: int = 0,
        address: str | None = None,
        gpu: bool = False,
        again: str = "with --out, the same command resumes",
    ) -> None:
        from joulewise.errors import check_count, refuse

        check_count("workers", workers, 0, 4096)
        if engine not in ("processes", "dask"):
            refuse("engine", repr(engine), "processes or dask")
        if engine != "dask" and (address is not None or gpu):
            refuse("address" if address else "gpu", "given without dask", "--engine dask")
        self._engine, self._address, self._gpu = engine, address, gpu
        self._workers, self._again = workers or os.cpu_count() or 1, again

    def study(self, file: StudyFile, folder: Path) -> Study:
        """The study of a folder; changes since its last run are told."""
        from joulewise.study.study import Study

        with console.users_code():
            study = Study(file, folder)
            _ = study.cells  # loads data and models, so that what is wrong is refused now
        for change in study.changes:
            typer.echo(f"joulewise: changed since the last run: {change}", err=True)
        return study

    def run(self, study: Study, loggers: Sequence[Logger] = ()) -> dict[str, str]:
        """Compute what is missing, with a progress bar; the errors of failed trials."""
        engine = self._made()
        try:
            with console.bar("trials") as update, console.users_code():
                failed = study.run(engine, lambda state: _report(update, state), loggers)
        except KeyboardInterrupt:
            typer.echo(f"joulewise: stopped; {self._again}", err=True)
            raise typer.Exit(130) from None
        finally:
            engine.close()
            for logger in loggers:
                logger.close()
        tell_damage(study)
        names = {cell.trial.digest: study.name_of(cell) for cell in study.cells}
        for digest, reason in failed.items():
            typer.echo(f"joulewise: {names[digest]} failed: {reason}", err=True)
        return failed

    def _made(self) -> Engine:
        if self._engine == "dask":
            from joulewise.study.dask_engine import DaskWorkers

            return DaskWorkers(self._address, workers=self._workers, gpu=self._gpu)
        from joulewise.study.engine import LocalProcesses, ThisProcess

        return ThisProcess() if self._workers == 1 else LocalProcesses(self._workers)


def tell_damage(study: Study) -> None:
    """Name the files that could not be used."""
    for name, reason in study.store.damaged.items():
        typer.echo(f"joulewise: {name} is damaged ({reason}) and not used", err=True)


def present(study: Study, json: bool, *, kept: bool) -> None:
    """Write the page if the folder is kept, and print the blocks, or the rows as JSON."""
    page = study.store.folder / "index.html"
    if kept and study.records():
        from joulewise.report.page import write_study

        write_study(study, page)
    if json:
        typer.echo(json_module.dumps(study.rows(), indent=2, allow_nan=False))
        return
    _print_blocks(study)
    if kept and page.exists():
        typer.echo(f"The page, for a browser: {page}")


def _print_blocks(study: Study) -> None:
    from joulewise.report.blocks import blocks_of
    from joulewise.report.view import View

    view = View(study)
    for block in blocks_of(view) if view.records else ():
        typer.echo(f"{block.title}\n{block.sentence}\n")
        for table in block.tables:
            rows = [list(row) for row in table.rows]
            console.print_table(table.caption, list(table.columns), rows, table.words)
            typer.echo("")
    if missing := view.trials - view.done:
        typer.echo(f"Missing: {missing} of {view.trials} trials, which failed or were not run.")


def run_options(
    out: Path | None,
    json: bool,
    workers: int,
    torch_device: str | None = None,
    before_printing: Callable[[list[tuple[Position, Record]]], None] = lambda records: None,
    **fields: Any,
) -> list[tuple[Position, Record]]:
    """Run the study of a command's options, in ``out`` or in a folder that is not kept.

    Args:
        out: The folder; None for one that is not kept.
        json: True to print rows as JSON instead of tables.
        workers: Number of worker processes; 0 for one per processor.
        torch_device: ``"cpu"`` or ``"cuda"``; None for what is there.
        before_printing: Called with the records, if no trial failed.
        fields: Fields of the study file; those that are None have their default.

    Returns:
        The records.

    Raises:
        Exit: with code 1 if a trial failed.
    """
    file = arguments.study_file(**fields)
    runner = Runner(workers=workers)
    console.start(torch_device)
    with tempfile.TemporaryDirectory(prefix="joulewise-") as scratch:
        study = runner.study(file, Path(scratch) / "study" if out is None else out)
        failed = runner.run(study)
        if not failed:
            before_printing(study.records())
        present(study, json, kept=out is not None)
        if failed:
            raise typer.Exit(1)
        return study.records()


def _report(update: console.Update, state: Progress) -> None:
    left = "" if state.left_s is None else f"about {state.left_s:.0f} s left"
    update(state.done, state.total, left)
