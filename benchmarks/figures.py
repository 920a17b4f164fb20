"""Figures that a rewrite must not move: chips, predictions, plans and one training run.

    python benchmarks/figures.py --out /tmp/figures.json    # at the commit to compare with
    python benchmarks/figures.py --check /tmp/figures.json  # at another one

Three networks on scikit-learn's digits, which are trained first (10 s), four memories and two
operating points each: accuracy and output error of eight chips, predictions of first and second
order, and one plan for each goal. Both runs have to be on one machine, where figures of chips are
equal bit for bit: another processor rounds products of matrices differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before NumPy loads: the number of its threads moves the last bits of a plan.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch
from torch import nn

import joulewise as jw

NETWORKS = ("mlp", "cnn", "resnet8")
MEMORIES: dict[str, tuple[Any, str, tuple[float, float]]] = {
    "sram-mask": (jw.SRAM(bits=8), "eta", (0.65, 0.45)),
    "sram-flip": (jw.SRAM(bits=8, fault=jw.Flip()), "eta", (0.75, 0.6)),
    "crossbar": (jw.Crossbar(sigma=1e-6), "g_max", (50e-6, 20e-6)),
    "pcm": (jw.PCM(), "seconds", (60.0, 1e6)),
}
CHIPS, IMAGES, SAMPLES = 8, 200, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = figures()
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1))
    if arguments.check is not None:
        compare(json.loads(arguments.check.read_text()), found)


def network(name: str) -> nn.Module:
    """A network trained with plain PyTorch."""
    digits = jw.load_data("digits")
    model = jw.load_model(name, digits.input_shape, digits.classes, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for some in torch.randperm(len(digits.train), generator=generator).split(64):
            optimizer.zero_grad()
            outputs = model(digits.train.inputs[some])
            nn.functional.cross_entropy(outputs, digits.train.targets[some]).backward()
            optimizer.step()
    return model.eval()


def figures() -> dict[str, Any]:
    digits = jw.load_data("digits")
    test = digits.test.subset(IMAGES, seed=0)
    inputs = digits.train.inputs[:64]
    found: dict[str, Any] = {}
    for name in NETWORKS:
        model = network(name)
        for memory, (device, knob, points) in MEMORIES.items():
            placement = jw.place(model, weights=device, example_inputs=inputs)
            found[f"{name}/{memory}"] = {
                **evaluated(placement, test, knob, points),
                **(allocated(placement, test) if memory != "pcm" else {}),  # time is not chosen
            }
            print(f"{name}/{memory}", flush=True)
        if name != "mlp":
            both = jw.place(model, weights=jw.SRAM(), activations=jw.SRAM(), example_inputs=inputs)
            found[f"{name}/activations"] = evaluated(both, test, "eta", (0.65, 0.45))
    found["training"] = trained()
    return found


def evaluated(placement: Any, test: Any, knob: str, points: tuple[float, float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    plans = [placement.plan({knob: point}) for point in points]
    for point, plan, result in zip(
        points, plans, jw.sweep(placement, test, at=plans, chips=CHIPS), strict=True
    ):
        found[f"chips {point:g}"] = {
            "accuracy": list(result.values),
            "mse": list(result.mse),
            "energy_j": result.energy.to_dict()["memory_j"],
        }
        for method in ("first-order", "second-order"):
            forecast = jw.predict(placement, test, at=plan, method=method)
            found[f"{method} {point:g}"] = {
                "mean_shift": float(forecast.mean_shift),
                "variance": {n: float(v) for n, v in forecast.variance.items()},
                "accuracy": forecast.accuracy.mean,
            }
    return found


def allocated(placement: Any, test: Any) -> dict[str, Any]:
    goals: dict[str, dict[str, Any]] = {
        "plan for a drop": {"goal": jw.MetricDrop(0.02), "chips": 40},
        "plan for an energy": {"goal": jw.EnergyBudget(0.6), "chips": 4},
    }
    if placement.placed[0].device.knob.bit_planes is not None:
        goals["plan of bit planes"] = {
            "goal": jw.EnergyBudget(0.6),
            "chips": 0,
            "granularity": jw.Granularity(bit_planes=True),
        }
    found = {}
    for what, options in goals.items():
        result = jw.allocate(placement, test, samples=SAMPLES, **options)
        found[what] = {
            "plan": {
                name: one["eta" if "eta" in one else "g_max"]
                for name, one in result.plan.to_dict().items()
            },
            "energy_j": result.energy.to_dict()["memory_j"],
            "mse": list(result.simulation.mse) if result.simulation is not None else [],
        }
    return found


def trained() -> dict[str, Any]:
    """A few steps of SAMSON through a memory."""
    digits = jw.load_data("digits")
    model = jw.load_model("cnn", digits.input_shape, digits.classes, seed=0).train()
    memory = jw.TrainingMemory(jw.place(model, weights=jw.SRAM(bits=8)), at={"eta": 0.6}, seed=3)
    optimizer = jw.optim.SAMSON(model.parameters(), torch.optim.SGD, lr=0.01, rho=0.2)
    losses = []
    for inputs, targets in digits.train.subset(512, seed=1).batches(64):
        optimizer.zero_grad()
        with memory:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            with optimizer.ascent():
                nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        losses.append(loss.item())
    digest = hashlib.blake2b(digest_size=8)
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().numpy().tobytes())
    return {"losses": losses, "weights": digest.hexdigest()}


def compare(stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Print where figures differ.

    Raises:
        SystemExit: with code 1 if any differs beyond its tolerance.
    """
    off = 0
    total = 0
    for path, before, after in pairs(stored, found, ""):
        total += 1
        if before == after:
            continue
        if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
            print(f"{path}: {before} -> {after}")
            off += 1
            continue
        relative = abs(after - before) / max(abs(before), 1e-12)
        # Chips and training bit for bit, predictions to 1e-9, plans to 1e-6.
        allowed = 1e-9 if "order" in path else 1e-6 if "plan" in path else 0.0
        if not math.isfinite(relative) or relative > allowed:
            print(f"{path}: {before!r} -> {after!r} ({relative:.1e})")
            off += 1
    print(f"{total} figures, {off} differ")
    raise SystemExit(off > 0)


def pairs(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Leaves of both, by path; a missing one is None."""
    if isinstance(before, dict) or isinstance(after, dict):
        before, after = (x if isinstance(x, dict) else {} for x in (before, after))
        for key in sorted({*before, *after}):
            yield from pairs(before.get(key), after.get(key), f"{path}/{key}")
    elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        if len(before) != len(after):
            yield f"{path} (length)", len(before), len(after)
        for k, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from pairs(one, other, f"{path}[{k}]")
    else:
        yield path, before, after


if __name__ == "__main__":
    main()
