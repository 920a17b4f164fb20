"""Layers with noisy weights: linear layers and convolutions.

For ``y_c = sum_i W_ci x_i + b_c`` with independent weights of mean ``w`` and variance ``v``,

    E y = w E x + E b
    Cov(y_c,p, y_c',p') = (w Cov(x) w^T)_cp,c'p'
                          + [c = c'] sum_i v_ci E[x_i(p) x_i(p')]  + [c = c'] Var b_c

where ``x_i(p)`` is what weight i meets at output position p: the same weight serves every position,
so the positions of one output channel vary together. Exact, whatever the distributions, as long as
weights are independent of each other and of the input. Words that share a random factor (see
`joulewise.devices.Common`) add the covariance that this ties all outputs together with, exact too.
(Fault maps that tie the cells of different words together are taken word by word.)

References:
    M. Kern et al., AICAS 2022, arXiv 2205.01707, for linear layers with one variance per layer; the
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
from joulewise.contrib.full_covariance.windows import Window

__all__ = ["convolution", "linear", "on_units"]

# Second moments that are gathered at once: what a core keeps close.
_CHUNK_BYTES = 2**22


def linear(op: Operation) -> Outcome:
    """`torch.nn.Linear` on ``[batch, ..., features]``; exact."""
    weight, bias = op.parameter("weight"), op.parameter("bias")
    x = op.mean_of_input()
    mean = functional.linear(x, weight.mean, bias.mean)
    noise = {}
    if weight.var is not None:
        second = _second_moments(op, features_last=True)
        blocks = (second @ weight.var.T).permute(0, 3, 1, 2)
        noise[_name(weight)] = _with_factor(
            Noise(blocks=blocks, units_last=True), op, weight, functional.linear
        )
    noise.update(_bias_noise(bias, mean, units_last=True))
    return _outcome(op, mean, lambda rows: functional.linear(rows, weight.mean), noise)


def convolution(op: Operation) -> Outcome:
    """`torch.nn.Conv1d` and `torch.nn.Conv2d`, any stride, padding, dilation and groups; exact."""
    layer: Any = op.module
    weight, bias = op.parameter("weight"), op.parameter("bias")
    x = op.mean_of_input()
    # The layer's own function, without its hooks: it knows all modes of padding.
    mean = layer._conv_forward(x, weight.mean, bias.mean)
    noise = {}
    if weight.var is not None:
        taps = _window(layer).taps(x.shape[2:], mean.shape[2:]).to(x.device)
        blocks = _shared(_second_moments(op, features_last=False), weight.var, taps, layer.groups)
        noise[_name(weight)] = _with_factor(
            Noise(blocks=blocks), op, weight, lambda rows, w: layer._conv_forward(rows, w, None)
        )
    noise.update(_bias_noise(bias, mean, units_last=False))
    return _outcome(op, mean, lambda rows: layer._conv_forward(rows, weight.mean, None), noise)


def _outcome(op: Operation, mean: Tensor, function: Any, noise: dict[str, Noise]) -> Outcome:
    value = op.only_input
    gains = [] if value is None else [(value, value.map(function, mean[0].numel()))]
    parts = list(noise.values())
    if not gains and not parts:
        return Outcome(mean=mean)
    cov = op.carried(gains) if gains else parts.pop().to_cov()
    for part in parts:
        cov = part.add_to(cov)
    return Outcome(mean=mean, cov=cov, gains=gains, noise=noise)


def _name(reading: Reading) -> str:
    assert reading.placed is not None
    return reading.placed


def _with_factor(
    noise: Noise, op: Operation, weight: Reading, product: Callable[[Tensor, Tensor], Tensor]
) -> Noise:
    """The noise of a weight with what a factor adds that its words share.

    With the factor's variance ``v``, means ``M`` and couplings ``C``, and the second moments ``S``
    of the input, that is ``v M S M^T + M S C^T + C S M^T``.
    """
    common = weight.common
    if common is None:
        return noise
    x, value = op.mean_of_input(), op.only_input
    mean, coupling = (product(x, w).flatten(1) for w in (weight.mean, common.coupling))
    added = common.covariance(mean, coupling)
    if value is not None:
        size = mean.shape[1]
        of_mean = value.map(lambda rows: product(rows, weight.mean), size)
        of_coupling = value.map(lambda rows: product(rows, common.coupling), size)
        half = of_mean.rows(op.joint.own(value)).mT
        mixed = of_coupling.rows(half)
        added = added + common.var * of_mean.rows(half) + mixed + mixed.mT
    return _tied(noise, added)


def _bias_noise(bias: Reading, mean: Tensor, *, units_last: bool) -> dict[str, Noise]:
    if bias.var is None:
        return {}
    positions = mean[0].numel() // len(bias.var)
    blocks = bias.var[None, :, None, None].expand(len(mean), -1, positions, positions)
    noise = Noise(blocks=blocks, units_last=units_last)
    if bias.common is not None:
        parts = (
            on_units(b, mean, units_last=units_last).expand(mean.shape[1:]).reshape(1, -1)
            for b in (bias.mean, bias.common.coupling)
        )
        noise = _tied(noise, bias.common.covariance(*parts))
    return {_name(bias): noise}


def on_units(bias: Tensor, outputs: Tensor, *, units_last: bool) -> Tensor:
    """A number for each unit, so that it broadcasts to the outputs as a layer's bias does.

    Args:
        bias: ``[units]``.
        outputs: ``[batch, ..., units]`` with units last, else ``[batch, units, ...]``.
        units_last: Which of the two.
    """
    return bias.view(-1, *(1,) * (0 if units_last else outputs.ndim - 2))


def _tied(noise: Noise, added: Tensor) -> Noise:
    """Noise, and a covariance between all entries: one unit with all of them as its positions."""
    return Noise(blocks=(noise.to_cov() + added)[:, None])


def _second_moments(op: Operation, *, features_last: bool) -> Tensor:
    """``E[x_i(p) x_i(p')]`` for each feature and pair of positions.

    Returns:
        ``[batch, positions, positions, features]`` with features last, else ``[batch, features,
        positions, positions]``.
    """
    value, x = op.only_input, op.mean_of_input()
    if features_last:
        x = x.reshape(len(x), -1, x.shape[-1])
        second = x[:, :, None] * x[:, None]
        if value is not None:
            batch, positions, features = x.shape
            split = op.joint.own(value).reshape(batch, positions, features, positions, features)
            second += split.diagonal(dim1=2, dim2=4)
        return second
    x = x.flatten(2)
    second = x[:, :, :, None] * x[:, :, None]
    if value is not None:
        batch, features, positions = x.shape
        split = op.joint.own(value).reshape(batch, features, positions, features, positions)
        second += split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    return second


def _shared(second: Tensor, var: Tensor, taps: Tensor, groups: int) -> Tensor:
    """``sum over weights of v E[x(p) x(p')]`` for each output channel.

    Args:
        second: ``[batch, channels_in, positions_in, positions_in]``.
        var: Of the weights, ``[channels_out, channels_in / groups, *kernel]``.
        taps: ``[taps, positions_out]`` as of `Window.taps`.
        groups: Of the convolution.

    Returns:
        ``[batch, channels_out, positions_out, positions_out]``.
    """
    batch, channels_in, positions, _ = second.shape
    size = taps.shape[1]
    # One more position that stands for the padding, where nothing is read.
    second = functional.pad(second, (0, 1, 0, 1))
    taps = torch.where(taps < 0, positions, taps)
    var = var.reshape(groups, -1, channels_in // groups, len(taps))
    row_bytes = batch * channels_in * size * second.element_size()
    step = size if torch.is_grad_enabled() else max(_CHUNK_BYTES // row_bytes, 1)
    rows = [
        _shared_rows(second, var, taps, slice(start, start + step))
        for start in range(0, size, step)
    ]
    return torch.cat(rows, 2)


def _shared_rows(second: Tensor, var: Tensor, taps: Tensor, rows: slice) -> Tensor:
    """`_shared` for some of the output positions on its first axis of positions."""
    batch, channels_in = second.shape[:2]
    groups = len(var)
    total: Tensor | None = None
    for tap, index in enumerate(taps):
        seen = second.index_select(2, index[rows]).index_select(3, index)
        count = seen.shape[2]
        part = var[..., tap] @ seen.view(batch, groups, channels_in // groups, -1)
        total = part if total is None else total + part
    assert total is not None
    return total.view(batch, -1, count, taps.shape[1])


def _window(layer: Any) -> Window:
    zeros = layer.padding_mode == "zeros"
    return Window(
        kernel=layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=tuple(layer._reversed_padding_repeated_twice),
        mode="constant" if zeros else layer.padding_mode,
    )
