"""Products of float32 numbers in float32, whatever short cuts a GPU offers.

By default GPUs multiply in TF32, with 10 bits of mantissa, where convolutions are concerned. The
outputs then move by more than a good memory moves them: of a ResNet-20 on pairs of conductances
with noise of 1e-4 of their range, by thrice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["full_precision"]


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Inside, a model on a GPU multiplies float32 as float32; then settings are what they were.

    A setting that followed ``torch.backends.fp32_precision`` keeps its value from then on, since
    PyTorch does not tell such a value from one that was chosen.

    Args:
        model: Nothing is set for one that is on no GPU.

    Yields:
        Nothing.
    """
    if not any(parameter.is_cuda for parameter in model.parameters()):
        yield
        return
    switches = [(write, read(), full) for read, write, full in _switches() if _readable(read)]
    try:
        for write, _, full in switches:
            write(full)
        yield
    finally:
        for write, before, _ in switches:
            write(before)


def _readable(read: Callable[[], Any]) -> bool:
    """Whether PyTorch knows the value of an old setting: newer ones may contradict it."""
    try:
        read()
    except RuntimeError:
        return False
    return True


def _switches() -> list[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """How to read and to write each of PyTorch's settings, and what makes it exact.

    Old ones first: writing one overwrites the newer ones of the same products.
    """
    backends: Any = torch.backends  # its type stubs leave most of these out
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    found: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (*_attribute(cudnn, "allow_tf32"), False),
    ]
    # Since PyTorch 2.9 each kind of product has a setting of its own.
    newer = [cudnn.conv, cudnn.rnn, matmul] if hasattr(cudnn, "conv") else []
    return found + [(*_attribute(owner, "fp32_precision"), "ieee") for owner in newer]


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return partial(getattr, owner, name), partial(setattr, owner, name)
