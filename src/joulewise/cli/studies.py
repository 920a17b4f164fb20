"""Studies, from a YAML file or from options: init, run, results, compare, allocate and others."""

from __future__ import annotations

import csv
import json as json_module
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import arguments, console
from joulewise.files import write_atomically

if TYPE_CHECKING:
    from joulewise.study import Study
    from joulewise.study.engine import Engine, Progress
    from joulewise.study.study_file import StudyFile

__all__ = [
    "allocate",
    "compare",
    "compare_training",
    "demo",
    "init",
    "pareto",
    "results",
    "run",
]

# Exit code where the goal was not shown to hold: the plan is the best that there is.
OUT_OF_REACH = 3

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

    if path.exists():
        refuse(f"the file {path}", "there already", "a new name")
    try:
        write_atomically(path, _EXAMPLE.format(name=path))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    typer.echo(f"{path} is written. Run it with: joulewise run {path}")


def run(
    path: Annotated[Path, typer.Argument(help="a study file", show_default=False)],
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
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
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Run a study: compute the trials that its folder lacks. Running again is resuming.

    Example: joulewise run study.yaml --out results
    """
    from joulewise.study.study_file import StudyFile

    file = StudyFile.read(path)
    folder = path.with_suffix("") if out is None else out
    runner = _Runner(engine, workers, address, gpu, f"joulewise run {path}")
    console.start(torch_device)
    study = runner.study(file, folder)
    if dry_run:
        _print_outlook(study)
        return
    failed = runner.run(study)
    _present(study, json, kept=True)
    if failed:
        raise typer.Exit(1)


class _Runner:
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
        again: str = "the same command",
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

        study = Study(file, folder)
        for change in study.changes:
            typer.echo(f"changed since the last run: {change}", err=True)
        return study

    def run(self, study: Study) -> dict[str, str]:
        """Compute what is missing, with a progress bar; the errors of failed trials."""
        engine = self._made()
        try:
            with console.bar("trials") as update:
                failed = study.run(engine, lambda state: _report(update, state))
        except KeyboardInterrupt:
            typer.echo(f"joulewise: stopped; to go on: {self._again}", err=True)
            raise typer.Exit(130) from None
        finally:
            engine.close()
        for name, reason in study.store.damaged.items():
            typer.echo(f"joulewise: {name} was damaged ({reason}), not used", err=True)
        for digest, reason in failed.items():
            typer.echo(f"joulewise: trial {digest} failed: {reason}", err=True)
        return failed

    def _made(self) -> Engine:
        if self._engine == "dask":
            from joulewise.study.dask_engine import DaskWorkers

            return DaskWorkers(self._address, workers=self._workers, gpu=self._gpu)
        from joulewise.study.engine import LocalProcesses, ThisProcess

        return ThisProcess() if self._workers == 1 else LocalProcesses(self._workers)


def _present(study: Study, json: bool, *, kept: bool) -> None:
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


def _asked(out: Path | None, runner: _Runner, json: bool, **fields: Any) -> Study:
    """Run the study of a command's options, in ``out`` or in a folder that is not kept.

    Raises:
        Exit: with code 1 if a trial failed.
    """
    file = arguments.study_file(**fields)
    with tempfile.TemporaryDirectory(prefix="joulewise-") as scratch:
        study = runner.study(file, Path(scratch) / "study" if out is None else out)
        failed = runner.run(study)
        _present(study, json, kept=out is not None)
        study.records()
        if failed:
            raise typer.Exit(1)
        return study


def compare(
    model: arguments.Models,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memories = None,
    place: arguments.Place = None,
    at: arguments.At = None,
    drop: arguments.Drops = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 200,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Networks on one memory or several: the least energy of each within a drop.

    Without --at, operating points are chosen around the drops.

    Example: joulewise compare --model cnn=cnn.safetensors --model mlp=mlp.safetensors --out cmp

    Example: joulewise compare --model cnn=cnn.safetensors --memory sram --memory
    crossbar:sigma=1e-6
    """
    arguments.check_trained(model)
    runner = _Runner(workers=workers)
    console.start(torch_device)
    _asked(
        out,
        runner,
        json,
        data={"source": data, "images": images},
        models=model,
        memories=memory or ["sram"],
        place=place,
        points=at,
        drops=arguments.drops_of(drop),
        metric=metric,
        chips=chips,
        chip_seed=seed,
    )


def allocate(
    model: arguments.Model,
    goal: arguments.Goal = "drop=0.5pp",
    granularity: Annotated[
        str,
        typer.Option(
            help="network, role, tensor or channel, with settings: tensor:bit_planes=true,rails=3 "
            "or tensor:levels=0.4+0.6+1"
        ),
    ] = "tensor",
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memory = "sram",
    place: arguments.Place = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 200,
    samples: arguments.Samples = 512,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """The least energy at which a goal holds, an operating point for each tensor.

    The plan is chosen by prediction and a few chips, and verified on others, beside one common
    point; --out has it as plan.json. Exit code 3: the goal was not shown to hold.

    Example: joulewise allocate --model cnn=cnn.safetensors --goal drop=0.5pp --out plan
    """
    arguments.check_trained([model])
    runner = _Runner(workers=workers)
    console.start(torch_device)
    common = [] if granularity == "network" else ["network"]
    study = _asked(
        out,
        runner,
        json,
        data={"source": data, "images": images},
        models=[model],
        memories=[memory],
        place=place,
        goals=[goal],
        granularities=[*common, granularity],
        metric=metric,
        chips=chips,
        samples=samples,
        chip_seed=seed,
    )
    allocation = study.last_allocation
    if out is not None:
        plan = json_module.dumps(allocation.result["plan_file"], indent=1)
        write_atomically(out / "plan.json", plan)
        typer.echo(f"The plan: {out / 'plan.json'}", err=json)
    if allocation.result["allocation"]["holds"] is False:
        raise typer.Exit(OUT_OF_REACH)


def pareto(
    model: arguments.Models,
    granularity: Annotated[
        list[str] | None,
        typer.Option(help="as in allocate; repeat it  [default: network, tensor]"),
    ] = None,
    plans: Annotated[int, typer.Option(help="plans in a front")] = 10,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memories = None,
    place: arguments.Place = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 50,
    samples: arguments.Samples = 512,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Plans of least energy for every error: several networks, memories and granularities.

    Example: joulewise pareto --model cnn=cnn.safetensors --granularity tensor:bit_planes=true
    """
    from joulewise.errors import check_count

    arguments.check_trained(model)
    check_count("plans", plans, 2, 1000)
    runner = _Runner(workers=workers)
    console.start(torch_device)
    _asked(
        out,
        runner,
        json,
        data={"source": data, "images": images},
        models=model,
        memories=memory or ["sram"],
        place=place,
        granularities=granularity or ["network", "tensor"],
        front=plans,
        metric=metric,
        chips=chips,
        samples=samples,
        chip_seed=seed,
    )


def compare_training(
    model: arguments.Models,
    training: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD with settings: samson2:rho=0.2,epochs=30,lr=0.1,at.eta=0.5,label=mine; "
            "repeat it, what the others are held to first  [default: sgd, sam, samson2]"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="networks of each method")] = 3,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memories = None,
    place: arguments.Place = None,
    at: arguments.At = None,
    drop: arguments.Drops = None,
    chips: arguments.Chips = 50,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Train by several methods with several seeds: the least energy of each.

    Example: joulewise compare-training --model cnn --training sgd --training samson2:rho=0.5
    --training sgd:at.eta=0.4,label=masks --out cmp
    """
    from joulewise.errors import check_count

    check_count("seeds", seeds, 1, 1000)
    runner = _Runner(workers=workers)
    console.start(torch_device)
    _asked(
        out,
        runner,
        json,
        data={"source": data, "images": images},
        models=model,
        training=training or ["sgd", "sam", "samson2"],
        memories=memory or ["sram"],
        place=place,
        points=at,
        drops=arguments.drops_of(drop),
        chips=chips,
        seeds=list(range(seed, seed + seeds)),
        chip_seed=seed,
    )


def demo(
    out: Annotated[Path, typer.Option(help="folder of the study and its page")] = Path("demo"),
    chips: arguments.Chips = 50,
    epochs: Annotated[int, typer.Option(help="passes over the training set")] = 30,
    seed: arguments.Seed = 0,
    workers: arguments.Workers = 0,
    json: arguments.Json = False,
) -> None:
    """Train four networks on digits, put them on faulty SRAM, and report what each can save.

    Weights and activations are 8-bit words; faults are bit masking on the exponential law.
    """
    runner = _Runner(workers=workers)
    console.start()
    _asked(
        out,
        runner,
        json,
        question="How much memory energy can four small networks save on digits?",
        data={"source": "digits", "images": 300},
        models=["mlp", "cnn", "vgg", "resnet8"],
        training=[{"method": "sgd", "epochs": epochs, "lr": 0.1}],
        memories=["sram"],
        place={"store": "both"},
        chips=chips,
        seeds=[seed],
        chip_seed=seed,
    )


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
        _present(study, json, kept=False)


def _write_csv(rows: list[dict[str, Any]]) -> None:
    fields = list(dict.fromkeys(field for row in rows for field in row))
    writer = csv.DictWriter(sys.stdout, fields)
    writer.writeheader()
    writer.writerows(rows)
