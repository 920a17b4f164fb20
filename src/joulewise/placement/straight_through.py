"""Gradients: straight through words, and of the ranges that weights are clipped to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["clipped", "follow_range", "straight_through"]


class _StraightThrough(torch.autograd.Function):
    """One tensor's value with another one's gradient."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, read: Tensor) -> Tensor:
        return read.view_as(read)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0], None


def straight_through(given: Tensor, read: Tensor) -> Tensor:
    """Value of ``read`` with the gradient of ``given``."""
    if not (torch.is_grad_enabled() and given.requires_grad):
        return read
    through: Tensor = _StraightThrough.apply(given, read)  # type: ignore[no-untyped-call]
    return through


def clipped(weight: Tensor, alpha: Tensor) -> Tensor:
    """A weight within +-alpha, without a gradient.

    Args:
        weight: Any shape.
        alpha: One number, above 0; counts in the precision of the weight.
    """
    limit = alpha.detach().to(weight)
    return weight.detach().clamp(-limit, limit)


def follow_range(
    parameter: Tensor, alpha: Tensor, weight: Tensor, clipped: Tensor
) -> Callable[[], None]:
    """Accumulate gradients of the range of a weight that is stored clipped, from now on.

    An entry that is clipped moves with the range, by its sign: their gradients so signed add up,
    over the root of the number of entries.

    Args:
        parameter: The parameter, to whose gradient backward passes add.
        alpha: The range, one number; nothing happens where it requires no gradient.
        weight: The weight before it was clipped.
        clipped: The weight as `clipped` made it.

    Returns:
        A function that stops it.
    """
    if not (parameter.requires_grad and alpha.requires_grad):
        return lambda: None

    @torch.no_grad()
    def accumulate(gradients: tuple[Tensor | None, ...]) -> None:
        (gradient,) = gradients
        if gradient is None:
            return
        if gradient.is_sparse:
            gradient = gradient.to_dense()
        total = torch.sum(torch.sign(weight - clipped) * gradient, dtype=alpha.dtype)
        slope = (total / gradient.numel() ** 0.5).to(alpha.device)
        alpha.grad = slope if alpha.grad is None else alpha.grad.add_(slope)

    # A hook of the node, after those of the tensor: torch.autograd.grad passes it by.
    node = torch.autograd.graph.get_gradient_edge(parameter).node
    hook = node.register_prehook(accumulate)

    def stop() -> None:
        hook.remove()
        nonlocal node
        del node  # held until here: PyTorch would make another one, without the hook

    return stop
