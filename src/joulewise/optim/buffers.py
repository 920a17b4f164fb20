"""Running statistics move once in a step, not twice: buffers are put back after the second pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["kept_buffers", "written"]


@contextmanager
def kept_buffers() -> Iterator[None]:
    """Whatever module is called within the block, its buffers are afterwards as they were.

    Means and variances of BatchNorm, counters and power iterations are buffers. Modules find
    themselves here by being called, through a hook on every call, so that nobody has to name a
    model; the outermost module answers for all below it, compiled or not.

    Yields:
        Nothing.

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> with kept_buffers():
        ...     _ = norm(torch.randn(8, 3))
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
    """
    # By identity: a user's module may compare as it likes. Holding it keeps the identity its own.
    kept: dict[int, tuple[nn.Module, dict[str, Tensor | None]]] = {}
    copies: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        if id(module) in kept:
            return
        for part in module.modules():
            if id(part) not in kept:
                kept[id(part)] = part, dict(part._buffers)
                copies.extend((b, b.detach().clone()) for b in written(part._buffers.values()))

    hook = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()
        for module, own in kept.values():
            for name, buffer in own.items():
                module._buffers[name] = buffer  # not `update`, which a ScriptModule's table lacks
        with torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)


def written(buffers: Iterable[Tensor | None]) -> Iterator[Tensor]:
    """The buffers that can be written: one value shown at many places cannot.

    Args:
        buffers: Of modules; None where one is not set.

    Example:
        >>> [len(buffer) for buffer in written([torch.ones(2), None, torch.ones(1).expand(3)])]
        [2]
    """
    for buffer in buffers:
        if buffer is None:
            continue
        shape_and_stride = zip(buffer.shape, buffer.stride(), strict=True)
        if all(stride or size < 2 for size, stride in shape_and_stride):
            yield buffer
