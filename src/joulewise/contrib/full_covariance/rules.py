"""The rules: for each kind of operation, mean and covariance of the output from those of the input.

A rule is a function of an `Operation`; the table `RULES` says which kind has which. A layer of your
own joins by ``RULES | {MyLayer: rule}``, where the rule is one of these or a function like them.

======================  ===========================================================================
`affine`                exact: any linear or affine function of one tensor (pooling, mean, permute)
`scaling`               exact: the same, entry by entry (batch normalisation, times a constant)
`reshape`               exact: the same numbers in the same order
`add`, `subtract`,      exact: with the joint covariance of the branches
`concatenate`
`linear`, `convolution` exact: noise independent from weight to weight and of the input
`piecewise_linear`      Gaussian input: mean and variance exact, covariance to a stated order
`pointwise`             the same, the moments by quadrature
`max_pool`, `maximum`   pairwise maxima, each of two Gaussians
======================  ===========================================================================
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from joulewise.contrib.full_covariance.gaussian import (
    RELU,
    Expansion,
    PiecewiseLinear,
    quadrature,
    series,
)
from joulewise.contrib.full_covariance.joint import Outcome, Same, Scale, Value
from joulewise.contrib.full_covariance.operation import Operation, Rule
from joulewise.contrib.full_covariance.rectified_maxima import max_pool, maximum
from joulewise.contrib.full_covariance.weighted import convolution, linear

__all__ = [
    "RULES",
    "add",
    "affine",
    "ask",
    "batch_norm",
    "concatenate",
    "convolution",
    "dropout",
    "linear",
    "max_pool",
    "maximum",
    "piecewise_linear",
    "pointwise",
    "reshape",
    "scaling",
    "subtract",
]


def affine(op: Operation) -> Outcome:
    """Any function ``y = A x + b`` of one tensor, the same for every sample; exact.

    ``E y = A E x + b`` and ``Cov y = A Cov(x) A^T``, where ``A`` is applied by calling the
    operation on rows of the covariance, less its value at zero. The first axis is the batch.
    """
    value = _one(op)
    mean = op.evaluate()
    zero = op.evaluate({value: torch.zeros_like(value.mean[:1])})
    if len(zero) != 1:  # samples and another axis change places
        op.refuse("does not keep the samples on the first axis")
    shifted = bool((zero != 0).any())

    def function(images: Tensor) -> Tensor:
        out: Tensor = op.evaluate({value: images})
        return out - zero if shifted else out

    gains = [(value, value.map(function, mean[0].numel()))]
    return Outcome(mean=mean, cov=op.carried(gains), gains=gains)


def scaling(op: Operation) -> Outcome:
    """Any function ``y_i = a_i x_i + b_i``, the same shape in and out; exact.

    The factors are found by calling it on ones and on zeros. Two tensors that vary and multiply
    each other are refused.
    """
    value = _one(op)
    mean = op.evaluate()
    if mean.shape != value.mean.shape:
        op.refuse(f"changes the shape {tuple(value.mean.shape)[1:]} of an input that varies")
    zeros = torch.zeros_like(value.mean)
    factor = op.evaluate({value: zeros + 1.0}) - op.evaluate({value: zeros})
    gains = [(value, Scale(factor.flatten(1)))]
    return Outcome(mean=mean, cov=op.carried(gains), gains=gains)


def divide(op: Operation) -> Outcome:
    """`scaling`, where what varies is above the fraction line."""
    if not isinstance(op.args[0], Value):
        op.refuse("divides by a value that varies, which its rule does not cover")
    return scaling(op)


def batch_norm(op: Operation) -> Outcome:
    """Batch normalisation by running statistics, not folded: `scaling`."""
    if op.module is not None and op.module.running_mean is None:
        op.refuse("has no running statistics, so that samples of a batch depend on each other")
    return scaling(op)


def reshape(op: Operation) -> Outcome:
    """The same numbers in the same order, the batch still the first axis; exact."""
    value = _one(op)
    gains = [(value, Same())]
    return Outcome(mean=op.evaluate(), cov=op.carried(gains), gains=gains)


def dropout(op: Operation) -> Outcome:
    """Nothing happens in evaluation mode; dropout that is always on is refused."""
    value = _one(op)
    if not torch.equal(op.evaluate({value: torch.ones_like(value.mean)}), value.mean * 0 + 1):
        op.refuse("drops values in evaluation mode, too")
    return reshape(op)


def add(op: Operation) -> Outcome:
    """A sum, a residual one among others: ``Cov(a + b) = Caa + Cbb + Cab + Cba``; exact.

    MemSE defines no rule here. Without the cross terms the branches of a residual block, which
    share their input, would count as independent.
    """
    return _sum(op, 1.0)


def subtract(op: Operation) -> Outcome:
    """A difference, as `add`."""
    return _sum(op, -1.0)


def _sum(op: Operation, sign: float) -> Outcome:
    mean = op.evaluate()
    alpha = sign * op.kwargs.get("alpha", 1)
    factors = (1.0, alpha)
    gains: list[tuple[Value, Same | Scale]] = []
    for term, factor in zip((op.args + tuple(op.kwargs.values()))[:2], factors, strict=True):
        if not isinstance(term, Value):
            continue
        if term.mean.shape != mean.shape:
            op.refuse(f"repeats an input that varies, of shape {tuple(term.mean.shape)[1:]}")
        ones = term.mean.new_full((1, 1), factor)
        gains.append((term, Same() if factor == 1 else Scale(ones)))
    return Outcome(mean=mean, cov=op.carried(gains), gains=gains)


def concatenate(op: Operation) -> Outcome:
    """``torch.cat`` along any axis but the batch; exact, with all cross terms."""
    settings = {"dim": 0, **dict(zip(("tensors", "dim"), op.args, strict=False)), **op.kwargs}
    mean, dim = op.evaluate(), int(settings["dim"])
    dim = dim % mean.ndim
    if dim == 0:
        op.refuse("joins samples of a batch")
    gains, before = [], 0
    for part in settings["tensors"]:
        length = (part.mean if isinstance(part, Value) else part).shape[dim]
        if isinstance(part, Value):
            after = mean.shape[dim] - before - length
            ends = (0, 0) * (mean.ndim - 1 - dim) + (before, after)
            gains.append((part, part.map(partial(functional.pad, pad=ends), mean[0].numel())))
        before += length
    return Outcome(mean=mean, cov=op.carried(gains), gains=gains)


def _expanded(op: Operation, value: Value, expansion: Expansion) -> Outcome:
    """The output of a function of each entry: exact variances, Mehler's series between entries."""
    cov = series(op.take_cov(value), expansion, overwrite=op.may_overwrite(value))
    diagonal = cov.diagonal(dim1=1, dim2=2)
    diagonal.copy_(expansion.var.flatten(1))
    dtype = value.mean.dtype
    gains = [(value, Scale(expansion.gain.flatten(1).to(dtype)))]
    return Outcome(mean=expansion.mean.to(dtype), cov=cov, gains=gains)


