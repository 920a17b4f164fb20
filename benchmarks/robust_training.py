"""Does training for robustness let memories run at less energy? CIFAR-10, several seeds.

    python benchmarks/robust_training.py train --data CIFAR10 --out FOLDER [--lanes 12]
    python benchmarks/robust_training.py judge --data CIFAR10 --out FOLDER --chips 5
    python benchmarks/robust_training.py test  --data CIFAR10 --out FOLDER --chips 10

`train` trains every arm with every value of what it has to be told (rho, the noise to train with)
and every seed; 5,000 training images are held out. `judge` chooses the values on those, the test
images unseen. Sharpness-aware methods differentiate twice a step: beside the others they have equal
epochs, and beside the long runs of the others, twice the epochs, equal gradient evaluations. `test`
puts the chosen networks on chips of a memory without a knob, pairs of conductances with noise in
proportion to them; `joulewise compare-training` puts them on SRAM and on a crossbar with additive
noise. Weights are stored, activations are not. With `--lanes` a GPU trains many networks at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cuda_lanes
import torch
from records import origin, write_record

from joulewise.data import Dataset, Split, load_data
from joulewise.devices import SRAM, Crossbar, Device
from joulewise.models import build, host, load_weights, save_weights
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import Method, TrainingMemory, TrainingSpec, accuracy, train

G_MAX, G_RANGE = 25e-6, (1e-7, 1e-2)
HELD_OUT = 5000


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train.

    Args:
        method: As `TrainingSpec` has it.
        grid: Values to choose from: of rho, of the noise, of the clip.
        long: Those with which it trains for twice the epochs too; empty where a step differentiates
            twice.
        through: The memory to train through: "masks" of SRAM at an eta, or additive "noise"
            relative to the largest weight.
        clip: Of the weights, in standard deviations; None where nothing is clipped.
    """

    method: Method
    grid: tuple[float, ...]
    long: tuple[float, ...] = ()
    through: str | None = None
    clip: float | None = None


def masks(eta: float) -> tuple[Device[Any], dict[str, float]]:
    return SRAM(bits=8), {"eta": eta}


def noise(relative: float) -> tuple[Device[Any], dict[str, float]]:
    """Additive noise: its standard deviation over the largest weight of a tensor."""
    sigma = relative * G_MAX / 2**0.5  # of each of a pair
    return Crossbar(sigma=sigma, clip=False, g_range=G_RANGE), {"g_max": G_MAX}


ARMS = {
    "SGD": Arm("sgd", (0.0,), (0.0,)),
    "clipping": Arm("sgd", (1.5, 2.0), (2.0,)),
    "SAM": Arm("sam", (0.02, 0.05, 0.1, 0.2)),
    "ASAM": Arm("asam", (0.25, 0.5, 1.0, 2.0)),
    "SAMSON 2": Arm("samson2", (0.2, 0.5, 1.0)),
    "SAMSON inf": Arm("samsoninf", (0.05, 0.1, 0.2, 0.5)),
    "noise": Arm("sgd", (0.038, 0.06, 0.09), (0.06,), "noise", 2.0),
    "masks": Arm("sgd", (0.4, 0.35, 0.3), (0.35,), "masks"),
    "masks, clipping": Arm("sgd", (0.35, 0.3), (0.35,), "masks", 2.0),
}
# Where a value is judged: clean, and on memories that cost a network of SGD a few points.
JUDGES: tuple[tuple[str, float], ...] = (("mask", 0.4), ("additive", 0.03), ("proportional", 0.2))
# The other two memories have a knob, and are left to `joulewise compare-training`.
POINTS: dict[str, tuple[float, ...]] = {"proportional": (0.1, 0.2, 0.3, 0.4)}


