"""Per-sample gradients of convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.prediction.linearisation.gradients import OperationGradients, sample_blocks, widen

__all__ = ["ConvolutionGradients"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvolutionGradients(OperationGradients):
    """A convolution in one, two or three dimensions.

    ``dz/dW[o, c, t] = sum_p g[o, p] x[c, stride * p + dilation * t]`` for each sample: a matrix
    product of ``g`` with the unfolded input, over output positions ``p``. A transposed convolution
    has the same gradient with input and ``g`` exchanged.

    Args:
        inputs: ``[batch * rows, channels, *space]``: several rows may belong to one sample.
        samples: Batch size.
        kernel: The weight's shape.
        stride: One number for each spatial axis.
        padding: Zeros before and after, for each spatial axis.
        dilation: One number for each spatial axis.
        groups: As for `torch.nn.Conv2d`.
        transposed: True for a transposed convolution.
    """

    inputs: Tensor
    samples: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    def blocks(self, gs: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `OperationGradients`."""
        if self.transposed:
            swapped = [replace(self, inputs=g, transposed=False) for g in gs]
            parts = [(block[:, 0] for block in one.blocks([self.inputs])) for one in swapped]
            yield from (torch.stack(part, 1) for part in zip(*parts, strict=True))
            return
        x, rows = self._by_sample(self.inputs), [self._by_sample(g) for g in gs]
        for block in self._sample_blocks(rows[0], x.shape[-1], len(gs)):
            yield self._block(self._padded(x[block]), [g[block] for g in rows])

    def flat(self, weights: Tensor) -> Tensor:
        """See `OperationGradients`: input channels last, as the unfolded input has them."""
        return weights.movedim(2, -1).flatten(1)

    def unflat(self, jacobians: Tensor) -> Tensor:
        """See `OperationGradients`."""
        outputs, channels, *taps = self.kernel
        shape = (*jacobians.shape[:2], outputs, *taps, channels)
        return jacobians.reshape(shape).movedim(-1, 3)

    def parts(
        self, gs: Sequence[Tensor], weights: Tensor, generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """See `OperationGradients`: a subset of the input channels, and the number of subsets.

        Blocks of samples take the subsets in turn from a drawn start. Differences between subsets
        cancel over the batch, and what remains is far below the spread between samples.
        """
        if generator is None or self.transposed or self.groups > 1:
            yield from OperationGradients.parts(self, gs, weights, None)
            return
        x, rows = self._by_sample(self.inputs), [self._by_sample(g) for g in gs]
        outputs, channels, *taps = self.kernel
        subsets = _subsets(channels, self.samples)
        apart = weights.movedim(1, -1).flatten(1, -2).to(x.dtype).chunk(subsets, -1)
        own = [part.reshape(-1) for part in apart]
        thin = replace(self, kernel=(outputs, channels // subsets, *taps))
        turn = int(torch.randint(0, subsets, (), generator=generator, device="cpu"))
        for block in thin._sample_blocks(rows[0], channels // subsets, len(gs), 2 * subsets):
            some = self._padded(x[block].chunk(subsets, -1)[turn])
            yield thin._block(some, [g[block] for g in rows]), own[turn], subsets
            turn = (turn + 1) % subsets

    def _sample_blocks(
        self, g: Tensor, channels: int, scalars: int, least: int = 1
    ) -> Iterator[slice]:
        columns = channels * prod(self.kernel[2:])
        each = columns * prod(g.shape[1:-1]) + scalars * self.kernel[0] * columns
        return sample_blocks(self.samples, each, least)

    def _by_sample(self, tensor: Tensor) -> Tensor:
        """``[batch, rows, *space, channels]``: channels last, so that copies are contiguous."""
        last = widen(tensor).movedim(1, -1)
        return last.reshape(self.samples, -1, *last.shape[1:])

    def _padded(self, x: Tensor) -> Tensor:
        before_after = [n for pair in reversed(self.padding) for n in pair]
        return functional.pad(x, [0, 0, *before_after]) if any(before_after) else x.contiguous()

    def _block(self, x: Tensor, gs: list[Tensor]) -> Tensor:
        """``[samples, scalars, entries]`` from padded inputs and gradients, by sample."""
        batch = len(x)
        # The scalars are stacked as further output channels: the input is unfolded once for all.
        stacked = torch.stack(gs, -2) if len(gs) > 1 else gs[0][..., None, :]
        g = stacked.reshape(batch, -1, len(gs), self.groups, self.kernel[0] // self.groups)
        columns = self._unfolded(x).reshape(batch, g.shape[1], -1, self.groups, self.kernel[1])
        if g.shape[2] * g.shape[4] == 1:  # depthwise: too small for a matrix product
            found = torch.einsum("nlsgo,nltgc->nsgotc", g, columns)
            return found.reshape(batch, len(gs), -1)
        left = g.permute(0, 3, 2, 4, 1).reshape(batch, self.groups, -1, g.shape[1])
        right = columns.permute(0, 3, 1, 2, 4).reshape(batch, self.groups, g.shape[1], -1)
        found = torch.matmul(left, right).reshape(batch, self.groups, len(gs), -1)
        return found.transpose(1, 2).reshape(batch, len(gs), -1)

    def _unfolded(self, x: Tensor) -> Tensor:
        """The input at each tap of each position: ``[batch, rows * positions, taps * channels]``.

        `torch.nn.functional.unfold` has two spatial axes only, and puts channels first.
        """
        taps, space = self.kernel[2:], range(len(self.stride))
        out = [
            (x.shape[2 + k] - self.dilation[k] * (taps[k] - 1) - 1) // self.stride[k] + 1
            for k in space
        ]
        steps = [x.stride(2 + k) * self.stride[k] for k in space]
        tap_steps = [x.stride(2 + k) * self.dilation[k] for k in space]
        shape = (*x.shape[:2], *out, *taps, x.shape[-1])
        windows = x.as_strided(shape, (*x.stride()[:2], *steps, *tap_steps, x.stride(-1)))
        return windows.reshape(len(x), x.shape[1] * prod(out), -1)


def _subsets(channels: int, samples: int) -> int:
    """Subsets of the input channels: 8 channels or more in each, two rounds in the batch."""
    fits = [n for n in (8, 4, 2) if channels % n == 0 and channels // n >= 8 and samples >= 2 * n]
    return max(fits, default=1)
