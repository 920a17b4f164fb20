"""Rules of layers with noisy weights: linear layers and convolutions.

For ``y_c(p) = sum_i W_ci x_i(p) + b_c``, c an output channel, p an output position and ``x_i(p)``
the input of weight i there, with independent weights of mean ``w`` and variance ``v``,

    E y = w E x + E b
    Cov(y_c(p), y_c'(p')) = (w Cov(x) w^T)_cp,c'p'
                            + [c = c'] sum_i v_ci E[x_i(p) x_i(p')]  + [c = c'] Var b_c.

The same weight serves every position, so the positions of an output channel vary together. Exact,
whatever the distributions, as long as weights are independent of each other and of the input. Words
that share a random factor (`joulewise.devices.SharedFactor`) add a covariance between all outputs,
exact too. (Fault maps that couple the cells of different words are taken word by word.)

References:
    J. Kern et al., AICAS 2022, arXiv 2205.01707, for linear layers with one variance per layer; the
    authors' later code has the convolution with one variance per output channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.contrib.full_covariance.joint import Noise, Outcome
from joulewise.contrib.full_covariance.operation import Operation, Reading
from joulewise.contrib.full_covariance.windows import window_positions

__all__ = ["bias_on_outputs", "convolution", "linear"]

# Bytes of second moments that are gathered at once: about the cache of one core.
_CHUNK_BYTES = 2**22

_Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def linear(op: Operation) -> Outcome:
    """`torch.nn.Linear` on ``[batch, ..., features]``; exact."""

    def blocks(var: Tensor, mean: Tensor) -> Tensor:
        return (_second_moments(op, features_last=True) @ var.T).permute(0, 3, 1, 2)

    return _layer(op, functional.linear, blocks, units_last=True)


def convolution(op: Operation) -> Outcome:
    """`torch.nn.Conv1d` and `torch.nn.Conv2d`, any stride, padding, dilation and groups; exact."""
    layer: Any = op.module

    def blocks(var: Tensor, mean: Tensor) -> Tensor:
        second = _second_moments(op, features_last=False)
        positions = window_positions(
            op.mean_of_input.shape[2:],
            mean.shape[2:],
            kernel=layer.kernel_size,
            stride=layer.stride,
            dilation=layer.dilation,
            padding=layer._reversed_padding_repeated_twice,
            mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode,
        )
        return _convolution_blocks(second, var, positions.to(second.device), layer.groups)

    # The layer's own function, which knows all modes of padding, without its hooks.
    return _layer(op, layer._conv_forward, blocks, units_last=False)


def _layer(
    op: Operation,
    product: _Product,
    blocks: Callable[[Tensor, Tensor], Tensor],
    *,
    units_last: bool,
) -> Outcome:
    """Outcome of a layer with a weight and a bias.

    Args:
        op: The operation.
        product: The layer as a function of input, weight and bias.
        blocks: Takes the variance of the weight and the mean of the output to the blocks of the
            weight's `Noise`.
        units_last: See `Noise`.
    """
    weight, bias = op.parameter("weight"), op.parameter("bias")
    mean = product(op.mean_of_input, weight.mean, bias.mean)
    noise = {}
    if weight.var is not None:
        own = Noise(blocks=blocks(weight.var, mean), units_last=units_last)
        noise[weight.placed] = _with_common_factor(own, op, weight, product)
    if bias.var is not None:
        noise[bias.placed] = _bias_noise(bias, mean, units_last=units_last)
    function, size = _without_bias(product, weight.mean), mean[0].numel()
    gains = [(value, value.gain(function, size)) for value in op.inputs]
    cov = op.linear_cov(gains) if gains else None
    for part in noise.values():
        cov = part.to_cov() if cov is None else part.add_to(cov)
    return Outcome(mean=mean, cov=cov, gains=gains, noise=noise)


def _without_bias(product: _Product, weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: product(rows, weight, None)


def _with_common_factor(noise: Noise, op: Operation, weight: Reading, product: _Product) -> Noise:
    """Noise of a weight, with what a factor adds that its words share.

    With the variance ``v`` of the factor, means ``M`` and couplings ``C`` of the words, and the
    second moments ``S`` of the input, that is ``v M S M^T + M S C^T + C S M^T``.
    """
    common = weight.common
    if common is None:
        return noise
    words = weight.mean, common.coupling
    mean, coupling = (product(op.mean_of_input, w, None).flatten(1) for w in words)
    added = common.covariance(mean, coupling)
    for value in op.inputs:
        of_mean, of_coupling = (value.gain(_without_bias(product, w), mean.shape[1]) for w in words)
        half = of_mean.apply(op.joint.own(value)).mT
        mixed = of_coupling.apply(half)
        added = added + common.var * of_mean.apply(half) + mixed + mixed.mT
    return _coupled(noise, added)


def _bias_noise(bias: Reading, mean: Tensor, *, units_last: bool) -> Noise:
    assert bias.var is not None
    positions = mean[0].numel() // len(bias.var)
    blocks = bias.var[None, :, None, None].expand(len(mean), -1, positions, positions)
    noise = Noise(blocks=blocks, units_last=units_last)
    if bias.common is None:
        return noise
    parts = (
        bias_on_outputs(b, mean, units_last=units_last).expand(mean.shape[1:]).reshape(1, -1)
        for b in (bias.mean, bias.common.coupling)
    )
    return _coupled(noise, bias.common.covariance(*parts))


def bias_on_outputs(bias: Tensor, outputs: Tensor, *, units_last: bool) -> Tensor:
    """A bias, ``[units]``, in a shape that broadcasts to the outputs.

    Args:
        bias: ``[units]``.
        outputs: ``[batch, ..., units]`` with units last, else ``[batch, units, ...]``.
        units_last: Order of the outputs.
    """
    return bias.view(-1, *(1,) * (0 if units_last else outputs.ndim - 2))


def _coupled(noise: Noise, added: Tensor) -> Noise:
    """Noise plus a covariance between all entries: one unit, the entries as its positions."""
    return Noise(blocks=(noise.to_cov() + added)[:, None])


def _second_moments(op: Operation, *, features_last: bool) -> Tensor:
    """``E[x_i(p) x_i(p')]`` for each feature i and pair of positions.

    Returns:
        ``[batch, positions, positions, features]`` with features last, else ``[batch, features,
        positions, positions]``.
    """
    x = op.mean_of_input
    x = x.reshape(len(x), -1, x.shape[-1]) if features_last else x.flatten(2)
    second = x[:, :, None] * x[:, None] if features_last else x[..., None] * x[:, :, None]
    for value in op.inputs:  # one, or none
        split = op.joint.own(value).reshape(*x.shape, *x.shape[1:])
        if features_last:
            second += split.diagonal(dim1=2, dim2=4)
        else:
            second += split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    return second


def _convolution_blocks(second: Tensor, var: Tensor, positions: Tensor, groups: int) -> Tensor:
    """``sum over weights of v E[x(p) x(p')]`` for each output channel.

    Args:
        second: ``[batch, channels_in, positions_in, positions_in]``.
        var: Variance of the weights, ``[channels_out, channels_in / groups, *kernel]``.
        positions: Result of `window_positions`, ``[taps, positions_out]``.
        groups: Groups of the convolution.

    Returns:
        ``[batch, channels_out, positions_out, positions_out]``.
    """
    batch, channels_in, padding, _ = second.shape
    size = positions.shape[1]
    # One more position of zeros stands for the padding.
    second = functional.pad(second, (0, 1, 0, 1))
    positions = torch.where(positions < 0, padding, positions)
    var = var.reshape(groups, -1, channels_in // groups, len(positions))
    row_bytes = batch * channels_in * size * second.element_size()
    step = size if torch.is_grad_enabled() else max(_CHUNK_BYTES // row_bytes, 1)
    chunks = []
    for start in range(0, size, step):
        total: Tensor | None = None
        for tap, index in enumerate(positions):
            rows = index[start : start + step]
            seen = second.index_select(2, rows).index_select(3, index)
            part = var[..., tap] @ seen.view(batch, groups, channels_in // groups, -1)
            total = part if total is None else total + part
        assert total is not None
        chunks.append(total.view(batch, -1, len(rows), size))
    return torch.cat(chunks, 2)
