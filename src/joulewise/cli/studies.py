"""``joulewise init``, ``run`` and ``results``: studies from a YAML file."""

from __future__ import annotations

import csv
import json as json_module
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import arguments, console
from joulewise.cli.running import Runner, present, tell_damage
from joulewise.files import write_atomically

if TYPE_CHECKING:
    from joulewise.study import Study

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
  # - "my_models.py:language_model"   # its code loads its own weights

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
  # kv_cache: true          # keys and values of a language model, too

# points: [eta=0.6, eta=0.5]    # operating points; without them they are chosen around the drops
drops: [0.005, 0.01]

goals: [drop=1pp]           # drop, target, error or energy; chips=95% for a yield
granularities: [network, tensor]

# metric: perplexity        # accuracy, accuracy:5, tokens, nll, perplexity, kl or mse
# generation:               # a prompt that language models continue, for the page
#   {{prompt: "Once upon", tokenizer: "my_models.py:tokenizer", new_tokens: 20}}

chips: 100
seeds: [0, 1]
# budget: {{hours: 6}}        # no trial begins later; run again to go on
"""


def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("study.yaml"),
    schema: Annotated[
        Path | None, typer.Option(help="write the JSON schema too, by which editors complete it")
    ] = None,
) -> None:
    """Write an example of a study file, with a comment on each field.

    Example: joulewise init study.yaml --schema study.schema.json
    """
    from joulewise.errors import InputError, refuse

    if path.exists():
        refuse(f"the file {path}", "one that exists", "a new name")
    try:
        text = _EXAMPLE.format(name=path)
        if schema is not None:
            from joulewise.study.study_file import StudyFile

            plain = json_module.dumps(StudyFile.model_json_schema(), indent=1)
            write_atomically(schema, plain)
            text = f"# yaml-language-server: $schema={schema}\n{text}"
        write_atomically(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    typer.echo(f"{path} is written. Run it with: joulewise run {path}")


def run(
    path: Annotated[Path, typer.Argument(help="a study file", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="folder of the study  \\[default: the study file without its suffix]"),
    ] = None,
    workers: arguments.Workers = 0,
    engine: Annotated[str, typer.Option(help="processes or dask")] = "processes",
    address: Annotated[
        str | None,
        typer.Option(help="dask: the scheduler's, tcp://HOST:PORT  \\[default: a local cluster]"),
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="dask: each trial takes one GPU resource of a worker")
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard:FOLDER, mlflow:EXPERIMENT or wandb:PROJECT; repeat it"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the trials, shared work and an estimate")
    ] = False,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Run a study file; a second run computes only missing trials.

    Example: joulewise run study.yaml --out study
    """
    from joulewise.study.study_file import StudyFile

    file = StudyFile.read(path)
    folder = path.with_suffix("") if out is None else out
    again = shlex.join(["joulewise", "run", str(path), *(["--out", str(out)] if out else [])])
    runner = Runner(engine, workers, address, gpu, f"to resume, run: {again}")
    console.start(torch_device)
    if dry_run and not folder.exists():
        with tempfile.TemporaryDirectory() as empty:
            _print_workload(runner.study(file, Path(empty)), json)
        return
    study = runner.study(file, folder)
    if dry_run:
        _print_workload(study, json)
        return
    from joulewise.study.loggers import logger_of

    failed = runner.run(study, [logger_of(text) for text in log or ()])
    present(study, json, kept=True)
    if failed:
        raise typer.Exit(1)


def _print_workload(study: Study, json: bool) -> None:
    workload = study.workload()
    if json:
        typer.echo(json_module.dumps(asdict(workload)))
        return
    time = "not known before a trial is done"
    if workload.seconds is not None:
        time = f"about {workload.seconds:.0f} s with one worker"
    typer.echo(
        f"trainings: {workload.trainings} ({workload.shared} for several memories); evaluations: "
        f"{workload.evaluations}; done: {workload.done}; time left: {time}"
    )


def results(
    folder: Annotated[Path, typer.Argument(help="folder of a study", show_default=False)],
    csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    parquet: Annotated[
        Path | None,
        typer.Option("--parquet", help="write a Parquet file (needs pandas and pyarrow)"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the results of a study: a row for each point, allocation and training.

    Example: joulewise results study --csv > study.csv
    """
    from joulewise.errors import InputError, refuse
    from joulewise.files import write_atomically
    from joulewise.study.study import Study

    if csv + json + (parquet is not None) > 1:
        refuse("the format", "given twice", "one of --csv, --json and --parquet")
    study = Study.open(folder)
    if parquet is not None:
        try:
            write_atomically(parquet, study.to_frame().to_parquet())
        except ImportError as error:
            raise InputError(
                "the format is Parquet, for which pyarrow is not installed; allowed: "
                'pip install "joulewise[frames]"'
            ) from error
    elif csv:
        _write_csv(study.rows())
    else:
        present(study, json, kept=False)
    tell_damage(study)


def _write_csv(rows: list[dict[str, Any]]) -> None:
    fields = list(dict.fromkeys(field for row in rows for field in row))
    writer = csv.DictWriter(sys.stdout, fields)
    writer.writeheader()
    writer.writerows(rows)
