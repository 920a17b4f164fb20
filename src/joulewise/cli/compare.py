"""``joulewise compare``, ``compare-training`` and ``demo``: studies of options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from joulewise.cli import arguments
from joulewise.cli.running import run_options

__all__ = ["compare", "compare_training", "demo"]


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
    """Compare the least energy of networks and memories within a drop of the metric.

    Without --at, operating points are chosen around the drops.

    Example: joulewise compare --model cnn=cnn.safetensors --model mlp=mlp.safetensors --out cmp

    Example: joulewise compare --model cnn=cnn.safetensors --memory sram --memory
    crossbar:sigma=1e-6
    """
    arguments.check_trained(model)
    run_options(
        out,
        json,
        workers,
        torch_device,
        data={"source": data, "images": images},
        models=model,
        memories=memory or ["sram"],
        place=place,
        points=at,
        drops=drop,
        metric=metric,
        chips=chips,
        chip_seed=seed,
    )


def compare_training(
    model: arguments.Models,
    training: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD or METHOD:SETTINGS, such as samson2:rho=0.2,epochs=30 or "
            "sgd:at.eta=0.5,label=mine; repeat it; the first is the baseline  "
            "\\[default: sgd, sam, samson2]"
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
    """Train by several methods and seeds, and compare the least energy of each.

    Example: joulewise compare-training --model cnn --training sgd --training samson2:rho=0.5
    --training sgd:at.eta=0.4,label=masks --out cmp
    """
    from joulewise.errors import check_count

    check_count("seeds", seeds, 1, 1000)
    run_options(
        out,
        json,
        workers,
        torch_device,
        data={"source": data, "images": images},
        models=model,
        training=training or ["sgd", "sam", "samson2"],
        memories=memory or ["sram"],
        place=place,
        points=at,
        drops=drop,
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
    """Train four networks on digits, simulate them on faulty SRAM, and report energy saved.

    Weights and activations are 8-bit words; faults are bit masking on the exponential law.
    """
    run_options(
        out,
        json,
        workers,
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
