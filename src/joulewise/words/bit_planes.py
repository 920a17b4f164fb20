"""Bit planes: plane k of a tensor of words holds bit k of every word, the sign bit last."""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.errors import refuse

__all__ = ["from_bit_planes", "to_bit_planes"]


def to_bit_planes(codes: Tensor, bits: int) -> Tensor:
    """Take words apart.

    Args:
        codes: Integer tensor of any shape, within ``-2**(bits - 1) .. 2**(bits - 1) - 1``.
        bits: Bits in a word, 2 to 16.

    Returns:
        bool, shape ``[bits, *codes.shape]``, least significant plane first; plane ``bits - 1`` is
        the sign.

    Example:
        >>> to_bit_planes(torch.tensor([3, -1, -4]), 3).int().T.tolist()
        [[1, 1, 0], [1, 1, 1], [0, 0, 1]]
    """
    places = torch.arange(bits, device=codes.device).view(-1, *[1] * codes.ndim)
    return ((codes.to(torch.int32) >> places) & 1).bool()


def from_bit_planes(planes: Tensor) -> Tensor:
    """Put words together again: the inverse of `to_bit_planes`.

    Args:
        planes: bool, shape ``[bits, *shape]``, least significant plane first.

    Returns:
        int16 codes of shape ``shape``.

    Example:
        >>> from_bit_planes(to_bit_planes(torch.tensor([3, -1, -4]), 3)).tolist()
        [3, -1, -4]
    """
    bits = planes.shape[0]
    if not 2 <= bits <= 16:
        refuse("the number of bit planes", bits, "2 to 16")
    weights = torch.tensor([1 << k for k in range(bits)], device=planes.device)
    weights[-1] = -weights[-1]  # two's complement: the sign bit counts negative
    codes = (weights.view(-1, *[1] * (planes.ndim - 1)) * planes).sum(0)
    return codes.to(torch.int16)
