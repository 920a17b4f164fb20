"""Input positions in the window of each output position of a convolution or a pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["window_positions"]


def window_positions(
    shape: Sequence[int],
    shape_out: Sequence[int],
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    mode: str = "constant",
) -> Tensor:
    """Input position of each tap of each window, over one or two axes.

    Args:
        shape: Input size of each axis.
        shape_out: Output size of each axis; with a size rounded up (``ceil_mode``), the last window
            extends beyond the padded input.
        kernel: Number of taps on each axis.
        stride: Distance between windows on each axis.
        dilation: Distance between taps on each axis.
        padding: As of `torch.nn.functional.pad`: last axis first, both ends.
        mode: The mode of that function; ``"constant"`` for positions outside the input.

    Returns:
        Row-major positions, int64 ``[taps, positions_out]``; -1 for positions outside the input.

    Example:
        >>> one = {"kernel": (3,), "stride": (1,), "dilation": (1,), "padding": (1, 1)}
        >>> window_positions((4,), (4,), **one)
        tensor([[-1,  0,  1,  2], [ 0,  1,  2,  3], [ 1,  2,  3, -1]])
    """
    # Numbered from 1, so that zero padding is told apart; in float64, since `pad` reflects no
    # integers.
    numbers = torch.arange(1.0, torch.Size(shape).numel() + 1, dtype=torch.float64)
    padded = functional.pad(numbers.view(1, 1, *shape), list(padding), mode=mode)[0, 0]
    axes = zip(shape_out, kernel, stride, dilation, strict=True)
    for axis, (size, taps, step, gap) in enumerate(axes):
        index = gap * torch.arange(taps)[:, None] + step * torch.arange(size)
        beyond = max(int(index.max()) + 1 - padded.shape[2 * axis], 0)
        ends = (0, 0) * (padded.ndim - 1 - 2 * axis) + (0, beyond)
        padded = functional.pad(padded, ends)
        # An axis of positions becomes two: taps, windows.
        before, after = padded.shape[: 2 * axis], padded.shape[2 * axis + 1 :]
        chosen = padded.index_select(2 * axis, index.flatten())
        padded = chosen.view(*before, *index.shape, *after)
    taps_first = padded.permute(*range(0, padded.ndim, 2), *range(1, padded.ndim, 2))
    return taps_first.reshape(torch.Size(kernel).numel(), -1).long() - 1
