"""Evaluations of a network that a genetic search needs to find the energy of `jw.allocate`.

    pip install pymoo
    python benchmarks/allocation_search.py --out results/allocation-search.json
    python benchmarks/allocation_search.py --table results/allocation-search.json.gz

The problem is MemSE's: pairs of conductances with additive programming noise, not clipped at 0, and
one ``g_max`` for each layer; the least power with a predicted output error within a limit. Networks
trained on digits here. 100 images to search with, as MemSE has 1 to 10 of each class; power is that
of devices and amplifiers.

Three searches beside `jw.allocate`:

- "genetic, as MemSE": its settings, by the same library, pymoo: population 100, simulated binary
  crossover, polynomial mutation; one scale of all conductances for 20 generations, from N(1, 0.5)
  in units of 100 sigma, then one for each layer for 100 generations, from N(found, 0.001).
- "genetic, in logarithms": the same on the logarithm of ``g_max``, from N(found, 0.5): kinder.
- "differential evolution": scipy's, on the logarithm, from a Latin hypercube, with the limit as a
  constraint.

Each candidate is one evaluation of the network: MemSE runs it for each. Here they are answered by
`joulewise.prediction.error_model`: noise that is not clipped leaves the mean read where it is, so
its gradients are those at every plan, and it says what `predict` by first order says; the record
holds by how much they differ at random plans. What differs from MemSE: errors are the mean over
outputs, not the largest; first order, not its rules by layer; power from a table, to 0.1 %.
The judge is none of these: `predict` with every output probed and 100 simulated chips, on all test
images, and the power worked out in full.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import origin, write_record
from scipy.optimize import NonlinearConstraint, differential_evolution

from allocation import MEMORIES, begun
from joulewise.allocation import Granularity, OutputError, allocate
from joulewise.allocation.energy_model import EnergyModel
from joulewise.allocation.granularity import DecisionVariables
from joulewise.data import Dataset, Split, load_data
from joulewise.devices import Knob
from joulewise.models import build
from joulewise.placement import Placement, Plan, energy, place
from joulewise.prediction import ErrorModel, FirstOrder, error_model, predict
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, train

Floats = NDArray[np.float64]

SIGMA, UNIT = 1e-6, 1e-4
IMAGES, CHIPS = 100, 100
POPULATION, GENERATIONS_ALL, GENERATIONS_LAYERS = 100, 20, 100
# Of the variance of the outputs over images.
SHARES = (0.01, 0.1)
MEMORY = replace(MEMORIES["crossbar"], sigma=SIGMA, clip=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["cnn", "resnet8"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = begun(parser, table)
    record: dict[str, Any] = {
        **origin(),
        "seeds": list(range(arguments.seeds)),
        "images": IMAGES,
        "chips": CHIPS,
        "runs": [],
        "surrogate_off_by": {},
    }
    for network in arguments.networks:
        data = load_data("digits")
        problem = posed(network, data)
        record["surrogate_off_by"][network] = off_by(problem)
        for share in SHARES:
            limit = share * problem.spread
            for run in runs(problem, limit, arguments.seeds):
                run |= {"network": network, "share": share, "limit": limit}
                run |= judged(problem, data.test, run["shares"])
                print(line(run), file=sys.stderr, flush=True)
                record["runs"].append(run)
    print(table(record))
    if arguments.out is not None:
        write_record(arguments.out, record)


@dataclass(frozen=True, kw_only=True, eq=False)
class Posed:
    """A network on crossbars, and what a plan of it does and costs; counts what is asked."""

    placement: Placement
    few: Split
    errors: ErrorModel
    energy_model: EnergyModel
    variables: DecisionVariables
    spread: float
    largest: Floats
    """The largest weight of each tensor."""

    def both(self, shares: Floats) -> tuple[Floats, Floats]:
        """Energy and error of plans, ``[plans, variables]``."""

        def of(one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            points = self.variables.points(one)
            return self.energy_model.normalised(points), self.errors.error_at(points)

        with torch.no_grad():
            energies, errors = torch.func.vmap(of)(torch.from_numpy(shares))
        return energies.numpy(), errors.numpy()

    def plan(self, shares: Floats) -> Plan:
        """The plan of some shares."""
        points = self.variables.exact_points(torch.from_numpy(shares))
        return Plan({name: {MEMORY.knob: point} for name, point in points.items()})

    @property
    def limits(self) -> Knob:
        return MEMORY.knob

    def shares(self, siemens: Floats) -> Floats:
        """Shares of the range on its logarithmic scale."""
        low, high = np.log(self.limits.least_reliable), np.log(self.limits.most_reliable)
        return np.clip((np.log(siemens) - low) / (high - low), 0.0, 1.0)


def posed(network: str, data: Dataset) -> Posed:
    model = build(network, data.input_shape, data.classes, seed=0)
    train(model, data, TrainingSpec(epochs=30, lr=0.1, seed=0))
    inputs, _ = next(iter(data.train.batches(256)))
    placement = place(model, weights=MEMORY, example_inputs=inputs)
    few = data.train.subset(IMAGES, seed=0)
    variables = DecisionVariables.of(placement, Granularity())
    weights = dict(placement.model.named_parameters())
    with torch.no_grad():
        outputs = placement.model.eval()(few.inputs)
    return Posed(
        placement=placement,
        few=few,
        errors=error_model(placement, few, at={"g_max": UNIT}),
        energy_model=EnergyModel(placement),
        variables=variables,
        spread=float(outputs.double().var(0).mean()),
        largest=np.array([float(weights[name].detach().abs().max()) for name in variables.index]),
    )


def off_by(problem: Posed) -> float:
    """The largest relative difference of the error model to `predict`, of 10 random plans."""
    generator = np.random.default_rng(0)
    method = FirstOrder(accuracy=False, subsample_channels=False)
    worst = 0.0
    for shares in generator.uniform(0.3, 1.0, (10, problem.variables.count)):
        plan = problem.plan_at(shares)
        full = float(predict(problem.placement, problem.few, at=plan, method=method).mse)
        worst = max(worst, abs(problem.both(shares[None])[1][0] / full - 1))
    return worst


@dataclass(kw_only=True, eq=False)
class Counted:
    """A problem that counts its evaluations, and keeps the best within the limit so far."""

    problem: Posed
    limit: float
    evaluations: int = 0
    best: float = float("inf")
    shares: Floats | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, shares: Floats) -> tuple[Floats, Floats]:
        energies, errors = self.problem.both(shares)
        self.evaluations += len(shares)
        within = np.where(errors <= self.limit, energies, np.inf)
        if within.min() < self.best:
            self.best, self.shares = float(within.min()), shares[within.argmin()].copy()
        if not self.curve or self.best < self.curve[-1][1]:
            self.curve.append((self.evaluations, self.best))
        return energies, errors


def runs(problem: Posed, limit: float, seeds: int) -> list[dict[str, Any]]:
    found = [ours(problem, limit)]
    searches: dict[str, Callable[[Counted, int], None]] = {
        "genetic, as MemSE": lambda counted, seed: genetic(counted, seed, logarithms=False),
        "genetic, in logarithms": lambda counted, seed: genetic(counted, seed, logarithms=True),
        "differential evolution": evolved,
    }
    for name, search in searches.items():
        for seed in range(seeds):
            counted = Counted(problem=problem, limit=limit)
            began = time.process_time()
            search(counted, seed)
            assert counted.shares is not None
            found.append(
                {
                    "search": name,
                    "seed": seed,
                    "evaluations": counted.evaluations,
                    "seconds": time.process_time() - began,
                    "shares": counted.shares.tolist(),
                    "curve": [point for point in counted.curve if np.isfinite(point[1])],
                }
            )
    return found


def ours(problem: Posed, limit: float) -> dict[str, Any]:
    began = time.process_time()
    batch = problem.few.inputs, problem.few.targets  # in this order, so with the same probes
    found = allocate(problem.placement, [batch], goal=OutputError(limit), chips=0)
    g_max = np.array([float(setting["g_max"]) for setting in found.plan.values()])
    return {
        "search": "jw.allocate",
        "seed": 0,
        "evaluations": found.evaluations,
        "seconds": time.process_time() - began,
        "shares": problem.shares(g_max).tolist(),
        "curve": [],
    }


def genetic(counted: Counted, seed: int, *, logarithms: bool) -> None:
    """MemSE's two stages, by pymoo's genetic algorithm."""
    problem = counted.problem
    generator = np.random.default_rng(seed)
    alike = problem.largest / problem.largest.max()
    low, high = problem.limits.least_reliable / UNIT, problem.limits.most_reliable / UNIT

    def to_units(values: Floats) -> Floats:
        return np.exp(values) if logarithms else values

    def stage(first: Floats, to_shares: Callable[[Floats], Floats], generations: int) -> Floats:
        bounds = (np.log(low), np.log(high)) if logarithms else (low, high)
        return evolve(
            lambda x: counted(to_shares(x)),
            np.clip(first, *bounds),
            bounds,
            counted.limit,
            generations,
            seed,
        )

    start = 1 + generator.normal(0, 0.5, (POPULATION, 1))
    if logarithms:
        start = np.log(np.clip(start, low, high))
    scale = stage(start, lambda x: problem.shares(UNIT * to_units(x) * alike), GENERATIONS_ALL)
    each = to_units(scale) * alike
    middle, spread = (np.log(each), 0.5) if logarithms else (each, 0.001)
    stage(
        middle + generator.normal(0, spread, (POPULATION, len(alike))),
        lambda x: problem.shares(UNIT * to_units(x)),
        GENERATIONS_LAYERS,
    )


def evolve(
    both: Callable[[Floats], tuple[Floats, Floats]],
    first: Floats,
    bounds: tuple[float, float],
    limit: float,
    generations: int,
    seed: int,
) -> Floats:
    """The best of pymoo's genetic algorithm, whose defaults MemSE uses."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.optimize import minimize

    class Power(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            low, high = (np.full(first.shape[1], bound) for bound in bounds)
            super().__init__(n_var=first.shape[1], n_obj=1, n_ieq_constr=1, xl=low, xu=high)

        def _evaluate(self, x: Floats, out: dict[str, Floats], *_: Any, **__: Any) -> None:
            energies, errors = both(x)
            out["F"], out["G"] = energies[:, None], errors[:, None] / limit - 1

    algorithm = GA(pop_size=len(first), eliminate_duplicates=True, sampling=first)
    found = minimize(Power(), algorithm, ("n_gen", generations), seed=seed, verbose=False)
    best = found.X if found.X is not None else found.pop.get("X")[found.pop.get("CV").argmin()]
    return np.atleast_1d(np.asarray(best, dtype=float))


def evolved(counted: Counted, seed: int) -> None:
    """Scipy's differential evolution, for about as many evaluations as the genetic algorithm."""
    count = counted.problem.variables.count
    known: dict[bytes, tuple[Floats, Floats]] = {}

    def both(x: Floats) -> tuple[Floats, Floats]:
        plans = np.ascontiguousarray(np.atleast_2d(x.T))
        if not plans.size:  # none of a generation is within the limit
            return np.zeros(0), np.zeros(0)
        key = plans.tobytes()  # scipy asks for objective and constraint one by one
        if key not in known:
            known.clear()
            known[key] = counted(plans)
        return known[key]

    generations = (GENERATIONS_ALL + GENERATIONS_LAYERS) * POPULATION // (15 * count)
    differential_evolution(
        lambda x: both(x)[0] if x.ndim > 1 else float(both(x)[0][0]),
        [(0.0, 1.0)] * count,
        constraints=NonlinearConstraint(
            lambda x: (
                np.log(both(x)[1] / counted.limit)[None]
                if x.ndim > 1
                else np.log(both(x)[1] / counted.limit)
            ),
            -np.inf,
            0.0,
        ),
        maxiter=max(generations - 1, 1),
        popsize=15,
        tol=0.0,
        polish=False,
        vectorized=True,
        updating="deferred",
        init="latinhypercube",
        rng=np.random.default_rng(seed),
    )


def judged(problem: Posed, test: Split, shares: list[float]) -> dict[str, Any]:
    """Figures of a plan on samples and chips that no search has used."""
    plan = problem.plan_at(np.array(shares))
    forecast = predict(problem.placement, test, at=plan)
    simulation = simulate(problem.placement, test, at=plan, chips=CHIPS, seed=0)
    interval, accuracy = simulation.mse_interval(), simulation.interval()
    method = FirstOrder(accuracy=False, subsample_channels=False)
    return {
        "g_max": [float(setting["g_max"]) for setting in plan.values()],
        "energy": float(energy(problem.placement, at=plan).normalised),
        "mse_on_searched": float(
            predict(problem.placement, problem.few, at=plan, method=method).mse
        ),
        "mse_on_test": float(forecast.mse),
        "simulated_mse": [simulation.mean_mse, interval.low, interval.high],
        "accuracy": [simulation.mean, accuracy.low, accuracy.high],
        "perfect_accuracy": simulation.ideal,
    }


def line(run: dict[str, Any]) -> str:
    return (
        f"{run['network']} {run['share']:g} {run['search']} {run['seed']}: {run['energy']:.5f} "
        f"after {run['evaluations']}, {run['seconds']:.1f} s"
    )


def table(record: dict[str, Any]) -> str:
    """Energies against evaluations, in Markdown; of several seeds, from the least to the most."""
    lines = [
        "| network, limit of the error | search | network evaluations | energy | against "
        "`allocate` | evaluations to 5 % / 1 % of it | error on the images searched with, over the "
        "limit | on test images, predicted | simulated | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        groups.setdefault((run["network"], run["share"], run["search"]), []).append(run)
    for (network, share, search), same in groups.items():
        (best,) = groups[network, share, "jw.allocate"]
        over = [run["limit"] for run in same]
        evaluations = sorted({run["evaluations"] for run in same})
        lines.append(
            f"| {network}, {share:g} of the outputs' variance | {search} | "
            f"{' - '.join(str(e) for e in {evaluations[0]: 0, evaluations[-1]: 0})} | "
            f"{span([100 * run['energy'] for run in same], '.2f')} % | "
            f"{span([100 * (run['energy'] / best['energy'] - 1) for run in same], '+.2f')} % | "
            f"{reached(same, best, 1.05)} / {reached(same, best, 1.01)} | "
            f"{span([r['mse_on_searched'] / o for r, o in zip(same, over, strict=True)], '.4f')} | "
            f"{span([r['mse_on_test'] / o for r, o in zip(same, over, strict=True)], '.3f')} | "
            f"{span([r['simulated_mse'][0] / o for r, o in zip(same, over, strict=True)], '.3f')} |"
            f" {span([100 * run['accuracy'][0] for run in same], '.2f')} |"
        )
    return "\n".join(lines)


def reached(same: list[dict[str, Any]], best: dict[str, Any], ratio: float) -> str:
    """Evaluations until a search is so near to the energy of `allocate`; of the median seed."""
    if not same[0]["curve"]:
        return ""
    counts = sorted(
        next((n for n, e in run["curve"] if e <= ratio * best["energy"]), 10**9) for run in same
    )
    middle = counts[len(counts) // 2]
    return "never" if middle == 10**9 else str(middle)


def span(values: list[float], style: str) -> str:
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
