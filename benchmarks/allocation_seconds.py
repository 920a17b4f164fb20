"""Seconds to allocate a network of 50 layers, once its gradients are known.

    python benchmarks/allocation_seconds.py --repeats 3 --out results/allocation-seconds.json
    python benchmarks/allocation_seconds.py --table results/allocation-seconds.json.gz

A residual network of 50 layers (52 weight tensors, 3x32x32 inputs), untrained, on an 8-bit SRAM
with masked faults, and on crossbars with additive programming noise. One pass of the network gives
the error model; what is timed is one `PlanOptimiser.minimise_energy`: the plan of least energy
within a predicted error, without a start. An allocation makes 2 without simulation, and about 20
with it, most of them from a plan nearby. Beside it, what the evaluations of the error model and the
energy alone take, with and without gradients, timed one by one at the plan found. Processor time,
least of the repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from records import origin, write_record

from allocation import MEMORIES, begun
from joulewise.allocation import Granularity
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.allocation.problem import AllocationProblem
from joulewise.models import seeded
from joulewise.models.resnet import ResNet
from joulewise.placement import place
from joulewise.prediction import ErrorModel

DEPTH, IMAGES = 50, 256
ETAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
G_MAX = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
CASES = {
    "mask, tensor": ("mask", Granularity()),
    "mask, tensor, 2 rails": ("mask", Granularity(rails=2)),
    "mask, tensor, 3 rails": ("mask", Granularity(rails=3)),
    "mask, tensor, 7 levels": ("mask", Granularity(levels=ETAS)),
    "mask, tensor and plane": ("mask", Granularity(bit_planes=True)),
    "mask, tensor and plane, 2 rails": ("mask", Granularity(bit_planes=True, rails=2)),
    "mask, tensor and plane, 3 rails": ("mask", Granularity(bit_planes=True, rails=3)),
    "mask, tensor and plane, 7 levels": ("mask", Granularity(bit_planes=True, levels=ETAS)),
    "crossbar, tensor": ("crossbar", Granularity()),
    "crossbar, tensor, 2 rails": ("crossbar", Granularity(rails=2)),
    "crossbar, tensor, 3 rails": ("crossbar", Granularity(rails=3)),
    "crossbar, tensor, 8 levels": ("crossbar", Granularity(levels=G_MAX)),
}
# The error that is allowed: that of one common share of the range.
SHARES = {"mask": 0.5, "crossbar": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="cases whose name has this in it")
    arguments = begun(parser, table)
    record: dict[str, Any] = {
        **origin(),
        "seed": 0,
        "depth": DEPTH,
        "images": IMAGES,
        "cases": {},
    }
    for name, (memory, granularity) in CASES.items():
        if arguments.only is None or arguments.only in name:
            case = timed(memory, granularity, arguments.repeats)
            record["cases"][name] = case
            print(f"{name}: {min(case['seconds']):.2f} s", file=sys.stderr, flush=True)
    print(table(record))
    if arguments.out is not None:
        write_record(arguments.out, record)


@cache
def linearised(memory: str, bit_planes: bool) -> tuple[PlanOptimiser, AllocationProblem, float]:
    """An optimiser, its problem, and the seconds that the network ran."""
    with seeded(0):
        model = ResNet((3, 32, 32), 10, depth=DEPTH).eval()
    images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    problem = AllocationProblem(
        placement=place(model, weights=MEMORIES[memory], example_inputs=images[:4]),
        data=[images],
        granularity=Granularity(bit_planes=bit_planes),
        samples=IMAGES,
    )
    began = time.process_time()
    optimiser = problem.linearised_at(problem.variables.uniform(SHARES[memory]))
    return optimiser, problem, time.process_time() - began


def timed(memory: str, granularity: Granularity, repeats: int) -> dict[str, Any]:
    """One case: seconds of a plan, and of the parts that it is made of."""
    free, problem, prediction = linearised(memory, granularity.bit_planes)
    variables = replace(free.variables, listed=granularity.listed(problem.placement))
    optimiser = replace(free, variables=variables, rails=granularity.rails)
    count = optimiser.variables.count
    around = torch.full((count,), SHARES[memory], dtype=torch.float64)
    limit = optimiser.error(around)
    seconds = []
    for _ in range(repeats):
        with counted() as evaluations:
            began = time.process_time()
            found = optimiser.minimise_energy(limit)
            seconds.append(time.process_time() - began)
    value, gradient = single(optimiser, found)
    return {
        "variables": count,
        "prediction_s": prediction,
        "seconds": seconds,
        "evaluations": dict(evaluations),
        "value_s": value,
        "gradient_s": gradient,
        "floor_s": evaluations["gradients"] * gradient + evaluations["values"] * value,
        "energy": optimiser.energy(found),
        "common_energy": optimiser.energy(around),
        "excess": optimiser.error(found) / limit,
    }


@contextmanager
def counted() -> Any:
    """Counts evaluations of the error model: with gradients, without, and of single changes."""
    counts = {"gradients": 0, "values": 0, "changes": 0}
    error, changes = ErrorModel.error_at, ErrorModel.single_changes

    def counting(self: ErrorModel, points: Any) -> torch.Tensor:
        counts["gradients" if torch.is_grad_enabled() else "values"] += 1
        return error(self, points)

    def counting_changes(self: ErrorModel, *what: Any) -> Any:
        counts["changes"] += 1
        return changes(self, *what)

    ErrorModel.error_at = counting  # type: ignore[method-assign]
    ErrorModel.single_changes = counting_changes  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        ErrorModel.error_at = error  # type: ignore[method-assign]
        ErrorModel.single_changes = changes  # type: ignore[method-assign]


def single(optimiser: PlanOptimiser, shares: torch.Tensor) -> tuple[float, float]:
    """Seconds of error and energy at a plan, without and with their gradients."""
    repeats = 10

    def value() -> None:
        optimiser.error(shares)
        optimiser.energy(shares)

    def gradient() -> None:
        at = shares.clone().requires_grad_()
        points = optimiser.variables.points(at)
        both = optimiser.energy_model.normalised(points) + optimiser.error_model.error_at(points)
        torch.autograd.grad(both, at)

    found = []
    for job in (value, gradient):
        times = []
        for _ in range(repeats):
            began = time.process_time()
            job()
            times.append(time.process_time() - began)
        found.append(min(times))
    return found[0], found[1]


def table(record: dict[str, Any]) -> str:
    """Seconds, in Markdown."""
    lines = [
        "| a point for each | variables | seconds | evaluations with / without gradients, of "
        "single changes | of it, in them | energy against one point |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in record["cases"].items():
        counts = case["evaluations"]
        lines.append(
            f"| {name} | {case['variables']} | {min(case['seconds']):.2f} | "
            f"{counts['gradients']} / {counts['values']}, {counts['changes']} | "
            f"{case['floor_s']:.2f} | {100 * (case['energy'] / case['common_energy'] - 1):+.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
