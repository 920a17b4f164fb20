"""``joulewise demo``: the whole story on bundled data, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joulewise.cli import console, options

if TYPE_CHECKING:
    from joulewise.data import Dataset

__all__ = ["demo"]

_NETWORKS = ("mlp", "cnn", "vgg", "resnet8")
# Half of the test images: chips differ more than halves of the images do.
_IMAGES = 300


def demo(
    out: Annotated[Path, typer.Option(help="folder for the report, the record and weights")] = Path(
        "demo"
    ),
    chips: options.Chips = 50,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training set")] = 30,
    seed: options.Seed = 0,
    threads: options.Threads = 1,
    json: options.Json = False,
) -> None:
    """Train four networks on digits, put them on faulty SRAM, and report what each can save.

    Weights and activations are 8-bit words; faults are bit masking on the exponential law.
    """
    # One thread by default: networks this small gain nothing from more, and on a busy machine
    # threads that wait for each other cost ten times the work.
    console.start(threads)
    from joulewise.cli.compare import present, ready, run
    from joulewise.data import load_digits
    from joulewise.study import MemorySpec, NetworkSpec, PlacementSpec

    folder = ready(out)
    assert folder is not None
    digits = load_digits()
    spec = PlacementSpec(memory=MemorySpec(bits=8, fault="mask"), store="both")
    contenders = []
    for name in _NETWORKS:
        weights = folder / f"{name}.safetensors"
        _train(name, digits, weights, epochs, seed)
        contenders.append(NetworkSpec(model=name, weights=weights).place(digits, spec))
    comparison = run(
        contenders,
        digits,
        images=_IMAGES,
        drops=[0.005, 0.01],
        chips=chips,
        seed=seed,
    )
    present(comparison, folder, json)


def _train(name: str, digits: Dataset, out: Path, epochs: int, seed: int) -> None:
    from joulewise.models import build, save_weights
    from joulewise.training import TrainingSpec, train

    model = build(name, digits.input_shape, digits.classes, seed=seed)
    spec = TrainingSpec(epochs=epochs, lr=0.1, seed=seed)
    with console.bar(f"train {name}") as update:
        record = train(model, digits, spec, lambda e: update(e.epoch, epochs, f"loss {e.loss:.3f}"))
    save_weights(model, out, {"model": name, "training": record.model_dump_json()})
