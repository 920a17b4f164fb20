"""Check bits beside a higher supply: the least memory energy at one goal, by what may be chosen.

    python benchmarks/protection.py --out results/protection.json

Networks trained on digits here, their weights in 8-bit SRAM whose failing bits read wrongly, at
most half a point of accuracy below a perfect memory. For each law: no protection, parity of each
word, SECDED over eight words, over the three most significant planes of sixteen, and all of these
to choose from, tensor by tensor.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from records import markdown, origin, write_record

from joulewise.allocation import Granularity, MetricDrop, allocate
from joulewise.data import load_data
from joulewise.devices import SECDED, SRAM, Alternatives, Flip, Parity, law
from joulewise.models import build
from joulewise.placement import energy, place
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingSpec, train

LAWS = ("stutz2021-14nm", "salami2018-vc707-28nm", "exponential")
PROTECTIONS = {
    "none": None,
    "parity": Parity(),
    "SECDED": SECDED(),
    "SECDED of 3 planes": SECDED(planes=3, words=16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["cnn", "resnet8"])
    parser.add_argument("--points", type=int, default=10, help="supplies to choose from")
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    digits = load_data("digits")
    record: dict[str, Any] = {
        **origin(),
        "results": [],
    }
    for network in options.networks:
        model = build(network, digits.input_shape, digits.classes, seed=0)
        train(model, digits, TrainingSpec(epochs=30, lr=0.1, seed=0))
        for name in LAWS:
            chosen = law(name)
            low, high = chosen.eta_range
            points = tuple(np.linspace(max(low, 0.05), high, options.points).tolist())
            memories = {
                label: SRAM(law=chosen, fault=Flip(), protection=protection)
                for label, protection in PROTECTIONS.items()
            }
            each = tuple((memory, points) for memory in memories.values())
            tried: dict[str, Any] = {**memories, "all": Alternatives(memories=each)}
            for label, memory in tried.items():
                begun = time.perf_counter()
                levels = memory.points if label == "all" else points
                inputs = next(iter(digits.train.batches(64)))[0]
                placement = place(model, weights=memory, example_inputs=inputs)
                found = allocate(
                    placement,
                    digits.test,
                    goal=MetricDrop(0.005),
                    granularity=Granularity(levels=levels),
                    chips=options.chips,
                )
                reliable = place(model, weights=memories["none"], example_inputs=inputs)
                most = energy(reliable, at=reliable.most_reliable()).memory_total_j
                row = {
                    "network": network,
                    "law": name,
                    "choice": label,
                    "holds": found.holds,
                    "memory_j": found.energy.memory_total_j,
                    "of_unprotected_reliable": found.energy.memory_total_j / most,
                    "mean": found.simulation.mean if found.simulation else None,
                    "chips": options.chips,
                    "plan": {
                        tensor: memory.label(point["option"]) if label == "all" else point["eta"]
                        for tensor, point in found.plan.to_dict().items()
                    },
                    "seconds": time.perf_counter() - begun,
                }
                record["results"].append(row)
                write_record(options.out, record)
                print(json.dumps(row), flush=True)


def table(record: dict[str, Any]) -> str:
    """Memory energies in nJ, of plans that are shown to hold."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in record["results"]:
        energy_nj = f"{1e9 * row['memory_j']:.3g}" if row["holds"] else "not shown"
        found.setdefault((row["network"], row["law"]), {})[row["choice"]] = energy_nj
    choices = (*PROTECTIONS, "all")
    rows = [[*case, *(energies[choice] for choice in choices)] for case, energies in found.items()]
    return markdown(["network", "law", *PROTECTIONS, "any of these, by tensor"], rows)


if __name__ == "__main__":
    main()
