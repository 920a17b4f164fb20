"""The perturbation of a sharpness-aware step, and the buffers that the pass at it must not move.

    max L(w + eps)  over  ||T^-1 eps||_2 <= rho   gives   eps = rho T^2 g / ||T g||_2

to first order, with g the gradient of L at w and T a positive diagonal matrix (P. Foret et al.,
ICLR 2021, eq. 2, for T = 1; J. Kwon et al., ICML 2021, for T of the weights). The norm runs over
all parameters together. All arithmetic stays on the parameters' devices, without a synchronisation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from joulewise.errors import refuse

__all__ = ["ascent", "kept_buffers", "writable"]

Group = dict[str, Any]


def ascent(
    groups: Sequence[Group], diagonals_of: Callable[[list[Tensor], Group], list[Tensor] | None]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """``eps = rho T^2 g / ||T g||_2`` of every parameter that has a gradient.

    A group's rho is folded into its T, so groups of different rho share one ellipsoid,
    ``sum over groups ||T^-1 eps||^2 / rho^2 <= 1``; with one rho that is the constraint above. If
    the norm is zero or not finite, eps is 0.

    Args:
        groups: Parameter groups of an optimizer. T scales tensors with two or more axes, or, if the
            group's ``scaled`` is ``"name"``, those with ``weight`` in their name; it is 1 for the
            rest.
        diagonals_of: The diagonals of T for scaled parameters of a group; None where T is 1.

    Returns:
        Lists of parameters of one device and dtype, each with the list of their eps.

    Raises:
        InputError: if a gradient is sparse.
    """
    found, norms = [], []
    for group, params, scaled in _alike(groups):
        tensors = [p.grad for p in params if p.grad is not None]
        diagonals = diagonals_of(params, group) if scaled else None
        if diagonals is not None:
            tensors = list(torch._foreach_mul(diagonals, tensors))
        # The range of half precision is too short for a sum of squares.
        precision = torch.promote_types(tensors[0].dtype, torch.float32)
        parts = torch.stack(list(torch._foreach_norm(tensors, 2, dtype=precision)))
        norms.append(group["rho"] * torch.linalg.vector_norm(parts))
        found.append((group, params, tensors, diagonals))
    if not found:
        return []
    norm = torch.linalg.vector_norm(torch.stack([part.to(norms[0].device) for part in norms]))
    unusable = ~torch.isfinite(norm) | (norm == 0)
    moves = []
    for group, params, tensors, diagonals in found:
        sign = -1 if group.get("maximize") else 1  # a maximised objective is worst at a low
        factor = (sign * group["rho"] * group["rho"] / norm).to(tensors[0].device)
        eps = list(torch._foreach_mul(tensors, factor))
        if diagonals is not None:
            torch._foreach_mul_(eps, diagonals)
        # Not by a factor of 0: zero times infinity is NaN.
        masked = unusable.to(factor.device)
        for move in eps:
            move.masked_fill_(masked, 0)
        moves.append((params, eps))
    return moves


def _alike(groups: Sequence[Group]) -> Iterator[tuple[Group, list[Tensor], bool]]:
    """Parameters with a gradient, of one group, device and dtype; True where T scales them."""
    for number, group in enumerate(groups):
        alike: dict[tuple[bool, torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        positions = [f"parameter {i} of group {number}" for i in range(len(group["params"]))]
        names = group.get("param_names", positions)
        for parameter, name in zip(group["params"], names, strict=True):
            if parameter.grad is None or not parameter.numel():
                continue
            if parameter.grad.layout is not torch.strided:
                allowed = "a dense one: build embeddings with sparse=False"
                refuse(f"the gradient of {name}", parameter.grad.layout, allowed)
            by_name = group.get("scaled") == "name"
            scaled = "weight" in name if by_name else parameter.ndim >= 2
            alike[scaled, parameter.device, parameter.dtype].append(parameter)
        for (scaled, _, _), params in alike.items():
            yield group, params, scaled


@contextmanager
def kept_buffers() -> Iterator[None]:
    """Restore, at the end of the block, the buffers of every module that is called within it.

    Buffers hold the running statistics of BatchNorm, counters and power iterations. A global
    forward pre-hook finds the modules, so that no argument ``model`` can be forgotten; the
    outermost module stands for all of its submodules, compiled or not.

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> with kept_buffers():
        ...     _ = norm(torch.randn(8, 3))
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
    """
    # By identity, since a user's module may define equality; the reference keeps the id valid.
    kept: dict[int, tuple[nn.Module, dict[str, Tensor | None]]] = {}
    copies: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any) -> None:
        if id(module) in kept:
            return
        for part in module.modules():
            if id(part) not in kept:
                kept[id(part)] = part, dict(part._buffers)
                copies.extend((b, b.detach().clone()) for b in writable(part._buffers.values()))

    hook = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()
        for module, buffers in kept.values():
            for name, buffer in buffers.items():
                module._buffers[name] = buffer  # the table of a ScriptModule has no `update`
        with torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)


def writable(buffers: Iterable[Tensor | None]) -> Iterator[Tensor]:
    """The buffers that can be written in place: those that are set and not expanded.

    Example:
        >>> [len(buffer) for buffer in writable([torch.ones(2), None, torch.ones(1).expand(3)])]
        [2]
    """
    for buffer in buffers:
        if buffer is None:
            continue
        shape_and_stride = zip(buffer.shape, buffer.stride(), strict=True)
        if all(stride or size < 2 for size, stride in shape_and_stride):
            yield buffer
