"""Does training for robustness let memories run at less energy? CIFAR-10, several seeds.

    python benchmarks/robust_training.py tune  --data CIFAR10 --out results/robust-training
    python benchmarks/robust_training.py train --data CIFAR10 --out results/robust-training
    python benchmarks/robust_training.py test  --data CIFAR10 --out results/robust-training

`tune` chooses what each method has to be told (rho, the noise to train with) on training images
that are held out, the test images unseen. `train` trains every method with every seed. Sharpness-
aware methods differentiate twice a step: beside the others they have equal epochs, and beside the
long runs of the others, twice the epochs, equal gradient evaluations. `test` puts every network on
chips of three memories: bit masking of 8-bit SRAM, and pairs of conductances, not clipped, with
additive or proportional noise. Weights are stored, activations are not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from joulewise.cli.allocator import keep_freed_memory
from joulewise.data import Dataset, Split, load_data
from joulewise.devices import SRAM, Crossbar, Device
from joulewise.files import write_atomically
from joulewise.models import build, host, load_weights, save_weights
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.study import Environment
from joulewise.training import TrainingMemory, TrainingSpec, train

G_MAX, G_RANGE = 25e-6, (1e-7, 1e-2)
HELD_OUT, JUDGED = 5000, 2000


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train.

    Args:
        optimizer: As `TrainingSpec` has it.
        grid: Values to choose from.
        passes: Gradient evaluations in a step.
        memory: What to train through, made of a value; None for a perfect memory.
    """

    optimizer: str
    grid: tuple[float, ...]
    passes: int = 2
    memory: Callable[[float], tuple[Device[Any], dict[str, float]]] | None = None


def masks(eta: float) -> tuple[Device[Any], dict[str, float]]:
    return SRAM(bits=8), {"eta": eta}


def noise(relative: float) -> tuple[Device[Any], dict[str, float]]:
    """Additive noise: its standard deviation over the largest weight of a tensor."""
    sigma = relative * G_MAX / 2**0.5  # of each of a pair
    return Crossbar(sigma=sigma, clip=False, g_range=G_RANGE), {"g_max": G_MAX}


