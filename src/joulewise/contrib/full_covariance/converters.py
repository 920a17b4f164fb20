"""Converters at the ends of arrays: what they make of an input, and what they make of a sum."""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.gaussian import quadrature, series
from joulewise.contrib.full_covariance.joint import Joint, Noise, Outcome, Same, Scale, Value
from joulewise.devices.arrays import rounded
from joulewise.placement.conversion import Converters

__all__ = ["converted", "converted_apart"]


def converted(
    source: Value | Tensor,
    name: str,
    limit: float,
    bits: int,
    joint: Joint,
    *,
    order: int,
    gone: bool,
    offset: Tensor | float = 0.0,
) -> Outcome:
    """What one converter makes of a value.

    A value that does not vary is rounded as it would be. Of one that varies the moments are taken
    over its Gaussian marginal by quadrature, saturation included. Where it spreads over half a step
    ``d`` or more, rounding is taken for noise of variance ``d^2 / 12``, which is then true to 1 %
    (W. R. Bennett, Bell System Technical Journal 27, 1948). Mean and standard deviation are off by
    up to a twentieth of a step for a Gaussian; what was rounded before is none, and layers that
    round in a row can be off by 15 % of the error where converters are most of it.

    Args:
        source: What is converted, ``[batch, *shape]``.
        name: Of the weight, whose noise this counts as.
        limit: The largest magnitude.
        bits: Of the converter.
        joint: The covariances.
        order: Terms of Mehler's series.
        gone: Nothing else needs the source's covariance.
        offset: Added after the conversion, and part of the source already: a bias.
    """
    if isinstance(source, Tensor):
        return Outcome(mean=rounded(source - offset, limit, bits) + offset)
    step, var = limit / (2 ** (bits - 1) - 1), joint.var(source)
    wide = var >= (step / 2) ** 2

    def function(nodes: Tensor) -> tuple[Tensor, Tensor]:
        sums = nodes - offset
        within = sums.clamp(-limit, limit)
        noise = (wide & (sums == within)) * (step**2 / 12)
        return torch.where(wide, within, rounded(sums, limit, bits)) + offset, noise

    expansion, added = quadrature(function, source.mean, var, order)
    own = joint.pop_own(source) if gone else joint.own(source)
    cov = series(own, expansion, overwrite=gone)
    cov.diagonal(dim1=1, dim2=2).copy_(expansion.var.flatten(1))
    dtype = source.mean.dtype
    noise = Noise.independent(added.to(dtype))
    gain = Scale(expansion.gain.flatten(1).to(dtype))
    return Outcome(
        mean=expansion.mean.to(dtype),
        cov=noise.add_to(cov),
        gains=[(source, gain)],
        noise={name: noise},
    )


def converted_apart(
    sums: Value | Tensor, name: str, ends: Converters, rows: int, joint: Joint
) -> Outcome:
    """Sums of several arrays with what the output converters of them all add.

    Uniform noise: a converter of step ``d`` adds a variance of ``d^2 / 12``, independent of all
    else, and does not saturate. That holds where partial sums spread over half a step or more
    between chips. With less noise than that rounding errors are the same on every chip: then this
    takes a shift of the mean for a variance, and is off by up to 15 %, in either direction.

    Args:
        sums: The exact sums, ``[batch, *shape]``.
        name: Of the weight, whose noise this counts as.
        ends: The converters.
        rows: Of the whole matrix.
        joint: The covariances.
    """
    bits = ends.array.output_bits
    assert bits is not None
    step = ends.output_limit / (2 ** (bits - 1) - 1)
    mean = sums if isinstance(sums, Tensor) else sums.mean
    noise = Noise.independent(mean.new_full(mean.shape, ends.array.count(rows) * step**2 / 12))
    if isinstance(sums, Tensor):
        return Outcome(mean=mean, cov=noise.to_cov(), noise={name: noise})
    cov = noise.add_to(joint.own(sums).clone())
    return Outcome(mean=mean, cov=cov, gains=[(sums, Same())], noise={name: noise})
