"""Per-sample gradients of an operation with respect to the weight that it consumed.

The backward pass gives, for each of several scalars ``z_k`` of every sample (a probed output, each
logit), the gradient ``g`` at the operation's output. With ``J`` the gradients of these scalars with
respect to the weight, an `OperationGradients` gives, for each sample,

    jacobians(gs)        J
    squared(g, var)      sum_i var_i (dz/dw_i)^2
    products(gs, var)    J diag(var) J^T
    response(gs, noise)  J noise

and ``summed(g)``, (dz/dw_i)^2 summed over samples. Only ``jacobians`` keeps ``J`` in memory.
Squares are taken per sample: the square of a gradient summed over the batch has the same
expectation under random probes, but so much variance that it would need tens of probes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BatchAxis", "BlockedGradients", "OperationGradients", "WholeGradients"]

# Numbers that are worked on at a time, so that they stay in the processor's cache.
_CACHED = 1 << 20


class OperationGradients(Protocol):
    """Per-sample gradients of one operation in one pass over a batch."""

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """Gradients with respect to the weight.

        Args:
            gs: For each scalar, the gradient at the output, in the output's shape.

        Returns:
            ``[batch, scalars, *weight]``.
        """

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_i var_i (dz/dw_i)^2``.

        Args:
            g: Gradient of one scalar at the output.
            var: Variance of each entry, ``[*weight]``.
            generator: Draws the terms that an unbiased estimate of the sum is made from, where that
                saves work; None for the exact sum.

        Returns:
            ``[batch]``.
        """

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``J diag(var) J^T``, ``[batch, scalars, scalars]``; see `squared`."""

    def summed(self, g: Tensor) -> Tensor:
        """``(dz/dw_i)^2`` summed over samples, ``[*weight]``."""

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``J noise`` for noise ``[draws, *weight]``: ``[batch, scalars, draws]``."""


class BlockedGradients(ABC):
    """Gradients that are formed for a block of samples, reduced, and dropped.

    A block holds the weight's entries in the order in which they are cheapest to form: reordering
    millions of numbers would cost as much as forming them.
    """

    @abstractmethod
    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """Jacobians ``[samples of the block, scalars, entries]``, the samples in order."""

    def flat(self, weights: Tensor) -> Tensor:
        """``[several, *weight]`` as ``[several, entries]`` in the order of the blocks."""
        return weights.flatten(1)

    @abstractmethod
    def unflat(self, jacobians: Tensor) -> Tensor:
        """``[batch, scalars, entries]`` as ``[batch, scalars, *weight]``; inverse of `flat`."""

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """See `OperationGradients`."""
        return self.unflat(torch.cat(list(self.blocks(gs))))

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `OperationGradients`."""
        weights = self.flat(var[None])[0]
        return torch.cat([b[:, 0].square() @ weights.to(b.dtype) for b in self.blocks([g])])

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See `OperationGradients`."""
        std = self.flat(var[None])[0].sqrt()
        return torch.cat([gram(block, std) for block in self.blocks(gs)])

    def summed(self, g: Tensor) -> Tensor:
        """See `OperationGradients`."""
        total = torch.stack([block[:, 0].square().sum(0) for block in self.blocks([g])]).sum(0)
        return self.unflat(total[None, None])[0, 0]

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """See `OperationGradients`."""
        columns = self.flat(noise).mT
        return torch.cat([block @ columns.to(block.dtype) for block in self.blocks(gs)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeGradients:
    """Gradients that are kept whole, whatever the operations: the arguments ``gs`` are not used.

    Args:
        jacobian: ``[batch, scalars, *weight]``.
    """

    jacobian: Tensor

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """See `OperationGradients`."""
        return self.jacobian

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `OperationGradients`."""
        return (self.jacobian[:, 0].square() * var.to(self.jacobian.dtype)).flatten(1).sum(1)

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See `OperationGradients`; the variance may differ by sample, ``[batch, *weight]``."""
        flat = self.jacobian.flatten(2)
        return torch.matmul(flat * var.to(flat.dtype).reshape(-1, 1, flat.shape[2]), flat.mT)

    def summed(self, g: Tensor) -> Tensor:
        """See `OperationGradients`."""
        return self.jacobian[:, 0].double().square().sum(0)

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """See `OperationGradients`."""
        return self.jacobian.flatten(2) @ noise.flatten(1).mT.to(self.jacobian.dtype)


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """The axis of a tensor that holds the samples.

    Args:
        axis: The axis. Its length is the batch size, or a multiple of it where tokens and samples
            were flattened into one axis.
        samples: Batch size.
        tokens_first: True if a flattened axis holds all samples of the first token, then of the
            second, and so on; False if it holds all tokens of the first sample first.
    """

    axis: int
    samples: int
    tokens_first: bool = False

    def first(self, tensor: Tensor) -> Tensor:
        """The tensor as ``[samples, tokens, *the other axes]``."""
        moved = tensor.movedim(self.axis, 0)
        rest = moved.shape[1:]
        if self.tokens_first:
            return moved.reshape(-1, self.samples, *rest).transpose(0, 1)
        return moved.reshape(self.samples, -1, *rest)

    def is_shared(self, tensor: Tensor) -> bool:
        """True if the axis holds tokens as well as samples."""
        return tensor.shape[self.axis] > self.samples


def sample_blocks(samples: int, numbers_each: int, least: int = 1) -> Iterator[slice]:
    """Slices of the samples that fit in the processor's cache.

    Args:
        samples: Number of samples.
        numbers_each: Numbers that one sample takes.
        least: Divides the samples: no slice is longer than ``ceil(samples / least)``.
    """
    step = max(1, min(_CACHED // max(numbers_each, 1), -(-samples // least)))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def widen(tensor: Tensor) -> Tensor:
    """Half precision as float32, since squares of half-precision numbers underflow."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def gram(jacobian: Tensor, std: Tensor) -> Tensor:
    """``J diag(std^2) J^T`` of ``J [batch, scalars, entries]``: ``[batch, scalars, scalars]``."""
    scaled = jacobian * std.to(jacobian.dtype)
    return torch.matmul(scaled, scaled.mT)
