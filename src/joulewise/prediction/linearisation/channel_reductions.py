"""Channels: the response of a probed output to noise, apart for each output channel of a weight.

A channel is an index of the placed weight's first axis, wherever an operation has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.prediction.linearisation.linear_gradients import InParts, OneRow, Operation

__all__ = ["channel_index", "response_by_channel", "sums_by_channel"]


def channel_index(weight: Tensor) -> Tensor:
    """The channel of each entry of a weight, int64, in its shape and layout."""
    first = torch.arange(len(weight), device=weight.device)
    index = first.reshape(-1, *(1,) * (weight.ndim - 1))
    return torch.empty_like(weight, dtype=torch.int64).copy_(index.expand(weight.shape))


def response_by_channel(
    operation: Operation, g: Tensor, noise: Tensor, index: Tensor, channels: int
) -> Tensor:
    """``J noise`` of one scalar, where the noise of one channel after the other is all there is.

    Args:
        operation: The operation that consumed the weight.
        g: Gradient of the scalar at its output.
        noise: ``[draws, *weight]``, as the operation has the weight.
        index: The channel of each entry, ``[*weight]``.
        channels: How many there are.

    Returns:
        Shape ``[batch, channels, draws]``.
    """
    if isinstance(operation, OneRow):
        return _of_one_row(operation, g, noise, index, channels)
    if not isinstance(operation, InParts):
        jacobians = operation.jacobians([g])[:, 0].flatten(1)
        return _summed(jacobians, noise.flatten(1), index.flatten(), channels)
    columns, where = operation.natural(noise), operation.natural(index[None])[0]
    parts = [_summed(part[:, 0], columns, where, channels) for part in operation.parts([g])]
    return torch.cat(parts)


def sums_by_channel(gradients: Tensor, noise: Tensor) -> Tensor:
    """The same from gradients that are there.

    Args:
        gradients: ``[batch, *weight]``.
        noise: ``[draws, *weight]``.

    Returns:
        Shape ``[batch, channels, draws]``.
    """
    apart = gradients.reshape(*gradients.shape[:2], -1)
    along = noise.reshape(*noise.shape[:2], -1).to(apart)
    return torch.einsum("scp,wcp->scw", apart, along)


def _of_one_row(
    operation: OneRow, g: Tensor, noise: Tensor, index: Tensor, channels: int
) -> Tensor:
    rows, x = operation.rows(g), operation.x()
    if bool((index == index[:, :1]).all()):
        found = torch.stack([rows * (x @ one.mT.to(x)) for one in noise], 2)
        where = index[:, 0]
    elif bool((index == index[:1]).all()):  # the weight is turned: its channels are inputs here
        found = torch.stack([x * (rows @ one.to(x)) for one in noise], 2)
        where = index[0]
    else:
        jacobians = operation.jacobians([g])[:, 0].flatten(1)
        return _summed(jacobians, noise.flatten(1), index.flatten(), channels)
    total = found.new_zeros(len(found), channels, len(noise))
    return total.index_add_(1, where, found)


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
