"""Per-sample gradients of linear, embedding and element-wise operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.prediction.linearisation.gradients import (
    BatchAxis,
    BlockedGradients,
    OperationGradients,
    sample_blocks,
    widen,
)

__all__ = [
    "ElementwiseGradients",
    "EmbeddingGradients",
    "LinearGradients",
    "TokenLinearGradients",
    "linear_gradients",
]


def linear_gradients(inputs: Tensor, batch: BatchAxis) -> OperationGradients:
    """Gradients of ``y = x W^T`` with ``x = inputs``, ``[..., in]``.

    Args:
        inputs: Inputs of the operation, on any leading axes.
        batch: The axis of ``inputs`` that holds the samples.
    """
    one_row = inputs.numel() == batch.samples * inputs.shape[-1]
    return (LinearGradients if one_row else TokenLinearGradients)(inputs=inputs, batch=batch)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearGradients:
    """A linear operation on one vector per sample: ``dz/dW = g x^T``, so every sum is closed form.

    Args:
        inputs: See `linear_gradients`.
        batch: See `linear_gradients`.
    """

    inputs: Tensor
    batch: BatchAxis

    def rows(self, gs: Sequence[Tensor]) -> Tensor:
        """Gradients at the output, ``[batch, scalars, out]``."""
        return torch.stack([widen(g).reshape(self.batch.samples, -1) for g in gs], 1)

    def x(self) -> Tensor:
        """Inputs, ``[batch, in]``."""
        return widen(self.inputs).reshape(self.batch.samples, -1)

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """See `OperationGradients`."""
        return self.rows(gs)[..., None] * self.x()[:, None, None, :]

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_oi var_oi g_o^2 x_i^2``."""
        x2 = self.x().square()
        return ((x2 @ var.mT.to(x2.dtype)) * self.rows([g])[:, 0].square()).sum(1)

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``sum_o g_ko g_lo sum_i var_oi x_i^2``."""
        rows, x2 = self.rows(gs), self.x().square()
        return torch.matmul(rows * (x2 @ var.mT.to(x2.dtype))[:, None, :], rows.mT)

    def summed(self, g: Tensor) -> Tensor:
        """``sum_n g_no^2 x_ni^2``."""
        return self.rows([g])[:, 0].square().mT @ self.x().square()

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``sum_o g_ko sum_i noise_moi x_i``."""
        rows, x = self.rows(gs), self.x()
        moved = [torch.matmul(rows, (x @ one.mT.to(x.dtype))[:, :, None])[..., 0] for one in noise]
        return torch.stack(moved, 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenLinearGradients(BlockedGradients):
    """A linear operation on several vectors (tokens) per sample, whose gradients add up.

    Args:
        inputs: See `linear_gradients`.
        batch: See `linear_gradients`.
    """

    inputs: Tensor
    batch: BatchAxis

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[batch, tokens, features]``."""
        return self.batch.first(widen(tensor)).flatten(1, -2)

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `BlockedGradients`."""
        x, rows = self._rows(self.inputs), [self._rows(g) for g in gs]
        each = len(gs) * x.shape[2] * rows[0].shape[2]
        for block in sample_blocks(len(x), each):
            yield torch.stack([torch.bmm(g[block].mT, x[block]).flatten(1) for g in rows], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `BlockedGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], -1, self.inputs.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddingGradients(BlockedGradients):
    """Rows of a table, as an embedding looks them up.

    Args:
        indices: Integers of any shape.
        batch: The axis of ``indices`` that holds the samples.
        rows: Rows of the table.
        padding: The row that gets no gradient, or -1.
    """

    indices: Tensor
    batch: BatchAxis
    rows: int
    padding: int

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `BlockedGradients`."""
        found = self.batch.first(self.indices).flatten(1)
        several = [self.batch.first(widen(g)).flatten(1, -2) for g in gs]
        for block in sample_blocks(len(found), len(gs) * self.rows * gs[0].shape[-1]):
            rows = found[block][..., None]
            yield torch.stack([self._table(g[block], rows).flatten(1) for g in several], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `BlockedGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], self.rows, -1)

    def _table(self, g: Tensor, rows: Tensor) -> Tensor:
        if self.padding >= 0:
            g = g.masked_fill(rows == self.padding, 0)
        table = g.new_zeros(len(g), self.rows, g.shape[-1])
        return table.scatter_add(1, rows.expand_as(g), g)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ElementwiseGradients(BlockedGradients):
    """``y = factor * w + ...`` with broadcasting: biases, scales of normalisations, positions.

    Args:
        factor: The factor of the weight, broadcastable against the output.
        batch: The axis of the output that holds the samples.
        shape: The weight's shape when broadcast against the output, without a batch axis.
        weight: The weight's own shape.
        part: Axis, start and length of the part of the output that holds the weight, as
            `torch.cat` makes it; None for the whole output.
    """

    factor: Tensor | float
    batch: BatchAxis
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    part: tuple[int, int, int] | None = None

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `BlockedGradients`: one block, the gradients being no larger than the output."""
        yield torch.stack([self._block(g) for g in gs], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `BlockedGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], *self.weight)

    def _block(self, g: Tensor) -> Tensor:
        if self.part is not None:
            g = g.narrow(*self.part)
        product = widen(g * self.factor)
        # Broadcasting aligns the weight with the last axes; its batch axis, if any, has length 1.
        aligned = (1,) * (product.ndim - len(self.shape)) + self.shape
        rest = aligned[: self.batch.axis] + aligned[self.batch.axis + 1 :]
        rows = self.batch.first(product).sum(1)
        return rows.sum_to_size(len(rows), *rest).reshape(len(rows), -1)
