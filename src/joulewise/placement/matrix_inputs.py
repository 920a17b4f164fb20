"""Inputs of each matrix-vector product with a weight, for memories that compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.devices import MatrixInputs

__all__ = ["matrix_inputs_of"]

# The power of a crossbar, averaged over 256 inputs, is within a few per cent of that over all.
_VECTORS = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Vectors:
    """Inputs of one product with a matrix.

    Args:
        inputs: All inputs, in any shape.
        some: A sample of the input vectors, ``[vectors, groups, rows]``.
        total: Number of input vectors.
        matrix: The matrix ``[columns, rows]`` as a view of the weight; None for the whole weight,
            ``[groups * columns, *rows]``.
        rows_first: True if the first axis of the whole weight runs over the rows instead.
    """

    inputs: Tensor
    some: Tensor
    total: int
    matrix: Tensor | None = None
    rows_first: bool = False


def matrix_inputs_of(
    operation: Any, args: Sequence[Any], used: Tensor, weight: Tensor, share: float
) -> MatrixInputs | None:
    """Inputs of an operation that uses a weight as a matrix.

    Args:
        operation: An operation of ATen, without its overload.
        args: Its arguments.
        used: The argument that is the weight, a view of it or a part.
        weight: The whole weight.
        share: Divisor of the number of uses: the batch size.

    Returns:
        The inputs; None if the operation is no product of the weight and vectors.
    """
    place = next((n for n, arg in enumerate(args) if arg is used), None)
    if operation not in _PRODUCTS or place is None:
        return None
    found = _PRODUCTS[operation](args, place)
    if found is None or not found.some.numel():
        return None
    largest = float(found.inputs.abs().max())
    view = None
    if found.matrix is not None:
        offset = (found.matrix.data_ptr() - weight.data_ptr()) // weight.element_size()
        view = tuple(found.matrix.shape), tuple(found.matrix.stride()), offset
    return MatrixInputs(
        inputs=found.some.float() / (largest or 1.0),
        largest=largest,
        uses=found.total / share,
        weight=weight,
        rows_first=found.rows_first,
        view=view,
    )


def _some(total: int) -> Tensor:
    """Indices from 0 to ``total``, stratified: one at random in each of 256 equal parts.

    Evenly spaced ones can coincide with the period of an image, and sample nothing but its corners.
    """
    if total <= _VECTORS:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(_VECTORS) + torch.rand(_VECTORS, generator=generator, dtype=torch.float64)
    return (places * (total / _VECTORS)).long().clamp(max=total - 1)


def _product(args: Sequence[Any], place: int) -> _Vectors | None:
    """``mm(a, b)``, or ``addmm(bias, a, b)``: the weight may be on either side."""
    first = len(args) - 2
    if place < first:
        return None
    left = place == first
    vectors = args[first + 1].mT if left else args[first]
    matrix = args[place] if left else args[place].mT
    return _Vectors(vectors, vectors[_some(len(vectors))][:, None], len(vectors), matrix)


def _batched(args: Sequence[Any], place: int) -> _Vectors | None:
    """``bmm(a, b)`` of one matrix that is expanded over the batch, on either side."""
    if args[place].stride(0) and len(args[place]) > 1:
        return None
    left = place == 0
    vectors = (args[1].mT if left else args[0]).reshape(-1, args[0].shape[2])
    matrix = args[place][0] if left else args[place][0].mT
    return _Vectors(vectors, vectors[_some(len(vectors))][:, None], len(vectors), matrix)


def _convolution(args: Sequence[Any], place: int) -> _Vectors | None:
    inputs, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
    if place != 1 or inputs.ndim != weight.ndim:
        return None
    if transposed:
        rows = inputs.movedim(1, -1).reshape(-1, groups, inputs.shape[1] // groups)
        return _Vectors(inputs, rows[_some(len(rows))], len(rows), rows_first=True)
    sides = [side for length in reversed(padding) for side in (length, length)]
    padded = functional.pad(inputs, sides).contiguous()
    taps = weight.shape[2:]
    out = [
        (size - step * (n - 1) - 1) // jump + 1
        for size, n, jump, step in zip(padded.shape[2:], taps, stride, dilation, strict=True)
    ]
    along = [s * jump for s, jump in zip(padded.stride()[2:], stride, strict=True)]
    apart = [s * step for s, step in zip(padded.stride()[2:], dilation, strict=True)]
    windows = padded.as_strided(
        (len(padded), *out, padded.shape[1], *taps),
        (padded.stride(0), *along, padded.stride(1), *apart),
    )
    total = len(padded) * prod(out)
    if not total:
        return None
    where = torch.unravel_index(_some(total), (len(padded), *out))
    return _Vectors(inputs, windows[where].reshape(len(where[0]), groups, -1), total)


_PRODUCTS: Mapping[Any, Callable[[Sequence[Any], int], _Vectors | None]] = {
    torch.ops.aten.mm: _product,
    torch.ops.aten.addmm: _product,
    torch.ops.aten.bmm: _batched,
    torch.ops.aten.convolution: _convolution,
}
