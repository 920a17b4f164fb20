"""Moments of what is read back: mean, variance, shared factors, classes of words, estimates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices.chip import Chip

__all__ = [
    "ClassMoments",
    "MomentEstimate",
    "ReadMoments",
    "SharedFactor",
    "WordClasses",
    "estimated_moments",
    "taken",
]


# Words that are summed over classes, or looked up, at a time.
_BLOCK = 1 << 18
# Far from the seeds of simulated chips and of those that predictions draw.
_SEED = 1 << 45

ClassMoments = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean and variance of each class of words at a point, two float64 tensors ``[classes]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFactor:
    """A random factor that all words of a tensor share.

    Word ``i`` reads ``mean_i (1 + f) + e_i`` with ``f`` common to all words and ``e_i`` independent
    between words. The covariance of words ``i`` and ``j`` is
    ``var mean_i mean_j + mean_i coupling_j + mean_j coupling_i``.

    Args:
        var: Variance of ``f``, one number, 0 or more.
        coupling: Covariance of ``e_i`` and ``f``, in the shape and unit of the tensor.
    """

    var: Tensor
    coupling: Tensor

    def own(self, mean: Tensor, var: Tensor) -> Tensor:
        """Variance of each word's ``e``, at least 0, given the mean and variance of its read."""
        mean, coupling = mean.to(var.dtype), self.coupling.to(var.dtype)
        shared = self.var.to(var.dtype) * mean.square() + 2 * mean * coupling
        return (var - shared).clamp(min=0)

    def variance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """Variance added to weighted sums of the words, from those of means and couplings."""
        return self.covariance(mean[..., None], coupling[..., None])[..., 0, 0]

    def covariance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """Covariance ``[..., sums, sums]`` that the factor adds to weighted sums of the words.

        Args:
            mean: Weighted sums of the means, ``[..., sums]``.
            coupling: Weighted sums of the couplings, the same shape.
        """
        mixed = mean[..., :, None] * coupling[..., None, :]
        return self.var.to(mean) * mean[..., :, None] * mean[..., None, :] + mixed + mixed.mT


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentEstimate:
    """Origin of moments that were estimated from reads.

    Args:
        chips: Chips that were read.
        relative_error: Standard error of the variance summed over words, relative to the sum.
    """

    chips: int
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMoments:
    """Element-wise mean and variance of what is read back.

    Args:
        mean: In the shape and unit of the stored tensor.
        var: The same shape, unit squared, 0 or more.
        common: Factor that correlates the words; None if they are independent.
        estimate: Origin of estimated moments; None if they are a closed form.
    """

    mean: Tensor
    var: Tensor
    common: SharedFactor | None = None
    estimate: MomentEstimate | None = None

    def noise(
        self, generator: torch.Generator, scale: float = 1.0, out: Tensor | None = None
    ) -> Tensor:
        """Noise of these variances, and of the factor that words share; mean 0.

        Gaussian, but for a mean of fewer bits than float32: there it has these variances once its
        sum with the mean is rounded.

        Args:
            generator: On the device of the moments.
            scale: Factor of the noise, above 0.
            out: Memory that the noise may take, in the shape of the mean.
        """
        noise = self._gaussian(generator, out).mul_(scale)
        if self.mean.dtype.itemsize >= 4:
            return noise
        for block in _blocks(noise) if noise.ndim else [...]:  # ten numbers beside each word
            var = scale**2 * self.var[block]
            noise[block] = _for_rounding(noise[block], self.mean[block], var, generator)
        return noise

    def _gaussian(self, generator: torch.Generator, out: Tensor | None) -> Tensor:
        if out is None or out.dtype != self.var.dtype:
            out = torch.empty_like(self.var)
        drawn = out.normal_(generator=generator)
        if self.common is None:
            if self.var.numel() <= _BLOCK:
                return drawn.mul_(self.var.sqrt())
            for block in _blocks(drawn):  # tables of language models are large
                drawn[block].mul_(self.var[block].sqrt())
            return drawn
        own, coupling = self.common.own(self.mean, self.var), self.common.coupling.to(self.var)
        each = own.sqrt() * drawn
        # The factor is the regression on the words' own noise, independent between words, and a
        # rest of its own.
        weights = torch.where(own > 0, coupling / own, 0.0)
        rest = (self.common.var.to(self.var) - (weights * coupling).sum()).clamp(min=0)
        alone = torch.empty_like(rest).normal_(generator=generator)
        return self.mean.to(self.var) * ((weights * each).sum() + rest.sqrt() * alone) + each


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordClasses:
    """The words of a tensor grouped so that those of one class have equal moments, up to scale.

    Word ``i`` reads with mean ``scale_i mean[index_i]`` and variance ``scale_i^2 var[index_i]``.
    A word's moments depend on its content, and contents are far fewer than words: with classes,
    moments at hundreds of operating points are cheap.

    Args:
        index: Class of each word, integers of any dtype, in the shape of the tensor.
        scale: Unit of each word, above 0; broadcasts against ``index``.
        count: Number of classes.
        moments: Function from an operating point to mean and variance of each class, two float64
            tensors ``[count]``, differentiable in the point. Tensors whose ``moments`` compare
            equal share one table.
    """

    index: Tensor
    scale: Tensor
    count: int
    moments: ClassMoments

    def summed(
        self, weights: Tensor, *, by_channel: bool = False, power: int = 2, squared: bool = False
    ) -> Tensor:
        """Sum of ``weights * scale^power`` over the words of each class, float64 ``[count]``.

        Its product with ``var`` is the sum over all words of weight times variance; with the first
        power, that with ``mean`` is the sum of weight times mean.

        Args:
            weights: In the shape of the tensor.
            by_channel: True for sums ``[channels, count]`` of each output channel, the first axis.
            power: 1 or 2.
            squared: True for the squares of ``weights`` in their place.
        """
        channels = len(self.index) if by_channel else 1
        sums = torch.zeros(channels * self.count, dtype=torch.float64, device=self.index.device)
        # In blocks of the first axis: float64 of a whole language model's table would be large.
        rows = self.index.shape[0] if self.index.ndim else 1
        step = max(1, _BLOCK * rows // max(self.index.numel(), 1))
        for start in range(0, rows, step):
            block = slice(start, start + step) if self.index.ndim else ...
            scale = self.scale[block] if self._scaled_by_row else self.scale
            some = weights[block].double()
            scaled = (some.square() if squared else some) * scale.double() ** power
            index = self.index[block].int()
            if by_channel:
                first = torch.arange(start, start + len(index), device=index.device) * self.count
                index = index + first.reshape(-1, *(1,) * (index.ndim - 1))
            sums.index_add_(0, index.reshape(-1), scaled.reshape(-1))
        return sums.reshape(channels, -1) if by_channel else sums

    @property
    def _scaled_by_row(self) -> bool:
        """True if the first axis has scales of its own."""
        return self.scale.ndim == self.index.ndim > 0 and len(self.scale) > 1

    def spread(self, values: Tensor) -> Tensor:
        """Values of classes ``[..., count]`` as those of words ``[..., *tensor]``, times scales."""
        return values.to(self.index.device)[..., self.index.long()] * self.scale


def estimated_moments(read: Callable[[Chip], Tensor], ideal: Tensor, chips: int) -> ReadMoments:
    """Mean and unbiased variance of each word over chips of fixed seeds.

    By Welford's recursion, read ``x_k`` adds ``(x_k - m)^2 (k - 1) / k`` to the sum of squares,
    ``m`` the mean of the reads before it. Each addend is an unbiased estimate of the variance, so
    the spread of its sums over words gives the standard error, also for correlated words.

    Args:
        read: Function from a chip to the tensor that it reads.
        ideal: The fault-free tensor; its digest names the region of the chips, so that tensors with
            different contents have independent noise.
        chips: Number of chips, 3 or more.
    """
    content = ideal.detach().cpu().float().contiguous().numpy().tobytes()
    part = hashlib.blake2b(content, digest_size=8).hexdigest()
    mean = read(Chip(seed=_SEED, part=part)).detach().double()
    squares, sums = torch.zeros_like(mean), []
    for k in range(2, chips + 1):
        away = read(Chip(seed=_SEED + k - 1, part=part)).detach().double() - mean
        addend = away.square() * ((k - 1) / k)
        mean = mean + away / k
        squares += addend
        sums.append(float(addend.sum()))
    each = torch.tensor(sums, dtype=torch.float64)
    error = float(each.std()) / len(each) ** 0.5 / max(float(each.mean()), 1e-300)
    estimate = MomentEstimate(chips=chips, relative_error=error)
    return ReadMoments(mean=mean, var=squares / (chips - 1), estimate=estimate)


def _for_rounding(noise: Tensor, mean: Tensor, var: Tensor, generator: torch.Generator) -> Tensor:
    """Noise whose sum with the mean has a variance once it is rounded to the dtype of the mean."""
    # The spacing of numbers at the mean.
    _, exponent = torch.frexp(mean.float())
    u = torch.ldexp(torch.full_like(noise, torch.finfo(mean.dtype).eps / 2), exponent)
    u = torch.where(mean == 0, 0.0, u)  # next to 0, numbers are as fine as noise is
    # Below it, noise is one step or none; above it, rounding adds u^2 / 12.
    left = torch.where(u == 0, 1.0, 1 - u.square() / (12 * var))
    fine = noise * left.clamp(min=0).sqrt()
    uniform = torch.empty_like(noise).uniform_(generator=generator)
    coarse = noise.sign() * torch.where(uniform * u.square() < var, u, 0.0)
    return torch.where(var < u.square(), coarse, fine)


def taken(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a table; in blocks without a gradient, since int64 takes more than the words."""
    if table.requires_grad or index.numel() <= _BLOCK or index.ndim < 2:
        return table.take(index.long())
    found = torch.empty_like(index, dtype=table.dtype)
    for block in _blocks(index):
        found[block] = table.take(index[block].long())
    return found


def _blocks(tensor: Tensor) -> Iterator[slice]:
    """Rows of a tensor of one axis or more, in blocks of one row at least."""
    rows = max(1, _BLOCK * len(tensor) // max(tensor.numel(), 1))
    for start in range(0, len(tensor), rows):
        yield slice(start, start + rows)
