"""Rules of maxima of values that vary together, pair by pair.

With ``d = a - b`` Gaussian, ``max(a, b) = b + max(d, 0)``: a sum and a rectifier, whose moments are
exact, so mean and variance of one pair are Clark's, and covariances follow from Mehler's series on
the differences. The maximum of more than two takes the result for Gaussian again, as Clark does.

References:
    C. E. Clark, "The greatest of a finite set of random variables", Operations Research 9, 1961,
    equations 2 to 4 (mean and variance), 5 (covariance with a third variable).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.gaussian import RELU, series
from joulewise.contrib.full_covariance.joint import Gain, Outcome, Value, mean_of
from joulewise.contrib.full_covariance.operation import Operation
from joulewise.contrib.full_covariance.windows import window_positions

__all__ = ["max_pool", "maximum"]


class _Gaussian(NamedTuple):
    """Mean ``[batch, size]`` and covariance ``[batch, size, size]``."""

    mean: Tensor
    cov: Tensor


def _larger(a: _Gaussian, b: _Gaussian, cross: Tensor, order: int) -> tuple[_Gaussian, Tensor]:
    """``max(a, b)`` entry by entry, and its gain in ``a`` (the gain in ``b`` is the rest to 1).

    Args:
        a: The first operand.
        b: The second operand, in the same shape.
        cross: ``Cov(a, b)``.
        order: Number of terms of Mehler's series.
    """
    # max(a, b) = b + r with r = max(d, 0) and d = a - b, whose covariance this is.
    difference = a.cov - cross - cross.mT + b.cov
    var = difference.diagonal(dim1=1, dim2=2).double().clamp_min(0.0)
    expansion = RELU.expand(a.mean - b.mean, var, order)
    dtype = b.cov.dtype
    gain_a = expansion.gain.to(dtype)
    gain_b = 1.0 - gain_a
    # b + r with the first term of the series for r is linear in a and b; then terms from order 2.
    mixed = gain_a[:, :, None] * gain_b[:, None] * cross
    cov = gain_a[:, :, None] * gain_a[:, None] * a.cov + mixed + mixed.mT
    cov = cov + gain_b[:, :, None] * gain_b[:, None] * b.cov
    cov = cov + series(difference, expansion, first=2)
    # Var(b + r) = Var b + 2 Cov(b, r) + Var r, with Cov(b, r) = E[r'] Cov(b, d).
    own, with_d = (c.diagonal(dim1=1, dim2=2).double() for c in (b.cov, cross - b.cov))
    exact = (own + 2.0 * expansion.gain * with_d + expansion.var).clamp_min(0.0)
    cov.diagonal(dim1=1, dim2=2).copy_(exact)
    return _Gaussian(b.mean + expansion.mean.to(dtype), cov), gain_a


def maximum(op: Operation) -> Outcome:
    """`torch.maximum` of two tensors of one shape; mean and variance exact for Gaussian inputs.

    Covariances between entries up to the order of the method.
    """
    terms = [t for t in (*op.args, *op.kwargs.values()) if isinstance(t, (Value, Tensor))]
    means = [mean_of(term) for term in terms]
    if len(terms) != 2 or means[0].shape != means[1].shape:
        op.refuse("does not compare two tensors of one shape")
    zero = torch.zeros_like(op.joint.own(op.inputs[0]))

    def cov(a: Any, b: Any) -> Tensor:
        both = isinstance(a, Value) and isinstance(b, Value)
        found = op.joint.cov(a, b) if both else None
        return zero if found is None else found

    a, b = (_Gaussian(m.flatten(1), cov(t, t)) for t, m in zip(terms, means, strict=True))
    out, gain_a = _larger(a, b, cov(*terms), op.order)
    factors = zip(terms, (gain_a, 1.0 - gain_a), strict=True)
    gains = [(t, Gain.diagonal(factor)) for t, factor in factors if isinstance(t, Value)]
    return Outcome(mean=out.mean.view(means[0].shape), cov=out.cov, gains=gains)


def max_pool(op: Operation) -> Outcome:
    """Max-pooling over one or two axes: maxima of the taps of each window, one after the other.

    Exact for windows of two Gaussian entries up to the order of the series. Beyond two, the running
    maximum is taken for Gaussian: on the windows of 3 to 9 entries in its test the mean is off by
    up to 3 % of a standard deviation, covariances by up to 20 % of the product of two (1.5 % on
    average).
    """
    value = op.varying_input
    shape_out = op.evaluate().shape
    entries = _entries(op, value.mean.shape, shape_out)
    inside, index = entries >= 0, entries.clamp_min(0)
    mean, cov = value.mean.flatten(1), op.joint.own(value)
    spread = cov.diagonal(dim1=1, dim2=2).max().clamp_min(0.0).sqrt()
    # Padding lies 40 standard deviations below everything: it is the maximum with probability 0.
    never = (mean.min() - 40.0 * spread - 1.0).detach()

    def cov_of(s: int, t: int) -> Tensor:
        return cov[:, index[s][:, None], index[t][None]] * inside[s][:, None] * inside[t]

    def tap(t: int) -> _Gaussian:
        return _Gaussian(torch.where(inside[t], mean[:, index[t]], never), cov_of(t, t))

    running = tap(0)
    weights = [torch.ones_like(running.mean)]  # gain of the maximum in each tap
    for t in range(1, len(entries)):
        # The running maximum is linearised in its taps: Cov(max, tap t) = sum_s w_s Cov(s, t).
        cross = torch.stack([w[..., None] * cov_of(s, t) for s, w in enumerate(weights)]).sum(0)
        running, kept = _larger(running, tap(t), cross, op.order)
        weights = [*(w * kept for w in weights), 1.0 - kept]

    def weighted_sum(rows: Tensor) -> Tensor:
        taps = zip(weights, index, inside, strict=True)
        return torch.stack([w[:, None] * rows[:, :, i] * ok for w, i, ok in taps]).sum(0)

    gains = [(value, Gain(weighted_sum, entries.shape[1]))]
    return Outcome(mean=running.mean.view(shape_out), cov=running.cov, gains=gains)


def _entries(op: Operation, shape: torch.Size, shape_out: torch.Size) -> Tensor:
    """Row-major entry of the input at each tap of each output, ``[taps, size_out]``; -1 outside."""
    setting = vars(op.module) if op.module is not None else dict(op.kwargs)
    if setting.get("return_indices") or len(op.args) > 2:
        op.refuse("returns indices or has positional settings, which its rule does not cover")
    axes = len(shape) - 2
    kernel = setting["kernel_size"] if "kernel_size" in setting else op.args[1]

    def per_axis(number: int | Sequence[int]) -> tuple[int, ...]:
        return (number,) * axes if isinstance(number, int) else tuple(number)

    padding = per_axis(setting.get("padding", 0))
    positions = window_positions(
        shape[2:],
        shape_out[2:],
        kernel=per_axis(kernel),
        stride=per_axis(setting.get("stride") or kernel),
        dilation=per_axis(setting.get("dilation", 1)),
        padding=[n for axis in reversed(padding) for n in (axis, axis)],
    ).to(op.mean_of_input.device)
    first = torch.arange(shape[1], device=positions.device)[:, None] * shape[2:].numel()
    return torch.where(positions[:, None] < 0, -1, positions[:, None] + first).flatten(1)
