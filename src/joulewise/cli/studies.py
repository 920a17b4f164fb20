"""``joulewise init``, ``run`` and ``results``: studies from a YAML file to a table."""

from __future__ import annotations

import csv
import json as json_module
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console

if TYPE_CHECKING:
    from joulewise.study import Study
    from joulewise.study.engine import Engine, Progress

__all__ = ["init", "results", "run"]

_EXAMPLE = """\
# A study: models x training x memories x goals x seeds. Run it with: joulewise run {name}
# Every field but models and memories may be left out.

question: Which network needs the least energy within 1 pp of its accuracy?

data:
  source: digits            # or a folder with CIFAR-10, package.module:function, file.py:function
  # images: 2000            # a random subset of the test split

models:                     # a name, NAME=WEIGHTS, or fields
  - mlp
  - cnn
  # - {{source: "my_models.py:net", weights: net.safetensors, label: mine}}

training:                   # without it, models come with weights
  - {{method: sgd, epochs: 8, lr: 0.1}}
  - {{method: samson2, epochs: 8, lr: 0.1, label: SAMSON}}
  # - {{method: sgd, epochs: 8, lr: 0.1, at: {{eta: 0.5}}}}   # through each memory

memories:                   # a kind, kind:setting=value,..., or fields
  - sram
  - "sram:bits=6,fault=flip"
  # - {{kind: crossbar, sigma: 1.0e-6}}

place:
  store: weights            # weights, activations or both
  # exclude: ["fc.*"]

# points: [eta=0.6, eta=0.5]    # operating points; without them they are chosen around the drops
drops: [0.005, 0.01]

goals: [drop=1pp]           # drop, target, error or energy; chips=95% for a yield
granularities: [network, tensor]

chips: 100
seeds: [0, 1]
# budget: {{hours: 6}}        # no trial begins later; run again to go on
"""


def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("study.yaml"),
) -> None:
    """Write an example of a study file, with a comment on each field.

    Example: joulewise init study.yaml
    """
    from joulewise.errors import InputError, refuse
    from joulewise.files import write_atomically

    if path.exists():
        refuse(f"the file {path}", "there already", "a new name")
    try:
        write_atomically(path, _EXAMPLE.format(name=path))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    typer.echo(f"{path} is written. Run it with: joulewise run {path}")


def run(
    path: Annotated[Path, typer.Argument(help="a study file", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="folder of the results  [default: beside the file]")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=4096, help="processes; 0 for one for each processor")
    ] = 0,
    engine: Annotated[str, typer.Option(help="processes or dask")] = "processes",
    address: Annotated[
        str | None,
        typer.Option(help="dask: the scheduler's, tcp://HOST:PORT  [default: a local cluster]"),
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="dask: each trial takes one GPU resource of a worker")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the trials, shared work and an estimate")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the rows as JSON, nothing else")] = (
        False
    ),
) -> None:
    """Run a study: compute the trials that its folder lacks. Running again is resuming.

    Example: joulewise run study.yaml --out results
    """
    console.start(0)
    from joulewise.study.study_file import StudyFile

    file = StudyFile.read(path)
    from joulewise.study.study import Study

    study = Study(file, path.with_suffix("") if out is None else out)
    for change in study.changes:
        typer.echo(f"changed since the last run: {change}", err=True)
    if dry_run:
        _print_outlook(study)
        return
    chosen = _engine(engine, workers or os.cpu_count() or 1, address, gpu)
    try:
        with console.bar(path.stem) as update:
            failed = study.run(chosen, lambda state: _report(update, state))
    except KeyboardInterrupt:
        typer.echo(f"joulewise: stopped; to go on: joulewise run {path}", err=True)
        raise typer.Exit(130) from None
    finally:
        chosen.close()
    for name, reason in study.store.damaged.items():
        typer.echo(f"joulewise: {name} was damaged ({reason}) and computed again", err=True)
    for digest, reason in failed.items():
        typer.echo(f"joulewise: trial {digest} failed: {reason}", err=True)
    from joulewise.report.study_page import write_study

    if study.records():
        write_study(study, study.store.folder / "index.html")
    _print(study, json)
    if failed:
        raise typer.Exit(1)


def _engine(name: str, workers: int, address: str | None, gpu: bool) -> Engine:
    from joulewise.errors import refuse

    if name not in ("processes", "dask"):
        refuse("engine", repr(name), "processes or dask")
    if name == "dask":
        from joulewise.study.dask_engine import DaskWorkers

        return DaskWorkers(address, workers=workers, gpu=gpu)
    if address is not None or gpu:
        refuse("address" if address else "gpu", "given without dask", "--engine dask")
    from joulewise.study.engine import LocalProcesses, ThisProcess

    return ThisProcess() if workers == 1 else LocalProcesses(workers)


def _report(update: console.Update, state: Progress) -> None:
    left = "" if state.left_s is None else f"about {state.left_s:.0f} s left"
    update(state.done, state.total, left)


def _print_outlook(study: Study) -> None:
    outlook = study.outlook()
    time = "not known before a trial is done"
    if outlook.seconds is not None:
        time = f"about {outlook.seconds:.0f} s with one worker"
    typer.echo(
        f"{outlook.trainings} trainings, {outlook.shared} of them for several memories, and "
        f"{outlook.evaluations} evaluations; {outlook.done} are done. Time left: {time}."
    )


def results(
    folder: Annotated[Path, typer.Argument(help="folder of a study", show_default=False)],
    csv: Annotated[bool, typer.Option("--csv", help="as CSV")] = False,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="write a Parquet file (needs pandas)")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """The results of a study, a row for each point, allocation and training.

    Example: joulewise results results --csv > results.csv
    """
    from joulewise.study.study import Study

    study = Study.open(folder)
    if parquet is not None:
        study.to_frame().to_parquet(parquet)
    elif csv:
        _write_csv(study.rows())
    else:
        _print(study, json)


def _write_csv(rows: list[dict[str, Any]]) -> None:
    fields = list(dict.fromkeys(field for row in rows for field in row))
    writer = csv.DictWriter(sys.stdout, fields)
    writer.writeheader()
    writer.writerows(rows)


def _print(study: Study, json: bool) -> None:
    if json:
        typer.echo(json_module.dumps(study.rows(), indent=2, allow_nan=False))
        return
    from joulewise.report.blocks import blocks_of
    from joulewise.report.view import View

    view = View(study)
    if not view.records:
        return
    for block in blocks_of(view):
        typer.echo(f"{block.title}\n{block.sentence}\n")
        for table in block.tables:
            console.print_table(table.caption, list(table.columns), [list(r) for r in table.rows])
    typer.echo(f"The page, for a browser: {study.store.folder / 'index.html'}")
