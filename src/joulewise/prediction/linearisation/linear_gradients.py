"""Per-sample gradients of linear, embedding and element-wise operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.prediction.linearisation.gradients import (
    BatchAxis,
    OperationGradients,
    sample_blocks,
    widen,
)

__all__ = ["ElementwiseGradients", "EmbeddingGradients", "LinearGradients"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearGradients(OperationGradients):
    """A linear operation ``y = x W^T`` on one or several vectors (tokens) per sample.

    With one vector per sample ``dz/dW = g x^T``, and every sum has a closed form. The gradients of
    several add up.

    Args:
        inputs: ``x``, ``[..., in]`` on any leading axes.
        batch: The axis of ``inputs`` that holds the samples.
    """

    inputs: Tensor
    batch: BatchAxis

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `OperationGradients`."""
        x, rows = self._rows(self.inputs), [self._rows(g) for g in gs]
        each = len(gs) * x.shape[2] * rows[0].shape[2]
        for block in sample_blocks(len(x), each):
            yield torch.stack([torch.bmm(g[block].mT, x[block]).flatten(1) for g in rows], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `OperationGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], -1, self.inputs.shape[-1])

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_oi var_oi g_o^2 x_i^2``."""
        if self._several:
            return OperationGradients.squared(self, g, var, generator)
        rows, x = self._vectors([g])
        return ((x.square() @ var.mT.to(x.dtype)) * rows[:, 0].square()).sum(1)

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``sum_o g_ko g_lo sum_i var_oi x_i^2``."""
        if self._several:
            return OperationGradients.products(self, gs, var, generator)
        rows, x = self._vectors(gs)
        return torch.matmul(rows * (x.square() @ var.mT.to(x.dtype))[:, None, :], rows.mT)

    def summed(self, g: Tensor) -> Tensor:
        """``sum_n g_no^2 x_ni^2``."""
        if self._several:
            return OperationGradients.summed(self, g)
        rows, x = self._vectors([g])
        return rows[:, 0].square().mT @ x.square()

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``sum_o g_ko sum_i noise_moi x_i``."""
        if self._several:
            return OperationGradients.response(self, gs, noise)
        rows, x = self._vectors(gs)
        moved = [torch.matmul(rows, (x @ one.mT.to(x.dtype))[:, :, None])[..., 0] for one in noise]
        return torch.stack(moved, 2)

    def response_by_channel(self, g: Tensor, noise: Tensor, index: Tensor, channels: int) -> Tensor:
        """``g_o sum_i noise_moi x_i`` where each channel is one output."""
        if self._several or bool((index != index[:, :1]).any()):
            return OperationGradients.response_by_channel(self, g, noise, index, channels)
        rows, x = self._vectors([g])
        found = torch.stack([rows[:, 0] * (x @ one.mT.to(x)) for one in noise], 2)
        total = found.new_zeros(len(found), channels, len(noise))
        return total.index_add_(1, index[:, 0], found)

    @property
    def _several(self) -> bool:
        return self.inputs.numel() > self.batch.samples * self.inputs.shape[-1]

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[batch, tokens, features]``."""
        return self.batch.first(widen(tensor)).flatten(1, -2)

    def _vectors(self, gs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``g``, ``[batch, scalars, out]``, and ``x``, ``[batch, in]``."""
        return torch.cat([self._rows(g) for g in gs], 1), self._rows(self.inputs)[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddingGradients(OperationGradients):
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
        """See `OperationGradients`."""
        found = self.batch.first(self.indices).flatten(1)
        several = [self.batch.first(widen(g)).flatten(1, -2) for g in gs]
        for block in sample_blocks(len(found), len(gs) * self.rows * gs[0].shape[-1]):
            rows = found[block][..., None]
            yield torch.stack([self._table(g[block], rows).flatten(1) for g in several], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `OperationGradients`."""
        return jacobians.reshape(*jacobians.shape[:2], self.rows, -1)

    def _table(self, g: Tensor, rows: Tensor) -> Tensor:
        if self.padding >= 0:
            g = g.masked_fill(rows == self.padding, 0)
        table = g.new_zeros(len(g), self.rows, g.shape[-1])
        return table.scatter_add(1, rows.expand_as(g), g)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ElementwiseGradients(OperationGradients):
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
        """See `OperationGradients`: one block, the gradients being no larger than the output."""
        yield torch.stack([self._block(g) for g in gs], 1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `OperationGradients`."""
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
