"""Fixed point: how a real tensor becomes two's complement words, and which real each word means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.errors import WeightsError, check_in_range, refuse

__all__ = ["MAX_BITS", "MIN_BITS", "FixedPoint", "Words", "decode", "encode"]

MIN_BITS, MAX_BITS = 2, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """A number format: ``code = round(value / scale)``, stored in two's complement.

    ``scale = limit / (2**(bits - 1) - 1)``, so that ``limit`` is the largest positive word; values
    outside saturate. The word ``-2**(bits - 1)`` exists and is read correctly, but rounding reaches
    it only when a given ``limit`` makes values saturate.

    Args:
        bits: Bits in a word, 2 to 16.
        limit: The largest magnitude to represent, in the tensor's unit, above 0. None takes the
            largest magnitude present (max-abs).
        channel_dim: The axis along which each index has its own scale (0 for the output channels of
            a convolution or linear layer). None gives the tensor one scale. Tensors with fewer than
            two axes always get one scale: a channel of one word would be stored without error.

    Raises:
        InputError: if ``bits`` or ``limit`` is outside its range.

    Example:
        >>> words = encode(torch.tensor([-1.0, 0.5, 0.25]), FixedPoint(bits=3))
        >>> words.codes.tolist(), round(float(words.scale), 4)
        ([-3, 2, 1], 0.3333)
    """

    bits: int = 8
    limit: float | None = None
    channel_dim: int | None = None

    def __post_init__(self) -> None:
        """Check the fields once."""
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            refuse("bits", repr(self.bits), f"a whole number from {MIN_BITS} to {MAX_BITS}")
        check_in_range("bits", self.bits, MIN_BITS, MAX_BITS)
        if self.limit is not None:
            check_in_range("limit", self.limit, 0.0, 3e38, open_low=True)
        if self.limit is not None and self.channel_dim is not None:
            allowed = "one of the two: a common range, or a scale for each channel"
            refuse("limit with channel_dim", f"{self.limit:g} with {self.channel_dim}", allowed)

    @property
    def lowest(self) -> int:
        """The most negative code, ``-2**(bits - 1)``."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The most positive code, ``2**(bits - 1) - 1``."""
        return (1 << (self.bits - 1)) - 1

    def scale(self, tensor: Tensor) -> Tensor:
        """The real value of one code step.

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
    """A tensor as words.

    Args:
        codes: int16, the shape of the tensor; each within ``format.lowest .. format.highest``.
        scale: The real value of one code step; broadcasts against ``codes``.
        format: The number format.
        dtype: The dtype of the tensor that was stored, and of what is decoded.
    """

    codes: Tensor
    scale: Tensor
    format: FixedPoint
    dtype: torch.dtype


def largest_magnitude(tensor: Tensor, channel_dim: int | None) -> Tensor:
    """The largest magnitude of a tensor, or of each index of an axis.

    Args:
        tensor: At least one entry.
        channel_dim: The axis; None, or a tensor with fewer than two axes, for one magnitude.

    Returns:
        No axes, or the same number of axes with length 1 except along ``channel_dim``.
    """
    if channel_dim is None or tensor.ndim < 2:
        return tensor.abs().max()
    axes = [d for d in range(tensor.ndim) if d != channel_dim % tensor.ndim]
    return tensor.abs().amax(dim=axes, keepdim=True)


def check_storable(tensor: Tensor, name: str = "tensor", channel_dim: int | None = None) -> None:
    """Refuse what no memory word can hold: no entries, no floating dtype, NaN or infinity.

    Args:
        tensor: The tensor to be stored.
        name: What the user calls it, for the message.
        channel_dim: The axis with a scale for each index, which the tensor must have; None for one
            scale. A tensor with fewer than two axes gets one scale in any case.
    """
    if not tensor.is_floating_point():
        refuse(f"the dtype of {name}", tensor.dtype, "a floating dtype", WeightsError)
    if tensor.numel() == 0:
        refuse(name, "empty", "at least one entry", WeightsError)
    # A sum is one pass and is finite only if every entry is, but for overflow: look closer then.
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
        tensor: Finite floating values, any shape, at least one entry.
        format: The number format.
        name: What to call the tensor in an error message.

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
    """The real tensor that words mean.

    Args:
        words: From `encode`, or with codes of your own.

    Returns:
        ``codes * scale`` in ``words.dtype``. Encoding it with the same scale gives the same codes,
        exactly, for float32 and float64 at any width and for bfloat16 up to 8 bits.

    Example:
        >>> decode(encode(torch.tensor([1.0, -0.5, 0.0]), FixedPoint(bits=2))).tolist()
        [1.0, 0.0, 0.0]
    """
    return (words.codes.to(words.scale.dtype) * words.scale).to(words.dtype)
