"""Selective write-verify: pulses saved at one goal of accuracy, by the order of the weights.

    python benchmarks/write_verify.py --data CIFAR10 --out results/write-verify.json

A ResNet-20 on CIFAR-10 on crossbars whose conductances have a deviation of 3 % of the range as
programmed once, and a tenth of that when they are verified, at ten pulses a weight. Accuracy is at
most a point below that of a perfect memory. Orders: by the predicted effect on the outputs, by
size, at random; one fraction for all tensors, or one for each. All weights verified is 100 %.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from records import markdown, origin, write_record

from joulewise.allocation import Granularity, MetricDrop, allocate
from joulewise.data import load_data
from joulewise.devices import Crossbar, WriteVerify
from joulewise.models import build, load_weights
from joulewise.placement import place
from joulewise.prediction import verification_scores
from joulewise.study.malloc import keep_freed_memory
from joulewise.units import format_percent

LEVELS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
G_MAX = 25e-6
ORDERS = {
    "error": "predicted effect on the outputs",
    "magnitude": "magnitude",
    "random": "random",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument("--weights", default="trained/resnet20-cifar10.safetensors")
    parser.add_argument("--spread", type=float, default=0.03, help="deviation over the range")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--drop", type=float, default=0.01)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    data = load_data(options.data)
    model = build("resnet20", data.input_shape, data.classes, seed=0)
    load_weights(model, options.weights)
    few, some = data.test.subset(options.images, seed=0), data.train.subset(512, seed=0)

    def placed(scores: Any = None) -> Any:
        memory = WriteVerify(
            unverified=Crossbar(sigma=options.spread * G_MAX),
            verified=Crossbar(sigma=0.1 * options.spread * G_MAX),
            g_max=G_MAX,
            scores=scores,
            pulses=(1.0, 10.0),
            pulse_j=1e-9,
            inferences=1.0,  # programming alone decides
        )
        return place(model, weights=memory, example_inputs=next(iter(few.batches(64)))[0])

    record: dict[str, Any] = {
        **origin(),
        "results": [],
    }
    for by in ORDERS:
        begun = time.perf_counter()
        scores = verification_scores(placed(), some, by=by)
        scoring_s = time.perf_counter() - begun
        placement = placed(scores)
        for per in ("tensor", "network"):
            found = allocate(
                placement,
                few,
                goal=MetricDrop(options.drop),
                granularity=Granularity(per=per, levels=LEVELS),
                chips=options.chips,
            )
            words = {p.name: p.traffic.words for p in placement.placed}
            parts = {p: found.plan[p]["verified_fraction"] for p in words}
            verified = sum(words[p] * parts[p] for p in words) / sum(words.values())
            mean = found.simulation.mean if found.simulation else None
            row = {
                "by": by,
                "per": per,
                "holds": found.holds,
                "verified": verified,
                "pulses_of_all": (1 + 9 * verified) / 10,
                "ideal": found.simulation.ideal if found.simulation else None,
                "mean": mean,
                "interval": list(found.simulation.interval()) if found.simulation else None,
                "chips": options.chips,
                "scoring_s": scoring_s,
                "plan": parts,
            }
            record["results"].append(row)
            write_record(options.out, record)
            print(json.dumps({k: v for k, v in row.items() if k != "plan"}), flush=True)
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Pulses, of those that verify every weight, and accuracy with its interval, in Markdown."""
    cells = {(row["by"], row["per"]): cell(row) for row in record["results"]}
    rows = [[order, cells[by, "network"], cells[by, "tensor"]] for by, order in ORDERS.items()]
    return markdown(
        ["order of the weights", "one fraction for all", "a fraction for each tensor"], rows
    )


def cell(row: dict[str, Any]) -> str:
    if not row["holds"]:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in row["interval"])
    accuracy = f"{format_percent(row['mean'], 1)} [{low}, {high}]"
    return f"{format_percent(row['pulses_of_all'], 0)} ({accuracy})"


if __name__ == "__main__":
    main()
