"""Per-sample gradients: how an output's gradient at an operation reaches the operation's weight.

Each class is one kind of operation that consumes a weight, in one pass over a batch. What it is
given is ``gs``: for each of several scalars of every sample (a probed output, each logit) the
gradient at the operation's output. It answers

    jacobians(gs)        the gradients with respect to the weight
    squared(g, var)      sum_i var_i (dz/dw_i)^2
    products(gs, var)    J diag(var) J^T
    response(gs, noise)  J noise
    summed(g)            (dz/dw_i)^2 for each weight, summed over samples

for each sample but the last, and all but the first without keeping the gradients. They are formed
per sample and then squared: squaring gradients that were summed over the batch would be unbiased
too, but so noisy that it needs tens of probes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "BatchAxis",
    "Convolution",
    "Elementwise",
    "InParts",
    "Lookup",
    "ManyRows",
    "OneRow",
    "Operation",
    "linear",
]

# Work on so many numbers at a time that they stay in the processor's cache.
_CACHED = 1 << 20


class Operation(Protocol):
    """An operation that consumed a weight."""

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """The gradients with respect to the weight.

        Args:
            gs: For each scalar, the gradient at the output, in the output's own shape.

        Returns:
            Shape ``[batch, scalars, *weight]``.
        """

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_i var_i (dz/dw_i)^2``.

        Args:
            g: Gradient of one scalar at the output.
            var: The shape of the weight.
            generator: Chooses parts of the sum to stand for all of it, without bias, where that
                saves work; None for the whole sum.

        Returns:
            Shape ``[batch]``.
        """

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``J diag(var) J^T``, shape ``[batch, scalars, scalars]``."""

    def summed(self, g: Tensor) -> Tensor:
        """``(dz/dw_i)^2`` summed over samples, the shape of the weight."""

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``J noise``.

        Args:
            gs: See `jacobians`.
            noise: ``[draws, *weight]``.

        Returns:
            Shape ``[batch, scalars, draws]``.
        """


