"""Rules: for each kind of operation, mean and covariance of the output from those of the input.

A rule is a function of an `Operation`; the table `RULES` assigns one to each kind. A layer of your
own joins by ``RULES | {MyLayer: rule}``, where the rule is one of these or a function like them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from joulewise.contrib.full_covariance.gaussian import (
    RELU,
    PiecewiseLinear,
    elementwise,
    quadrature,
)
from joulewise.contrib.full_covariance.joint import Gain, Outcome, Value, mean_of
from joulewise.contrib.full_covariance.operation import Operation, Rule
from joulewise.contrib.full_covariance.rectified_maxima import max_pool, maximum
from joulewise.contrib.full_covariance.weighted import convolution, linear

__all__ = ["RULES", "affine", "piecewise_linear", "pointwise", "reshape", "scaling"]


def affine(op: Operation) -> Outcome:
    """Rule of any function ``y = A x + b`` of one tensor, the same for every sample; exact.

    ``E y = A E x + b`` and ``Cov y = A Cov(x) A^T``, where ``A`` is applied by calling the
    operation on rows of the covariance, less its value at zero. The first axis is the batch.
    """
    value = op.varying_input
    mean = op.evaluate()
    zero = op.evaluate({value: torch.zeros_like(value.mean[:1])})
    if len(zero) != 1:  # the batch and another axis were swapped
        op.refuse("does not keep the samples on the first axis")
    shifted = bool((zero != 0).any())

    def function(rows: Tensor) -> Tensor:
        out: Tensor = op.evaluate({value: rows})
        return out - zero if shifted else out

    return op.linear(mean, [(value, value.gain(function, mean[0].numel()))])


def scaling(op: Operation) -> Outcome:
    """Rule of any function ``y_i = a_i x_i + b_i`` of one tensor, in its shape; exact.

    The factors are found by calling it on ones and on zeros. Two tensors that vary and multiply
    each other are refused.
    """
    value = op.varying_input
    mean = op.evaluate()
    if mean.shape != value.mean.shape:
        op.refuse(f"changes the shape {tuple(value.mean.shape)[1:]} of an input that varies")
    zeros = torch.zeros_like(value.mean)
    factor = op.evaluate({value: zeros + 1.0}) - op.evaluate({value: zeros})
    return op.linear(mean, [(value, Gain.diagonal(factor.flatten(1)))])


def divide(op: Operation) -> Outcome:
    """Rule of a division by a constant: `scaling`."""
    if not isinstance(op.args[0], Value):
        op.refuse("divides by a value that varies, which its rule does not cover")
    return scaling(op)


def batch_norm(op: Operation) -> Outcome:
    """Rule of batch normalisation by running statistics, not folded: `scaling`."""
    if op.module is not None and op.module.running_mean is None:
        op.refuse("has no running statistics, so that samples of a batch depend on each other")
    return scaling(op)


def reshape(op: Operation) -> Outcome:
    """Rule of functions that keep all entries in order, and the batch first; exact."""
    value = op.varying_input
    return op.linear(op.evaluate(), [(value, Gain.diagonal(value.mean.new_ones(1, value.size)))])


def dropout(op: Operation) -> Outcome:
    """Rule of dropout in evaluation mode, the identity; dropout that is always on is refused."""
    value = op.varying_input
    if not torch.equal(op.evaluate({value: torch.ones_like(value.mean)}), value.mean * 0 + 1):
        op.refuse("drops values in evaluation mode, too")
    return reshape(op)


def add(op: Operation, sign: float = 1.0) -> Outcome:
    """Rule of a sum, as in a residual block: ``Cov(a + b) = Caa + Cbb + Cab + Cba``; exact.

    MemSE defines no rule here. Without the cross terms the branches of a residual block, which
    share their input, would count as independent.
    """
    mean = op.evaluate()
    factors = (1.0, sign * op.kwargs.get("alpha", 1))
    gains: list[tuple[Value, Gain]] = []
    for term, factor in zip((op.args + tuple(op.kwargs.values()))[:2], factors, strict=True):
        if not isinstance(term, Value):
            continue
        if term.mean.shape != mean.shape:
            op.refuse(f"repeats an input that varies, of shape {tuple(term.mean.shape)[1:]}")
        gains.append((term, Gain.diagonal(term.mean.new_full((1, term.size), factor))))
    return op.linear(mean, gains)


def concatenate(op: Operation) -> Outcome:
    """Rule of ``torch.cat`` along any axis but the batch; exact, with all cross terms."""
    settings = {"dim": 0, **dict(zip(("tensors", "dim"), op.args, strict=False)), **op.kwargs}
    mean = op.evaluate()
    dim = int(settings["dim"]) % mean.ndim
    if dim == 0:
        op.refuse("joins samples of a batch")
    gains, before = [], 0
    for part in settings["tensors"]:
        length = mean_of(part).shape[dim]
        if isinstance(part, Value):
            after = mean.shape[dim] - before - length
            ends = (0, 0) * (mean.ndim - 1 - dim) + (before, after)
            gains.append((part, part.gain(partial(functional.pad, pad=ends), mean[0].numel())))
        before += length
    return op.linear(mean, gains)


def pointwise(op: Operation) -> Outcome:
    """Rule of any function of each entry, for Gaussian input.

    Mean and variance by quadrature; between entries ``sum_k rho^k / k! a_k(i) a_k(j)`` with
    ``a_k = s^k E[f^(k)]`` up to the order of the method; with other values ``Cov(x, z) E[f']``.
    Accurate for smooth functions; use `piecewise_linear` for those with kinks.

    References:
        See `joulewise.contrib.full_covariance.gaussian`. The Softplus rule of MemSE's published
        code expands around the mean without fourth moments, which loses 14 % of the variance at a
        standard deviation of 1.
    """
    value = op.varying_input

    def function(nodes: Tensor) -> tuple[Tensor, Tensor]:
        flat = nodes.flatten(0, 1).to(value.mean.dtype)
        out: Tensor = op.evaluate({value: flat})
        return out.view(nodes.shape), nodes.new_zeros(())

    expansion, _ = quadrature(function, value.mean, op.joint.var(value), op.order)
    return elementwise(value, expansion, op.joint, last=value in op.dying)


def piecewise_linear(function: PiecewiseLinear) -> Rule:
    """Rule of a piecewise linear function: moments in closed form, else as `pointwise`.

    Args:
        function: The function.

    References:
        J. Kern et al., AICAS 2022, arXiv 2205.01707, have the same mean and variance for ReLU;
        their covariance keeps or drops a pair of entries by the signs of the means.
    """
    return partial(_piecewise_linear, function=function)


def _piecewise_linear(op: Operation, function: PiecewiseLinear) -> Outcome:
    value = op.varying_input
    expansion = function.expand(value.mean, op.joint.var(value), op.order)
    return elementwise(value, expansion, op.joint, last=value in op.dying)


def leaky_relu(op: Operation) -> Outcome:
    """Rule of leaky ReLU, with the slope of the layer or the call."""
    slope = _setting(op, "negative_slope", 0.01)
    return _piecewise_linear(op, PiecewiseLinear(slope=slope, knots=((0.0, 1.0 - slope),)))


def hardtanh(op: Operation) -> Outcome:
    """Rule of clamping between the two limits of the layer or the call."""
    low, high = _setting(op, "min_val", -1.0), _setting(op, "max_val", 1.0)
    clamp = PiecewiseLinear(knots=((low, 1.0), (high, -1.0)), intercept=low)
    return _piecewise_linear(op, clamp)


def _setting(op: Operation, name: str, default: float) -> float:
    """A number that is an attribute of a layer, and a named argument of a function."""
    if op.module is not None:
        return float(getattr(op.module, name))
    if len(op.args) > 1:
        op.refuse(f"has {name} as a positional argument; name it")
    return float(op.kwargs.get(name, default))


def query(op: Operation) -> Any:
    """Rule of a question about the shape of a tensor, not its entries."""
    answer = op.evaluate()
    if isinstance(answer, Tensor):
        op.refuse("gives a tensor that varies, which its rule does not cover")
    return answer


_RELU6 = PiecewiseLinear(knots=((0.0, 1.0), (6.0, -1.0)))
_HARDSIGMOID = PiecewiseLinear(knots=((-3.0, 1 / 6), (3.0, -1 / 6)))
_ABS = PiecewiseLinear(slope=-1.0, knots=((0.0, 2.0),))

_LAYERS: Mapping[Rule, Sequence[Any]] = {
    linear: [nn.Linear],
    convolution: [nn.Conv1d, nn.Conv2d],
    batch_norm: [nn.BatchNorm1d, nn.BatchNorm2d],
    max_pool: [nn.MaxPool1d, nn.MaxPool2d, functional.max_pool1d, functional.max_pool2d],
    maximum: [torch.maximum],
}

_LINEAR: Mapping[Rule, Sequence[Any]] = {
    affine: [
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        *(functional.avg_pool1d, functional.avg_pool2d),
        *(functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d),
        *(nn.ZeroPad1d, nn.ZeroPad2d, nn.Upsample, functional.pad, functional.linear),
        *(torch.mean, torch.sum, torch.permute, torch.transpose, operator.getitem),
        *("mean", "sum", "permute", "transpose"),
    ],
    reshape: [
        *(nn.Flatten, nn.Unflatten, nn.Identity),
        *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze),
        *("flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "clone", "unflatten"),
    ],
    dropout: [nn.Dropout, nn.Dropout1d, nn.Dropout2d, functional.dropout],
    concatenate: [torch.cat, torch.concat],
    query: [getattr, "size", "dim"],
    add: [operator.add, operator.iadd, torch.add, "add", "add_"],
    partial(add, sign=-1.0): [operator.sub, operator.isub, torch.sub, "sub", "sub_"],
    scaling: [
        *(operator.mul, operator.imul, torch.mul, "mul", "mul_"),
        *(operator.neg, torch.neg, "neg"),
    ],
    divide: [operator.truediv, operator.itruediv, torch.div, "div", "div_"],
}

_ACTIVATIONS: Mapping[Rule, Sequence[Any]] = {
    piecewise_linear(RELU): [nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"],
    piecewise_linear(_RELU6): [nn.ReLU6, functional.relu6],
    leaky_relu: [nn.LeakyReLU, functional.leaky_relu],
    hardtanh: [nn.Hardtanh, functional.hardtanh],
    piecewise_linear(_HARDSIGMOID): [nn.Hardsigmoid, functional.hardsigmoid],
    piecewise_linear(_ABS): [torch.abs, operator.abs, "abs"],
    pointwise: [
        *(nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Sigmoid, nn.Tanh),
        *(nn.Softplus, nn.Hardswish, nn.LogSigmoid, nn.Softsign),
        *(functional.gelu, functional.silu, functional.mish, functional.elu, functional.selu),
        *(functional.celu, functional.softplus, functional.hardswish, functional.logsigmoid),
        *(torch.sigmoid, torch.tanh, torch.exp, torch.sin, torch.cos, torch.square),
        *("sigmoid", "tanh", "exp", "square"),
    ],
}

RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        kind: rule
        for table in (_LAYERS, _LINEAR, _ACTIVATIONS)
        for rule, kinds in table.items()
        for kind in kinds
    }
)
"""Rule of each module type, function and method name; read-only, extended with ``|``."""
