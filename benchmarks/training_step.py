"""Cost of a robust training step, in plain SGD steps of the same process.

    pip install pytorch_optimizer sam-pytorch  # peers, where you want them beside
    python benchmarks/training_step.py [--threads 1] [--repeats 15] [--device cpu] [--json]

ResNet-20 on batches of 128 images of 32x32; a step is gradients cleared, forward, backward, update.
SAM, ASAM and SAMSON need two forward and two backward passes, and one update: their goal is 2.0
plain steps. Training through a memory stores all weights in each step and reads them on a new chip:
the goal is 1.1. With activations every layer's input is rounded and struck too, which has no goal.

Steps of all methods alternate; each figure is the median over rounds of the ratio to the plain step
of the same round, with the range of the middle half. On a CPU that is CPU time of the process (the
machine may be shared), on a GPU wall time, waited for. All sides share the allocator's settings.

Extra memory is the peak of all tensors that are alive, from the making of the model to the end of
the second step, less that of the plain step: on a CPU from the allocator's events as PyTorch's
profiler sees them, on a GPU from its peak. It is given in bytes, and in copies of the weights.

The SAM of two public peers is measured beside where they are importable: that of pytorch_optimizer,
and that of sam-pytorch, which is imported as sam.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from records import markdown
from torch import Tensor, nn
from torch.nn import functional

from joulewise.devices import SRAM, Crossbar
from joulewise.models import build
from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.placement import Placement, place
from joulewise.study.malloc import keep_freed_memory
from joulewise.training import TrainingMemory

BATCH = 128
LIMITS = {
    **dict.fromkeys(["SAM", "ASAM", "SAMSON, p = 2", "SAMSON, p = inf"], 2.0),
    **dict.fromkeys(["SRAM, eta = 0.5", "Crossbar"], 1.1),
}
WARM_UP = 2
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    makers: dict[str, Callable[[], Step]] = {
        **{name: partial(prepare, make, device) for name, make in methods().items()},
        **{name: partial(prepare_through, put, device) for name, put in memories().items()},
        **peers(device),
    }
    held = {name: bytes_at_peak(make, device) for name, make in makers.items()}
    rows = measure({name: make() for name, make in makers.items()}, arguments.repeats, device)
    weights = sum(4 * parameter.numel() for parameter in problem(device)[1].parameters())
    for row in rows:
        row["extra_bytes"] = held[row["method"]] - held[rows[0]["method"]]
        row["extra_copies"] = row["extra_bytes"] / weights
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} thread(s)"
    )
    installed = {name: version(name) for name in PEERS if name in makers}
    about = {"torch": torch.__version__, "where": where, **vars(arguments)}
    found = about | {"peers": installed, "rows": rows}
    print(json.dumps(found, indent=2) if arguments.json else table(found))


def table(found: dict[str, Any]) -> str:
    """Steps in plain steps, in Markdown."""
    versions, rows = found["peers"], []
    for row in found["rows"]:
        name, (low, high) = row["method"], row["middle_half"]
        method = f"SAM of {name} {versions[name]}" if name in versions else name
        goal = "-" if row["limit"] is None else f"{row['limit']:.1f}"
        step = [f"{row['ratio']:.2f}", f"[{low:.2f}, {high:.2f}]", goal]
        rows.append([method, *step, f"{row['extra_copies']:.1f}"])
    return markdown(["method", "step", "middle half", "goal", "memory"], rows)


def methods() -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    """The first is the plain step."""
    return {
        "SGD": lambda params: torch.optim.SGD(params, **SGD),
        "SAM": lambda params: SAM(params, torch.optim.SGD, rho=0.05, **SGD),
        "ASAM": lambda params: ASAM(params, torch.optim.SGD, rho=0.5, **SGD),
        "SAMSON, p = 2": lambda params: SAMSON(params, torch.optim.SGD, p=2, **SGD),
        "SAMSON, p = inf": lambda params: SAMSON(params, torch.optim.SGD, p=math.inf, **SGD),
    }


def memories() -> dict[str, Callable[[nn.Module, Tensor], tuple[Placement, dict[str, float]]]]:
    """Placement of the network's tensors, and the operating point."""
    crossbar, sram = Crossbar(sigma=1e-6), SRAM(bits=8)
    return {
        "SRAM, eta = 0.5": lambda model, x: (
            place(model, weights=sram, example_inputs=x),
            {"eta": 0.5},
        ),
        "Crossbar": lambda model, x: (
            place(model, weights=crossbar, example_inputs=x),
            {"g_max": 25e-6},
        ),
        "SRAM, activations": lambda model, x: (
            place(model, weights=sram, activations=sram, example_inputs=x),
            {"eta": 0.5},
        ),
    }


