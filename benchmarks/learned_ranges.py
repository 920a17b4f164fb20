"""Learned ranges against other ways to train for words that fail: digits, a small CNN, SRAM.

    python benchmarks/learned_ranges.py --out results/learned-ranges.json
    python benchmarks/learned_ranges.py --table results/learned-ranges.json.gz

Weights are stored in words of 4 and 8 bits. Each arm is trained with every seed and then tried on
chips with undetected flips at several eta, and with masked faults at one. All arms but the first
are quantisation-aware: they train through those words, without faults ("QAT") or with the flips of
another chip in each step ("bit errors"), and differ in the range of the words: the largest weight,
a fixed one, one of two standard deviations of each layer, or a learned one (WCAT).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from records import origin, read_record, write_record
from torch import nn

from joulewise.contrib import LearnedRanges
from joulewise.data import Dataset, load_digits
from joulewise.devices import SRAM, Flip, Mask
from joulewise.models import build
from joulewise.placement import Placement, place
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingMemory, TrainingSpec, accuracy, train

TRAINED_AT = 0.4  # a bit error rate of 0.6 %
FIXED = 0.1  # of the baseline in WCAT's code
DEVIATIONS = 2.0
TRIED: tuple[tuple[str, float], ...] = (("flip", 0.5), ("flip", 0.4), ("flip", 0.3), ("mask", 0.3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A way to train.

    Args:
        through: Words without faults, words whose bits flip at an eta of 0.4, or no words.
        ranges: Of the words; None for the largest weight.
    """

    through: Literal["perfect", "flips"] | None = None
    ranges: Literal["fixed", "deviations", "learned"] | None = None


ARMS = {
    "words after training": Arm(),
    "QAT": Arm(through="perfect"),
    "QAT, range 0.1": Arm(through="perfect", ranges="fixed"),
    "QAT, 2 deviations": Arm(through="perfect", ranges="deviations"),
    "QAT, learned ranges": Arm(through="perfect", ranges="learned"),
    "bit errors": Arm(through="flips"),
    "bit errors, learned ranges": Arm(through="flips", ranges="learned"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--chips", type=int, default=50)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="a record to print, instead of running")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_record(arguments.table)["rows"]))
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    data, rows, began = load_digits(), [], time.process_time()
    for bits in arguments.bits:
        for name in ARMS:
            for seed in range(arguments.seeds):
                rows.append(measured(data, bits, name, seed, arguments.epochs, arguments.chips))
                print(json.dumps({k: v for k, v in rows[-1].items() if k != "ranges"}), flush=True)
    print(table(rows))
    if arguments.out:
        record = {
            **origin(),
            "options": {name: str(value) for name, value in vars(arguments).items()},
            "cpu_seconds": time.process_time() - began,
            "rows": rows,
        }
        write_record(arguments.out, record)


def measured(
    data: Dataset, bits: int, name: str, seed: int, epochs: int, chips: int
) -> dict[str, Any]:
    """One network: trained, and tried on chips."""
    model = build("cnn", data.input_shape, data.classes, seed=seed)
    began = time.process_time()
    trained(model, data, ARMS[name], bits, seed, epochs)
    seconds = time.process_time() - began
    tried = []
    for fault, eta in TRIED:
        result = simulate(stored(model, bits, fault), data.test, at={"eta": eta}, chips=chips)
        point = {"fault": fault, "eta": eta, "accuracy": result.mean}
        tried.append(point | {"interval": list(result.interval())})
    names = [placed.name for placed in stored(model, bits, "flip").placed]
    largest = {name: float(model.get_parameter(name).detach().abs().max()) for name in names}
    return {
        "bits": bits,
        "arm": name,
        "seed": seed,
        "cpu_seconds": seconds,
        "clean": accuracy(model, data.test),
        "perfect": result.ideal,
        "tried": tried,
        "ranges": largest,
    }


def trained(model: nn.Module, data: Dataset, arm: Arm, bits: int, seed: int, epochs: int) -> None:
    placement = stored(model, bits, "flip")
    ranges = None
    if arm.ranges in ("fixed", "learned"):
        ranges = LearnedRanges(placement)
    if ranges is not None and arm.ranges == "fixed":
        for alpha in ranges.parameters():
            alpha.requires_grad_(False).fill_(FIXED)
    memory = None
    if arm.through == "perfect":
        memory = TrainingMemory(placement, perfect=True, ranges=ranges)
    elif arm.through == "flips":
        memory = TrainingMemory(placement, at={"eta": TRAINED_AT}, seed=seed, ranges=ranges)
    clip = DEVIATIONS if arm.ranges == "deviations" else None
    spec = TrainingSpec(epochs=epochs, lr=0.1, seed=seed, clip=clip)
    train(model, data, spec, memory=memory)


def stored(model: nn.Module, bits: int, fault: str) -> Placement:
    return place(model, weights=SRAM(bits=bits, fault=Flip() if fault == "flip" else Mask()))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and in brackets the lowest and the highest of the seeds, in percent."""
    heads = ["bits", "arm", "perfect memory", *(f"{fault}, eta {eta:g}" for fault, eta in TRIED)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for bits, arm in dict.fromkeys((row["bits"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["bits"], row["arm"]) == (bits, arm)]
        columns = [[row["perfect"] for row in own]]
        columns += [[row["tried"][k]["accuracy"] for row in own] for k in range(len(TRIED))]
        lines.append("| " + " | ".join([str(bits), arm, *map(_spread, columns)]) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{100 * mean:.2f} [{100 * min(values):.2f}, {100 * max(values):.2f}]"


if __name__ == "__main__":
    main()
