"""Memory words: real tensors as two's complement fixed point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from joulewise.errors import WeightsError, check_count, check_in_range, refuse

__all__ = ["FixedPoint", "Words", "check_storable", "largest_magnitude"]


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
        channel_dim: Axis along which each index has its own scale, if there is no ``limit`` (0 for
            the output channels of a convolution or linear layer). None gives the tensor one scale,
            and so does a tensor with fewer than two axes: one word with its own scale would have
            no rounding error.
        group_size: Entries of each index of ``channel_dim``, consecutive in row-major order, that
            share a scale, 1 or more; the last group may have fewer. None for all of them.

    Example:
        >>> words = FixedPoint(bits=3).encode(torch.tensor([-1.0, 0.5, 0.25]))
        >>> words.codes.tolist(), round(float(words.scale), 4)
        ([-3, 2, 1], 0.3333)
    """

    bits: int = 8
    limit: float | None = None
    channel_dim: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_count("bits", self.bits, 2, 16)
        if self.group_size is not None:
            check_count("group_size", self.group_size, 1)
            if self.channel_dim is None:
                refuse("group_size", "given without channel_dim", "an axis, such as 0, beside it")
        if self.limit is not None:
            check_in_range("limit", self.limit, 0.0, 3e38, open_low=True)

    @property
    def lowest(self) -> int:
        """Most negative code, ``-2**(bits - 1)``."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """Most positive code, ``2**(bits - 1) - 1``."""
        return (1 << (self.bits - 1)) - 1

    def scale(self, tensor: Tensor) -> Tensor:
        """Real value of one code step: float32 or float64, above 0.

        It has no axes, or those of ``tensor`` with length 1 except along ``channel_dim``; with
        groups the shape of ``tensor``.
        """
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        tiny = torch.finfo(wide).tiny  # a denormal step would underflow
        if self.limit is not None:
            step = max(self.limit / self.highest, tiny)
            return torch.tensor(step, dtype=wide, device=tensor.device)
        largest = largest_magnitude(tensor, self.channel_dim, self.group_size)
        steps = largest.to(wide) / self.highest
        # All zeros: any positive step stores them exactly.
        return torch.where(steps > tiny, steps, torch.ones_like(steps))

    def encode(self, tensor: Tensor) -> Words:
        """Round a finite tensor to words; see `check_storable`.

        Where nothing saturates, words differ from the tensor by at most ``scale / 2``, up to the
        rounding of its dtype.
        """
        steps, scale = self._steps(tensor)
        codes = steps.to(torch.int8 if self.bits <= 8 else torch.int16)
        return Words(codes=codes, scale=scale, dtype=tensor.dtype)

    def rounded(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the words of a tensor, float32 or float64, and their scale; NaN stays NaN."""
        steps, scale = self._steps(tensor)
        return steps.mul_(scale), scale

    def _steps(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in the dtype of the scale, and the scale."""
        scale = self.scale(tensor)
        steps = torch.div(tensor.to(scale.dtype), scale).round_()
        return steps.clamp_(self.lowest, self.highest), scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A tensor in memory words.

    Args:
        codes: Two's complement codes, int8 for words of up to 8 bits, else int16.
        scale: The value of one code step, float32 or float64; broadcasts against ``codes``.
        dtype: Dtype of the tensor that was stored.
    """

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype

    @property
    def values(self) -> Tensor:
        """Fault-free values, each a code times its scale, in the dtype of the scale."""
        return self.codes.to(self.scale.dtype).mul_(self.scale)


def largest_magnitude(
    tensor: Tensor, channel_dim: int | None, group_size: int | None = None
) -> Tensor:
    """Largest magnitude of a tensor, each index along an axis, or each group; see `FixedPoint`."""
    if channel_dim is None or tensor.ndim < 2:
        return tensor.abs().max()
    if group_size is None:
        axes = [d for d in range(tensor.ndim) if d != channel_dim % tensor.ndim]
        return tensor.abs().amax(dim=axes, keepdim=True)
    first = tensor.abs().movedim(channel_dim, 0)
    rows = first.flatten(1)
    width = rows.shape[1]
    size = min(group_size, width)
    # The last group is filled up by zeros, which no magnitude is below.
    groups = nn.functional.pad(rows, (0, -width % size)).reshape(len(rows), -1, size)
    each = groups.amax(2).repeat_interleave(size, 1)[:, :width]
    return each.reshape(first.shape).movedim(0, channel_dim)


def check_storable(tensor: Tensor, name: str = "tensor", channel_dim: int | None = None) -> None:
    """Refuse a tensor that is empty, not floating point, not finite, or without ``channel_dim``."""
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
