"""Accuracy regained by fitting a network to its own chip: digits, and CIFAR-10 if there is a copy.

    python benchmarks/recovery.py --out results/recovery.json
    python benchmarks/recovery.py --data CIFAR10 --out results/recovery-cifar10.json

Networks of the zoo on memories that cost them some 5 to 20 points of accuracy: bit masking of 8-bit
SRAM, and pairs of conductances, not clipped, with additive noise. On each chip the same weights are
tested as they are, with the statistics of BatchNorm of that chip, and with scales, the last layer
or all parameters fitted to it: on the chip that they were fitted to, on the test images.

Networks on digits are trained here, several seeds; that on CIFAR-10 is the stored ResNet-20, fitted
to a part of the training images. Chips are the unit of the intervals: accuracies of one chip are
first averaged over the training seeds, and differences are within a chip. The learning rates, the
defaults of `fit_to_chip`, were chosen on other chips of the networks of seed 0. Fitting trains on,
without augmentation: that by itself can lift accuracy above that of a perfect memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from records import bracketed, markdown, origin, write_record
from torch import nn

from joulewise.contrib import fit_to_chip
from joulewise.data import Dataset, load_data
from joulewise.devices import SRAM, Chip, Crossbar, Device
from joulewise.models import build, load_weights
from joulewise.placement import place
from joulewise.simulation import Simulation, simulate
from joulewise.simulation.statistics import mean_interval
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import (
    TrainingMemory,
    TrainingSpec,
    reestimate_batchnorm,
    train,
)

G_MAX = 25e-6
WEIGHTS = Path("trained/resnet20-cifar10.safetensors")
FIRST_CHIP = 100
FITTED = ("scales", "last", "all")
STAGES = ("before", "statistics", *FITTED)
MEMORIES = {"mask": "masking, eta", "noise": "additive noise"}
# Energy of an access for masking; deviation of a weight over the largest one of its tensor.
POINTS = {
    "cnn": {"mask": 0.2, "noise": 0.12},
    "resnet8": {"mask": 0.27, "noise": 0.12},
    "resnet20": {"mask": 0.27, "noise": 0.05},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A network before it met a chip.

    Args:
        name: In the zoo.
        seed: It was trained with.
        model: In evaluation mode.
        data: With the images to fit to and to test on.
    """

    name: str
    seed: int
    model: nn.Module
    data: Dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of CIFAR-10; digits without")
    parser.add_argument("--images", type=int, default=2000, help="of CIFAR-10, to fit to")
    parser.add_argument("--test-images", type=int, default=2000, help="of CIFAR-10")
    parser.add_argument("--seeds", type=int, default=3, help="of training on digits")
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3, help="of fitting")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    began, rows = time.perf_counter(), []
    for network in on_cifar10(arguments) if arguments.data else on_digits(arguments.seeds):
        for memory in MEMORIES:
            for chip in range(FIRST_CHIP, FIRST_CHIP + arguments.chips):
                rows.append(measured(network, memory, chip, arguments.epochs))
                write(arguments, rows, time.perf_counter() - began)
    print(table({"summaries": summaries(rows)}))


def on_digits(seeds: int) -> Iterator[Trained]:
    digits = load_data("digits")
    for name in ("cnn", "resnet8"):
        for seed in range(seeds):
            model = build(name, digits.input_shape, digits.classes, seed=seed)
            train(model, digits, TrainingSpec(epochs=30, lr=0.1, seed=seed))
            yield Trained(name=name, seed=seed, model=model.eval(), data=digits)


def on_cifar10(arguments: argparse.Namespace) -> Iterator[Trained]:
    data = load_data(arguments.data)
    assert data.train is not None
    part = replace(
        data,
        train=data.train.subset(arguments.images, seed=0),
        test=data.test.subset(arguments.test_images, seed=0),
    )
    model = build("resnet20", data.input_shape, data.classes, seed=0)
    load_weights(model, WEIGHTS)
    yield Trained(name="resnet20", seed=0, model=model.eval(), data=part)


