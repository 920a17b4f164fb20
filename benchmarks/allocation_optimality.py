"""Distance of the plans of `jw.allocate` from the optimum of the same error model.

    python benchmarks/allocation_optimality.py --out results/allocation-optimality.json
    python benchmarks/allocation_optimality.py --table results/allocation-optimality.json.gz

One error model for each network and memory, around one common point that also sets the error that
is allowed: networks trained on digits here, 200 images. What is compared is
`PlanOptimiser.minimise_energy`:

- with a grid over all plans of a small network, made five times finer around its best, thrice;
- with every combination of levels;
- with every assignment of two rails, on a grid of 31 shares that is made finer twice;
- with scipy's SLSQP and trust-constr from the best common point, from the plan found, and from
  random plans, on networks with more variables. Of all of these the best within the limit counts.

The gap is what the plan found costs more, in percent of the energy of the other; below 0 it is the
cheaper one. Nonconvex problems have several local minima: no entry of the last kind is a bound.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import origin, write_record
from scipy.optimize import Bounds, NonlinearConstraint, minimize

from allocation import MEMORIES, begun
from joulewise.allocation import Granularity
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.allocation.problem import AllocationProblem
from joulewise.data import Dataset, load_data
from joulewise.models import build
from joulewise.placement import place
from joulewise.training import TrainingSpec, train

Floats = NDArray[np.float64]

IMAGES, STARTS = 200, 3
# The common shares of the range that set the errors allowed.
SHARES = {"mask": 0.45, "flip": 0.55, "crossbar": 0.55}
LEVELS = {
    "mask": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "flip": (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0),
    "crossbar": (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0),
}
EACH, PLANES = Granularity(), Granularity(per="network", bit_planes=True)
BOTH = Granularity(bit_planes=True)
Case = tuple[str, str, str, Granularity, str]
CASES: list[Case] = [
    *[("grid", "mlp", memory, EACH, "tensor") for memory in MEMORIES],
    *[("levels", "mlp", memory, EACH, "tensor") for memory in MEMORIES],
    *[("levels", "cnn", memory, EACH, "tensor") for memory in MEMORIES],
    *[("levels", "cnn", memory, PLANES, "plane") for memory in ("mask", "flip")],
    *[("levels", "resnet8", memory, EACH, "tensor") for memory in MEMORIES],
    *[("rails", "cnn", memory, EACH, "tensor") for memory in MEMORIES],
    *[("rails", "cnn", memory, PLANES, "plane") for memory in ("mask", "flip")],
    *[("solvers", "cnn", memory, EACH, "tensor") for memory in MEMORIES],
    *[("solvers", "cnn", memory, PLANES, "plane") for memory in ("mask", "flip")],
    *[("solvers", "cnn", memory, BOTH, "tensor and plane") for memory in ("mask", "flip")],
    *[("solvers", "resnet8", memory, EACH, "tensor") for memory in MEMORIES],
    *[("solvers", "resnet8", memory, BOTH, "tensor and plane") for memory in ("mask", "flip")],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments = begun(parser, table)
    record: dict[str, Any] = {
        **origin(),
        "seed": 0,
        "images": IMAGES,
        "cases": [],
    }
    for case in CASES:
        found = compared(*case)
        print({k: v for k, v in found.items() if k != "others"}, file=sys.stderr, flush=True)
        record["cases"].append(found)
        if arguments.out is not None:
            write_record(arguments.out, record)
    print(table(record))


@cache
def trained(network: str) -> tuple[torch.nn.Module, Dataset]:
    data = load_data("digits")
    model = build(network, data.input_shape, data.classes, seed=0)
    train(model, data, TrainingSpec(epochs=10, lr=0.1, seed=0))
    return model, data


@cache
def free(network: str, memory: str, granularity: Granularity) -> tuple[PlanOptimiser, float]:
    """A optimiser of any points, and the error allowed."""
    model, data = trained(network)
    inputs, _ = next(iter(data.train.batches(16)))
    problem = AllocationProblem(
        placement=place(model, weights=MEMORIES[memory], example_inputs=inputs),
        data=data.train,
        granularity=granularity,
        samples=IMAGES,
    )
    around = problem.variables.uniform(SHARES[memory])
    optimiser = problem.linearised_at(around)
    return optimiser, optimiser.error(around)


def compared(
    kind: str, network: str, memory: str, granularity: Granularity, name: str
) -> dict[str, Any]:
    optimiser, limit = free(network, memory, granularity)
    if kind == "levels":
        levels = LEVELS[memory]
        if optimiser.variables.count > 5:  # so that all combinations can be tried
            levels = levels[2:5:2] if memory == "crossbar" else levels[1:6:2]
        knob = MEMORIES[memory].knob
        listed = {level: knob.point(level) for level in levels}
        optimiser = replace(optimiser, variables=replace(optimiser.variables, listed=listed))
    if kind == "rails":
        optimiser = replace(optimiser, rails=2)
    began = time.process_time()
    found = optimiser.minimise_energy(limit)
    seconds = time.process_time() - began
    other: Callable[[PlanOptimiser, float], dict[str, float]] = {
        "grid": by_grid,
        "levels": by_enumeration,
        "rails": by_rails,
        "solvers": by_solvers,
    }[kind]
    began = time.process_time()
    others = other(optimiser, limit)
    return {
        "kind": kind,
        "network": network,
        "memory": memory,
        "granularity": name,
        "variables": optimiser.variables.count,
        "levels": len(optimiser.variables.listed),
        "energy": optimiser.energy(found),
        "common_energy": optimiser.energy(optimiser.variables.uniform(SHARES[memory])),
        "excess": optimiser.error(found) / limit,
        "seconds": seconds,
        "others": others,
        "seconds_of_others": time.process_time() - began,
        "gap": optimiser.energy(found) / min(others.values()) - 1,
    }


def figures(optimiser: PlanOptimiser, shares: Floats) -> tuple[Floats, Floats]:
    """Energy and error of many plans."""

    def of(one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = optimiser.variables.points(one)
        return optimiser.energy_model.normalised(points), optimiser.error_model.error_at(points)

    with torch.no_grad():
        both = torch.func.vmap(of, chunk_size=128)(torch.from_numpy(shares))
    return both[0].numpy(), both[1].numpy()


def cheapest_of(optimiser: PlanOptimiser, limit: float, shares: Floats) -> tuple[float, Floats]:
    energies, errors = figures(optimiser, shares)
    energies = np.where(errors <= limit, energies, np.inf)
    return float(energies.min()), shares[energies.argmin()]


def by_grid(optimiser: PlanOptimiser, limit: float) -> dict[str, float]:
    count, ticks = optimiser.variables.count, 25 if optimiser.variables.count < 4 else 13
    middle, width = np.full(count, 0.5), 0.5
    best = np.inf
    for _ in range(4):
        axes = [np.clip(np.linspace(m - width, m + width, ticks), 0, 1) for m in middle]
        grid = np.array(list(itertools.product(*axes)))
        energy, at = cheapest_of(optimiser, limit, grid)
        if energy < best:
            best, middle = energy, at
        width *= 0.2
    return {"grid": best}


def by_enumeration(optimiser: PlanOptimiser, limit: float) -> dict[str, float]:
    every = itertools.product(optimiser.variables.listed, repeat=optimiser.variables.count)
    return {"enumeration": cheapest_of(optimiser, limit, np.array(list(every)))[0]}


def by_rails(optimiser: PlanOptimiser, limit: float) -> dict[str, float]:
    """Every assignment of two shares, on a grid, then on a finer one around the best."""
    count = optimiser.variables.count
    masks = np.array(list(itertools.product((0, 1), repeat=count)))
    low_high = np.array([(a, b) for a, b in itertools.combinations(np.linspace(0, 1, 31), 2)])
    best, at, mask = np.inf, np.zeros(2), masks[0]
    for assignment in masks[: len(masks) // 2]:  # the other half are the same, turned over
        for pairs in (low_high, low_high[:, ::-1]):
            energy, plan = cheapest_of(optimiser, limit, np.ascontiguousarray(pairs[:, assignment]))
            if energy < best:
                best, mask = energy, assignment
                at = np.array(
                    [plan[assignment == k][0] if (assignment == k).any() else 0.5 for k in (0, 1)]
                )
    for width in (0.03, 0.003):
        fine = [np.clip(np.linspace(x - width, x + width, 31), 0, 1) for x in at]
        pairs = np.array(list(itertools.product(*fine)))
        energy, plan = cheapest_of(optimiser, limit, np.ascontiguousarray(pairs[:, mask]))
        if energy < best:
            best = energy
            at = np.array([plan[mask == k][0] if (mask == k).any() else at[k] for k in (0, 1)])
    return {"every pair": best}


def by_solvers(optimiser: PlanOptimiser, limit: float) -> dict[str, float]:
    """Generic constrained optimisers, from several starts."""
    common = optimiser.variables.uniform(optimiser.common_level(limit)).numpy()
    generator = np.random.default_rng(0)
    starts = {"common": common, "found": optimiser.minimise_energy(limit).numpy()}
    for number in range(STARTS):
        starts[f"random {number}"] = generator.uniform(0.2, 1.0, len(common))
    found = {}
    for method in ("SLSQP", "trust-constr"):
        for name, start in starts.items():
            if method == "trust-constr" and name.startswith("random ") and name != "random 0":
                continue
            energy = solved(optimiser, limit, start, method)
            if np.isfinite(energy):
                found[f"{method}, {name}"] = energy
    return found


def solved(optimiser: PlanOptimiser, limit: float, start: Floats, method: str) -> float:
    def figure(which: int) -> Callable[[Floats], tuple[float, Floats]]:
        def of(x: Floats) -> tuple[float, Floats]:
            at = torch.tensor(np.clip(x, 0, 1), requires_grad=True)
            points = optimiser.variables.points(at)
            value = (
                optimiser.energy_model.normalised(points)
                if which == 0
                else (optimiser.error_model.error_at(points) / limit).log()
            )
            (slope,) = torch.autograd.grad(value, at)
            return float(value.detach()), slope.numpy()

        return of

    energy, excess = figure(0), figure(1)
    options: dict[str, Any] = {"maxiter": 200}
    constraint: Any = {
        "type": "ineq",
        "fun": lambda x: -excess(x)[0],
        "jac": lambda x: -excess(x)[1],
    }
    if method == "trust-constr":
        constraint = NonlinearConstraint(
            lambda x: excess(x)[0], -np.inf, 0.0, jac=lambda x: excess(x)[1][None]
        )
        options = {"maxiter": 300}
    found = minimize(
        energy,
        start,
        jac=True,
        method=method,
        bounds=Bounds(np.zeros(len(start)), np.ones(len(start))),
        constraints=[constraint],
        options=options,
    )
    # Within the limit to 1e-6, as solvers understand it; else it is no plan.
    x = np.clip(found.x, 0, 1)
    return energy(x)[0] if excess(x)[0] <= 1e-6 else np.inf


def table(record: dict[str, Any]) -> str:
    """Gaps, in Markdown."""
    lines = [
        "| compared with | network | memory | a point for each | variables | energy against one "
        "point | gap | seconds | of the other |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        other = min(case["others"], key=case["others"].get)
        kind = f"{case['levels']} levels, enumeration" if case["levels"] else other
        lines.append(
            f"| {kind} | {case['network']} | {case['memory']} | {case['granularity']} | "
            f"{case['variables']} | {100 * (case['energy'] / case['common_energy'] - 1):+.1f} % | "
            f"{100 * case['gap']:+.2f} % | {case['seconds']:.2f} | "
            f"{case['seconds_of_others']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
