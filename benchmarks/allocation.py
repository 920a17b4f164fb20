"""Energy that per-tensor operating points save, at one goal of accuracy.

    python benchmarks/allocation.py --data CIFAR10 --out results/allocation.json
    python benchmarks/allocation.py --table results/allocation.json.gz

Each network on each memory is given the least energy by `jw.allocate` at several granularities, all
for one goal: a mean accuracy of at most half a point below that of a perfect memory, shown on 200
fresh chips with 95 % confidence. What is saved is against one common point for all tensors, found
and shown in the same way. One file for each allocation; those that are there are not made again.

Networks: a CNN and a ResNet-8 trained on digits here; a ResNet-8 and a ResNet-20 on CIFAR-10, whose
weights are stored.
Memories: 8-bit SRAM, bit masking and bit flips; crossbars with additive programming noise of 1 uS,
with the power of their devices and amplifiers alone, since at the prices of published converters
nearly all energy is theirs, and no operating point changes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from records import markdown, origin, read_record, write_record

from joulewise.allocation import Granularity, MetricDrop, allocate
from joulewise.data import Split, load_data
from joulewise.devices import ISAAC, SRAM, Crossbar, Device, Flip
from joulewise.models import build, load_weights
from joulewise.placement import Placement, place
from joulewise.report.blocks.savings import saving_at_goal
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingSpec, train

STORED = {  # networks on CIFAR-10, without any robust training
    "resnet8-cifar": Path("trained/SGD-0-0.safetensors"),
    "resnet20-cifar": Path("trained/resnet20-cifar10.safetensors"),
}
NETWORKS = ["cnn", "resnet8", *STORED]
DROP = 0.005
MEMORIES: dict[str, Device[Any]] = {
    "mask": SRAM(bits=8),
    "flip": SRAM(bits=8, fault=Flip()),
    "crossbar": Crossbar(
        sigma=1e-6,
        readout=replace(ISAAC, input_j=0.0, output_j=0.0, source="no converters: illustrative"),
    ),
}
GRANULARITIES = {
    "network": Granularity(per="network"),
    "tensor": Granularity(),
    "tensor-2-rails": Granularity(rails=2),
    "tensor-3-rails": Granularity(rails=3),
    "channel": Granularity(per="channel"),
    "plane": Granularity(per="network", bit_planes=True),
    "tensor-plane": Granularity(bit_planes=True),
    "tensor-plane-2-rails": Granularity(bit_planes=True, rails=2),
    "tensor-plane-3-rails": Granularity(bit_planes=True, rails=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder with CIFAR-10; digits alone without it")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--memories", nargs="+", choices=list(MEMORIES), default=list(MEMORIES))
    parser.add_argument(
        "--granularities", nargs="+", choices=list(GRANULARITIES), default=list(GRANULARITIES)
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=200)
    arguments = begun(parser, table)
    for network in arguments.networks:
        if network in STORED and arguments.data is None:
            continue
        run(network, arguments)


def begun(parser: argparse.ArgumentParser, table: Callable[[Any], str]) -> argparse.Namespace:
    """The arguments, with those of every benchmark of allocation; prints a table if that is all."""
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of what is there, and stop")
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(table(read_record(arguments.table)))
        sys.exit()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    return arguments


def run(network: str, arguments: argparse.Namespace) -> None:
    """Every allocation of one network that is not there yet."""
    records = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    there = {(r["network"], r["memory"], r["granularity"]) for r in records}
    model, split, inputs = prepared(network, arguments)
    for memory in arguments.memories:
        for name in arguments.granularities:
            granularity = GRANULARITIES[name]
            planes = granularity.bit_planes and MEMORIES[memory].knob.bit_planes is None
            if planes or (network, memory, name) in there:
                continue
            placement = place(model, weights=MEMORIES[memory], example_inputs=inputs)
            record = allocated(placement, split, granularity, arguments.chips)
            records.append(record | {"network": network, "memory": memory, "granularity": name})
            write_record(arguments.out, records)
            holds = record["allocation"]["holds"]
            print(f"{network} {memory} {name}: {normalised(record):.4f}, holds: {holds}")


def normalised(record: dict[str, Any]) -> float:
    """Energy over that of the most reliable plan."""
    energy = record["allocation"]["energy"]
    return sum(energy["memory_j"].values()) / energy["memory_reliable_j"]


def prepared(
    network: str, arguments: argparse.Namespace
) -> tuple[torch.nn.Module, Split, torch.Tensor]:
    """A trained network, test images, and a batch to trace with."""
    stored = STORED.get(network)
    data = load_data(arguments.data if stored else "digits")
    model = build(network.removesuffix("-cifar"), data.input_shape, data.classes, seed=0)
    if stored:
        load_weights(model, stored)
    else:
        train(model, data, TrainingSpec(epochs=30, lr=0.1, seed=0))
    model.eval().to(memory_format=torch.channels_last)
    test = data.test.subset(min(arguments.images, len(data.test)), seed=0)
    inputs, _ = next(iter(data.train.batches(256)))
    return model, test, inputs


def allocated(
    placement: Placement, split: Split, granularity: Granularity, chips: int
) -> dict[str, Any]:
    """One allocation, as a record."""
    began = time.perf_counter()
    found = allocate(placement, split, granularity=granularity, goal=MetricDrop(DROP), chips=chips)
    whole = found.to_dict()
    kept = ("plan", "at_goal", "holds", "confidence", "evaluations")
    energy = {key: whole["energy"][key] for key in ("memory_j", "memory_reliable_j")}
    values = list(found.simulation.values)
    return {
        **origin(),
        "seconds": time.perf_counter() - began,
        "allocation": {**{key: whole[key] for key in kept}, "energy": energy, "values": values},
    }


def table(records: list[dict[str, Any]]) -> str:
    """One common point in per cent of reliable memory, and what finer plans save of it."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for record in records:
        case = found.setdefault((record["network"], record["memory"]), {})
        case[record["granularity"]] = record
    _, *finer = GRANULARITIES
    rows = []
    for case in filter(found.get, product(NETWORKS, MEMORIES)):
        plans = found[case]
        common = plans.get("network")  # a record of finer plans alone has none
        shown = "" if common is None else f"{100 * normalised(common):.1f} %"
        cells = [saving(common, plans[name]) if common and name in plans else "" for name in finer]
        rows.append([*case, shown, *cells])
    return markdown(["network", "memory", "one point, of reliable", *finer], rows)


def saving(common: dict[str, Any], finer: dict[str, Any]) -> str:
    """Energy saved where both plans just meet the goal."""
    common, finer = common["allocation"], finer["allocation"]
    if not (common["holds"] and finer["holds"]):
        return "not shown"
    return saving_at_goal(common["at_goal"], finer["at_goal"])


if __name__ == "__main__":
    main()
