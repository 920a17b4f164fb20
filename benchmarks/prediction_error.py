"""Predicted against simulated error and accuracy, from tiny noise to ten points of accuracy lost.

    python benchmarks/prediction_error.py --out results/prediction-error/digits.json
    python benchmarks/prediction_error.py --networks resnet20=WEIGHTS --data CIFAR10 --images 64
    python benchmarks/prediction_error.py --noises clipped variability --networks resnet20=WEIGHTS
    python benchmarks/prediction_error.py --noises pcm --levels 50 --networks resnet20=WEIGHTS
    python benchmarks/prediction_error.py --table results/prediction-error/*.json

Noises: bit masking (mask) and bit flips (flip) of 8-bit words; memristor pairs with programming
noise of 1 uS, clipped at 0 (clipped) or not (additive); multiplicative variability; phase-change
memory (pcm) after some time, a day at level 50.

For each network and noise, operating points are chosen where second order predicts given drops of
accuracy. At each, chips are simulated until the 95 % interval of the mean squared output error is
within 2 % of it, or time is up; every method predicts the same figures on the same images. Networks
without weights are trained on the digits (seed 0), as `joulewise train` would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from records import markdown, origin, read_record, write_record
from torch import Tensor, nn

from joulewise.contrib import FullCovariance
from joulewise.data import Dataset, load_data
from joulewise.devices import PCM, SRAM, Crossbar, Device, Flip, Mask
from joulewise.devices.fault_kinds import FaultKind
from joulewise.models import build, host, load_weights
from joulewise.placement import Placement, place, prepare
from joulewise.prediction import Corrected, FirstOrder, predict
from joulewise.simulation import Simulation, simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingSpec, train
from joulewise.units import format_si

NETWORKS = ["mlp", "cnn", "vgg", "resnet8", "resnet20", "mobilenetv2", "transformer"]


@dataclass(frozen=True, slots=True)
class Noise:
    """A memory at each level, 1 to 100: the higher, the more reliable.

    Args:
        device: The memory at a level.
        setting: Its operating point at a level.
        level: What is varied, for the table.
    """

    device: Callable[[int], Device[Any]]
    setting: Callable[[int], dict[str, float]]
    level: Callable[[int], str]


def sram(fault: FaultKind) -> Noise:
    return Noise(
        lambda level: SRAM(bits=8, fault=fault),
        lambda level: {"eta": level / 100},
        lambda level: f"eta {level / 100:.2f}",
    )


def crossbar(clip: bool) -> Noise:
    return Noise(
        lambda level: Crossbar(sigma=1e-6, clip=clip, g_range=(1e-6, 1e-2)),
        lambda level: {"g_max": g_max(level)},
        lambda level: f"g_max {format_si(g_max(level), 'S')}",
    )


def g_max(level: int) -> float:
    return float(f"{1e-6 * 10 ** (level / 25):.3g}")


def sigma_c(level: int) -> float:
    return float(f"{10 ** (-level / 40):.3g}")


def seconds(level: int) -> float:
    """A day at level 50, ten times as long for 10 levels less."""
    return min(86400 * 10 ** ((50 - level) / 10), 3.2e8)


NOISES = {
    "mask": sram(Mask()),
    "flip": sram(Flip()),
    "additive": crossbar(clip=False),
    "clipped": crossbar(clip=True),
    "variability": Noise(
        lambda level: Crossbar(variability=sigma_c(level)),
        lambda level: {"g_max": 25e-6},
        lambda level: f"sigma_c {sigma_c(level):g}",
    ),
    "pcm": Noise(
        lambda level: PCM(),
        lambda level: {"seconds": seconds(level)},
        lambda level: f"{seconds(level) / 86400:.3g} days",
    ),
}
DROPS = (0.0002, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
METHODS = {
    "first-order": FirstOrder(),
    "second-order": FirstOrder(noise_pairs=8),
    "with secants": FirstOrder(noise_pairs=8, single_faults=100),
    "corrected": Corrected(),
    "full-covariance": FullCovariance(),
}
HALF_WIDTH, ROUND = 0.02, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="NAME or NAME=WEIGHTS")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--noises", nargs="+", default=["mask", "flip"], choices=NOISES)
    parser.add_argument("--store", default="weights", choices=["weights", "both"])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["first-order", "second-order", "with secants", "corrected"],
        choices=METHODS,
    )
    parser.add_argument("--drops", nargs="+", type=float, default=list(DROPS))
    parser.add_argument("--levels", nargs="+", type=int, help="levels of noise, instead of drops")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of simulation, each point")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a record whose simulations to keep")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print records as Markdown instead")
    arguments = parser.parse_args()
    if arguments.table:
        for path in arguments.table:
            print(f"{path}\n\n{table(read_record(path))}\n")
        return
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    dataset = load_data(arguments.data)
    if arguments.keep:
        again(read_record(arguments.keep), dataset, arguments)
        return
    rows: list[dict[str, Any]] = []
    for network in arguments.networks:
        for noise in arguments.noises:
            for row in case(network, noise, dataset, arguments):
                rows.append(row)
                print(line(row), flush=True)
                if arguments.out is not None:
                    save(rows, arguments)


def again(record: dict[str, Any], dataset: Dataset, arguments: argparse.Namespace) -> None:
    """Predict the rows of a record anew, beside the simulations that are in it."""
    given = dict(network.partition("=")[::2] for network in arguments.networks)
    models: dict[str, nn.Module] = {}
    rows = record["rows"]
    for row in rows:
        name = row["network"]
        if name not in models:
            models[name] = network_of(name, given.get(name, ""), dataset)
        memory = NOISES[row["noise"]].device(level_of(row))
        placement, data = placed(models[name], memory, row["store"], dataset, row["images"])
        simulated = row["mse"], row["mse_interval"]
        found = predictions(placement, data, row["setting"], arguments, *simulated)
        row["predicted"] |= found  # methods that were not asked for stay as they are
        print(line(row), flush=True)
        save(rows, arguments, record["command"])


def level_of(row: dict[str, Any]) -> int:
    noise = NOISES[row["noise"]]
    return next(n for n in range(1, 101) if noise.level(n) == row["point"])


def save(rows: list[dict[str, Any]], arguments: argparse.Namespace, simulated_by: str = "") -> None:
    record = {
        **origin(),
        "simulated_by": simulated_by or origin()["command"],
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "rows": rows,
    }
    write_record(arguments.out, record)


def network_of(name: str, weights: str, dataset: Dataset) -> nn.Module:
    model = build(name, dataset.input_shape, dataset.classes, seed=0)
    if weights:
        load_weights(model, Path(weights))
    else:
        slow = name == "transformer"
        train(model, dataset, TrainingSpec(epochs=100 if slow else 30, lr=0.03 if slow else 0.1))
    return host(model, dataset.input_shape).eval()


def placed(
    model: nn.Module, memory: Device[Any], store: str, dataset: Dataset, images: int
) -> tuple[Placement, list[tuple[Tensor, Tensor]]]:
    split = dataset.test.subset(images, seed=0)
    (batch,) = prepare(split, model, len(split))
    (calibration,) = prepare((dataset.train or split).subset(256, seed=0), model, 256)
    activations = memory if store == "both" else None
    placement = place(
        model, weights=memory, activations=activations, example_inputs=calibration.inputs
    )
    return placement, [(batch.inputs, batch.targets)]


def case(network: str, noise: str, dataset: Dataset, arguments: argparse.Namespace) -> Any:
    name, _, weights = network.partition("=")
    model = network_of(name, weights, dataset)

    def at(level: int) -> tuple[Placement, list[tuple[Tensor, Tensor]], dict[str, float]]:
        memory = NOISES[noise].device(level)
        placement, data = placed(model, memory, arguments.store, dataset, arguments.images)
        return placement, data, NOISES[noise].setting(level)

    @cache
    def expected(level: int) -> float:
        placement, data, setting = at(level)
        accuracy = predict(placement, data, at=setting, method="second-order").accuracy
        assert accuracy is not None
        return accuracy.mean

    for drop in arguments.levels or arguments.drops:
        level = drop if arguments.levels else where(expected, drop)
        placement, data, setting = at(level)
        yield {
            "network": name,
            "data": dataset.name,
            "images": arguments.images,
            "store": arguments.store,
            "noise": noise,
            "aimed_drop": None if arguments.levels else drop,
            "setting": setting,
            "point": NOISES[noise].level(level),
            **compared(placement, data, setting, arguments),
        }


def where(expected: Callable[[int], float], drop: float) -> int:
    """The lowest level within a drop that second order predicts, by bisection."""
    low, high = 5, 100
    while high - low > 1:
        middle = (low + high) // 2
        if expected(100) - expected(middle) > drop:
            low = middle
        else:
            high = middle
    return high


def compared(
    placement: Placement,
    data: list[tuple[Tensor, Tensor]],
    setting: dict[str, float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    sim, seconds = simulated(placement, data, setting, arguments.seconds)
    interval = list(sim.mse_interval())
    return {
        "chips": sim.chips,
        "cpu_seconds": seconds,
        "ideal_accuracy": sim.ideal,
        "accuracy": sim.mean,
        "accuracy_interval": list(sim.interval()),
        "mse": sim.mean_mse,
        "mse_interval": interval,
        "predicted": predictions(placement, data, setting, arguments, sim.mean_mse, interval),
    }


def predictions(
    placement: Placement,
    data: list[tuple[Tensor, Tensor]],
    setting: dict[str, float],
    arguments: argparse.Namespace,
    simulated_mse: float,
    interval: list[float],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in arguments.methods:
        began = time.process_time()
        forecast = predict(placement, data, at=setting, method=METHODS[method])
        spent = time.process_time() - began
        mse, accuracy = float(forecast.mse), forecast.accuracy
        assert accuracy is not None
        found[method] = {
            "mse": mse,
            "standard_error": forecast.standard_error,
            "mean_shift": float(forecast.mean_shift),
            "ratio": mse / simulated_mse,
            "ratio_interval": [mse / interval[1], mse / interval[0]],
            "accuracy": accuracy.mean,
            "cpu_seconds": spent,
        }
    return found


def simulated(
    placement: Placement,
    data: list[tuple[Tensor, Tensor]],
    setting: dict[str, float],
    seconds: float,
) -> tuple[Simulation, float]:
    """Chips, round after round, until the error is known to 2 % or time is up."""
    began, sim = time.process_time(), None
    while True:
        seed = 0 if sim is None else sim.chips
        more = simulate(placement, data, at=setting, chips=ROUND, seed=seed)
        sim = more if sim is None else together(sim, more)
        spent = time.process_time() - began
        sure = sim.mse_interval().half_width <= HALF_WIDTH * sim.mean_mse
        if (sure and sim.chips >= 4 * ROUND) or spent > seconds:
            return sim, spent


def together(one: Simulation, more: Simulation) -> Simulation:
    return replace(one, values=one.values + more.values, mse=one.mse + more.mse)


def table(record: dict[str, Any]) -> str:
    """Each point: predicted over simulated MSE, predicted less simulated accuracy in points."""
    # Stored predictions of `corrected` are by an earlier version of it.
    methods = [method for method in record["rows"][0]["predicted"] if method != "corrected"]
    rows = []
    for row in record["rows"]:
        low, high = row["mse_interval"]
        found = [row["predicted"][method] for method in methods]
        rows.append(
            [
                row["network"],
                row["noise"],
                row["point"],
                f"{100 * (row['ideal_accuracy'] - row['accuracy']):.2f}",
                f"±{50 * (high - low) / row['mse']:.1f} %",
                *(f"{one['ratio']:.2f}" for one in found),
                *(f"{100 * (one['accuracy'] - row['accuracy']):+.2f}" for one in found),
            ]
        )
    heads = ["network", "noise", "point", "points lost", "95 % interval of the simulated MSE"]
    heads += [f"MSE, {method}" for method in methods]
    return markdown([*heads, *(f"accuracy, {method}" for method in methods)], rows)


def line(row: dict[str, Any]) -> str:
    drop = 100 * (row["ideal_accuracy"] - row["accuracy"])
    reach = (row["mse_interval"][1] - row["mse_interval"][0]) / 2 / row["mse"]
    cells = [
        f"{row['network']:<12} {row['noise']:<11} {row['point']} {row['chips']:>6} chips",
        f"drop {drop:6.2f} points  mse {row['mse']:.3g} +-{100 * reach:.1f} %",
    ]
    for method, found in row["predicted"].items():
        off = 100 * (found["accuracy"] - row["accuracy"])
        cells.append(f"{method} {found['ratio']:.3f} accuracy {off:+.2f}")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
