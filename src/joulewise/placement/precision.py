"""Products of float32 numbers in float32, whatever short cuts the hardware offers.

By default GPUs multiply in TF32, with 10 bits of mantissa, where convolutions are concerned. The
outputs then move by more than a good memory moves them: of a ResNet-20 on pairs of conductances
with noise of 1e-4 of their range, by thrice as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 is multiplied as float32, on a CPU and a GPU; settings come back after it.

    Example:
        >>> with full_precision():
        ...     torch.backends.cudnn.conv.fp32_precision
        'ieee'
    """
    switches = _switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, full in switches:
            setattr(owner, name, full)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Where PyTorch keeps these settings, and what makes them exact."""
    backends: Any = torch.backends  # its type stubs leave most of these out
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    if not hasattr(cudnn, "conv"):  # before PyTorch 2.9
        return [(cudnn, "allow_tf32", False), (cuda.matmul, "allow_tf32", False)]
    owners = [cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul]
    return [(owner, "fp32_precision", "ieee") for owner in owners]
