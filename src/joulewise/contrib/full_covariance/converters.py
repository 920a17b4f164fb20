"""Rules of quantisers: stored activations, and converters at the ends of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.gaussian import elementwise, quadrature
from joulewise.contrib.full_covariance.joint import Gain, Joint, Noise, Outcome, Value, mean_of
from joulewise.devices import Point
from joulewise.devices.array import rounded
from joulewise.placement import Placed
from joulewise.placement.converters import Converters

__all__ = ["Quantiser", "converter", "memory", "quantised", "uniform_noise"]

Quantiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes values ``[..., batch, *shape]`` of an input, and the variance of the input over chips,
``[batch, *shape]``, to mean and variance of the result at each of the values."""


def memory(placed: Placed, point: Point, dtype: torch.dtype) -> Quantiser:
    """Memory of a stored activation, written in ``dtype``.

    Words are steps, so an entry of `quantised` is off by up to a twentieth of a step.
    """
    device: Any = placed.device

    def read(values: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        words = device.store(values.to(dtype), limit=placed.limit, name=placed.name)
        moments = device.moments(words, point)
        return moments.mean, moments.var

    return read


def converter(limit: float, bits: int, offset: Tensor | float = 0.0) -> Quantiser:
    """One converter, saturation included.

    Where the input spreads over half a step ``d`` or more, rounding is taken for noise of variance
    ``d^2 / 12``, which is then true to 1 % (W. R. Bennett, Bell System Technical Journal 27, 1948).
    Mean and standard deviation are off by up to a twentieth of a step for a Gaussian. A rounded
    input is none, and layers that round in a row can be off by 15 % of the error where converters
    are most of it.

    Args:
        limit: Largest magnitude.
        bits: Bits of the converter.
        offset: Bias that is added after the conversion, and is part of the input already.
    """
    step = limit / (2 ** (bits - 1) - 1)

    def convert(values: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        wide = spread >= (step / 2) ** 2
        sums = values - offset
        within = sums.clamp(-limit, limit)
        noise = (wide & (sums == within)) * (step**2 / 12)
        return torch.where(wide, within, rounded(sums, limit, bits)) + offset, noise

    return convert


def quantised(
    source: Value | Tensor,
    name: str,
    quantiser: Quantiser,
    joint: Joint,
    *,
    order: int,
    last: bool = False,
) -> Outcome:
    """Outcome of a quantiser with mean ``m(x)`` and variance ``v(x)`` at a value x.

    Mean ``E[m(x)]``; variance ``Var[m(x)] + E[v(x)]``, the second part independent from entry to
    entry; with other values ``Cov(x, z) E[m']``. For a value that varies, the expectations are
    taken over its Gaussian marginal by quadrature.

    Args:
        source: The input, ``[batch, *shape]``.
        name: The placed tensor that the noise is attributed to.
        quantiser: The quantiser.
        joint: The covariances.
        order: Number of terms of Mehler's series.
        last: True if nothing else needs the covariance of the source with itself.
    """
    if isinstance(source, Tensor):
        mean, var = quantiser(source, source.new_zeros(()))
        mean, noise = mean.to(source.dtype), Noise.independent(var.to(source.dtype))
        if not var.requires_grad and not bool(var.any()):
            return Outcome(mean=mean)
        return Outcome(mean=mean, cov=noise.to_cov(), noise={name: noise})
    spread = joint.var(source)
    expansion, var = quadrature(lambda nodes: quantiser(nodes, spread), source.mean, spread, order)
    noise = Noise.independent(var.to(source.mean.dtype))
    return elementwise(source, expansion, joint, last=last, noise={name: noise})


def uniform_noise(
    sums: Value | Tensor, name: str, ends: Converters, rows: int, joint: Joint
) -> Outcome:
    """Outcome of the output converters of several arrays, whose results are added.

    A converter of step ``d`` adds uniform noise of variance ``d^2 / 12``, independent of all else,
    and does not saturate. That holds where partial sums spread over half a step or more between
    chips. With less noise than that, rounding errors are the same on every chip: then this takes a
    shift of the mean for a variance, and is off by up to 15 %, in either direction.

    Args:
        sums: The exact sums, ``[batch, *shape]``.
        name: The weight, which the noise is attributed to.
        ends: The converters.
        rows: Rows of the whole matrix.
        joint: The covariances.
    """
    bits = ends.array.output_bits
    assert bits is not None
    step = ends.output_limit / (2 ** (bits - 1) - 1)
    mean = mean_of(sums)
    noise = Noise.independent(mean.new_full(mean.shape, ends.array.count(rows) * step**2 / 12))
    if isinstance(sums, Tensor):
        return Outcome(mean=mean, cov=noise.to_cov(), noise={name: noise})
    cov = noise.add_to(joint.own(sums).clone())
    return Outcome(
        mean=mean,
        cov=cov,
        gains=[(sums, Gain.diagonal(mean.new_ones(1, sums.size)))],
        noise={name: noise},
    )
