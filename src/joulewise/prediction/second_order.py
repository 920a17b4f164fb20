"""Second-order correction: curvature beyond the tangent, from pairs of opposite Gaussian noise.

With noise ``d`` of the mean and variance of what is read, the even part of the output,

    (f(mean + d) + f(mean - d)) / 2 - f(mean) = sum_i v_i f''_ii / 2 on average,

has no term of first order, so that few pairs give the shift of the mean. The odd part,
``(f(mean + d) - f(mean - d)) / 2``, is the tangent and its third-order change. Its variance over
that of the tangent, taken from a small step along the same ``d``, corrects the linear variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.placement import Observer, Placed
from joulewise.prediction.linearisation import Linearisation, Piece

__all__ = ["SecondOrderCorrection", "second_order_correction"]

# Size of the small step, relative to the noise: above rounding, and nearly linear.
_STEP = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SecondOrderCorrection:
    """Correction of the mean and variance of the outputs of some samples.

    Args:
        mean: Shift of the mean output from the output at the mean read, estimated,
            ``[samples, outputs]``, float64.
        even_var: Variance of the even part, the same shape.
        pairs: Pairs of passes that both are estimated from.
        odd_gain: Variance of the odd part over that of the tangent; one number for all outputs.
    """

    mean: Tensor
    even_var: Tensor
    pairs: int
    odd_gain: Tensor

    def of_outputs(self, chosen: Tensor) -> SecondOrderCorrection:
        """The correction of some outputs of each sample, ``[samples, chosen]``."""
        mean, even_var = (t.gather(1, chosen) for t in (self.mean, self.even_var))
        return replace(self, mean=mean, even_var=even_var)

    def of_samples(self, samples: slice) -> SecondOrderCorrection:
        """The correction of some of the samples."""
        return replace(self, mean=self.mean[samples], even_var=self.even_var[samples])

    def variance_ratio(self, linear: Tensor) -> Tensor:
        """True over linear variance, of the linear one of each sample, mean over outputs."""
        some = linear > 0
        even = self.even_var.mean(1) / torch.where(some, linear, 1.0)
        return self.odd_gain + torch.where(some, even, 0.0)


def second_order_correction(
    network: Linearisation, piece: Piece, pairs: int, seed: int
) -> SecondOrderCorrection:
    """Estimate the correction from pairs of opposite noise; differentiable where the points are.

    Args:
        network: Linearisation around the mean read.
        piece: Some samples.
        pairs: Pairs of passes, 2 or more; a third pass goes with each.
        seed: Seed of the noise, which is the same for every piece.
    """
    generator = torch.Generator().manual_seed(seed)
    even, odd, tangent = [], [], []
    with torch.set_grad_enabled(network.differentiable):
        centre = _output(network, piece, network.means)
        for _ in range(pairs):
            noise = {name: _gaussian(network, name, generator) for name in network.means}
            drawn: dict[str, Tensor] = {}
            plus, minus, near = (
                _output(
                    network,
                    piece,
                    {name: mean + scale * noise[name] for name, mean in network.means.items()},
                    _noisy_activations(scale, drawn, generator),
                )
                for scale in (1.0, -1.0, _STEP)
            )
            even.append((plus + minus) / 2 - centre)
            odd.append(((plus - minus) / 2).square().sum())
            tangent.append(((near - centre) / _STEP).square().sum())
        evens = torch.stack(even).reshape(pairs, piece.samples, -1)
        linear = torch.stack(tangent).sum()
        # In half precision a small step is lost in rounding, and without noise there is none.
        precise = all(m.dtype in (torch.float32, torch.float64) for m in network.fixed.values())
        known = bool(linear > 0) and precise
        gain = torch.stack(odd).sum() / linear if known else torch.ones_like(linear)
        return SecondOrderCorrection(
            mean=evens.mean(0), even_var=evens.var(0), pairs=pairs, odd_gain=gain
        )


def _output(
    network: Linearisation,
    piece: Piece,
    means: Mapping[str, Tensor],
    observer: Observer | None = None,
) -> Tensor:
    """The output for given reads, float64."""
    problem = network.problem
    # Converters do not round here: their steps average out over the pairs, and at the size of the
    # small step a rounded function has no tangent.
    problem.memory.expect(problem.points, means, observer, convert=False)
    return problem.memory.call(piece.inputs).double()


def _noisy_activations(
    scale: float, drawn: dict[str, Tensor], generator: torch.Generator
) -> Observer:
    """Add Gaussian noise to placed activations, the same for all samples, as memory cells are.

    Its normal numbers are kept in ``drawn`` from one pass to the next of a pair.
    """

    def observe(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if placed.name not in drawn or drawn[placed.name].shape != var.shape[1:]:
            normal = torch.randn(var.shape[1:], generator=generator, device="cpu")
            drawn[placed.name] = normal.to(var)
        return mean + (scale * _std(var) * drawn[placed.name]).to(mean.dtype)

    return observe


def _gaussian(network: Linearisation, name: str, generator: torch.Generator) -> Tensor:
    """Gaussian noise of the moments of what is read of a placed weight, in its shape."""
    mean, var = network.means[name], network.variances[name]
    normal = torch.randn(mean.shape, generator=generator, device="cpu").to(var)
    noise = _std(var) * normal
    if name in network.commons:
        # The factor f that all words share, given each word's own noise e: its regression on e
        # by their covariance, and an independent rest.
        common = network.commons[name]
        rest = torch.randn((), generator=generator, device="cpu").to(var)
        tied = common.coupling.to(var) / torch.where(var > 0, var, 1.0) * (var > 0)
        free = (common.var.to(var) - (tied * common.coupling).sum()).clamp(min=0)
        noise = noise + ((tied * noise).sum() + _std(free) * rest) * mean
    return (noise if network.differentiable else noise.detach()).to(mean.dtype)


def _std(var: Tensor) -> Tensor:
    """The standard deviation, with a gradient of 0 instead of infinity where the variance is 0."""
    if not var.requires_grad:
        return var.sqrt()
    return torch.where(var > 0, var, 1.0).sqrt().where(var > 0, torch.zeros_like(var))
