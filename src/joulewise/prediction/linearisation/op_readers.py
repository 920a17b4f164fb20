"""Weights that a call of a torch function may consume, and their gradients: one reader a function.

A reader takes the arguments of the call. A function without a reader is not lost: the self-check
finds weights whose recorded gradients are incomplete, and they are differentiated per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.prediction.linearisation.convolution_gradients import ConvolutionGradients
from joulewise.prediction.linearisation.gradients import BatchAxis, OperationGradients
from joulewise.prediction.linearisation.linear_gradients import (
    ElementwiseGradients,
    EmbeddingGradients,
    LinearGradients,
)

__all__ = ["READERS", "WeightRead"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightRead:
    """One tensor that a call may consume as a weight.

    Args:
        weight: The weight as the call got it, perhaps a view of a placed one.
        batched: The tensor that holds the samples on one of its axes.
        gradients: The operation's gradients, given that axis.
    """

    weight: Tensor
    batched: Tensor
    gradients: Callable[[BatchAxis], OperationGradients]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[WeightRead]:
    return [_matrix(input, weight), *([] if bias is None else [_broadcast(bias, input)])]


def _matrix(x: Tensor, weight: Tensor) -> WeightRead:
    """``x @ weight.T``."""
    return WeightRead(
        weight=weight, batched=x, gradients=lambda batch: LinearGradients(inputs=x, batch=batch)
    )


def _broadcast(
    weight: Tensor,
    batched: Tensor,
    shape: tuple[int, ...] | None = None,
    factor: Callable[[], Tensor | float] = lambda: 1.0,
    part: tuple[int, int, int] | None = None,
) -> WeightRead:
    """The weight times a factor, which is computed only if the weight turns out to be placed."""

    def gradients(batch: BatchAxis) -> ElementwiseGradients:
        own = tuple(weight.shape)
        return ElementwiseGradients(
            factor=factor(), batch=batch, shape=shape or own, weight=own, part=part
        )

    return WeightRead(weight=weight, batched=batched, gradients=gradients)


def _matmul(input: Tensor, other: Tensor) -> list[WeightRead]:
    is_matrix = isinstance(other, Tensor) and other.ndim == 2
    return [_matrix(input, other.mT)] if is_matrix and input.ndim >= 2 else []


def _addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> list[WeightRead]:
    if alpha != 1 or beta != 1:
        return []
    return [_matrix(mat1, mat2.mT), _broadcast(input, mat1)]


def _convolution(space: int, transposed: bool) -> Callable[..., list[WeightRead]]:
    names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")

    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *more: Any,
        **named: Any,
    ) -> list[WeightRead]:
        rest = dict(zip(names, more, strict=False)) | named
        kernel, dilation = tuple(weight.shape), _per_axis(rest.get("dilation", 1), space)

        def gradients(batch: BatchAxis) -> ConvolutionGradients:
            return ConvolutionGradients(
                inputs=input,
                samples=batch.samples,
                kernel=kernel,
                stride=_per_axis(stride, space),
                padding=_before_and_after(padding, kernel, dilation, space),
                dilation=dilation,
                groups=rest.get("groups", 1),
                transposed=transposed,
            )

        reads = [WeightRead(weight=weight, batched=input, gradients=gradients)]
        if bias is not None:
            reads.append(_broadcast(bias, input, (len(bias), *[1] * space)))
        return reads

    return read


def _per_axis(setting: Any, space: int) -> tuple[int, ...]:
    given = (setting,) if isinstance(setting, int) else tuple(setting)
    return given * space if len(given) == 1 else given


def _before_and_after(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...], space: int
) -> tuple[tuple[int, int], ...]:
    if padding == "same":
        total = [step * (taps - 1) for taps, step in zip(kernel[2:], dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)
    return tuple((n, n) for n in _per_axis(0 if padding == "valid" else padding, space))


def _embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, *more: Any, **named: Any
) -> list[WeightRead]:
    def gradients(batch: BatchAxis) -> EmbeddingGradients:
        rows = len(weight)
        return EmbeddingGradients(indices=indices, batch=batch, rows=rows, padding=padding_idx)

    return [WeightRead(weight=weight, batched=indices, gradients=gradients)]


def _two_sided(factors: Callable[..., tuple[Any, Any]]) -> Callable[..., list[WeightRead]]:
    """A weight on either side, broadcast against the other; ``factors`` gives those of both."""

    def read(input: Any, other: Any, **named: Any) -> list[WeightRead]:
        if not isinstance(input, Tensor) or not isinstance(other, Tensor):
            return []
        left, right = factors(input, other, **named)
        reads = [
            _broadcast(input, other, factor=lambda: left),
            _broadcast(other, input, factor=lambda: right),
        ]
        return [one for one in reads if one.weight.ndim <= one.batched.ndim]

    return read


_add = _two_sided(lambda input, other, alpha=1: (1.0, float(alpha)))
_sub = _two_sided(lambda input, other, alpha=1: (1.0, -float(alpha)))
_mul = _two_sided(lambda input, other: (other, input))


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *more: Any,
) -> list[WeightRead]:
    def normalised() -> Tensor:
        return torch.batch_norm(input, None, None, running_mean, running_var, training, *more)

    return _scale_and_offset(weight, bias, input, _channel_shape(input), normalised)


def _normalisation(
    normalise: Callable[..., Tensor], shape_of: Callable[[Tensor, Any], tuple[int, ...]]
) -> Callable[..., list[WeightRead]]:
    def read(
        input: Tensor,
        setting: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *more: Any,
        **named: Any,
    ) -> list[WeightRead]:
        def normalised() -> Tensor:
            return normalise(input, setting, None, None, *more, **named)

        return _scale_and_offset(weight, bias, input, shape_of(input, setting), normalised)

    return read


def _channel_shape(input: Tensor, groups: int = 1) -> tuple[int, ...]:
    return (input.shape[1], *[1] * (input.ndim - 2))


def _scale_and_offset(
    weight: Tensor | None,
    bias: Tensor | None,
    input: Tensor,
    shape: tuple[int, ...],
    normalised: Callable[[], Tensor],
) -> list[WeightRead]:
    reads = [] if weight is None else [_broadcast(weight, input, shape, normalised)]
    return reads if bias is None else [*reads, _broadcast(bias, input, shape)]


def _cat(tensors: Any, dim: int = 0) -> list[WeightRead]:
    """A learned token, expanded over the batch and concatenated with the tokens of the input."""
    reads, start = [], 0
    for tensor in tensors:
        length = tensor.shape[dim]
        weight = tensor[:1] if tensor.ndim and tensor.stride(0) == 0 else tensor
        part = (dim % max(tensor.ndim, 1), start, length)
        reads.append(_broadcast(weight, tensor, part=part))
        start += length
    return reads


READERS: Mapping[Any, Callable[..., list[WeightRead]]] = MappingProxyType(
    {
        functional.linear: _linear,
        torch.matmul: _matmul,
        torch.Tensor.matmul: _matmul,
        torch.mm: _matmul,
        torch.Tensor.mm: _matmul,
        torch.addmm: _addmm,
        torch.conv1d: _convolution(1, False),
        torch.conv2d: _convolution(2, False),
        torch.conv3d: _convolution(3, False),
        torch.conv_transpose1d: _convolution(1, True),
        torch.conv_transpose2d: _convolution(2, True),
        torch.conv_transpose3d: _convolution(3, True),
        torch.embedding: _embedding,
        torch.add: _add,
        torch.Tensor.add: _add,
        torch.sub: _sub,
        torch.Tensor.sub: _sub,
        torch.cat: _cat,
        torch.mul: _mul,
        torch.Tensor.mul: _mul,
        torch.batch_norm: _batch_norm,
        torch.layer_norm: _normalisation(torch.layer_norm, lambda _, shape: tuple(shape)),
        torch.group_norm: _normalisation(torch.group_norm, _channel_shape),
    }
)
"""Readers by the torch function whose calls they read."""