def measured(network: Trained, memory: str, chip: int, epochs: int) -> dict[str, Any]:
    """One network on one chip, in each stage from the same weights."""
    model, data = network.model, network.data
    point = POINTS[network.name][memory]
    device, setting = memory_of(memory, point)
    placement = place(model, weights=device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def simulated() -> Simulation:
        return simulate(placement, data.test, at=setting, chips=1, seed=chip)

    before = simulated()
    accuracy = {"before": before.mean}
    reestimate_batchnorm(TrainingMemory(placement, at=setting, chip=Chip(seed=chip)), data.train)
    accuracy["statistics"] = simulated().mean
    model.load_state_dict(weights)
    words, seconds = {}, {}
    for parameters in FITTED:
        record = fit_to_chip(
            placement,
            data,
            chip=Chip(seed=chip),
            at=setting,
            parameters=parameters,
            epochs=epochs,
        )
        model.load_state_dict(weights)
        accuracy[parameters] = record.after
        words[parameters], seconds[parameters] = record.words, record.seconds
    return {
        "network": network.name,
        "seed": network.seed,
        "memory": memory,
        "point": point,
        "chip": chip,
        "ideal": before.ideal,
        "accuracy": accuracy,
        "words": words,
        "seconds": seconds,
    }


def memory_of(memory: str, point: float) -> tuple[Device[Any], dict[str, float]]:
    if memory == "mask":
        return SRAM(bits=8), {"eta": point}
    sigma = point * G_MAX / 2**0.5  # of each of a pair
    return Crossbar(sigma=sigma, clip=False), {"g_max": G_MAX}


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each network on each memory: means over chips with 95 % intervals, and paired differences."""
    found = []
    for network, memory in dict.fromkeys((row["network"], row["memory"]) for row in rows):
        own = [row for row in rows if (row["network"], row["memory"]) == (network, memory)]
        by_chip: dict[int, list[dict[str, Any]]] = {}
        for row in own:
            by_chip.setdefault(row["chip"], []).append(row)

        def mean(chip: list[dict[str, Any]], stage: str) -> float:
            return sum(row["accuracy"][stage] for row in chip) / len(chip)

        chips = [{stage: mean(chip, stage) for stage in STAGES} for chip in by_chip.values()]
        found.append(
            {
                "network": network,
                "memory": memory,
                "point": own[0]["point"],
                "chips": len(chips),
                "seeds": len({row["seed"] for row in own}),
                "ideal": sum(row["ideal"] for row in own) / len(own),
                "words": own[0]["words"],
                "seconds": {s: sum(row["seconds"][s] for row in own) / len(own) for s in FITTED},
                "accuracy": {s: interval([chip[s] for chip in chips]) for s in STAGES},
                "gain": {s: interval([c[s] - c["before"] for c in chips]) for s in STAGES[1:]},
                "gain_over_statistics": {
                    s: interval([c[s] - c["statistics"] for c in chips]) for s in FITTED
                },
            }
        )
    return found


def interval(values: list[float]) -> dict[str, Any]:
    """The mean, and its 95 % interval over chips; None for a single one."""
    ends = list(mean_interval(values)) if len(values) > 1 else None
    return {"mean": sum(values) / len(values), "interval_95": ends}


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]], seconds: float) -> None:
    record = {
        **origin(),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "seconds": seconds,
        "summaries": summaries(rows),
        "rows": rows,
    }
    write_record(arguments.out, record)


def table(*records: dict[str, Any]) -> str:
    """Accuracies in per cent, with their intervals over chips."""
    rows = []
    for row in (row for record in records for row in record["summaries"]):
        memory = f"{MEMORIES[row['memory']]} {row['point']:g}"
        accuracies = [percent(row["accuracy"][stage]) for stage in STAGES]
        rows.append([row["network"], memory, f"{100 * row['ideal']:.1f}", *accuracies])
    stages = ["before", "BatchNorm re-estimated", "scales", "last layer", "all"]
    return markdown(["network", "memory", "perfect memory", *stages], rows)


def percent(found: dict[str, Any]) -> str:
    mean, ends = 100 * found["mean"], found["interval_95"]
    return f"{mean:.1f}" if ends is None else bracketed(mean, [100 * end for end in ends])


if __name__ == "__main__":
    main()
