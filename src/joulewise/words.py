"""Memory words: real tensors as two's complement fixed point, and words as bit planes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.errors import WeightsError, check_in_range, refuse

__all__ = [
    "FixedPoint",
    "Words",
    "check_storable",
    "decode",
    "encode",
    "from_bit_planes",
    "largest_magnitude",
    "to_bit_planes",
]

_MIN_BITS, _MAX_BITS = 2, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """A symmetric number format: ``code = round(value / scale)``, stored in two's complement.

    ``scale = limit / (2**(bits - 1) - 1)``, so ``limit`` is the largest code; values outside
    saturate. The code ``-2**(bits - 1)`` is decoded like any other, but rounding gives it only
    where a given ``limit`` makes values saturate.

    Args:
        bits: Bits of a word, 2 to 16.
        limit: Largest magnitude to represent, in the tensor's unit, above 0. None takes the
            largest magnitude of the tensor (max-abs).
        channel_dim: Axis along which each index has its own scale (0 for the output channels of
            a convolution or linear layer). None gives the tensor one scale, and so does a tensor
            with fewer than two axes: one word with its own scale would have no rounding error.

    Raises:
        InputError: if ``bits`` or ``limit`` is out of range, or ``limit`` comes with
            ``channel_dim``.

    Example:
        >>> words = encode(torch.tensor([-1.0, 0.5, 0.25]), FixedPoint(bits=3))
        >>> words.codes.tolist(), round(float(words.scale), 4)
        ([-3, 2, 1], 0.3333)
    """

    bits: int = 8
    limit: float | None = None
    channel_dim: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            refuse("bits", repr(self.bits), f"a whole number from {_MIN_BITS} to {_MAX_BITS}")
        check_in_range("bits", self.bits, _MIN_BITS, _MAX_BITS)
        if self.limit is not None:
            check_in_range("limit", self.limit, 0.0, 3e38, open_low=True)
        if self.limit is not None and self.channel_dim is not None:
            allowed = "one of the two: a common range, or a scale for each channel"
            refuse("limit with channel_dim", f"{self.limit:g} with {self.channel_dim}", allowed)

    @property
    def lowest(self) -> int:
        """Most negative code, ``-2**(bits - 1)``."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """Most positive code, ``2**(bits - 1) - 1``."""
        return (1 << (self.bits - 1)) - 1

    def scale(self, tensor: Tensor) -> Tensor:
        """Quantisation step: the real value of one code step.

        Args:
            tensor: Finite values.

        Returns:
            A positive float32 or float64 tensor that broadcasts against ``tensor``: no axes, or the
            same number of axes with length 1 except along ``channel_dim``.
        """
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        tiny = torch.finfo(wide).tiny  # a denormal step would underflow
        if self.limit is not None:
            step = max(self.limit / self.highest, tiny)
            return torch.tensor(step, dtype=wide, device=tensor.device)
        steps = largest_magnitude(tensor, self.channel_dim).to(wide) / self.highest
        # All zeros: any positive step stores them exactly.
        return torch.where(steps > tiny, steps, torch.ones_like(steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A tensor in memory words.

    Args:
        codes: int16, the shape of the tensor; each within ``format.lowest .. format.highest``.
        scale: Real value of one code step; broadcasts against ``codes``.
        format: The number format.
        dtype: Dtype of the tensor that was stored, and of the decoded one.
    """

    codes: Tensor
    scale: Tensor
    format: FixedPoint
    dtype: torch.dtype


def largest_magnitude(tensor: Tensor, channel_dim: int | None) -> Tensor:
    """Largest magnitude of a tensor, or of each index along an axis.

    Args:
        tensor: At least one entry.
        channel_dim: The axis; None, or a tensor with fewer than two axes, gives one magnitude.

    Returns:
        No axes, or the same number of axes with length 1 except along ``channel_dim``.
    """
    if channel_dim is None or tensor.ndim < 2:
        return tensor.abs().max()
    axes = [d for d in range(tensor.ndim) if d != channel_dim % tensor.ndim]
    return tensor.abs().amax(dim=axes, keepdim=True)


