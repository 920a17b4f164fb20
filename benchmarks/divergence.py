"""Predicted beside simulated divergence of classifiers: the Fisher form beside language models.

    python benchmarks/divergence.py --networks transformer --out results/divergence-digits.json
    python benchmarks/divergence.py --networks resnet20=WEIGHTS --data CIFAR10 --out ...

A network without weights is trained on the digits. `benchmarks/language_model.py` has the same
table for a language model.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from language_model import COLUMNS, cells, predicted, simulated
from prediction_error import network_of
from records import markdown, origin, read_record, write_record
from torch import Tensor, nn

from joulewise.data import load_data
from joulewise.devices import PCM, SRAM, Crossbar, Flip
from joulewise.placement import place

ROWS: dict[str, tuple[Any, list[dict[str, float]]]] = {
    "SRAM, masked": (SRAM(bits=8), [{"eta": eta} for eta in (0.6, 0.5, 0.45, 0.4, 0.35)]),
    "SRAM, flipped": (SRAM(bits=8, fault=Flip()), [{"eta": e} for e in (0.8, 0.75, 0.7, 0.65)]),
    "crossbar, not clipped": (
        Crossbar(sigma=1e-6, clip=False),
        [{"g_max": g} for g in (2e-4, 1e-4, 5e-5, 2.5e-5)],
    ),
    "crossbar, clipped": (
        Crossbar(sigma=1e-6),
        [{"g_max": g} for g in (2e-4, 1e-4, 5e-5, 2.5e-5)],
    ),
    "PCM": (PCM(), [{"seconds": s} for s in (60.0, 3600.0, 86400.0)]),
}


def classes(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits and targets."""
    inputs, targets = batch
    return model(inputs), targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", help="NAME or NAME=WEIGHTS")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="a record to print")
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    torch.set_num_threads(1)
    dataset = load_data(options.data)
    data = list(dataset.test.subset(options.images, seed=0).batches(32))
    rows: list[dict[str, Any]] = []
    for network in options.networks:
        name, _, weights = network.partition("=")
        model = network_of(name, weights, dataset)
        for memory, (device, points) in ROWS.items():
            # Position embeddings are added, not multiplied: arrays that compute cannot hold them.
            added = [path for path, _ in model.named_parameters() if path == "positions"]
            exclude = [] if device.array is None else added
            placement = place(model, weights=device, exclude=exclude, example_inputs=data[0][0][:1])
            for at in points:
                row: dict[str, Any] = {"network": name, "memory": memory, "at": at}
                chips = partial(simulated, chips=options.chips, outputs=classes)
                computations = {"simulated": chips, "predicted": partial(predicted, most_draws=100)}
                for kind, compute in computations.items():
                    start = time.perf_counter()
                    row |= compute(placement, data, at)
                    row[f"{kind}_s"] = time.perf_counter() - start
                rows.append(row)
                print(json.dumps({k: v for k, v in row.items() if k != "contributions"}))
    record = {
        **origin(),
        "results": rows,
    }
    write_record(options.out, record)


def table(record: dict[str, Any]) -> str:
    """Divergence and increase of the loss, on chips and predicted, in Markdown."""
    rows = [[row["network"], *cells(row)] for row in record["results"]]
    return markdown(["network", *COLUMNS], rows)


if __name__ == "__main__":
    main()
