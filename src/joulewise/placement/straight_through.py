"""Gradients: straight through words, and of the ranges that weights are clipped to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["RangeSlope", "clipped", "straight_through"]


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


class RangeSlope:
    """Gradients of a weight that is stored clipped, made gradients of the range.

    An entry that is clipped moves with the range, by its sign: their gradients so signed add up,
    over the root of the number of entries.

    Args:
        alpha: The range, one number; nothing happens where it requires no gradient.
        weight: The weight before it was clipped.
        clipped: The weight as `clipped` made it.
    """

    def __init__(self, alpha: Tensor, weight: Tensor, clipped: Tensor) -> None:
        self._alpha, self._weight, self._clipped = alpha, weight, clipped

    def follow(self, parameter: Tensor) -> Callable[[], None]:
        """Accumulate whatever a backward pass adds to the gradient of ``parameter`` from now on.

        Returns:
            What stops that.
        """
        if not (parameter.requires_grad and self._alpha.requires_grad):
            return lambda: None
        # A hook of the node, after those of the tensor: torch.autograd.grad passes it by.
        node = torch.autograd.graph.get_gradient_edge(parameter).node
        hook = node.register_prehook(self._accumulate)

        def stop() -> None:
            hook.remove()
            nonlocal node
            del node  # held until here: PyTorch would make another one, without the hook

        return stop

    @torch.no_grad()
    def _accumulate(self, gradients: tuple[Tensor | None, ...]) -> None:
        (gradient,) = gradients
        if gradient is None:
            return
        if gradient.is_sparse:
            gradient = gradient.to_dense()
        direction = torch.sign(self._weight - self._clipped)
        total = torch.sum(direction * gradient, dtype=self._alpha.dtype)
        slope = (total / gradient.numel() ** 0.5).to(self._alpha.device)
        if self._alpha.grad is None:
            self._alpha.grad = slope
        else:
            self._alpha.grad += slope
