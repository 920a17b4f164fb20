"""Peak memory of placing and simulating a model, in multiples of its weights.

    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/copy_memory.py [--layers 24]

Linear layers of 2048 x 2048 in float32, in an SRAM of 8-bit words. Counted are the user's weights,
the words that are stored, what is read of them, and whatever lives beside them at the peak of the
process's resident memory. The environment variable lets glibc return freed tensors at once; else
the figure is that of its heap.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import torch
from torch import nn

import joulewise as jw

PAGE = 4096


class Peak:
    """Largest resident memory within a block, in bytes."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.is_set():
            self.bytes = max(self.bytes, resident())
            time.sleep(0.001)

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm = nn.Sequential(nn.Linear(64, 64))
    inputs, targets = torch.randn(4, 2048), torch.arange(4)
    placement = jw.place(warm, weights=jw.SRAM(bits=8), example_inputs=inputs[:, :64])
    jw.simulate(placement, [(inputs[:, :64], targets)], at={"eta": 0.5}, chips=2)
    before = resident()
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(arguments.layers)])
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    with Peak() as placing:
        placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=inputs)
    with Peak() as simulating:
        jw.simulate(placement, [(inputs, targets)], at={"eta": 0.5}, chips=3)
    for what, peak in (("place", placing), ("simulate", simulating)):
        print(f"{what}: {(peak.bytes - before) / weights:.3f} x the weights")
    print(f"one tensor: {1 / arguments.layers:.3f}")


if __name__ == "__main__":
    main()
