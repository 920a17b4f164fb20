"""Per-sample gradients of an operation with respect to the weight that it consumed.

The backward pass gives, for each of several scalars ``z_k`` of every sample (a probed output, each
logit), the gradient ``g`` at the operation's output. From it an `OperationGradients` gives ``J``,
the gradients of these scalars with respect to the weight, and the sums that are made of them.
Squares are taken per sample: the square of a gradient summed over the batch has the same
expectation under random probes, but so much variance that it would need tens of probes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BatchAxis", "OperationGradients", "WholeGradients"]

# Numbers that are worked on at a time, so that they stay in the processor's cache.
_CACHED = 1 << 20


class OperationGradients(ABC):
    """Per-sample gradients of one operation in one pass over a batch.

    They are formed for a block of samples, reduced, and dropped: only `jacobians` keeps ``J``. A
    block holds the weight's entries in the order in which they are cheapest to form: reordering
    millions of numbers would cost as much as forming them.

    Everywhere ``gs`` are the gradients at the output, in its shape, one for each scalar, and ``g``
    is that of one scalar.
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

    def parts(
        self, gs: Sequence[Tensor], weights: Tensor, generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Blocks, the numbers of ``weights [*weight]`` at their entries, and a factor of sums.

        With a generator, blocks may hold a subset of the entries that is drawn, whose sums times
        the factor are unbiased.
        """
        flat = self.flat(weights[None])[0]
        for block in self.blocks(gs):
            yield block, flat.to(block.dtype), 1

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """``J``, ``[batch, scalars, *weight]``."""
        return self.unflat(torch.cat(list(self.blocks(gs))))

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_i var_i (dz/dw_i)^2``, ``[batch]``.

        Args:
            g: See above.
            var: Variance of each entry, ``[*weight]``.
            generator: Draws the terms that an unbiased estimate of the sum is made from, where that
                saves work; None for the exact sum.
        """
        parts = self.parts([g], var, generator)
        return torch.cat([number * (b[:, 0].square() @ weights) for b, weights, number in parts])

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``J diag(var) J^T``, ``[batch, scalars, scalars]``; see `squared`."""
        found = []
        for block, std, number in self.parts(gs, var.sqrt(), generator):
            scaled = block * std
            found.append(number * torch.matmul(scaled, scaled.mT))
        return torch.cat(found)

    def summed(self, g: Tensor) -> Tensor:
        """``(dz/dw_i)^2`` summed over samples, ``[*weight]``."""
        total = torch.stack([block[:, 0].square().sum(0) for block in self.blocks([g])]).sum(0)
        return self.unflat(total[None, None])[0, 0]

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``J noise`` for noise ``[draws, *weight]``: ``[batch, scalars, draws]``."""
        columns = self.flat(noise).mT
        return torch.cat([block @ columns.to(block.dtype) for block in self.blocks(gs)])

    def response_by_channel(self, g: Tensor, noise: Tensor, index: Tensor, channels: int) -> Tensor:
        """``J noise`` of one scalar, for the noise of each output channel alone.

        Args:
            g: See above.
            noise: ``[draws, *weight]``.
            index: The channel of each entry, ``[*weight]``: the operation may have the axis of the
                channels anywhere, since a weight may be consumed transposed, or in part.
            channels: Number of channels.

        Returns:
            ``[batch, channels, draws]``.
        """
        columns, where = self.flat(noise), self.flat(index[None])[0]
        return torch.cat([_by_channel(b[:, 0], columns, where, channels) for b in self.blocks([g])])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeGradients(OperationGradients):
    """Gradients that are kept whole, whatever the operations: the arguments ``gs`` are not used.

    Args:
        jacobian: ``[batch, scalars, *weight]``.
    """

    jacobian: Tensor

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `OperationGradients`: one block."""
        yield self.jacobian.flatten(2)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `OperationGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], *self.jacobian.shape[2:])


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


def _by_channel(jacobians: Tensor, columns: Tensor, where: Tensor, channels: int) -> Tensor:
    """``[batch, entries]`` times ``[draws, entries]``, summed over the entries of each channel."""
    columns = columns.to(jacobians)
    each = len(where) // channels
    ascending = torch.arange(channels, device=where.device).repeat_interleave(each)
    if len(where) == channels * each and bool((where == ascending).all()):
        shape = (-1, channels, each)
        return torch.einsum("scp,wcp->scw", jacobians.reshape(shape), columns.reshape(shape))
    total = jacobians.new_zeros(len(columns), channels, len(jacobians))
    for own, column in zip(total, columns, strict=True):
        own.index_add_(0, where, jacobians.mT * column[:, None])
    return total.permute(2, 1, 0)