def tested(memory: str, point: float) -> tuple[Device[Any], dict[str, float]]:
    if memory == "mask":
        return masks(point)
    if memory == "additive":
        return noise(point)
    return Crossbar(variability=point, clip=False), {"g_max": G_MAX}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network to train, by plain values: it goes to another process."""

    arm: str
    value: float
    seed: int
    epochs: int
    model: str
    data: str
    images: int | None
    batch_size: int
    folder: str
    long: bool

    @property
    def name(self) -> str:
        words = [self.arm.replace(",", ""), *(["long"] if self.long else []), f"{self.value:g}"]
        return "-".join([*words, str(self.seed)]).replace(" ", "-")

    @property
    def passes(self) -> int:
        """Gradient evaluations, in units of an epoch."""
        return self.epochs * (2 if self.long or ARMS[self.arm].method != "sgd" else 1)

    @property
    def spec(self) -> TrainingSpec:
        arm = ARMS[self.arm]
        return TrainingSpec(
            epochs=self.epochs * (2 if self.long else 1),
            batch_size=self.batch_size,
            precision="bfloat16",
            seed=self.seed,
            method=arm.method,
            rho=None if arm.method == "sgd" else self.value,
            clip=self.value if self.arm == "clipping" else arm.clip,
        )


@cache
def dataset(path: str, images: int | None, held_out: bool) -> Dataset:
    """The data; held out: training images in the place of the test images."""
    data = load_data(path)
    assert data.train is not None
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.train), generator=generator)
    test, rest = (order[:HELD_OUT], order[HELD_OUT:]) if held_out else (None, order)
    judged = data.test if test is None else chosen(data.train, test)
    return replace(data, train=chosen(data.train, rest[:images]), test=judged)


def chosen(split: Split, indices: torch.Tensor) -> Split:
    return replace(split, inputs=split.inputs[indices], targets=split.targets[indices])


def built(job: Job) -> torch.nn.Module:
    data = dataset(job.data, job.images, True)
    return host(build(job.model, data.input_shape, data.classes, seed=job.seed), data.input_shape)


def trained(job: Job) -> dict[str, Any]:
    """Train a network on one core, and keep its weights."""
    torch.set_num_threads(1)
    model, arm = built(job), ARMS[job.arm]
    memory = None
    if arm.through is not None:
        device, setting = (masks if arm.through == "masks" else noise)(job.value)
        memory = TrainingMemory(place(model, weights=device), at=setting, seed=job.seed)
    record = train(model, dataset(job.data, job.images, True), job.spec, memory=memory)
    return kept(job, model, record.history[-1].loss)


def trained_together(jobs: list[Job], lanes: int, seconds: float) -> list[dict[str, Any]]:
    """Train networks on the GPU, and keep the weights of those that were done in time."""
    law = SRAM(bits=8).law
    reads: dict[str, Callable[[float], cuda_lanes.Read]] = {
        "noise": cuda_lanes.additive,
        "masks": lambda eta: cuda_lanes.masked(float(law.bit_error_rate(torch.tensor(eta)))),
    }
    networks = []
    for job in jobs:
        through = ARMS[job.arm].through
        read = None if through is None else reads[through](job.value)
        networks.append(cuda_lanes.Network(job.name, built(job), job.spec, read))
    data = dataset(jobs[0].data, jobs[0].images, True)
    done = cuda_lanes.train_together(networks, data, lanes=lanes, seconds=seconds)
    by_name = {network.name: network for network in done}
    return [
        kept(job, by_name[job.name].model, float(by_name[job.name].step.loss))
        for job in jobs
        if job.name in by_name
    ]


def kept(job: Job, model: torch.nn.Module, loss: float) -> dict[str, Any]:
    path = Path(job.folder) / f"{job.name}.safetensors"
    save_weights(model, path, {"model": job.model, "spec": job.spec.model_dump_json()})
    row = {"arm": job.arm, "long": job.long, "value": job.value, "seed": job.seed}
    return row | {"weights": path.name, "last_loss": loss}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One network on one memory at some points, by plain values: it goes to another process."""

    row: dict[str, Any]
    memory: str
    points: tuple[float, ...]
    chips: int
    images: int
    held_out: bool
    model: str
    data: str
    folder: str


