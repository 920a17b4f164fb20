"""``joulewise train``: fit a network and save its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joulewise.cli import console, options

if TYPE_CHECKING:
    from joulewise.training import TrainingRecord

__all__ = ["train"]


def train(
    model: options.Model,
    out: Annotated[Path, typer.Option(help="where the weights go (.safetensors)")],
    data: options.Data = "digits",
    epochs: Annotated[int, typer.Option(help="passes over the training set")] = 30,
    batch_size: Annotated[int, typer.Option(help="samples in a step")] = 128,
    lr: Annotated[float, typer.Option(help="highest learning rate")] = 0.2,
    weight_decay: Annotated[float, typer.Option(help="on weights, not on biases")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(help="0 for none")] = 0.0,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 (autocast)")] = "float32",
    augment: Annotated[
        bool, typer.Option(help="random crops, and mirroring where it suits")
    ] = True,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
) -> None:
    """Train a network (SGD, momentum, cosine) and save its weights.

    Example: joulewise train --model cnn --data digits --out cnn.safetensors
    """
    console.start(threads)
    from joulewise.data import load_data
    from joulewise.models import host, load_model, save_weights
    from joulewise.training import TrainingSpec
    from joulewise.training import train as fit

    spec = TrainingSpec(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        precision=precision,  # type: ignore[arg-type]
        augment=augment,
        seed=seed,
    )
    _check_out(out)
    dataset = load_data(data)
    network = load_model(model, dataset.input_shape, dataset.classes, seed=seed)
    network = host(network, dataset.input_shape)
    with console.bar(f"train {model}") as update:
        record = fit(
            network, dataset, spec, lambda e: update(e.epoch, epochs, f"loss {e.loss:.3f}")
        )
    save_weights(network, out, {"model": model, "training": record.model_dump_json()})
    if json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        _print(record, out)


def _check_out(out: Path) -> None:
    """Refuse before training what would fail after it.

    Raises:
        InputError: if the weights could not be written there.
    """
    from joulewise.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"out is {out}; allowed: a file name that ends in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"the folder of out, {out.parent}, does not exist; create it first")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise InputError(f"out is {out}, where nothing can be written: {error}") from error


def _print(record: TrainingRecord, out: Path) -> None:
    from joulewise.units import format_percent

    typer.echo(
        f"{out}: test accuracy {format_percent(record.test_accuracy)} on {record.test_images} "
        f"images, {record.spec.epochs} epochs in {record.seconds:.0f} s"
    )