def pointwise(op: Operation) -> Outcome:
    """Any function of each entry on its own, Gaussian input.

    Mean and variance by quadrature; between entries ``sum_k rho^k / k! a_k(i) a_k(j)`` with
    ``a_k = s^k E[f^(k)]`` up to the order of the method; with other values ``Cov(x, z) E[f']``.
    Good for smooth functions; use `piecewise_linear` for those with kinks.

    References:
        See `joulewise.contrib.full_covariance.gaussian`. The published code's Softplus rule expands
        around the mean and drops fourth moments, which costs 14 % of the variance at s = 1.
    """
    value = _one(op)

    def function(nodes: Tensor) -> tuple[Tensor, Tensor]:
        flat = nodes.flatten(0, 1).to(value.mean.dtype)
        out: Tensor = op.evaluate({value: flat})
        return out.view(nodes.shape), nodes.new_zeros(())

    expansion, _ = quadrature(function, value.mean, op.joint.var(value), op.order)
    return _expanded(op, value, expansion)


def piecewise_linear(function: PiecewiseLinear) -> Rule:
    """The rule of a function made of straight lines: moments in closed form, else as `pointwise`.

    Args:
        function: The function.

    References:
        For ReLU, M. Kern et al., AICAS 2022, arXiv 2205.01707, have the same mean and variance;
        their covariance keeps or drops a pair of entries by the signs of the means.
    """
    return partial(_bent, function=function)


def _bent(op: Operation, function: PiecewiseLinear) -> Outcome:
    value = _one(op)
    expansion = function.expand(value.mean, op.joint.var(value), op.order)
    return _expanded(op, value, expansion)


def leaky_relu(op: Operation) -> Outcome:
    """`piecewise_linear` with the slope that the layer or the call has."""
    slope = _setting(op, "negative_slope", 0.01)
    return _bent(op, PiecewiseLinear(slope=slope, knots=((0.0, 1.0 - slope),)))


