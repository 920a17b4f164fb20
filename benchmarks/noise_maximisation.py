"""Does a point for each tensor, learned with the weights, beat one point for all? On digits.

    python benchmarks/noise_maximisation.py --out results/noise-maximisation.json
    python benchmarks/noise_maximisation.py --table results/noise-maximisation.json.gz

8-bit weights in SRAM, bit masking; activations are not stored. At each energy of the weight memory,
over that of a reliable one, equal for all arms:

- `SGD`: trained plainly, one eta for all tensors;
- `masks`: trained through the memory at that eta;
- `learned`: layer-wise noise maximisation, as many epochs, its own points;
- `masks, learned points`: the weights of `masks` with the points that `learned` found;
- `SGD, learned points`: those of `SGD` with them.

Accuracy on the test images, mean over fresh chips and then over seeds of training. The interval is
that of Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import markdown, origin, plus_minus, read_record, write_record

from joulewise.contrib import NoiseMaximisation
from joulewise.data import Dataset, load_digits
from joulewise.devices import SRAM
from joulewise.models import build, host
from joulewise.placement import Placement, Plan, energy, place
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingMemory, TrainingSpec, train

ENERGIES = {"cnn": (0.25, 0.2, 0.15), "resnet8": (0.25, 0.2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(ENERGIES), default=list(ENERGIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--chips", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of a record, and nothing else")
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(table(read_record(arguments.table)))
        return
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    began, rows = time.perf_counter(), []
    digits = load_digits()
    for network in arguments.networks:
        for seed in range(arguments.seeds):
            for row in measured(network, digits, seed, arguments):
                rows.append(row)
                print(json.dumps(row), flush=True)
    record = {
        **origin(),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    if arguments.out is not None:
        write_record(arguments.out, record)
    print(table(record))


def measured(
    network: str, digits: Dataset, seed: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each energy, of one seed."""

    def placed() -> Placement:
        model = host(build(network, digits.input_shape, 10, seed=seed), digits.input_shape)
        inputs = next(digits.test.batches(8))[0]
        return place(model, weights=SRAM(bits=8), example_inputs=inputs)

    def fit(placement: Placement, memory: TrainingMemory | None) -> float:
        spec = TrainingSpec(epochs=arguments.epochs, lr=0.1, augment=False, seed=seed)
        return train(placement.model, digits, spec, memory=memory).seconds

    def tested(placement: Placement, plan: Plan) -> list[float]:
        found = simulate(placement, digits.test, at=plan, chips=arguments.chips)
        return [round(share, 5) for share in found.values]

    plain, rows = placed(), []
    seconds = {"SGD": fit(plain, None)}
    for share in ENERGIES[network]:
        through, own = placed(), placed()
        seconds["masks"] = fit(through, TrainingMemory(through, at={"eta": share}, seed=seed))
        memory = NoiseMaximisation(own, energy=share, seed=seed)
        seconds["learned"] = fit(own, memory)
        common, learned = own.plan({"eta": share}), memory.plan_at(memory.steps)
        arms = {
            "SGD": (plain, common),
            "masks": (through, common),
            "learned": (own, learned),
            "masks, learned points": (through, learned),
            "SGD, learned points": (plain, learned),
        }
        rows.append(
            {
                "network": network,
                "energy": share,
                "seed": seed,
                "words": {p.name: p.words for p in own.placed},
                "plan": {name: setting["eta"] for name, setting in learned.to_dict().items()},
                "energies": {
                    name: energy(p, at=plan).normalised for name, (p, plan) in arms.items()
                },
                "seconds": dict(seconds),
                "perfect_memory": {name: perfect(p, digits) for name, (p, _) in arms.items()},
                "accuracy": {name: tested(*arm) for name, arm in arms.items()},
            }
        )
    return rows


def perfect(placement: Placement, digits: Dataset) -> float:
    plan = placement.most_reliable()
    found = simulate(placement, digits.test, at=plan, chips=1).ideal
    assert found is not None
    return found


def table(record: dict[str, Any]) -> str:
    """Accuracies in per cent: means over seeds of training."""
    found: dict[tuple[str, float], list[dict[str, list[float]]]] = {}
    for row in record["rows"]:
        found.setdefault((row["network"], row["energy"]), []).append(row["accuracy"])
    arms = list(record["rows"][0]["accuracy"])
    rows = []
    for (network, share), seeds in found.items():
        cells = [plus_minus([100 * float(np.mean(seed[arm])) for seed in seeds]) for arm in arms]
        rows.append([network, f"{share:.2f}", *cells])
    return markdown(["network", "energy", *arms], rows)


if __name__ == "__main__":
    main()
