"""Bending: what noise as strong as it is does to the outputs, beyond the tangent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.prediction.linearisation.linearisation import Linearisation
from joulewise.prediction.linearisation.pieces import Piece

__all__ = ["Bend", "bend"]

# Of the noise: far enough to be seen beside rounding, and so near that the tangent is all there is.
_NUDGE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bend:
    """What noise as strong as it is does to the outputs, beyond the tangent at the mean read.

    Args:
        mean: How far the mean output is from the output at the mean read, ``[samples, outputs]``,
            float64.
        var: Variance of what has the same sign for opposite noise, likewise.
        pairs: Pairs of opposite noise that both are from.
        gain: Variance of what has opposite signs, over that of the tangent; one number for all.
    """

    mean: Tensor
    var: Tensor
    pairs: int
    gain: Tensor

    @property
    def too_much(self) -> Tensor:
        """By how much the square of ``mean`` is too large, being an estimate."""
        return self.var / self.pairs

    def among(self, classes: Tensor) -> Bend:
        """The chosen outputs of each sample, ``[samples, classes]``."""
        return replace(self, mean=self.mean.gather(1, classes), var=self.var.gather(1, classes))

    def of(self, samples: slice) -> Bend:
        """The chosen samples."""
        return replace(self, mean=self.mean[samples], var=self.var[samples])

    def stretch(self, variance: Tensor) -> Tensor:
        """True over linear variance, from the linear one of each sample, mean over outputs."""
        some = variance > 0
        rest = self.var.mean(1) / torch.where(some, variance, 1.0)
        return self.gain + torch.where(some, rest, 0.0)


def bend(network: Linearisation, piece: Piece, pairs: int, seed: int) -> Bend:
    """What noise as strong as it is does beyond the tangent, by pairs of opposite noise.

    With Gaussian noise ``d`` of the moments of what is read, ``f(mean + d)`` and ``f(mean - d)``
    have in common what is even in ``d``: ``f(mean)`` and the curvature, ``sum v f'' / 2`` on
    average, with nothing of first order in it, so that few pairs are enough. Half their difference
    is odd: the tangent and what bends it. How much shorter than the tangent it is shows beside a
    nudge along the same ``d``. Differentiable where the points are.

    Args:
        network: Around the mean read.
        piece: Some samples.
        pairs: Pairs of passes, 2 or more; a third pass goes with each.
        seed: Of the noise; the same for every piece.
    """
    generator = torch.Generator().manual_seed(seed)
    even, odd, tangent = [], [], []
    with torch.set_grad_enabled(network.differentiable):
        centre = network.disturbed(piece, {}, 0.0, {}, generator)
        for _ in range(pairs):
            noise, drawn = network.gaussian(generator), dict[str, Tensor]()
            plus, minus, nudged = (
                network.disturbed(piece, noise, length, drawn, generator)
                for length in (1.0, -1.0, _NUDGE)
            )
            even.append((plus + minus) / 2 - centre)
            odd.append(((plus - minus) / 2).square().sum())
            tangent.append(((nudged - centre) / _NUDGE).square().sum())
        bends = torch.stack(even).reshape(pairs, piece.samples, -1)
        along = torch.stack(tangent).sum()
        # Half precision has no digits for a nudge, and without noise there is nothing to nudge.
        seen = bool(along > 0) and network.has_digits
        gain = torch.stack(odd).sum() / along if seen else torch.ones_like(along)
        return Bend(mean=bends.mean(0), var=bends.var(0), pairs=pairs, gain=gain)
