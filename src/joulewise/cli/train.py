"""``joulewise train``: fit a network and save its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing

if TYPE_CHECKING:
    from torch import nn

    from joulewise.data import Dataset
    from joulewise.training import TrainingMemory, TrainingRecord

__all__ = ["train"]


@placing.places(without=("fold_batchnorm", "accesses"))
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
    method: Annotated[
        str, typer.Option(help="sgd, or sam, asam, samson2, samsoninf: flat minima, half the speed")
    ] = "sgd",
    rho: Annotated[
        float | None, typer.Option(help="how far sam and the others look; each has its default")
    ] = None,
    clip_weights: Annotated[
        float | None,
        typer.Option(help="keep weights within so many standard deviations of their layer"),
    ] = None,
    perfect: Annotated[
        bool,
        typer.Option(
            "--perfect", help="through a memory without faults: quantisation-aware training"
        ),
    ] = False,
    learn_ranges: Annotated[
        bool,
        typer.Option("--learn-ranges", help="train the range of each weight, in that memory, too"),
    ] = False,
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    seconds: options.Seconds = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="learn a point for each tensor, at this share of a reliable memory's energy"
        ),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Train a network (SGD, momentum, cosine) and save its weights.

    With --eta, --v-dd, --g-max or --seconds it is trained through that memory: each step computes
    with what another chip reads of the weights. With --perfect nothing fails in that memory, and
    what is left is the rounding to words. With --energy the points are learned too, one for each
    tensor.

    Example: joulewise train --model cnn --data digits --out cnn.safetensors

    Example: joulewise train --model cnn --method samson2 --out flat.safetensors

    Example: joulewise train --model cnn --device crossbar --sigma 1e-6 --g-max 2e-5 --out
    noisy.safetensors

    Example: joulewise train --model cnn --bits 4 --perfect --learn-ranges --out int4.safetensors

    Example: joulewise train --model cnn --energy 0.2 --out cnn.safetensors
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
        method=method,  # type: ignore[arg-type]
        rho=rho,
        clip=clip_weights,
    )
    knobs = {"eta": eta, "v_dd": v_dd, "g_max": g_max, "seconds": seconds}
    _check_out(out)
    dataset = load_data(data)
    network = load_model(model, dataset.input_shape, dataset.classes, seed=seed)
    network = host(network, dataset.input_shape)
    memory = _memory(network, dataset, placed, knobs, energy, seed, perfect, learn_ranges)
    with console.bar(f"train {model}") as update:
        record = fit(
            network,
            dataset,
            spec,
            lambda e: update(e.epoch, epochs, f"loss {e.loss:.3f}"),
            memory=memory,
        )
    save_weights(network, out, {"model": model, "training": record.model_dump_json()})
    if json:
        typer.echo(record.model_dump_json(indent=2))
        return
    _print(record, out)
    if energy is not None and memory is not None:
        _print_points(memory)


def _memory(
    network: nn.Module,
    dataset: Dataset,
    placed: dict[str, Any],
    knobs: dict[str, list[float] | None],
    energy: float | None,
    seed: int,
    perfect: bool,
    learn_ranges: bool,
) -> TrainingMemory | None:
    """What to train through; None without an operating point or an energy.

    Raises:
        InputError: if there are several points, points beside an energy or a perfect memory, a
            memory or ranges to learn without any, or faults that a perfect memory has not.
    """
    from joulewise.contrib import NoiseMaximisation
    from joulewise.errors import InputError, refuse

    spec = placing.placement_spec(placed)
    at = "allowed: one of --eta, --v-dd, --g-max, --seconds, --energy, or --perfect, beside it"
    if energy is not None:
        if any(knobs.values()) or perfect:
            beside = "a perfect memory" if perfect else "an operating point"
            refuse("energy", f"given beside {beside}", "one of the two")
        if learn_ranges:
            refuse("learn_ranges", "given beside energy", "one of the two")
        spec.memory.check_trains()
        return NoiseMaximisation(spec.place(network, dataset), energy=energy, seed=seed)
    if not any(knobs.values()) and not perfect:
        if learn_ranges:
            raise InputError(f"learn_ranges is given, and no memory to train through; {at}")
        if spec != type(spec)():
            raise InputError(f"a memory is described, and no point to train it at; {at}")
        return None
    setting = None
    if not perfect:
        knob, points = options.operating_points(**knobs)
        if len(points) > 1:
            refuse(knob, f"given {len(points)} times", "one point to train at")
        setting = {knob: points[0]}
    elif any(knobs.values()):
        raise InputError("perfect is given beside an operating point; allowed: one of the two")
    else:
        spec.memory.check_perfect()
    return spec.place_to_train(network, dataset, at=setting, seed=seed, ranges=learn_ranges)


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
    except OSError as error:
        raise InputError(f"out is {out}, where nothing can be written: {error}") from error


def _print(record: TrainingRecord, out: Path) -> None:
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
    points = memory.placement.points(plan)
    spent = energy_of(memory.placement, at=plan)
    rows = []
    for p in memory.placement.placed:
        point = format_point(p.device.knob.name, float(f"{float(points[p.name]):.4g}"))
        joules = format_si(float(spent.memory_j[p.name]), "J")
        rows.append([p.name, p.role, str(p.words), f"{p.device.knob.name} {point}", joules])
    title = f"learned: {format_percent(spent.normalised, 1)} of the energy of a reliable memory"
    console.print_table(title, ["tensor", "role", "words", "point", "energy"], rows)
