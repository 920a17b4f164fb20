"""Response of a probed output to noise, separately for each output channel of a weight.

A channel is an index of the placed weight's first axis. The operation may hold that axis anywhere:
a weight may be consumed transposed, or in part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.prediction.linearisation.gradients import BlockedGradients, OperationGradients
from joulewise.prediction.linearisation.linear_gradients import LinearGradients

__all__ = ["channel_index", "response_by_channel", "sums_by_channel"]


def channel_index(weight: Tensor) -> Tensor:
    """The channel of each entry of a weight, int64, in its shape and memory layout."""
    first = torch.arange(len(weight), device=weight.device)
    index = first.reshape(-1, *(1,) * (weight.ndim - 1))
    return torch.empty_like(weight, dtype=torch.int64).copy_(index.expand(weight.shape))


def response_by_channel(
    gradients: OperationGradients, g: Tensor, noise: Tensor, index: Tensor, channels: int
) -> Tensor:
    """``J noise`` of one scalar, for the noise of each channel alone.

    Args:
        gradients: Those of the operation that consumed the weight.
        g: Gradient of the scalar at its output.
        noise: ``[draws, *weight]``, in the shape in which the operation has the weight.
        index: The channel of each entry, ``[*weight]``.
        channels: Number of channels.

    Returns:
        ``[batch, channels, draws]``.
    """
    if isinstance(gradients, LinearGradients):
        found = _closed_form(gradients, g, noise, index, channels)
        if found is not None:
            return found
    if not isinstance(gradients, BlockedGradients):
        jacobians = gradients.jacobians([g])[:, 0].flatten(1)
        return _summed(jacobians, noise.flatten(1), index.flatten(), channels)
    columns, where = gradients.flat(noise), gradients.flat(index[None])[0]
    blocks = [_summed(b[:, 0], columns, where, channels) for b in gradients.blocks([g])]
    return torch.cat(blocks)


def sums_by_channel(gradients: Tensor, noise: Tensor) -> Tensor:
    """Sum over each channel of gradient times noise.

    Args:
        gradients: ``[batch, *weight]``.
        noise: ``[draws, *weight]``.

    Returns:
        ``[batch, channels, draws]``.
    """
    apart = gradients.reshape(*gradients.shape[:2], -1)
    along = noise.reshape(*noise.shape[:2], -1).to(apart)
    return torch.einsum("scp,wcp->scw", apart, along)


def _closed_form(
    gradients: LinearGradients, g: Tensor, noise: Tensor, index: Tensor, channels: int
) -> Tensor | None:
    """`response_by_channel` without Jacobians; None unless a channel is a row or a column."""
    rows, x = gradients.rows([g])[:, 0], gradients.x()
    if bool((index == index[:, :1]).all()):
        found = torch.stack([rows * (x @ one.mT.to(x)) for one in noise], 2)
        where = index[:, 0]
    elif bool((index == index[:1]).all()):  # a transposed weight: its channels are inputs here
        found = torch.stack([x * (rows @ one.to(x)) for one in noise], 2)
        where = index[0]
    else:
        return None
    return found.new_zeros(len(found), channels, len(noise)).index_add_(1, where, found)


def _summed(jacobians: Tensor, columns: Tensor, where: Tensor, channels: int) -> Tensor:
    """``[batch, entries]`` times ``[draws, entries]``, summed over the entries of each channel."""
    columns = columns.to(jacobians)
    each = len(where) // channels
    ascending = torch.arange(channels, device=where.device).repeat_interleave(each)
    if len(where) == channels * each and bool((where == ascending).all()):
        shape = (-1, channels, each)
        return sums_by_channel(jacobians.reshape(shape), columns.reshape(shape))
    total = jacobians.new_zeros(len(columns), channels, len(jacobians))
    for own, column in zip(total, columns, strict=True):
        own.index_add_(0, where, jacobians.mT * column[:, None])
    return total.permute(2, 1, 0)
