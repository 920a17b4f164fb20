"""Cost of a prediction and of a simulation, in plain forward passes of the same process.

    python benchmarks/prediction_cost.py --data CIFAR10 [--threads 1] [--repeats 9] [--json]

ResNet-20, 8-bit words, bit masking, a batch of 256 images. First order gives the output error and
the share of every layer. Simulation needs as many chips as bring the 98 % interval of the mean
error to +-2 % of it; for the share of every layer it must disturb one layer at a time. How many
that are follows from the spread between some chips, simulated here. One image is the setting of
the MemSE paper's own comparison. Times are medians of process CPU time, calls alternating with
plain passes; peak memory is that of a fresh process, over one that only has the model and the data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from records import markdown
from torch import Tensor, nn

from joulewise.data import load_data
from joulewise.devices import SRAM
from joulewise.models import build, host, load_weights
from joulewise.placement import Placement, place, prepare
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.problem import loaded_problem
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory

WEIGHTS = Path("trained/resnet20-cifar10.safetensors")
ETA = 0.55
CLOSE, QUANTILE = 0.02, 2.326  # +-2 % at 98 % confidence
SHARES = FirstOrder(accuracy=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder with CIFAR-10; without, random images")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--chips", type=int, default=200, help="to learn the spread from; 0 for none"
    )
    parser.add_argument("--layer-chips", type=int, default=40, help="the same, for each layer")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    model, images, targets = network(arguments.data, arguments.batch)
    found = {
        "torch": torch.__version__,
        **vars(arguments),
        "eta": ETA,
        "cost": costs(model, images, targets, arguments.repeats),
        "memory_mb": {job: peak(job, arguments) for job in ("training step", "first order")},
    }
    if arguments.chips:
        found["simulation"] = simulation(model, images, arguments)
    print(json.dumps(found, indent=2) if arguments.json else table(found))


def network(data: str | None, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    model = build("resnet20", (3, 32, 32), 10, seed=0)
    load_weights(model, WEIGHTS)
    model = host(model, (3, 32, 32)).eval()
    if data is None:
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return (
            model,
            images.contiguous(memory_format=torch.channels_last),
            torch.zeros(batch).long(),
        )
    split = load_data(data).test.subset(batch, seed=0)
    (one,) = prepare(split, model, batch)
    return model, one.inputs, one.targets


def placed(model: nn.Module, images: Tensor, **choice: Any) -> Placement:
    return place(model, weights=SRAM(bits=8), example_inputs=images[:8], **choice)


def costs(model: nn.Module, images: Tensor, targets: Tensor, repeats: int) -> dict[str, Any]:
    placement = placed(model, images)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def step() -> None:
        model.train()
        nn.functional.cross_entropy(model(images), targets).backward()
        model.zero_grad()
        model.eval()

    def whole() -> None:
        predict(placement, [(images, targets)], at={"eta": ETA}, method=SHARES)

    def accuracy() -> None:
        predict(placement, [(images, targets)], at={"eta": ETA})

    def one_image() -> None:
        predict(placement, [(images[:1], targets[:1])], at={"eta": ETA})

    def one_forward() -> None:
        with torch.no_grad():
            model(images[:1])

    jobs = {
        "training step, forward and backward": ratio(step, forward, repeats),
        "predict(), everything": ratio(whole, forward, repeats),
        "predict() with accuracy, ten probes": ratio(accuracy, forward, max(3, repeats // 3)),
        "predict() with accuracy, one image": ratio(one_image, one_forward, repeats),
    }
    # One more plan, where the outputs of the model as given are known.
    with loaded_problem(placement, [(images, targets)], {"eta": ETA}) as problem:
        jobs["error and all shares, outputs known"] = ratio(
            lambda: SHARES.forecast(problem), forward, repeats
        )
    return jobs


def ratio(work: Callable[[], object], plain: Callable[[], object], repeats: int) -> dict[str, Any]:
    pairs = [(seconds(plain), seconds(work)) for _ in range(repeats + 2)][2:]
    ratios = sorted(w / p for p, w in pairs)
    return {
        "plain_ms": 1e3 * statistics.median(p for p, _ in pairs),
        "passes": statistics.median(w for _, w in pairs) / statistics.median(p for p, _ in pairs),
        "middle_half": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(job: str, arguments: argparse.Namespace) -> float:
    """Peak memory of a job in a process of its own, over that of its model and data, in MB."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(job, arguments.batch, there))
    process.start()
    megabytes = here.recv()
    process.join()
    return float(megabytes)


def _measure(job: str, batch: int, answer: Any) -> None:
    torch.set_num_threads(1)
    # Random images: what they show is nothing to memory, and reading a data set is.
    model, images, targets = network(None, batch)
    placement = placed(model, images)
    before = _peak_mb(reset=True)
    if job == "training step":
        model.train()
        nn.functional.cross_entropy(model(images), targets).backward()
    else:
        predict(placement, [(images, targets)], at={"eta": ETA}, method=SHARES)
    answer.send(_peak_mb() - before)


def _peak_mb(*, reset: bool = False) -> float:
    """Peak resident memory by Linux's own count; `resource` gives a child its parent's peak too."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return float(line.split()[1]) / 1024


def simulation(model: nn.Module, images: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """Chips that the interval takes: for the whole network, for each layer, for one image."""
    whole = placed(model, images)
    layers = {
        tensor.name: chips_needed(
            placed(model, images, include=[tensor.name]), images, arguments.layer_chips
        )
        for tensor in whole.placed
    }
    return {
        "chips, whole network": chips_needed(whole, images, arguments.chips),
        "chips, one image": chips_needed(whole, images[:1], 10 * arguments.chips),
        "chips, each layer alone": layers,
        "chips, all layers": sum(layers.values()),
    }


def chips_needed(placement: Placement, images: Tensor, chips: int) -> float:
    errors = torch.tensor(simulate(placement, [(images, None)], at={"eta": ETA}, chips=chips).mse)
    return float((QUANTILE * errors.std() / errors.mean() / CLOSE) ** 2)


def table(found: dict[str, Any]) -> str:
    """Costs in Markdown; chips are those that the interval takes."""
    rows = []
    for name, row in found["cost"].items():
        low, high = row["middle_half"]
        rows.append([name, f"{row['passes']:.1f} passes [{low:.1f}, {high:.1f}]"])
    for name, megabytes in found["memory_mb"].items():
        rows.append([f"peak memory, {name}", f"{megabytes:.0f} MB"])
    for name, chips in found.get("simulation", {}).items():
        if isinstance(chips, float):
            rows.append([name, f"{float(f'{chips:.2g}'):,.0f}"])
    return markdown(["", "cost"], rows)


if __name__ == "__main__":
    main()
