"""Loads: the vectors that a weight meets where it is used as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.devices import Load

__all__ = ["load_of"]

# The mean over so many vectors is within a few per cent of that over all.
_VECTORS = 256

Vectors = tuple[Tensor, Tensor, int, bool]
"""All inputs, some vectors of them ``[vectors, groups, rows]``, how many there are in all, and
whether the weight's first axis runs over the rows."""


def load_of(operation: Any, args: Sequence[Any], weight: Tensor, share: float) -> Load | None:
    """How an operation uses a weight as a matrix.

    Args:
        operation: An operation of ATen, without its overload.
        args: What it was called with; one of them is the weight, a view of it or a part.
        weight: The whole weight.
        share: Uses are divided by this: the samples in the batch.

    Returns:
        The load; None if the operation is no product of the weight and vectors.
    """
    place = _place_of(args, weight)
    if operation not in _PRODUCTS or place is None:
        return None
    found = _PRODUCTS[operation](args, place, weight)
    if found is None:
        return None
    inputs, vectors, uses, rows_first = found
    largest = float(inputs.abs().max())
    scaled = vectors.float() / (largest or 1.0)
    # A part of a weight (the keys of an attention, say) counts as a part of a use.
    part = args[place].numel() / weight.numel()
    return Load(
        inputs=scaled,
        largest=largest,
        uses=uses * part / share,
        weight=weight,
        rows_first=rows_first,
    )


def _place_of(args: Sequence[Any], weight: Tensor) -> int | None:
    storage = weight.untyped_storage().data_ptr()
    for place, arg in enumerate(args):
        if isinstance(arg, Tensor) and arg.untyped_storage().data_ptr() == storage:
            return place
    return None


def _some(total: int) -> Tensor:
    """Evenly spaced indices."""
    return torch.linspace(0, total - 1, min(total, _VECTORS), dtype=torch.float64).round().long()


def _product(args: Sequence[Any], place: int, weight: Tensor) -> Vectors | None:
    """``mm(a, b)``, or ``addmm(bias, a, b)``: the weight may be on either side."""
    first = len(args) - 2
    if place < first or weight.ndim != 2:
        return None
    left = place == first
    vectors = args[first + 1].mT if left else args[first]
    matrix = args[place] if left else args[place].mT  # [columns, rows]
    # As it is stored, or turned: in a square one only the strides tell.
    rows_first = tuple(matrix.stride()) != tuple(weight.stride()) and min(matrix.shape) > 1
    return vectors, vectors[_some(len(vectors))][:, None], len(vectors), rows_first


def _convolution(args: Sequence[Any], place: int, weight: Tensor) -> Vectors | None:
    inputs, _, _, stride, padding, dilation, transposed, _, groups = args[:9]
    if place != 1 or inputs.ndim != weight.ndim:
        return None
    if transposed:
        rows = inputs.movedim(1, -1).reshape(-1, groups, inputs.shape[1] // groups)
        return inputs, rows[_some(len(rows))], len(rows), True
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
    where = torch.unravel_index(_some(total), (len(padded), *out))
    return inputs, windows[where].reshape(len(where[0]), groups, -1), total, False


_PRODUCTS: Mapping[Any, Callable[[Sequence[Any], int, Tensor], Vectors | None]] = {
    torch.ops.aten.mm: _product,
    torch.ops.aten.addmm: _product,
    torch.ops.aten.convolution: _convolution,
}
