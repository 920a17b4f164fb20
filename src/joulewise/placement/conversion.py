"""Conversion: products that are computed in arrays, with converters at their ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from joulewise.devices.arrays import Array, rounded
from joulewise.errors import InputError, ModelError
from joulewise.placement.opening import opened
from joulewise.placement.placing import Placed
from joulewise.placement.tracing import extent

__all__ = ["Conversion", "Converters"]

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converters:
    """The arrays of one weight, and the ranges of their converters.

    Args:
        array: The arrays.
        input_limit: The largest input.
        output_limit: The largest partial sum, headroom included.
        uses: Products with the weight in a forward pass.
    """

    array: Array
    input_limit: float
    output_limit: float
    uses: int

    @classmethod
    def of(cls, placed: Placed, ideal: Tensor) -> Converters | None:
        """Calibrated with the vectors that were traced; None where all is exact.

        Args:
            placed: A weight.
            ideal: What a perfect memory reads.

        Raises:
            InputError: if nothing was traced.
        """
        array = placed.device.array
        if array is None or array.exact:
            return None
        loads = placed.traffic.loads if placed.traffic is not None else ()
        if not loads:
            raise InputError(
                f"the converters of {placed.name} take their ranges from data; give "
                "place(..., inputs=a representative batch)"
            )
        largest = 0.0
        for load in loads:
            matrix, vectors = load.matrix(ideal.float()), load.inputs * load.largest
            for rows in array.pieces(matrix.shape[2]):
                sums = torch.einsum("sgk,gnk->sgn", vectors[..., rows], matrix[..., rows])
                largest = max(largest, float(sums.abs().max()))
        return cls(
            array=array,
            input_limit=max(load.largest for load in loads) or 1.0,
            output_limit=largest * array.headroom or 1.0,
            uses=len(loads),
        )


class Conversion(TorchFunctionMode):
    """Computes products with some weights as arrays do; all else goes by.

    Args:
        converters: By weight.
    """

    def __init__(self, converters: Mapping[str, Converters]) -> None:
        super().__init__()
        self._converters = converters
        self._spans: list[tuple[int, int, str]] = []
        self._used: dict[str, int] = {}
        self._inside = False

    def __bool__(self) -> bool:
        """Whether there is anything to convert."""
        return bool(self._converters)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Before a forward pass, in which the model computes with these tensors."""
        self._spans = sorted((*extent(weights[name]), name) for name in self._converters)
        self._used = dict.fromkeys(self._converters, 0)
        self.__enter__()  # type: ignore[no-untyped-call]
        self._inside = True

    def end(self, *, done: bool) -> None:
        """After a forward pass.

        Args:
            done: Whether it came to an end.

        Raises:
            ModelError: naming a weight with a product that went by unseen.
        """
        if not self._inside:
            return
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._inside = False
        for name, used in self._used.items():
            if done and used < self._converters[name].uses:
                raise ModelError(
                    f"{name} is used in a product that is no linear layer or convolution, which "
                    f"arrays are not simulated for; exclude '{name}'"
                )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if (body := opened(func)) is not None:
            with self:
                return body(*args, **kwargs)
        if func is functional.linear:
            return self._product(_linear, func, *args, **kwargs)
        if func in _CONVOLUTIONS:
            return self._product(_convolution, func, *args, **kwargs)
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
        name = self._owner(weight)
        if name is None:
            return func(input, weight, bias, *rest, **named)
        self._used[name] += 1
        converters = self._converters[name]
        array = converters.array
        given = rounded(input, converters.input_limit, array.input_bits)
        whole = None
        if array.output_bits is None or torch.is_grad_enabled():
            whole = func(given, weight, None, *rest, **named)
        if array.output_bits is not None:
            with torch.no_grad():
                rows = weight[0].numel()
                parts = [
                    rounded(
                        partial_sum(func, given, weight, piece, *rest, **named),
                        converters.output_limit,
                        array.output_bits,
                    )
                    for piece in array.pieces(rows)
                ]
                total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
            # Straight through: the gradient is that of the exact product.
            whole = total if whole is None else whole + (total - whole.detach())
        assert whole is not None
        if bias is None:
            return whole
        along = bias if func is functional.linear else bias.view(-1, *(1,) * (weight.ndim - 2))
        return whole + along

    def _owner(self, weight: Tensor) -> str | None:
        pointer = weight.data_ptr()
        index = bisect_right(self._spans, (pointer, 1 << 63, "")) - 1
        if index < 0 or pointer >= self._spans[index][1]:
            return None
        return self._spans[index][2]


def _linear(func: Any, input: Tensor, weight: Tensor, piece: slice) -> Tensor:
    return functional.linear(input[..., piece], weight[:, piece])


def _convolution(
    func: Any, input: Tensor, weight: Tensor, piece: slice, *rest: Any, **named: Any
) -> Any:
    some = torch.zeros_like(weight)
    flat = weight.reshape(len(weight), -1)
    kept = torch.zeros_like(flat)
    kept[:, piece] = flat[:, piece]
    some.copy_(kept.view(weight.shape))
    return func(input, some, None, *rest, **named)
