"""Stored activations: what a layer's input is like after a memory wrote and read it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from joulewise.contrib.full_covariance.gaussian import quadrature, series
from joulewise.contrib.full_covariance.joint import Joint, Noise, Outcome, Scale, Value
from joulewise.devices import Point
from joulewise.placement import Placed

__all__ = ["stored"]


def stored(
    source: Value | Tensor,
    placed: Placed,
    point: Point,
    joint: Joint,
    *,
    order: int,
    overwrite: bool,
) -> Outcome:
    """What is read back of an activation: of mean ``m(x)`` and variance ``v(x)`` for a value x.

    Mean ``E[m(x)]``, variance ``Var[m(x)] + E[v(x)]``, the second part independent from word to
    word; with other values ``Cov(x, z) E[m']``. For a value that varies, the expectations are taken
    over its Gaussian marginal by quadrature. Words are steps, so an entry is off by up to a
    twentieth of a step, in either direction.

    Args:
        source: What is written, ``[batch, *shape]``.
        placed: The placed activation.
        point: Its operating point.
        joint: The covariances.
        order: Terms of Mehler's series.
        overwrite: Nothing else needs the source's covariance.
    """
    device: Any = placed.device

    def read(values: Tensor) -> tuple[Tensor, Tensor]:
        moments = device.moments(device.store(values, limit=placed.limit, name=placed.name), point)
        return moments.mean, moments.var

    if isinstance(source, Tensor):
        mean, var = read(source)
        if not var.requires_grad and not bool(var.any()):
            return Outcome(mean=mean.to(source.dtype))
        noise = Noise.independent(var.to(source.dtype))
        return Outcome(mean=mean.to(source.dtype), cov=noise.to_cov(), noise={placed.name: noise})
    dtype = source.mean.dtype
    expansion, var = quadrature(
        lambda nodes: read(nodes.to(dtype)), source.mean, joint.var(source), order
    )
    own = joint.pop_own(source) if overwrite else joint.own(source)
    cov = series(own, expansion, overwrite=overwrite)
    cov.diagonal(dim1=1, dim2=2).copy_(expansion.var.flatten(1))
    noise = Noise.independent(var.to(dtype))
    return Outcome(
        mean=expansion.mean.to(dtype),
        cov=noise.add_to(cov),
        gains=[(source, Scale(expansion.gain.flatten(1).to(dtype)))],
        noise={placed.name: noise},
    )
