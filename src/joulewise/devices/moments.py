"""Word classes: a stored tensor in few numbers, where a device treats many of its words alike.

Whoever looks for operating points asks for the moments of the same tensor at hundreds of them. A
word's moments depend on what it holds, and there are far fewer different contents than words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Common", "Moments", "WordClasses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """A random factor that all words of a tensor share.

    A word reads ``mean (1 + f) + e``, ``f`` the same for all, ``e`` each word's own. Words ``i``
    and ``j`` have a covariance of ``var mean_i mean_j + mean_i coupling_j + mean_j coupling_i``.

    Args:
        var: Variance of ``f``, one number, 0 or more.
        coupling: Covariance of ``e`` and ``f``, the shape of the tensor, its unit.
    """

    var: Tensor
    coupling: Tensor

    def own(self, mean: Tensor, var: Tensor) -> Tensor:
        """Variance of each word's ``e``, of its mean and variance; 0 or more."""
        mean, coupling = mean.to(var.dtype), self.coupling.to(var.dtype)
        shared = self.var.to(var.dtype) * mean.square() + 2 * mean * coupling
        return (var - shared).clamp(min=0)

    def variance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """What the factor adds to the variance of a weighted sum of the words.

        Args:
            mean: The weighted sum of the means, any shape.
            coupling: That of the couplings.
        """
        return self.covariance(mean[..., None], coupling[..., None])[..., 0, 0]

    def covariance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """What the factor adds to the covariance of several weighted sums of the words.

        Args:
            mean: The weighted sums of the means, ``[..., sums]``.
            coupling: Those of the couplings.

        Returns:
            ``[..., sums, sums]``.
        """
        mixed = mean[..., :, None] * coupling[..., None, :]
        return self.var.to(mean) * mean[..., :, None] * mean[..., None, :] + mixed + mixed.mT


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Element-wise mean and variance of what is read back.

    Args:
        mean: The shape of the stored tensor, its unit.
        var: The same shape, its unit squared, 0 or more.
        common: What couples the words; None where they are independent.
    """

    mean: Tensor
    var: Tensor
    common: Common | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordClasses:
    """The words of a stored tensor by class; those of one class have the same moments, scaled.

    A word ``i`` reads with mean ``scale_i mean[index_i]`` and variance ``scale_i^2 var[index_i]``.

    Args:
        index: The class of each word, int64, the shape of the tensor.
        scale: A word's unit, above 0; broadcasts against ``index``.
        count: How many classes there are.
        moments: Mean and variance of each class at an operating point, two float64 tensors
            ``[count]``, differentiable in the point. Tensors whose ``moments`` compare equal have
            the same.
    """

    index: Tensor
    scale: Tensor
    count: int
    moments: Callable[[Tensor], tuple[Tensor, Tensor]]

    def summed(self, weights: Tensor, *, by_channel: bool = False) -> Tensor:
        """The sum over the words of each class of ``weights * scale^2``.

        Times ``var`` it is the sum over all words of weight times variance.

        Args:
            weights: The shape of the tensor.
            by_channel: Whether to sum within each output channel, the first axis of the tensor.

        Returns:
            float64 ``[count]``, or ``[channels, count]``.
        """
        scaled = weights.double() * self.scale.double().square()
        index, channels = self.index, 1
        if by_channel:
            channels = len(index)
            first = torch.arange(channels, device=index.device) * self.count
            index = index + first.reshape(-1, *(1,) * (index.ndim - 1))
        sums = torch.zeros(channels * self.count, dtype=torch.float64, device=scaled.device)
        sums.index_add_(0, index.reshape(-1), scaled.reshape(-1))
        return sums.reshape(channels, -1) if by_channel else sums

    def spread(self, values: Tensor) -> Tensor:
        """Each word's value, given one for each class, in the unit of the tensor.

        Args:
            values: ``[..., count]``, as ``mean`` is.

        Returns:
            ``[..., *tensor]``.
        """
        return values.to(self.index.device)[..., self.index] * self.scale
