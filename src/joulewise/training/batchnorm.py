"""Re-estimation of BatchNorm statistics under the noise of a memory, after training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from joulewise.data import Split
from joulewise.errors import DataError, ModelError, check_kind, refuse
from joulewise.nested import batch_size as samples_in
from joulewise.placement import call, prepare, restored_modes, running
from joulewise.training.training_memory import TrainingMemory

__all__ = ["reestimate_batchnorm"]


@torch.no_grad()
def reestimate_batchnorm(
    memory: TrainingMemory, data: Split | Iterable[Any], *, batch_size: int | None = None
) -> None:
    """Set the running statistics of BatchNorm to those of the network on a memory.

    The statistics of a network that was trained on exact weights are off on a noisy chip. Each
    batch passes through one block of ``memory``, so that a memory of one chip calibrates for that
    chip, and one of many chips averages over them. Means and variances are unweighted averages over
    batches, at any momentum of the layers. Normalisation uses the statistics of the batch, all
    other layers are in evaluation mode, and gradients are off.

    Only the running means, variances and counters of BatchNorm layers that run are changed. After
    an exception they are restored.

    Args:
        memory: The memory that reads the weights; each batch is one of its steps.
        data: A split, or an iterable of batches ``(inputs, targets)`` or inputs alone, from the
            training set. Batches of a single sample, as the last of a split may be, are skipped.
        batch_size: As for `simulate`.

    Raises:
        InputError: if ``memory`` is of another kind.
        DataError: if no batch has two samples or more.
        ModelError: if no layer of the model tracks running statistics, or the model fails.

    Example:
        >>> from joulewise.devices import SRAM, Chip
        >>> from joulewise.placement import place
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        >>> placement = place(model, weights=SRAM(bits=8))
        >>> memory = TrainingMemory(placement, at={"eta": 0.3}, chip=Chip(seed=1))
        >>> reestimate_batchnorm(memory, [torch.randn(64, 4) for _ in range(5)])
        >>> int(model[1].num_batches_tracked)
        5
    """
    check_kind("memory", memory, TrainingMemory, "a TrainingMemory of the model to calibrate")
    model = memory.placement.model
    norms = tracking_layers(model)
    if not norms:
        raise ModelError("no layer of the model tracks running statistics; allowed: BatchNorm")
    batches = [b for b in prepare(data, model, batch_size) if samples_in(b.inputs) > 1]
    if not batches:
        refuse("the data", "of batches of one sample", "two or more, for a variance", DataError)
    momenta = [norm.momentum for norm in norms]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    try:
        with restored_modes(model):
            model.eval()
            for norm in norms:
                norm.train()
                norm.momentum = None  # the unweighted average over batches
                norm.reset_running_stats()
            for batch in batches:
                with memory, running(batch.inputs):
                    call(model, batch.inputs)
        for norm, statistics in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:  # such as an auxiliary head, for training alone
                _restore(norm, statistics)
    except BaseException:
        for norm, statistics in zip(norms, before, strict=True):
            _restore(norm, statistics)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def tracking_layers(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that track running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _restore(norm: _BatchNorm, statistics: list[Tensor]) -> None:
    for buffer, copy in zip(norm.buffers(), statistics, strict=True):
        buffer.copy_(copy)