def blocks(samples: int, numbers_each: int, least: int = 1) -> Iterator[slice]:
    """Samples in pieces whose numbers stay in the processor's cache; at least so many pieces."""
    step = max(1, min(_CACHED // max(numbers_each, 1), -(-samples // least)))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def _turns(channels: int, samples: int) -> int:
    """Into how many parts to cut input channels: 8 or more in each, twice over in the batch."""
    fits = [n for n in (8, 4, 2) if channels % n == 0 and channels // n >= 8 and samples >= 2 * n]
    return max(fits, default=1)


def _wide(tensor: Tensor) -> Tensor:
    """Squares of half-precision numbers underflow."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


class InParts(ABC):
    """An operation whose gradients are made for some samples at a time, used, and forgotten.

    They are made in whatever order of the weight's entries comes naturally: to put millions of
    numbers in order costs as much as to make them.
    """

    @abstractmethod
    def parts(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """Jacobians ``[some samples, scalars, entries]``, the samples in order."""

    @abstractmethod
    def natural(self, weights: Tensor) -> Tensor:
        """``[several, *weight]`` as ``[several, entries]`` in the natural order."""

    @abstractmethod
    def ordered(self, jacobians: Tensor) -> Tensor:
        """``[batch, scalars, entries]`` as ``[batch, scalars, *weight]``."""

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """See `Operation`."""
        return self.ordered(torch.cat(list(self.parts(gs))))

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Operation`."""
        weights = self.natural(var[None])[0]
        return torch.cat([p[:, 0].square() @ weights.to(p.dtype) for p in self.parts([g])])

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See `Operation`."""
        root = self.natural(var[None])[0].sqrt()
        found = []
        for part in self.parts(gs):
            scaled = part * root.to(part.dtype)
            found.append(torch.matmul(scaled, scaled.mT))
        return torch.cat(found)

    def summed(self, g: Tensor) -> Tensor:
        """See `Operation`."""
        total = torch.stack([part[:, 0].square().sum(0) for part in self.parts([g])]).sum(0)
        return self.ordered(total[None, None])[0, 0]

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """See `Operation`."""
        columns = self.natural(noise).mT
        return torch.cat([part @ columns.to(part.dtype) for part in self.parts(gs)])


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """Where a tensor holds the samples.

    Args:
        axis: The axis; as long as the batch, or several times as long where it holds tokens too.
        samples: How many samples there are.
        tokens_first: Whether an axis that holds both runs over all samples of the first token, then
            of the second, and so on; otherwise over all tokens of the first sample.
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
        """Whether the axis holds tokens too."""
        return tensor.shape[self.axis] > self.samples


def linear(inputs: Tensor, batch: BatchAxis) -> Operation:
    """``y = x W^T`` on any leading axes.

    Args:
        inputs: ``[..., in]``.
        batch: The axis of ``inputs`` that holds the samples.
    """
    one_row = inputs.numel() == batch.samples * inputs.shape[-1]
    return (OneRow if one_row else ManyRows)(inputs=inputs, batch=batch)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OneRow:
    """A linear operation with one row for each sample: ``dz/dW = g x^T``, and all is closed form.

    Args:
        inputs: See `linear`.
        batch: See `linear`.
    """

    inputs: Tensor
    batch: BatchAxis

    def _rows(self, gs: Sequence[Tensor]) -> Tensor:
        return torch.stack([_wide(g).reshape(self.batch.samples, -1) for g in gs], 1)

    def rows(self, g: Tensor) -> Tensor:
        """The gradient at the output, ``[batch, out]``."""
        return self._rows([g])[:, 0]

    def x(self) -> Tensor:
        """What the weight meets, ``[batch, in]``."""
        return _wide(self.inputs).reshape(self.batch.samples, -1)

    def jacobians(self, gs: Sequence[Tensor]) -> Tensor:
        """See `Operation`."""
        return self._rows(gs)[..., None] * self.x()[:, None, None, :]

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_oi var_oi g_o^2 x_i^2``."""
        x2 = self.x().square()
        return ((x2 @ var.mT.to(x2.dtype)) * self.rows(g).square()).sum(1)

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``sum_o g_ko g_lo sum_i var_oi x_i^2``."""
        rows, x2 = self._rows(gs), self.x().square()
        return torch.matmul(rows * (x2 @ var.mT.to(x2.dtype))[:, None, :], rows.mT)

    def summed(self, g: Tensor) -> Tensor:
        """``sum_n g_no^2 x_ni^2``."""
        return self.rows(g).square().mT @ self.x().square()

    def response(self, gs: Sequence[Tensor], noise: Tensor) -> Tensor:
        """``sum_o g_ko sum_i noise_moi x_i``."""
        rows, x = self._rows(gs), self.x()
        moved = [torch.matmul(rows, (x @ one.mT.to(x.dtype))[:, :, None])[..., 0] for one in noise]
        return torch.stack(moved, 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ManyRows(InParts):
    """A linear operation that the same weights serve at several rows (tokens) of a sample.

    Args:
        inputs: See `linear`.
        batch: See `linear`.
    """

    inputs: Tensor
    batch: BatchAxis

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[batch, rows, features]``."""
        return self.batch.first(_wide(tensor)).flatten(1, -2)

    def parts(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `InParts`."""
        x, rows = self._rows(self.inputs), [self._rows(g) for g in gs]
        each = len(gs) * x.shape[2] * rows[0].shape[2]
        for block in blocks(len(x), each):
            yield torch.stack([torch.bmm(g[block].mT, x[block]).flatten(1) for g in rows], 1)

    def natural(self, weights: Tensor) -> Tensor:
        """See `InParts`: the order of the weight itself."""
        return weights.flatten(1)

    def ordered(self, jacobians: Tensor) -> Tensor:
        """See `InParts`."""
        return jacobians.reshape(*jacobians.shape[:2], -1, self.inputs.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution(InParts):
    """A convolution in one, two or three dimensions; the same weights serve every position.

    For a transposed convolution the input and the output change places.

    Args:
        inputs: ``[batch * rows, channels, *space]``.
        samples: How many samples there are.
        kernel: The weight's shape.
        stride: One number for each axis of space.
        padding: The same; ahead and behind.
        dilation: The same.
        groups: As for `torch.nn.Conv2d`.
        transposed: Whether it is a transposed convolution.
    """

    inputs: Tensor
    samples: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    def parts(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `InParts`."""
        if self.transposed:
            for part in zip(*(self._swapped(g) for g in gs), strict=True):
                yield torch.stack(part, 1)
            return
        x, rows = self._by_sample(self.inputs), [self._by_sample(g) for g in gs]
        for block in self._blocks(rows[0], x.shape[-1], len(gs)):
            yield self._jacobians(self._padded(x[block]), [g[block] for g in rows])

    def squared(self, g: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Operation`; some of the input channels may stand for all of them (`_thinned`)."""
        if generator is None or self.transposed or self.groups > 1:
            return InParts.squared(self, g, var, None)
        parts = self._thinned([g], var, generator)
        return torch.cat([turns * (p[:, 0].square() @ weights) for p, weights, turns in parts])

    def products(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See `Operation`; some of the input channels may stand for all of them (`_thinned`)."""
        if generator is None or self.transposed or self.groups > 1:
            return InParts.products(self, gs, var, None)
        found = []
        for part, weights, turns in self._thinned(gs, var, generator):
            scaled = part * weights.sqrt()
            found.append(turns * torch.matmul(scaled, scaled.mT))
        return torch.cat(found)

    def _thinned(
        self, gs: Sequence[Tensor], var: Tensor, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Jacobians of some of the input channels, their variances, and how many such parts exist.

        Blocks of samples take turns with the parts, and a draw says which one begins. So each block
        is unbiased, what the parts differ by cancels over the batch, and what is left is far below
        the spread between samples.
        """
        x, rows = self._by_sample(self.inputs), [self._by_sample(g) for g in gs]
        outputs, channels, *taps = self.kernel
        turns = _turns(channels, self.samples)
        apart = var.movedim(1, -1).flatten(1, -2).to(x.dtype).chunk(turns, -1)
        weights = [part.reshape(-1) for part in apart]
        thin = replace(self, kernel=(outputs, channels // turns, *taps))
        turn = int(torch.randint(0, turns, (), generator=generator, device="cpu"))
        for block in thin._blocks(rows[0], channels // turns, len(gs), 2 * turns):
            some = self._padded(x[block].chunk(turns, -1)[turn])
            yield thin._jacobians(some, [g[block] for g in rows]), weights[turn], turns
            turn = (turn + 1) % turns

    def _blocks(self, g: Tensor, channels: int, scalars: int, least: int = 1) -> Iterator[slice]:
        positions = prod(g.shape[1:-1])
        taps = prod(self.kernel[2:])
        each = channels * taps * positions + scalars * self.kernel[0] * taps * channels
        return blocks(self.samples, each, least)

    def _swapped(self, g: Tensor) -> Iterator[Tensor]:
        """The gradient of a transposed convolution is that of a convolution of ``g``."""
        for part in replace(self, inputs=g, transposed=False).parts([self.inputs]):
            yield part[:, 0]

    def _by_sample(self, tensor: Tensor) -> Tensor:
        """``[batch, rows, *space, channels]``: so what is copied together lies together."""
        last = _wide(tensor).movedim(1, -1)
        return last.reshape(self.samples, -1, *last.shape[1:])

    def _padded(self, x: Tensor) -> Tensor:
        ahead_behind = [n for pair in reversed(self.padding) for n in pair]
        return functional.pad(x, [0, 0, *ahead_behind]) if any(ahead_behind) else x.contiguous()

    def _jacobians(self, x: Tensor, gs: list[Tensor]) -> Tensor:
        """``[batch, scalars, entries]`` from padded inputs and gradients, by sample."""
        batch = len(x)
        # As many times the output channels: what each weight meets is laid out once for all.
        together = torch.stack(gs, -2) if len(gs) > 1 else gs[0][..., None, :]
        g = together.reshape(batch, -1, len(gs), self.groups, self.kernel[0] // self.groups)
        columns = self._columns(x).reshape(batch, g.shape[1], -1, self.groups, self.kernel[1])
        if g.shape[2] * g.shape[4] == 1:  # a channel of its own: too small for a matrix product
            found = torch.einsum("nlsgo,nltgc->nsgotc", g, columns)
            return found.reshape(batch, len(gs), -1)
        rows = g.permute(0, 3, 2, 4, 1).reshape(batch, self.groups, -1, g.shape[1])
        met = columns.permute(0, 3, 1, 2, 4).reshape(batch, self.groups, g.shape[1], -1)
        found = torch.matmul(rows, met).reshape(batch, self.groups, len(gs), -1)
        return found.transpose(1, 2).reshape(batch, len(gs), -1)

    def natural(self, weights: Tensor) -> Tensor:
        """See `InParts`: the channels last, as they are met."""
        return weights.movedim(2, -1).flatten(1)

    def ordered(self, jacobians: Tensor) -> Tensor:
        """See `InParts`."""
        outputs, channels, *taps = self.kernel
        shape = (*jacobians.shape[:2], outputs, *taps, channels)
        return jacobians.reshape(shape).movedim(-1, 3)

    def _columns(self, x: Tensor) -> Tensor:
        """What each weight meets where: ``[batch, rows * positions, taps * channels]``."""
        taps, out = self.kernel[2:], self._out(x.shape[2:-1])
        steps = x.stride()[2:-1]
        apart = [step * d for step, d in zip(steps, self.dilation, strict=True)]
        along = [step * s for step, s in zip(steps, self.stride, strict=True)]
        shape = (*x.shape[:2], *out, *taps, x.shape[-1])
        windows = x.as_strided(shape, (*x.stride()[:2], *along, *apart, x.stride(-1)))
        return windows.reshape(len(x), x.shape[1] * prod(out), -1)

    def _out(self, padded: Sequence[int]) -> list[int]:
        return [
            (size - step * (taps - 1) - 1) // stride + 1
            for size, taps, stride, step in zip(
                padded, self.kernel[2:], self.stride, self.dilation, strict=True
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lookup(InParts):
    """Rows of a table, as an embedding reads them.

    Args:
        indices: Integers of any shape.
        batch: The axis of ``indices`` that holds the samples.
        rows: Rows of the table.
        padding: A row that gets no gradient, or -1.
    """

    indices: Tensor
    batch: BatchAxis
    rows: int
    padding: int

    def parts(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `InParts`."""
        found = self.batch.first(self.indices).flatten(1)
        features = gs[0].shape[-1]
        several = [self.batch.first(_wide(g)).flatten(1, -2) for g in gs]
        for block in blocks(len(found), len(gs) * self.rows * features):
            where = found[block][..., None]
            yield torch.stack([self._rows_of(g[block], where).flatten(1) for g in several], 1)

    def natural(self, weights: Tensor) -> Tensor:
        """See `InParts`: the order of the weight itself."""
        return weights.flatten(1)

    def ordered(self, jacobians: Tensor) -> Tensor:
        """See `InParts`."""
        return jacobians.reshape(*jacobians.shape[:2], self.rows, -1)

    def _rows_of(self, g: Tensor, where: Tensor) -> Tensor:
        if self.padding >= 0:
            g = g.masked_fill(where == self.padding, 0)
        table = g.new_zeros(len(g), self.rows, g.shape[-1])
        return table.scatter_add(1, where.expand_as(g), g)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Elementwise(InParts):
    """``y = factor * w + ...``, the weight broadcast: biases, scales of a normalisation, positions.

    Args:
        factor: What the weight is multiplied by, broadcastable against the output, or 1.
        batch: The axis of the output that holds the samples.
        shape: The weight as it is broadcast against the output, without a batch axis.
        weight: The weight's own shape.
        part: An axis of the output, and the start and the length of what the weight is added to
            there; None for all of it.
    """

    factor: Tensor | float
    batch: BatchAxis
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    part: tuple[int, int, int] | None = None

    def parts(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `InParts`."""
        yield torch.stack([self._one(g) for g in gs], 1)

    def natural(self, weights: Tensor) -> Tensor:
        """See `InParts`: the order of the weight itself."""
        return weights.flatten(1)

    def ordered(self, jacobians: Tensor) -> Tensor:
        """See `InParts`."""
        return jacobians.reshape(*jacobians.shape[:2], *self.weight)

    def _one(self, g: Tensor) -> Tensor:
        if self.part is not None:
            g = g.narrow(*self.part)
        product = _wide(g * self.factor)
        # The weight's axes line up with the output's last ones; its batch axis, if any, is 1 long.
        aligned = (1,) * (product.ndim - len(self.shape)) + self.shape
        rest = aligned[: self.batch.axis] + aligned[self.batch.axis + 1 :]
        rows = self.batch.first(product).sum(1)
        return rows.sum_to_size(len(rows), *rest).reshape(len(rows), -1)
