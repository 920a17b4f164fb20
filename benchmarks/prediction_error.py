"""Predicted against simulated error and accuracy, from tiny noise to ten points of accuracy lost.

    python benchmarks/prediction_error.py --out results/prediction-error/digits.json
    python benchmarks/prediction_error.py --networks resnet20=WEIGHTS --data CIFAR10 --images 64
    python benchmarks/prediction_error.py --table results/prediction-error/*.json

For each network and fault kind, operating points are chosen where second order predicts given
drops of accuracy. At each, chips are simulated until the 95 % interval of the mean squared output
error is within 2 % of it, or time is up; every method predicts the same figures on the same
images. Networks without weights are trained on the digits (seed 0), as `joulewise train` would.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from joulewise.cli.allocator import keep_freed_memory
from joulewise.data import Dataset, load_data
from joulewise.devices import SRAM, Flip, Mask
from joulewise.files import write_atomically
from joulewise.models import build, host, load_weights
from joulewise.placement import Placement, place, prepare
from joulewise.prediction import Corrected, FirstOrder, Moments, predict
from joulewise.simulation import Simulation, simulate
from joulewise.study import Environment
from joulewise.training import TrainingSpec, train

NETWORKS = ["mlp", "cnn", "vgg", "resnet8", "resnet20", "mobilenetv2", "transformer"]
FAULTS = {"mask": Mask(), "flip": Flip()}
DROPS = (0.0002, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
METHODS = {
    "first-order": FirstOrder(),
    "second-order": FirstOrder(pairs=8),
    "with secants": FirstOrder(pairs=8, secants=100),
    "corrected": Corrected(),
    "moments": Moments(),
}
HALF_WIDTH, ROUND = 0.02, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="NAME or NAME=WEIGHTS")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--store", default="weights", choices=["weights", "both"])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["first-order", "second-order", "with secants", "corrected"],
        choices=METHODS,
    )
    parser.add_argument("--drops", nargs="+", type=float, default=list(DROPS))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of simulation, each point")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print records as Markdown instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(path.read_text()) for path in arguments.table]))
        return
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    dataset = load_data(arguments.data)
    rows: list[dict[str, Any]] = []
    for network in arguments.networks:
        for fault in arguments.faults:
            for row in case(network, fault, dataset, arguments):
                rows.append(row)
                print(line(row), flush=True)
                if arguments.out is not None:
                    save(rows, arguments)


def save(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": Environment.now().model_dump(),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "rows": rows,
    }
    write_atomically(arguments.out, json.dumps(record, indent=1))


def case(network: str, fault: str, dataset: Dataset, arguments: argparse.Namespace) -> Any:
    name, _, weights = network.partition("=")
    model = build(name, dataset.input_shape, dataset.classes, seed=0)
    if weights:
        load_weights(model, Path(weights))
    else:
        slow = name == "transformer"
        train(model, dataset, TrainingSpec(epochs=100 if slow else 30, lr=0.03 if slow else 0.1))
    model = host(model, dataset.input_shape).eval()
    split = dataset.test.subset(arguments.images, seed=0)
    (batch,) = prepare(split, model, len(split))
    (calibration,) = prepare((dataset.train or split).subset(256, seed=0), model, 256)
    memory = SRAM(bits=8, fault=FAULTS[fault])
    activations = memory if arguments.store == "both" else None
    placement = place(model, weights=memory, activations=activations, inputs=calibration.inputs)
    data = [(batch.inputs, batch.targets)]

    @cache
    def expected(eta: float) -> float:
        accuracy = predict(placement, data, eta=eta, method="second-order").accuracy
        assert accuracy is not None
        return accuracy.mean

    for drop in arguments.drops:
        eta = where(expected, drop)
        yield {
            "network": name,
            "data": dataset.name,
            "images": len(split),
            "store": arguments.store,
            "fault": fault,
            "aimed_drop": drop,
            "eta": eta,
            **compared(placement, data, eta, arguments),
        }


def where(expected: Callable[[float], float], drop: float) -> float:
    """The point on a grid of 0.01 where second order predicts a drop, by bisection."""
    low, high = 5, 100
    while high - low > 1:
        middle = (low + high) // 2
        if expected(1.0) - expected(middle / 100) > drop:
            low = middle
        else:
            high = middle
    return high / 100


def compared(
    placement: Placement,
    data: list[tuple[Tensor, Tensor]],
    eta: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    sim, seconds = simulated(placement, data, eta, arguments.seconds)
    low, high = sim.mse_interval()
    found: dict[str, Any] = {}
    for method in arguments.methods:
        began = time.process_time()
        forecast = predict(placement, data, eta=eta, method=METHODS[method])
        spent = time.process_time() - began
        mse, accuracy = float(forecast.mse), forecast.accuracy
        assert accuracy is not None
        found[method] = {
            "mse": mse,
            "standard_error": forecast.standard_error,
            "mean_shift": float(forecast.mean_shift),
            "ratio": mse / sim.mean_mse,
            "ratio_interval": [mse / high, mse / low],
            "accuracy": accuracy.mean,
            "cpu_seconds": spent,
        }
    return {
        "chips": sim.chips,
        "cpu_seconds": seconds,
        "ideal_accuracy": sim.ideal_accuracy,
        "accuracy": sim.mean_accuracy,
        "accuracy_interval": list(sim.accuracy_interval()),
        "mse": sim.mean_mse,
        "mse_interval": [low, high],
        "predicted": found,
    }


def simulated(
    placement: Placement, data: list[tuple[Tensor, Tensor]], eta: float, seconds: float
) -> tuple[Simulation, float]:
    """Chips, round after round, until the error is known to 2 % or time is up."""
    began, sim = time.process_time(), None
    while True:
        more = simulate(placement, data, eta=eta, chips=ROUND, seed=0 if sim is None else sim.chips)
        sim = more if sim is None else together(sim, more)
        spent = time.process_time() - began
        sure = sim.mse_interval().half_width <= HALF_WIDTH * sim.mean_mse
        if (sure and sim.chips >= 4 * ROUND) or spent > seconds:
            return sim, spent


def together(one: Simulation, more: Simulation) -> Simulation:
    return one.model_copy(
        update={"accuracy": one.accuracy + more.accuracy, "mse": one.mse + more.mse}
    )


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row for each network, fault kind and point; accuracies in points."""
    lines = []
    for record in records:
        rows = record["rows"]
        methods = list(rows[0]["predicted"])
        heads = ["network", "fault", "eta", "points lost", "chips", "simulated MSE", "interval"]
        heads += [f"{method}: ratio" for method in methods]
        heads += [f"{method}: accuracy off" for method in methods]
        lines += [f"`{record['command']}`: {rows[0]['data']}, {rows[0]['images']} images", ""]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for row in rows:
            low, high = row["mse_interval"]
            cells = [row["network"], row["fault"], f"{row['eta']:.2f}"]
            cells += [f"{100 * (row['ideal_accuracy'] - row['accuracy']):.2f}", str(row["chips"])]
            cells += [f"{row['mse']:.3g}", f"±{50 * (high - low) / row['mse']:.1f} %"]
            found = [row["predicted"][method] for method in methods]
            cells += [f"{one['ratio']:.3f}" for one in found]
            cells += [f"{100 * (one['accuracy'] - row['accuracy']):+.2f}" for one in found]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    drop = 100 * (row["ideal_accuracy"] - row["accuracy"])
    reach = (row["mse_interval"][1] - row["mse_interval"][0]) / 2 / row["mse"]
    cells = [
        f"{row['network']:<12} {row['fault']:<5} eta {row['eta']:.3f} {row['chips']:>6} chips",
        f"drop {drop:6.2f} points  mse {row['mse']:.3g} +-{100 * reach:.1f} %",
    ]
    for method, found in row["predicted"].items():
        off = 100 * (found["accuracy"] - row["accuracy"])
        cells.append(f"{method} {found['ratio']:.3f} accuracy {off:+.2f}")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
