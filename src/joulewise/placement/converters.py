"""Conversion: products that are computed in arrays, with converters at their ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.devices.array import Array, rounded
from joulewise.errors import InputError, ModelError
from joulewise.nested import tensors_in
from joulewise.placement.function_mode import CompositeMode
from joulewise.placement.placement import Placed
from joulewise.placement.storage import Owners

__all__ = ["Conversion", "Converters"]

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_OTHER_PRODUCTS = (
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d, torch.convolution),
    *(torch.matmul, torch.mm, torch.bmm, torch.mv, torch.addmm, torch.addmv, torch.baddbmm),
    *(torch.einsum, torch.tensordot, torch.bilinear, functional.bilinear, torch.inner, torch.dot),
    *(Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.mv, Tensor.addmm, Tensor.addmv, Tensor.baddbmm),
    *(Tensor.__matmul__, Tensor.__rmatmul__, Tensor.inner, Tensor.dot),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converters:
    """The arrays of one weight, and the ranges of their converters.

    Args:
        array: The arrays.
        input_limit: The largest input.
        output_limit: The largest partial sum, headroom included.
    """

    array: Array
    input_limit: float
    output_limit: float

    @classmethod
    def of(cls, placed: Placed, stored: Any) -> Converters | None:
        """Calibrate with the traced inputs of a weight, as stored; None where all is exact.

        Raises:
            InputError: if nothing was traced.
        """
        array = placed.device.array
        if array is None or array.exact:
            return None
        matrix_inputs = placed.traffic.matrix_inputs if placed.traffic is not None else ()
        if not matrix_inputs:
            raise InputError(
                f"the converters of {placed.name} take their ranges from data; give "
                "place(..., example_inputs=a representative batch)"
            )
        ideal, largest = placed.device.ideal(stored).float(), 0.0
        for product in matrix_inputs:
            matrix, vectors = product.matrix(ideal), product.inputs * product.largest
            for rows in array.pieces(matrix.shape[2]):
                sums = torch.einsum("sgk,gnk->sgn", vectors[..., rows], matrix[..., rows])
                largest = max(largest, float(sums.abs().max()))
        return cls(
            array=array,
            input_limit=max(product.largest for product in matrix_inputs) or 1.0,
            output_limit=largest * array.headroom or 1.0,
        )


class Conversion(CompositeMode):
    """Computes products with some weights as arrays do; all else goes by.

    Args:
        converters: By weight.
    """

    def __init__(self, converters: Mapping[str, Converters]) -> None:
        super().__init__()
        self._converters = converters
        self._owners = Owners({})
        self._depth = 0

    def __bool__(self) -> bool:
        """True if there is anything to convert."""
        return bool(self._converters)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Before a forward pass, in which the model computes with these tensors."""
        self._depth += 1
        if self._depth > 1:  # a model that calls itself
            return
        self._owners = Owners({name: weights[name] for name in self._converters})
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self, *, at_all: bool = False) -> None:
        """After a forward pass; or after all, whatever became of them."""
        if not self._depth:
            return
        self._depth = 0 if at_all else self._depth - 1
        if not self._depth:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See `CompositeMode`; a product that is not simulated must not pass as exact.

        Raises:
            ModelError: naming its weight.
        """
        if func is functional.linear:
            return self._product(_linear, func, *args, **kwargs)
        if func in _CONVOLUTIONS:
            return self._product(_convolution, func, *args, **kwargs)
        for tensor in tensors_in((args, kwargs)) if func in _OTHER_PRODUCTS else ():
            if (found := self._owners.find(tensor)) is not None:
                raise ModelError(
                    f"{found[0]} is used in a product that is no linear layer and no convolution "
                    "(but a transposed one, or a plain product of matrices), which arrays are not "
                    f"simulated for; exclude '{found[0]}'"
                )
        return func(*args, **kwargs)

    def _product(
        self,
        partial_sum: Any,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        if (found := self._owners.find(weight)) is None:
            return func(input, weight, bias, *rest, **named)
        converters = self._converters[found[0]]
        array = converters.array
        given = rounded(input, converters.input_limit, array.input_bits)
        # Whoever watches the model sees this one product, and not its pieces.
        whole = func(given, weight, None, *rest, **named)
        pieces = list(array.pieces(weight[0].numel()))
        if array.output_bits is None or len(pieces) == 1:
            whole = rounded(whole, converters.output_limit, array.output_bits)
        else:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                sums = [
                    rounded(
                        partial_sum(func, given, weight, piece, *rest, **named),
                        converters.output_limit,
                        array.output_bits,
                    )
                    for piece in pieces
                ]
                total = torch.stack(sums).sum(0)
            # Straight through: the gradient is that of the exact product.
            whole = whole + (total - whole.detach()) if torch.is_grad_enabled() else total
        if bias is None:
            return whole
        along = bias if func is functional.linear else bias.view(-1, *(1,) * (weight.ndim - 2))
        return whole + along


def _linear(func: Any, input: Tensor, weight: Tensor, piece: slice) -> Tensor:
    return functional.linear(input[..., piece], weight[:, piece])


def _convolution(
    func: Any, input: Tensor, weight: Tensor, piece: slice, *rest: Any, **named: Any
) -> Any:
    rows = weight.new_zeros(weight[0].numel())
    rows[piece] = 1
    return func(input, weight * rows.view(weight.shape[1:]), None, *rest, **named)
