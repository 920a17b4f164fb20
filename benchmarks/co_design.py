"""Energy that robust training and allocation save together.

    python benchmarks/co_design.py --data CIFAR10 --out results/co-design.json

A stored ResNet-8 that was trained through bit masks is fitted to its plan by
`jw.contrib.co_design`: one point for each tensor and bit plane of an 8-bit SRAM, bit masking. The
goal is the accuracy of the plain network, trained by SGD alone and without any memory, less half a
point, on the same test images; it is shown on 200 fresh chips with 95 % confidence. Training sees
the training images less the 5,000 that the stored networks were chosen by; the plan's one degree of
freedom, how reliable it is as a whole, is chosen on the test images, as for all rows of
`benchmarks/allocation.py`. The same plan is simulated on as many other test images as well.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from records import origin, write_record
from robust_training import dataset

from joulewise.allocation import Granularity, MetricTarget
from joulewise.contrib import co_design
from joulewise.data import Split
from joulewise.devices import SRAM
from joulewise.models import build, load_weights, save_weights
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingSpec, accuracy

STORED = Path("trained")
PLAIN, ROBUST = "SGD-0-0", "masks-long-0.35-0"
DROP = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with CIFAR-10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--clip", type=float, default=2.5)
    parser.add_argument("--step", type=float, default=0.8)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    data = replace(
        dataset(arguments.data, None, True), test=dataset(arguments.data, None, False).test
    )
    judge, others = halves(data.test, arguments.images)
    plain, model = network(PLAIN, data.input_shape), network(ROBUST, data.input_shape)
    wanted = accuracy(plain, judge) - DROP
    print(f"at least {wanted:.4f}", flush=True)
    inputs, _ = next(iter(data.train.batches(64)))
    placement = place(model, weights=SRAM(bits=8), example_inputs=inputs)
    record = co_design(
        placement,
        data,
        judge=judge,
        goal=MetricTarget(wanted),
        granularity=Granularity(bit_planes=True),
        spec=TrainingSpec(epochs=arguments.epochs, lr=arguments.lr, clip=arguments.clip),
        rounds=arguments.rounds,
        step=arguments.step,
        chips=arguments.chips,
        seed=arguments.seed,
        progress=Told().told,
    )
    last = record.allocation
    elsewhere = simulate(placement, others, at=last.plan, chips=20, seed=1 << 40)
    stored = {
        **origin(),
        "seconds": time.perf_counter() - began,
        "plain": {"accuracy": accuracy(plain, judge), "elsewhere": accuracy(plain, others)},
        "elsewhere": elsewhere.to_dict(),
        "rounds": [
            {
                "training_energy": turn.training_energy,
                "kept": turn.kept,
                "allocation": turn.allocation.to_dict(),
            }
            for turn in record.rounds
        ],
        "allocation": last.to_dict(),
    }
    write_record(arguments.out, stored)
    save_weights(model, arguments.out.with_suffix(".safetensors"), {"command": stored["command"]})
    for number, turn in enumerate(record.rounds):
        print(number, turn.training_energy, turn.allocation.energy.normalised, turn.kept)
    print(f"energy {last.energy.normalised:.4f}, holds: {last.holds}, at the goal: {last.at_goal}")
    print(
        f"elsewhere: plain {stored['plain']['elsewhere']:.4f}, through the plan "
        f"{elsewhere.mean:.4f} {elsewhere.interval()}"
    )


def network(name: str, shape: tuple[int, ...]) -> torch.nn.Module:
    model = build("resnet8", shape, 10, seed=0)
    load_weights(model, STORED / f"{name}.safetensors")
    return model.eval().to(memory_format=torch.channels_last)


def halves(split: Split, images: int) -> tuple[Split, Split]:
    """Images to judge by, the same as those of the other benchmarks, and as many others."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    judge = split.subset(images, seed=0)
    seen = {image.numpy().tobytes() for image in judge.inputs}
    rest = [int(i) for i in order if split.inputs[i].numpy().tobytes() not in seen][:images]
    return judge, replace(split, inputs=split.inputs[rest], targets=split.targets[rest])


class Told:
    """Prints each new thing that is done."""

    def __init__(self) -> None:
        self._last = ""
        self._began = time.perf_counter()

    def told(self, what: str, done: float, expected: float) -> None:
        if what != self._last:
            self._last = what
            print(f"{time.perf_counter() - self._began:6.0f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
