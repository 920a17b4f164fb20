"""``joulewise co-design``: a network and a plan that are fitted to each other."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.allocate import OUT_OF_REACH, asked, granularity, present
from joulewise.cli.compare import ready
from joulewise.units import format_percent

if TYPE_CHECKING:
    from joulewise.study import CoDesignRecord

__all__ = ["co_design"]


_GOAL = "Goal  [default: --drop 0.5]"


def _goal(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_GOAL, show_default=False)


def _training(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Training, in each round")


@placing.places(without=("fold_batchnorm", "accesses"))
def co_design(
    model: options.Model,
    weights: options.Weights = None,
    data: options.Data = "digits",
    drop: Annotated[
        float | None, _goal("mean accuracy lost against the network as given, points")
    ] = None,
    min_accuracy: Annotated[float | None, _goal("mean accuracy, percent")] = None,
    min_yield: Annotated[
        float | None, _goal("with either: percent of the chips, not the mean")
    ] = None,
    per: options.Per = "tensor",
    bit_planes: options.BitPlanes = False,
    rails: options.Rails = None,
    point: options.Points = None,
    rounds: Annotated[int, typer.Option(help="of training and allocation")] = 3,
    step: Annotated[
        float, typer.Option(help="energy of the plan trained through, of the least so far")
    ] = 0.8,
    epochs: Annotated[int, _training("passes over the training set")] = 2,
    batch_size: Annotated[int, _training("samples in a step")] = 128,
    lr: Annotated[float, _training("highest learning rate")] = 0.02,
    clip_weights: Annotated[
        float | None, _training("keep weights within so many standard deviations of their layer")
    ] = None,
    precision: Annotated[str, _training("float32 or bfloat16 (autocast)")] = "float32",
    out: Annotated[
        Path | None,
        typer.Option(help="folder for weights, plan.json, co-design.json and report.html"),
    ] = None,
    confidence: options.Confidence = 95.0,
    samples: options.Samples = 512,
    chips: options.FreshChips = 200,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Fit a network and its plan to each other: allocation and a few epochs, in turns.

    Each round trains through a plan of less energy, and allocates again; what simulation shows to
    be better is kept. The accuracy to hold is that of the network as it was given, less the drop.
    Exit code 3: it was not shown to hold.

    Example: joulewise co-design --model cnn --weights cnn.safetensors --bit-planes --out design
    """
    console.start(threads)
    from joulewise.data import load_data
    from joulewise.models import save_weights
    from joulewise.study import co_design_record
    from joulewise.training import TrainingSpec

    spec = placing.placement_spec(placed)
    training = TrainingSpec(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        clip=clip_weights,
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
    )
    folder = ready(out)
    network = options.trained_network(model, weights, seed)
    dataset = load_data(data)
    contender = network.place(dataset, spec)
    judge = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar("co-design") as update:
        record = co_design_record(
            contender.placement,
            dataset,
            judge,
            network=contender.name,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=lambda what, done, expected: update(done, expected, what),
            granularity=granularity(per, bit_planes, rails, point),
            spec=training,
            rounds=rounds,
            step=step,
            chips=chips,
            confidence=confidence / 100,
            samples=samples,
            seed=seed,
            goal=asked(drop, min_accuracy, min_yield),
        )
    if folder is not None:
        save_weights(
            contender.placement.model,
            folder / "weights.safetensors",
            {"model": model, "co_design": record.command},
        )
    if not json:
        _print_rounds(record)
    present(record, contender.placement, folder, json, "co-design", "as given")
    if folder is not None and not json:
        typer.echo(f"The weights: {folder / 'weights.safetensors'}")
    if record.allocations[-1].holds is False:
        raise typer.Exit(OUT_OF_REACH)


def _print_rounds(record: CoDesignRecord) -> None:
    from joulewise.report import round_cells

    design = record.design
    columns = ["round", "energy trained through", "epochs", "energy that holds", "holds", "kept"]
    title = (
        f"At least {format_percent(design.min_accuracy, 2)} accuracy; "
        f"{format_percent(design.given_accuracy, 2)} as given"
    )
    console.print_table(title, columns, round_cells(record))