def prepare_through(
    put: Callable[[nn.Module, Tensor], tuple[Placement, dict[str, float]]], device: torch.device
) -> Step:
    """The plain step, through a memory."""
    forward_backward, model = problem(device)
    sample = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    placement, setting = put(model, sample)
    memory = TrainingMemory(placement, at=setting)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def step() -> None:
        optimizer.zero_grad()
        with memory:
            forward_backward()
        optimizer.step()

    return step


def prepare(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], device: torch.device
) -> Step:
    """One training step, with a closure that the optimizer calls as often as it likes."""
    forward_backward, model = problem(device)
    optimizer = make(list(model.parameters()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        return forward_backward()

    return lambda: optimizer.step(closure)


def peers(device: torch.device) -> dict[str, Callable[[], Step]]:
    """Those that can be imported."""
    found = {}
    for name, (module, make) in PEERS.items():
        try:
            sam = importlib.import_module(module).SAM
        except ImportError:
            continue
        found[name] = partial(make, sam, device)
    return found


def in_two_calls(sam: Any, device: torch.device) -> Step:
    """SAM of pytorch_optimizer; it leaves the first pass to the caller."""
    forward_backward, model = problem(device)
    optimizer = sam(list(model.parameters()), torch.optim.SGD, rho=0.05, **SGD)

    def step() -> None:
        forward_backward()
        optimizer.first_step(zero_grad=True)
        forward_backward()
        optimizer.second_step(zero_grad=True)

    return step


def around_an_optimizer(sam: Any, device: torch.device) -> Step:
    """SAM of sam-pytorch."""
    forward_backward, model = problem(device)
    base = torch.optim.SGD(model.parameters(), **SGD)
    optimizer = sam(model.parameters(), base, rho=0.05)

    def closure() -> Tensor:
        base.zero_grad()
        return forward_backward()

    return lambda: optimizer.step(closure)


PEERS: dict[str, tuple[str, Callable[[Any, torch.device], Step]]] = {
    "pytorch_optimizer": ("pytorch_optimizer", in_two_calls),
    "sam-pytorch": ("sam", around_an_optimizer),
}


def bytes_at_peak(make: Callable[[], Step], device: torch.device) -> int:
    """The most that tensors hold at a time, in making a step and doing it twice."""

    def run() -> None:
        step = make()
        step()
        step()

    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    # The profiler's own figures are sums over operations, which have no peak.
    events = profile.profiler.kineto_results.events()
    changes = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(itertools.accumulate(change.nbytes() for change in changes))


def problem(device: torch.device) -> tuple[Callable[[], Tensor], nn.Module]:
    model = build("resnet20", (3, 32, 32), 10, seed=0).to(device)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, 3, 32, 32, generator=generator).to(device)
    targets = torch.randint(10, (BATCH,), generator=generator).to(device)

    def forward_backward() -> Tensor:
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return forward_backward, model


def measure(steps: dict[str, Step], repeats: int, device: torch.device) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + repeats):
        for name, step in steps.items():
            seconds[name].append(seconds_of(step, device))
    seconds = {name: times[WARM_UP:] for name, times in seconds.items()}
    plain = next(iter(seconds.values()))
    return [row(name, times, plain) for name, times in seconds.items()]


def row(name: str, times: list[float], plain: list[float]) -> dict[str, Any]:
    ratios = sorted(t / p for t, p in zip(times, plain, strict=True))
    return {
        "method": name,
        "ms": 1e3 * statistics.median(times),
        "ratio": statistics.median(ratios),
        "limit": LIMITS.get(name),
        "middle_half": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }


def seconds_of(step: Step, device: torch.device) -> float:
    clock = time.process_time
    if device.type == "cuda":
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
