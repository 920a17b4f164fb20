"""Is anything of the user's changed by Ctrl-C, at any moment?

    python benchmarks/untouched.py [--interrupts 2000] [--blocks 200] [--seed 0]

Real SIGINTs at random times within simulate, predict and allocate, of a small network and a VGG,
and within training loops through a memory. After each one parameters, buffers, gradients, modes,
hooks, flags, random generators, switches of PyTorch, the signal handler and the inputs are compared
bit by bit with what they were before.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import joulewise as jw

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interrupts", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # A shell starts jobs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = np.random.default_rng(arguments.seed)
    changed = calls(arguments.interrupts, rng) + training(arguments.blocks, rng)
    raise SystemExit(changed > 0)


def calls(interrupts: int, rng: np.random.Generator) -> int:
    """Interrupt simulate, predict and allocate; returns how many left something changed."""
    digits = jw.load_data("digits")
    bad = 0
    for name, share in (("mlp", 0.8), ("vgg", 0.2)):
        model = jw.load_model(name, digits.input_shape, digits.classes, seed=0).train()
        inputs, targets = digits.test.inputs[:32].clone(), digits.test.targets[:32].clone()
        placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=inputs)
        data = [(inputs, targets)]
        works: dict[str, Call] = {
            "simulate": lambda p=placement, d=data: jw.simulate(p, d, at={"eta": 0.5}, chips=3),
            "predict": lambda p=placement, d=data: jw.predict(p, d, at={"eta": 0.5}),
            "allocate": lambda p=placement, d=data: jw.allocate(
                p, d, goal=jw.EnergyBudget(0.5), chips=2
            ),
        }
        for what, work in works.items():
            count = round(interrupts * share / len(works))
            bad += struck(f"{name}, {what}", work, model, inputs, count, rng)
    return bad


def struck(
    what: str, work: Call, model: nn.Module, inputs: Tensor, count: int, rng: np.random.Generator
) -> int:
    work()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    found: Counter[str] = Counter()
    changed = 0
    for _ in range(count):
        before = state(model, inputs)
        found[interrupted(work, float(rng.uniform(0, 1.05 * seconds)))] += 1
        wrong = [name for name, value in state(model, inputs).items() if value != before[name]]
        if wrong:
            changed += 1
            print(f"{what}: changed: {', '.join(wrong)}", flush=True)
    print(f"{what}: {count} runs of {seconds:.3f} s, {dict(found)}, {changed} changed", flush=True)
    return changed


def interrupted(work: Call, delay: float) -> str:
    """Run some work and send SIGINT to this process after a delay, unless it is done by then."""
    done = threading.Event()

    def strike() -> None:
        if not done.wait(delay):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=strike)
    outcome = "interrupted"
    try:
        thread.start()
        work()
        outcome = "finished"
    except KeyboardInterrupt:
        pass
    while True:  # the signal may arrive after the work was done
        try:
            done.set()
            thread.join()
            time.sleep(0)
            break
        except KeyboardInterrupt:
            continue
    return outcome


def training(blocks: int, rng: np.random.Generator) -> int:
    """Interrupt training loops; returns how many left something changed."""
    digits = jw.load_data("digits")
    model = jw.load_model("cnn", digits.input_shape, digits.classes, seed=0).train()
    inputs, targets = digits.train.inputs[:16].clone(), digits.train.targets[:16].clone()
    memory = jw.TrainingMemory(jw.place(model, weights=jw.SRAM(bits=8)), at={"eta": 0.5})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    finished: list[list[Tensor]] = []

    def step() -> None:
        optimizer.zero_grad()
        with memory:
            nn.functional.cross_entropy(model(inputs), targets).backward()
        finished.append([p.detach().clone() for p in model.parameters()])

    changed = 0
    step()
    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    found: Counter[str] = Counter()
    for _ in range(blocks):
        before = surroundings()
        found[interrupted(step, float(rng.uniform(0, 1.05 * seconds)))] += 1
        weights = zip(model.parameters(), finished[0], strict=True)
        hooks = [n for n, m in model.named_modules() if m._forward_pre_hooks or m._forward_hooks]
        if surroundings() != before or hooks or not all(torch.equal(p, q) for p, q in weights):
            changed += 1
            print("training: changed", flush=True)
        step()  # the memory goes on
    print(f"training: {blocks} blocks of {seconds:.3f} s, {dict(found)}, {changed} changed")
    return changed


def state(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Everything of the user's, as plain values to compare."""
    return surroundings() | {
        "parameters": [
            (id(p), p.data_ptr(), data(p), p.requires_grad, p.grad is None)
            for p in model.parameters()
        ],
        "buffers": [(id(b), b.data_ptr(), data(b)) for b in model.buffers()],
        "modes": [module.training for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "inputs": data(inputs),
    }


def surroundings() -> dict[str, Any]:
    """The state of PyTorch and of this process."""
    cuda = torch.backends.cuda
    return {
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "random numbers": data(torch.get_rng_state()),
        "numpy": str(np.random.get_state()[1][:8]),  # noqa: NPY002  # the user's global state
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch._C._get_mkldnn_enabled(),
        "cudnn": torch._C._get_cudnn_enabled(),
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        "precision": torch.get_float32_matmul_precision(),
        "modes of functions": torch._C._len_torch_function_stack(),
        "modes of operations": torch._C._len_torch_dispatch_stack(),
        "signal handler": signal.getsignal(signal.SIGINT),
        "threads": torch.get_num_threads(),
    }


def data(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


if __name__ == "__main__":
    main()
