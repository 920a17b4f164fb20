"""``joulewise train``: fit a network, plainly or through a memory, and save its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import arguments, console

if TYPE_CHECKING:
    from joulewise.training import TrainingMemory, TrainingRecord

__all__ = ["train"]


def train(
    model: arguments.Model,
    out: Annotated[Path, typer.Option(help="weights file to write (.safetensors)")],
    data: arguments.Data = "digits",
    epochs: Annotated[int, typer.Option(help="passes over the training set")] = 30,
    batch_size: Annotated[int, typer.Option(help="samples in a step")] = 128,
    lr: Annotated[float, typer.Option(help="highest learning rate")] = 0.2,
    weight_decay: Annotated[float, typer.Option(help="on weights, not on biases")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(help="label smoothing, 0 to 1")] = 0.0,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 (autocast)")] = "float32",
    augment: Annotated[
        bool, typer.Option(help="random crops, and mirroring if the data set allows it")
    ] = (True),
    training: Annotated[
        str, typer.Option(help="sgd, sam, asam, samson2 or samsoninf, with settings: sam:rho=0.1")
    ] = "sgd",
    memory: arguments.Memory = "sram",
    place: arguments.Place = None,
    at: Annotated[
        str | None, typer.Option("--at", help="train through the memory at this point: eta=0.5")
    ] = None,
    perfect: Annotated[
        bool,
        typer.Option(
            "--perfect", help="train through the memory without faults (quantisation-aware)"
        ),
    ] = False,
    learn_ranges: Annotated[
        bool,
        typer.Option(
            "--learn-ranges", help="also train the range of each weight; with --at or --perfect"
        ),
    ] = False,
    energy: Annotated[
        float | None,
        typer.Option(
            help="learn an operating point per tensor at this fraction of reliable energy, 0 to 1"
        ),
    ] = None,
    seed: arguments.Seed = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Train a network (SGD, momentum, cosine) and save its weights.

    With --at, --perfect or --energy, each step computes with the weights that one chip
    reads.

    Example: joulewise train --model cnn --out cnn.safetensors

    Example: joulewise train --model cnn --training samson2 --out flat.safetensors

    Example: joulewise train --model cnn --memory crossbar:sigma=1e-6 --at g_max=2e-5 --out
    noisy.safetensors
    """
    from joulewise.errors import refuse
    from joulewise.study.entries import parse_point
    from joulewise.study.short_forms import short_form

    if "=" in model:
        refuse("model", repr(model), "a model without weights, which it is trained from")
    entry = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "precision": precision,
        "augment": augment,
        "perfect": perfect,
        "learn_ranges": learn_ranges,
        "energy": energy,
        "at": {} if at is None else parse_point(at),
        **short_form(training, "method"),
    }
    file = arguments.study_file(
        data=data, models=[model], training=[entry], memories=[memory], place=place, seeds=[seed]
    )
    chosen = file.training[0]
    if not chosen.through_memory and (memory != "sram" or place is not None):
        field = "--place" if memory == "sram" else "--memory"
        refuse(field, "given without a point to train at", "with --at, --perfect or --energy")
    _check_out(out)
    console.start(torch_device)
    from joulewise.data import load_data
    from joulewise.models import save_weights
    from joulewise.study.networks import train_network

    with console.bar(f"train {model}") as update:
        network, record, through = train_network(
            model,
            chosen,
            load_data(data),
            file.memories[0],
            file.place,
            seed=seed,
            report=lambda e: update(e.epoch, epochs, f"loss {e.loss:.3f}"),
        )
    save_weights(network, out, {"model": model, "training": record.model_dump_json()})
    if json:
        typer.echo(record.model_dump_json(indent=2))
        return
    _print_record(out, record)
    if energy is not None and through is not None:
        _print_points(through)


def _check_out(out: Path) -> None:
    """Refuse before training what would fail after it.

    Raises:
        InputError: if the weights could not be written there.
    """
    from joulewise.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"out is {out}; allowed: a file name that ends in .safetensors")
    if out.is_dir():
        raise InputError(f"out is {out}, a folder; allowed: a file name that ends in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"the folder of out, {out.parent}, does not exist; create it first")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
        out.exists()  # a name that is too long
    except OSError as error:
        raise InputError(f"out is {out}, where nothing can be written: {error}") from error


def _print_record(out: Path, record: TrainingRecord) -> None:
    from joulewise.units import format_percent

    typer.echo(
        f"{out}: test accuracy {format_percent(record.test_accuracy)} on {record.test_images} "
        f"images, {record.spec.epochs} epochs in {record.seconds:.0f} s"
    )


def _print_points(memory: TrainingMemory) -> None:
    """The points that were learned, tensor by tensor."""
    from joulewise.placement import energy as energy_of
    from joulewise.units import format_percent, format_point, format_si

    plan = memory.plan_at(memory.steps)
    points: dict[str, Any] = memory.placement.points(plan)
    spent = energy_of(memory.placement, at=plan)
    rows = []
    for p in memory.placement.placed:
        point = format_point(p.device.knob.name, float(f"{float(points[p.name]):.4g}"))
        joules = format_si(float(spent.memory_j[p.name]), "J")
        rows.append([p.name, p.role, str(p.words), f"{p.device.knob.name} {point}", joules])
    title = f"learned: {format_percent(spent.normalised, 1)} of the energy of a reliable memory"
    console.print_table(title, ["tensor", "role", "words", "point", "energy"], rows, words=2)