def check_storable(tensor: Tensor, name: str = "tensor", channel_dim: int | None = None) -> None:
    """Refuse a tensor that is empty, not floating point, not finite, or without ``channel_dim``.

    Args:
        tensor: The tensor to be stored.
        name: Its name in the error message.
        channel_dim: Axis with a scale for each index; None, or a tensor with fewer than two axes,
            has one scale.
    """
    if not tensor.is_floating_point():
        refuse(f"the dtype of {name}", tensor.dtype, "a floating dtype", WeightsError)
    if tensor.numel() == 0:
        refuse(name, "empty", "at least one entry", WeightsError)
    # One pass in the common case: a finite sum has finite terms. A sum of finite terms may
    # overflow, so a sum that is not finite is followed by a count.
    if not torch.isfinite(tensor.sum()):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            allowed = "finite entries only"
            refuse(name, f"NaN or infinite in {bad} of {tensor.numel()}", allowed, WeightsError)
    axes = range(-tensor.ndim, tensor.ndim)
    if channel_dim is not None and tensor.ndim >= 2 and channel_dim not in axes:
        allowed = f"-{tensor.ndim} to {tensor.ndim - 1}, an axis of {name}"
        refuse("channel_dim", channel_dim, allowed, WeightsError)


def encode(tensor: Tensor, format: FixedPoint, name: str = "tensor") -> Words:
    """Round a real tensor to words.

    Args:
        tensor: Finite floating-point values, any shape, at least one entry.
        format: The number format.
        name: Name of the tensor in an error message.

    Returns:
        The words. Where nothing saturates, ``abs(decode(words) - tensor) <= scale / 2``, up to the
        rounding of the tensor's dtype.
    """
    check_storable(tensor, name, format.channel_dim)
    scale = format.scale(tensor)
    steps = torch.round(tensor.to(scale.dtype) / scale)
    codes = steps.clamp(format.lowest, format.highest).to(torch.int16)
    return Words(codes=codes, scale=scale, format=format, dtype=tensor.dtype)


def decode(words: Words) -> Tensor:
    """Real tensor that words represent.

    Args:
        words: From `encode`, or with other codes, for instance after faults.

    Returns:
        ``codes * scale`` in ``words.dtype``. Encoding it with the same scale gives the same codes
        exactly: for float32 and float64 at any width, for bfloat16 up to 8 bits.

    Example:
        >>> decode(encode(torch.tensor([1.0, -0.5, 0.0]), FixedPoint(bits=2))).tolist()
        [1.0, 0.0, 0.0]
    """
    return (words.codes.to(words.scale.dtype) * words.scale).to(words.dtype)


def to_bit_planes(codes: Tensor, bits: int) -> Tensor:
    """Split words into bit planes: plane k holds bit k of every word.

    Args:
        codes: Integer tensor of any shape, within ``-2**(bits - 1) .. 2**(bits - 1) - 1``.
        bits: Bits of a word, 2 to 16.

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
    """Join bit planes to words, the inverse of `to_bit_planes`.

    Args:
        planes: bool, shape ``[bits, *shape]``, least significant plane first.

    Returns:
        int16 codes of shape ``shape``.

    Example:
        >>> from_bit_planes(to_bit_planes(torch.tensor([3, -1, -4]), 3)).tolist()
        [3, -1, -4]
    """
    bits = planes.shape[0]
    if not _MIN_BITS <= bits <= _MAX_BITS:
        refuse("the number of bit planes", bits, f"{_MIN_BITS} to {_MAX_BITS}")
    weights = torch.tensor([1 << k for k in range(bits)], device=planes.device)
    weights[-1] = -weights[-1]  # two's complement: the sign bit counts negative
    codes = (weights.view(-1, *[1] * (planes.ndim - 1)) * planes).sum(0)
    return codes.to(torch.int16)
