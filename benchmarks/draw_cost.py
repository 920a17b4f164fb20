"""Cost of one Monte-Carlo draw, in plain forward passes of the same process.

    python benchmarks/draw_cost.py [--threads 1] [--repeats 30] [--json]

A draw is a fresh chip for the whole network, read back, and one forward pass of a batch of 256.
Plain passes and draws alternate; each figure is a ratio of medians of process CPU time (the machine
may be shared), with the range of the middle half of the paired ratios. Both sides run with the same
allocator settings, since page faults otherwise cost as much as the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from records import markdown
from torch import nn

from joulewise.devices import SRAM, Chip, Crossbar, Device
from joulewise.models import MLP, build
from joulewise.placement import Placement, place, private_memory
from joulewise.study.malloc import keep_freed_memory

BATCH = 256
BIT_ERROR_RATE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    rows = [
        {"case": name, "limit": limit, **measure(placement, inputs, arguments.repeats)}
        for name, limit, placement, inputs in cases()
        if arguments.only in name
    ]
    found = {"torch": torch.__version__, **vars(arguments), "rows": rows}
    print(json.dumps(found, indent=2) if arguments.json else table(found))


def table(found: dict[str, Any]) -> str:
    """Draws in plain passes, in Markdown."""
    rows = []
    for row in found["rows"]:
        low, high = row["middle_half"]
        cells = [f"{row['plain_ms']:.1f}", f"{row['ratio']:.2f}", f"[{low:.2f}, {high:.2f}]"]
        rows.append([row["case"], *cells, f"{row['limit']:.2f}"])
    columns = ["network, memory", "plain pass, ms", "draw / plain pass", "middle half", "goal"]
    return markdown(columns, rows)


def cases() -> list[tuple[str, float, Placement, torch.Tensor]]:
    images = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    flat = torch.randn(BATCH, 784, generator=torch.Generator().manual_seed(0))
    resnet: nn.Module = build("resnet20", (3, 32, 32), 10, seed=0)
    mlp = MLP((784,), 10, hidden=(512,))
    memory = SRAM(bits=8)
    return [
        (
            "ResNet-20, weights",
            1.10,
            place(resnet, weights=memory, example_inputs=images[:8]),
            images,
        ),
        (
            "ResNet-20, weights and activations",
            1.5,
            place(resnet, weights=memory, activations=memory, example_inputs=images),
            images,
        ),
        ("MLP 784-512-10, weights", 1.5, place(mlp, weights=memory, example_inputs=flat[:8]), flat),
        (
            "ResNet-20, crossbar, unclipped",
            1.15,
            place(resnet, weights=Crossbar(sigma=1e-6, clip=False), example_inputs=images[:8]),
            images,
        ),
        (
            "ResNet-20, crossbar, clipped",
            1.15,
            place(resnet, weights=Crossbar(sigma=1e-6), example_inputs=images[:8]),
            images,
        ),
    ]


def point(device: Device[Any]) -> float:
    return 25e-6 if device.knob.name == "g_max" else -math.log(BIT_ERROR_RATE) / 12.8


def measure(placement: Placement, inputs: torch.Tensor, repeats: int) -> dict[str, object]:
    points = {p.name: point(p.device) for p in placement.placed}
    plain, drawn = [], []
    with private_memory(placement) as memory:
        model = memory.placement.model

        def draw(seed: int) -> None:
            memory.read(points, Chip(seed=seed))
            memory.call(inputs)

        for seed in range(repeats + 3):
            memory.original()
            plain.append(cpu_seconds(lambda: model(inputs)))
            drawn.append(cpu_seconds(lambda seed=seed: draw(seed)))
    plain, drawn = plain[3:], drawn[3:]
    ratios = sorted(d / p for d, p in zip(drawn, plain, strict=True))
    return {
        "plain_ms": 1e3 * statistics.median(plain),
        "ratio": statistics.median(drawn) / statistics.median(plain),
        "middle_half": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