def tried(trial: Trial) -> dict[str, Any]:
    """Accuracy of a network, on its own and on chips at each point."""
    torch.set_num_threads(1)
    data = dataset(trial.data, None, trial.held_out)
    model = build(trial.model, data.input_shape, data.classes, seed=0)
    load_weights(model, Path(trial.folder) / trial.row["weights"])
    model = host(model, data.input_shape).eval()
    split = data.test.subset(trial.images, seed=0)
    rows = {}
    for point in trial.points:
        device, setting = tested(trial.memory, point)
        placement = place(model, weights=device, example_inputs=next(split.batches(8))[0])
        found = simulate(placement, split, at=setting, chips=trial.chips)
        rows[f"{point:g}"] = list(found.values)
    clean = accuracy(model, split)
    return trial.row | {"memory": trial.memory, "clean": clean, "accuracy": rows}


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Every arm, value and seed; the longest first, so that all workers end together."""
    common = {name: getattr(arguments, name) for name in ("epochs", "model", "data", "images")} | {
        "batch_size": arguments.batch_size,
        "folder": str(arguments.out),
    }
    made = [
        Job(arm=name, value=value, seed=seed, long=long, **common)
        for name, arm in ARMS.items()
        for long, values in ((False, arm.grid), (True, arm.long))
        for value in values
        for seed in range(arguments.seeds)
    ]
    return sorted(made, key=lambda job: -job.passes)


def train_all(arguments: argparse.Namespace) -> None:
    given = [job for job in jobs(arguments) if not arguments.only or job.arm in arguments.only]
    if not arguments.lanes:
        run(arguments, trained, given, "train.json")
        return
    rows = trained_together(given, arguments.lanes, arguments.seconds)
    write(arguments, "train.json", rows=rows, gpu=torch.cuda.get_device_name())


def judge(arguments: argparse.Namespace) -> None:
    """Choose the setting of each training method, the best on average: clean and on memories."""
    rows = read(arguments, "train.json")["rows"]
    given = [
        trial(arguments, row, memory, (point,), True) for row in rows for memory, point in JUDGES
    ]
    found = run(arguments, tried, given, "judge.json")
    scores: dict[tuple[str, bool, float], list[float]] = {}
    for row in found:
        (chips,) = row["accuracy"].values()
        key = row["arm"], row["long"], row["value"]
        # Clean accuracy counts once: it is in the row of each memory.
        share = (row["clean"] / len(JUDGES) + sum(chips) / len(chips)) / (len(JUDGES) + 1)
        scores.setdefault(key, []).append(share * len(JUDGES))
    means = {key: sum(values) / len(values) for key, values in scores.items()}
    chosen: dict[tuple[str, bool], float] = {}
    for arm, long, value in sorted(means, key=means.__getitem__):
        chosen[arm, long] = value  # the best comes last
    table = [{"arm": a, "long": n, "value": v, "score": means[a, n, v]} for a, n, v in means]
    best = [{"arm": arm, "long": long, "value": value} for (arm, long), value in chosen.items()]
    write(arguments, "judge.json", rows=found, scores=table, chosen=best)


def test(arguments: argparse.Namespace) -> None:
    """The chosen networks on the test images, over the points of every memory."""
    rows = read(arguments, "train.json")["rows"]
    names = ("arm", "long", "value")
    chosen = [tuple(c[n] for n in names) for c in read(arguments, "judge.json")["chosen"]]
    given = [
        trial(arguments, row, memory, points, False)
        for row in rows
        if tuple(row[n] for n in names) in chosen
        for memory, points in POINTS.items()
    ]
    run(arguments, tried, given, "test.json")


def trial(
    arguments: argparse.Namespace,
    row: dict[str, Any],
    memory: str,
    points: tuple[float, ...],
    held_out: bool,
) -> Trial:
    return Trial(
        row={name: row[name] for name in ("arm", "long", "value", "seed", "weights")},
        memory=memory,
        points=points,
        chips=arguments.chips,
        images=arguments.images or 2000,
        held_out=held_out,
        model=arguments.model,
        data=arguments.data,
        folder=str(arguments.out),
    )


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
        **origin(),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        **content,
    }
    write_record(arguments.out / name, record)


def read(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((arguments.out / name).read_text())
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["train", "judge", "test"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, help="to train on, or to test on")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), help="arms to train")
    parser.add_argument("--lanes", type=int, default=0, help="networks at a time on the GPU")
    parser.add_argument("--seconds", type=float, default=math.inf, help="on the GPU")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    {"train": train_all, "judge": judge, "test": test}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