def hardtanh(op: Operation) -> Outcome:
    """`piecewise_linear` between the two limits that the layer or the call has."""
    low, high = _setting(op, "min_val", -1.0), _setting(op, "max_val", 1.0)
    return _bent(op, PiecewiseLinear(knots=((low, 1.0), (high, -1.0)), intercept=low))


def _setting(op: Operation, name: str, default: float) -> float:
    """A number that a layer has as an attribute, and a function as a named argument."""
    if op.module is not None:
        return float(getattr(op.module, name))
    if len(op.args) > 1:
        op.refuse(f"has {name} as a positional argument; name it")
    return float(op.kwargs.get(name, default))


def ask(op: Operation) -> Any:
    """A question about a tensor's shape, not its numbers."""
    answer = op.evaluate()
    if isinstance(answer, Tensor):
        op.refuse("gives a tensor that varies, which its rule does not cover")
    return answer


def _one(op: Operation) -> Value:
    value = op.only_input
    if value is None:
        op.refuse("has placed weights that its rule does not cover")
    return value


_RELU = piecewise_linear(RELU)
_RELU6 = piecewise_linear(PiecewiseLinear(knots=((0.0, 1.0), (6.0, -1.0))))
_HARDSIGMOID = piecewise_linear(PiecewiseLinear(knots=((-3.0, 1 / 6), (3.0, -1 / 6))))
_ABS = piecewise_linear(PiecewiseLinear(slope=-1.0, knots=((0.0, 2.0),)))

_LAYERS: Mapping[Any, Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool1d: max_pool,
    nn.MaxPool2d: max_pool,
    functional.max_pool1d: max_pool,
    functional.max_pool2d: max_pool,
    torch.maximum: maximum,
}

_POOLS: Mapping[Any, Rule] = dict.fromkeys(
    (
        nn.AvgPool1d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
        functional.avg_pool1d,
        functional.avg_pool2d,
        functional.adaptive_avg_pool1d,
        functional.adaptive_avg_pool2d,
        nn.ZeroPad1d,
        nn.ZeroPad2d,
        nn.Upsample,
        functional.pad,
        functional.linear,
        torch.mean,
        torch.sum,
        torch.permute,
        torch.transpose,
        operator.getitem,
        "mean",
        "sum",
        "permute",
        "transpose",
    ),
    affine,
)

_SHAPES: Mapping[Any, Rule] = {
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Identity), reshape),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), reshape),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("contiguous", "clone", "unflatten"), reshape),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, functional.dropout), dropout),
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    **dict.fromkeys((getattr, "size", "dim"), ask),
}

_ARITHMETIC: Mapping[Any, Rule] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), subtract),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), scaling),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), divide),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), scaling),
}

_ACTIVATIONS: Mapping[Any, Rule] = {
    **dict.fromkeys((nn.ReLU, functional.relu, torch.relu, torch.relu_), _RELU),
    **dict.fromkeys(("relu", "relu_"), _RELU),
    **dict.fromkeys((nn.ReLU6, functional.relu6), _RELU6),
    **dict.fromkeys((nn.LeakyReLU, functional.leaky_relu), leaky_relu),
    **dict.fromkeys((nn.Hardtanh, functional.hardtanh), hardtanh),
    **dict.fromkeys((nn.Hardsigmoid, functional.hardsigmoid), _HARDSIGMOID),
    **dict.fromkeys((torch.abs, operator.abs, "abs"), _ABS),
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU), pointwise),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish), pointwise),
    **dict.fromkeys((nn.LogSigmoid, nn.Softsign), pointwise),
    **dict.fromkeys((functional.gelu, functional.silu, functional.mish), pointwise),
    **dict.fromkeys((functional.elu, functional.selu, functional.celu), pointwise),
    **dict.fromkeys((functional.softplus, functional.hardswish), pointwise),
    **dict.fromkeys((torch.sigmoid, torch.tanh, functional.logsigmoid), pointwise),
    **dict.fromkeys((torch.exp, torch.sin, torch.cos, torch.square), pointwise),
    **dict.fromkeys(("sigmoid", "tanh", "exp", "square"), pointwise),
}

RULES: Mapping[Any, Rule] = MappingProxyType(
    {**_LAYERS, **_POOLS, **_SHAPES, **_ARITHMETIC, **_ACTIVATIONS}
)
"""Module type, function or method name -> rule. Extend it with ``|``; it cannot be changed."""