METHODS = {
    "SGD": Method("sgd", (0.0,), 1),
    "SAM": Method("sam", (0.05, 0.1, 0.2)),
    "ASAM": Method("asam", (0.5, 1.0, 2.0)),
    "SAMSON 2": Method("samson2", (3.0, 10.0, 30.0)),
    "SAMSON inf": Method("samsoninf", (0.2, 0.5, 1.0)),
    "noise": Method("sgd", (0.02, 0.038, 0.06), 1, noise),
    "masks": Method("sgd", (0.45, 0.4, 0.35), 1, masks),
}
# Where a value is judged: clean, and on memories that cost a network of SGD a few points.
JUDGES: tuple[tuple[str, float], ...] = (("mask", 0.45), ("additive", 0.03))
POINTS: dict[str, tuple[float, ...]] = {
    "mask": (0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25),
    "additive": (0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
    "proportional": (0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
}


def tested(memory: str, point: float) -> tuple[Device[Any], dict[str, float]]:
    if memory == "mask":
        return masks(point)
    if memory == "additive":
        return noise(point)
    return Crossbar(variability=point, clip=False), {"g_max": G_MAX}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network to train, by plain values: it goes to another process."""

    method: str
    value: float
    seed: int
    epochs: int
    model: str
    data: str
    images: int | None
    batch_size: int = 128
    folder: str = ""
    long: bool = False

    @property
    def name(self) -> str:
        return f"{self.method}{' long' if self.long else ''}"


@cache
def dataset(path: str, images: int | None, held_out: bool) -> Dataset:
    """The data, on the GPU if there is one; held out: training images in the place of the test."""
    data = load_data(path)
    assert data.train is not None
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.train), generator=generator)
    test, rest = (order[:HELD_OUT], order[HELD_OUT:]) if held_out else (None, order)
    judged = data.test if test is None else chosen(data.train, test)
    return replace(data, train=near(chosen(data.train, rest[:images])), test=near(judged))


def chosen(split: Split, indices: torch.Tensor) -> Split:
    return replace(split, inputs=split.inputs[indices], targets=split.targets[indices])


def near(split: Split) -> Split:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return replace(split, inputs=split.inputs.to(device), targets=split.targets.to(device))


def trained(job: Job, held_out: bool) -> tuple[torch.nn.Module, Any]:
    torch.set_num_threads(1)
    data, method = dataset(job.data, job.images, held_out), METHODS[job.method]
    model = host(build(job.model, data.input_shape, data.classes, seed=job.seed), data.input_shape)
    spec = TrainingSpec(
        epochs=job.epochs * (2 if job.long else 1),
        batch_size=job.batch_size,
        precision="bfloat16",
        seed=job.seed,
        method=method.optimizer,
        rho=job.value if method.passes == 2 else None,
    )
    memory = None
    if method.memory is not None:
        device, setting = method.memory(job.value)
        memory = TrainingMemory(place(model, weights=device), seed=job.seed, **setting)
    return model, train(model, data, spec, memory=memory)


def judged(job: Job) -> dict[str, Any]:
    """A value of a method, on images that are held out."""
    model, record = trained(job, held_out=True)
    split = dataset(job.data, job.images, True).test.subset(JUDGED, seed=0)
    found = {"clean": record.test_accuracy}
    for memory, point in JUDGES:
        found[f"{memory} {point:g}"] = on_chips(model, split, memory, point, chips=5)[0]
    score = sum(found.values()) / len(found)
    return {"method": job.method, "value": job.value, "score": score, "accuracy": found}


def on_chips(
    model: torch.nn.Module, split: Split, memory: str, point: float, chips: int
) -> tuple[float, list[float]]:
    device, setting = tested(memory, point)
    placement = place(model, weights=device, inputs=next(split.batches(8))[0])
    sim = simulate(placement, split, chips=chips, **setting)
    return sim.mean_accuracy, list(sim.accuracy)


def stored(job: Job) -> dict[str, Any]:
    """Train a network and keep its weights."""
    model, record = trained(job, held_out=False)
    path = Path(job.folder) / f"{job.name.replace(' ', '-')}-{job.seed}.safetensors"
    save_weights(model, path, {"model": job.model, "training": record.model_dump_json()})
    return {
        "method": job.name,
        "value": job.value,
        "seed": job.seed,
        "weights": path.name,
        "accuracy": record.test_accuracy,
        "seconds": record.seconds,
        "last_loss": record.history[-1].loss,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One network to test on one memory."""

    network: tuple[str, int, str]
    memory: str
    chips: int
    images: int | None
    model: str
    data: str


def on_memory(test: Test) -> dict[str, Any]:
    """Accuracy on chips over the points of a memory."""
    torch.set_num_threads(1)
    data = dataset(test.data, 8, False)
    method, seed, weights = test.network
    model = build(test.model, data.input_shape, data.classes, seed=0)
    load_weights(model, Path(weights))
    model = host(model, data.input_shape).eval()
    split = data.test if test.images is None else data.test.subset(test.images, seed=0)
    rows = {
        f"{point:g}": on_chips(model, split, test.memory, point, test.chips)[1]
        for point in POINTS[test.memory]
    }
    return {"method": method, "seed": seed, "memory": test.memory, "accuracy": rows}


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """The longest first, so that all workers end together."""
    values = {row["method"]: row["value"] for row in read(arguments, "tune.json")["chosen"]}
    common = {"epochs": arguments.epochs, "model": arguments.model, "data": arguments.data}
    common |= {"images": arguments.images, "folder": str(arguments.out)}
    common |= {"batch_size": arguments.batch_size}
    made = [
        Job(method=name, value=values[name], seed=seed, long=long, **common)
        for name, method in METHODS.items()
        for long in ((False,) if method.passes == 2 else (False, True))
        for seed in range(arguments.seeds)
    ]
    return sorted(made, key=lambda job: -METHODS[job.method].passes * (1 + job.long))


def run(
    arguments: argparse.Namespace, task: Callable[[Any], Any], given: Iterable[Any], name: str
) -> list[dict[str, Any]]:
    """Every row, written as it comes; the same whatever the number of workers."""
    rows: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")  # a GPU does not survive a fork
    with ProcessPoolExecutor(arguments.workers, spawn, initializer=keep_freed_memory) as pool:
        for row in pool.map(task, given):
            rows.append(row)
            print(
                json.dumps({key: value for key, value in row.items() if key != "accuracy"}),
                flush=True,
            )
            write(arguments, name, rows=rows)
    return rows


def write(arguments: argparse.Namespace, name: str, **content: Any) -> None:
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": Environment.now().model_dump(),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        **content,
    }
    write_atomically(arguments.out / name, json.dumps(record, indent=1))


def read(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((arguments.out / name).read_text())
    return record


def tune(arguments: argparse.Namespace) -> None:
    common = {"epochs": arguments.epochs, "model": arguments.model, "data": arguments.data}
    given = [
        Job(
            method=name,
            value=value,
            seed=100,
            images=arguments.images,
            batch_size=arguments.batch_size,
            **common,
        )
        for name, method in METHODS.items()
        for value in method.grid
    ]
    rows = run(arguments, judged, given, "tune.json")
    best = [
        max((r for r in rows if r["method"] == name), key=lambda r: r["score"]) for name in METHODS
    ]
    write(arguments, "tune.json", rows=rows, chosen=best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["tune", "train", "test"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, help="to train on, or to test on; all by default")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "tune":
        tune(arguments)
    elif arguments.stage == "train":
        run(arguments, stored, jobs(arguments), "train.json")
    else:
        networks = [
            (row["method"], row["seed"], str(arguments.out / row["weights"]))
            for row in read(arguments, "train.json")["rows"]
        ]
        common = {"chips": arguments.chips, "images": arguments.images}
        common |= {"model": arguments.model, "data": arguments.data}
        given = [Test(network=n, memory=m, **common) for n in networks for m in POINTS]
        run(arguments, on_memory, given, "test.json")


if __name__ == "__main__":
    main()
