"""The clamp of conductances at zero: what a formula without it gets wrong, on an MLP 784-512-10.

    python benchmarks/clamp.py
    python benchmarks/clamp.py --json

Programming noise of s = sigma / g_max on pairs whose conductances stop at 0. Ratios to the
simulated mean squared output error, with the 95 % interval of that over chips: the predictions
here, and those of pairs that are not clipped (a variance of 2 sigma^2 and no shift), which is the
form published with MemSE (J. Kern et al., AICAS 2022, arXiv 2205.01707). The weights are as PyTorch
initialises them, and trained on scikit-learn's digits scaled up to 28 x 28.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from records import markdown
from torch import Tensor, nn
from torch.nn import functional

import joulewise.contrib  # noqa: F401  registers "full-covariance"
from joulewise.data import Dataset, Split, load_digits
from joulewise.devices import Crossbar
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.prediction import predict
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingSpec, train

G_MAX = 25e-6
NOISE = (1e-3, 1e-2)
METHODS = ("first-order", "second-order", "full-covariance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=1000)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    digits = scaled(load_digits())
    rows = [
        measured(weights, model, digits.test.subset(arguments.images, seed=0), s, arguments.chips)
        for weights, model in networks(digits)
        for s in NOISE
    ]
    record = {"options": vars(arguments), "rows": rows}
    print(json.dumps(record, indent=1) if arguments.json else table(record))


def scaled(digits: Dataset) -> Dataset:
    """The digits on 28 x 28 pixels."""

    def larger(split: Split) -> Split:
        ((images, targets),) = split.batches(len(split))
        images = functional.interpolate(images, size=(28, 28), mode="bilinear")
        return Split(inputs=images, targets=targets)

    assert digits.train is not None
    return Dataset(
        name="digits, 28 x 28",
        train=larger(digits.train),
        test=larger(digits.test),
        classes=digits.classes,
        flips=digits.flips,
    )


def networks(digits: Dataset) -> list[tuple[str, nn.Module]]:
    made = []
    for weights in ("initialised", "trained"):
        with seeded(0):
            layers = [nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)]
        model = nn.Sequential(*layers)
        if weights == "trained":
            train(model, digits, TrainingSpec(epochs=20, lr=0.1, augment=False))
        made.append((weights, model.eval()))
    return made


def measured(weights: str, model: nn.Module, split: Split, s: float, chips: int) -> dict[str, Any]:
    data: list[tuple[Tensor, Tensor]] = [(split.inputs, split.targets)]
    clipped, free = (
        place(model, weights=Crossbar(sigma=s * G_MAX, clip=clip), example_inputs=split.inputs[:8])
        for clip in (True, False)
    )
    sim = simulate(clipped, data, at={"g_max": G_MAX}, chips=chips)

    def ratios(placement: Any) -> dict[str, float]:
        return {
            method: float(predict(placement, data, at={"g_max": G_MAX}, method=method).mse)
            / sim.mean_mse
            for method in METHODS
        }

    return {
        "weights": weights,
        "s": s,
        "chips": chips,
        "mse": sim.mean_mse,
        "mse_interval": list(sim.mse_interval()),
        "predicted": ratios(clipped),
        "without_clamp": ratios(free),
    }


def table(record: dict[str, Any]) -> str:
    """Predictions over the simulated error, and those of the published form: moments, no clamp."""
    rows = []
    for row in record["rows"]:
        low, high = row["mse_interval"]
        predicted, unclamped = row["predicted"].values(), row["without_clamp"].values()
        cells = [row["weights"], f"{row['s']:g}", f"±{50 * (high - low) / row['mse']:.1f} %"]
        rows.append([*cells, *(f"{ratio:.2f}" for ratio in (*predicted, [*unclamped][-1]))])
    heads = ["weights", "sigma / g_max", "95 % interval of the simulated error"]
    return markdown([*heads, *record["rows"][0]["predicted"], "published form"], rows)


if __name__ == "__main__":
    main()
