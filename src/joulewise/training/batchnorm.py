"""Batch normalisation after training: statistics of the network as a memory makes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from joulewise.data import Split
from joulewise.data.nested import batch_size as samples_in
from joulewise.errors import DataError, ModelError, refuse
from joulewise.placement import call, prepare, same_modes
from joulewise.training.through import TrainingMemory

__all__ = ["reestimate_batchnorm"]


@torch.no_grad()
def reestimate_batchnorm(
    memory: TrainingMemory,
    data: Split | Iterable[Any],
    *,
    batch_size: int | None = None,
) -> None:
    """Set the running statistics of BatchNorm to those of what a memory reads.

    A network that was trained on exact weights has statistics that a noisy chip does not meet. Each
    batch passes through one block of ``memory``: through one chip, to calibrate for it, or another
    chip for each batch. Means and variances are averages over batches, each with the same weight,
    whatever momentum the layers have. Normalisation uses the statistics of the batch itself, all
    other layers are in evaluation mode, and there are no gradients.

    Changed are the running means, variances and counters of the BatchNorm layers that are reached,
    nothing else. After an exception they are as they were.

    Args:
        memory: What reads; it counts one step for each batch.
        data: A split, or an iterable of batches: ``(inputs, targets)``, or inputs alone; from the
            training set, and several samples in each batch; one of a single sample, as the last of
            a split may be, is passed over.
        batch_size: As for `simulate`.

    Raises:
        DataError: if no batch has two samples or more.
        ModelError: if no layer of the model keeps running statistics.

    Example:
        >>> from joulewise.devices import SRAM, Chip
        >>> from joulewise.placement import place
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        >>> memory = TrainingMemory(place(model, weights=SRAM(bits=8)), chip=Chip(seed=1), eta=0.3)
        >>> reestimate_batchnorm(memory, [torch.randn(64, 4) for _ in range(5)])
        >>> int(model[1].num_batches_tracked)
        5
    """
    model = memory.placement.model
    norms = tracked(model)
    if not norms:
        raise ModelError("no layer of the model keeps running statistics; allowed: BatchNorm")
    batches = [b for b in prepare(data, model, batch_size) if samples_in(b.inputs) > 1]
    if not batches:
        refuse("the data", "of batches of one sample", "two or more, for a variance", DataError)
    momenta = [norm.momentum for norm in norms]
    before = [{name: b.clone() for name, b in _statistics(norm).items()} for norm in norms]
    try:
        with same_modes(model):
            model.eval()
            for norm in norms:
                norm.train()
                norm.momentum = None  # an average over all batches
                norm.reset_running_stats()
            for batch in batches:
                with memory:
                    call(model, batch.inputs)
        for norm, statistics in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:  # an auxiliary head, say, that runs in training alone
                _put_back(norm, statistics)
    except BaseException:
        for norm, statistics in zip(norms, before, strict=True):
            _put_back(norm, statistics)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def tracked(model: nn.Module) -> list[_BatchNorm]:
    """The layers of BatchNorm that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _put_back(norm: _BatchNorm, statistics: dict[str, Tensor]) -> None:
    for name, own in _statistics(norm).items():
        own.copy_(statistics[name])


def _statistics(norm: _BatchNorm) -> dict[str, Tensor]:
    return {name: b for name, b in norm._buffers.items() if b is not None}
