"""Interception: the operations of a forward pass that consume placed weights.

Every torch function that the model calls passes by here, whatever module or plain function calls
it. Those in `READERS` that were handed a placed weight, or a view of one, are recorded together
with what their per-sample gradients need, and the gradient at their output is caught on the way
back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from joulewise.errors import ModelError
from joulewise.placement.function_mode import Opening
from joulewise.placement.storage import Owners
from joulewise.prediction.linear.gradients import (
    BatchAxis,
    Convolution,
    Elementwise,
    Lookup,
    Operation,
    linear,
)

__all__ = ["READERS", "Interception", "Reading", "Use"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """One weight that a call consumed.

    Args:
        weight: The weight as the call got it, perhaps a view of the placed one.
        batched: The tensor whose shape tells which axis holds the samples.
        operation: From that axis to the operation.
    """

    weight: Tensor
    batched: Tensor
    operation: Callable[[BatchAxis], Operation]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Use:
    """One consumption of a placed weight in one forward pass.

    Args:
        name: The placed tensor.
        ordinal: The how manieth use of it in this pass, from 0.
        reading: What was read, and how.
        offset: Where in the placed tensor the weight begins, in entries.
    """

    name: str
    ordinal: int
    reading: Reading
    offset: int

    def view(self, whole: Tensor) -> Tensor:
        """The part of a tensor, laid out as the placed one, that this use reads."""
        weight = self.reading.weight
        start = whole.storage_offset() + self.offset
        return whole.as_strided(weight.shape, weight.stride(), start)

    def covers(self, whole: Tensor) -> bool:
        """Whether this use reads all of the placed tensor, as it is."""
        weight = self.reading.weight
        return weight.shape == whole.shape and weight.stride() == whole.stride()

    def spread(self, parts: Tensor, whole: Tensor) -> Tensor:
        """Gradients ``[number, *part]`` as gradients ``[number, *whole]``, 0 elsewhere."""
        weight = self.reading.weight
        if self.covers(whole):
            return parts
        strides = (_span(whole), *weight.stride())
        flat = parts.new_zeros(len(parts), strides[0])
        seen = flat.as_strided(parts.shape, strides, self.offset)
        seen += parts
        return flat.as_strided((len(parts), *whole.shape), (strides[0], *whole.stride()))


def _span(tensor: Tensor) -> int:
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((length - 1) * stride for length, stride in steps)


Receiver = Callable[[Use], Callable[[Tensor], None] | None]
"""Told of each use; the result is called with the gradient at the operation's output."""


class Interception(Opening):
    """Records the uses of placed weights while the model runs.

    Args:
        weights: The placed weights that the model computes with, by name.
        receive: Told of each use.

    Attributes:
        root: Every output that depends on a placed weight also depends on this zero, so that a
            gradient asked for here passes by every use.
    """

    def __init__(self, weights: Mapping[str, Tensor], receive: Receiver) -> None:
        super().__init__()
        some = next(iter(weights.values()), torch.zeros(()))
        self.root = torch.zeros((), device=some.device, requires_grad=True)
        self._receive = receive
        self._owners = Owners(weights)
        self._uses: dict[str, int] = {}
        self._hooks: list[RemovableHandle] = []

    def called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See `Opening`.

        Raises:
            ModelError: if an embedding rescales its weight as it is read.
        """
        output = func(*args, **kwargs)
        if func is torch.embedding_renorm_:
            raise ModelError(
                "an embedding with max_norm rescales its weight as it is read, which no gradient "
                "tells of; allowed: an embedding without max_norm, or simulate"
            )
        if func not in READERS:
            return output
        uses = self._uses_of(func, args, kwargs)
        if not uses or not isinstance(output, Tensor):
            return output
        output = self.rooted(output)
        for use in uses:
            caught = self._receive(use)
            if caught is not None and output.requires_grad:
                self.catch(output, caught)
        return output

    def catch(self, output: Tensor, caught: Callable[[Tensor], None]) -> None:
        """Hand over the gradient at a tensor, whenever one passes by."""
        handle = output.register_hook(caught)  # type: ignore[no-untyped-call]
        self._hooks.append(handle)

    def release(self) -> None:
        """Catch no more: gradients of what is made of the gradients go the same way again."""
        for hook in self._hooks:
            hook.remove()

    def rooted(self, output: Tensor) -> Tensor:
        """The output, made to depend on the root if it does not depend on it yet."""
        if output.requires_grad or not torch.is_grad_enabled():
            return output
        return output + self.root.to(output.dtype)

    def _uses_of(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Use]:
        try:
            readings = READERS[func](*args, **kwargs)
            return [use for reading in readings if (use := self._use(reading)) is not None]
        except (TypeError, IndexError, RuntimeError):
            return []  # a call that its reader does not know: `cover` finds out

    def _use(self, reading: Reading) -> Use | None:
        if (found := self._owners.find(reading.weight)) is None:
            return None
        name, offset = found
        ordinal = self._uses.get(name, 0)
        self._uses[name] = ordinal + 1
        return Use(name=name, ordinal=ordinal, reading=reading, offset=offset)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Reading]:
    readings = [_matrix(input, weight)]
    if bias is not None:
        readings.append(_broadcast(bias, input, _one, tuple(bias.shape)))
    return readings


def _matrix(x: Tensor, weight: Tensor) -> Reading:
    """``x @ weight.T``."""
    return Reading(
        weight=weight,
        batched=x,
        operation=lambda batch: linear(x, batch),
    )


def _broadcast(
    weight: Tensor,
    batched: Tensor,
    factor: Callable[[], Tensor | float],
    shape: tuple[int, ...],
    part: tuple[int, int, int] | None = None,
) -> Reading:
    """The weight times a factor that is made only if the weight turns out to be placed."""
    own = tuple(weight.shape)
    return Reading(
        weight=weight,
        batched=batched,
        operation=lambda batch: Elementwise(
            factor=factor(), batch=batch, shape=shape, weight=own, part=part
        ),
    )


def _one() -> float:
    return 1.0


def _matmul(input: Tensor, other: Tensor) -> list[Reading]:
    is_matrix = isinstance(other, Tensor) and other.ndim == 2
    return [_matrix(input, other.mT)] if is_matrix and input.ndim >= 2 else []


def _addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> list[Reading]:
    if alpha != 1 or beta != 1:
        return []
    return [_matrix(mat1, mat2.mT), _broadcast(input, mat1, _one, tuple(input.shape))]


def _convolution(space: int, transposed: bool) -> Callable[..., list[Reading]]:
    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *more: Any,
        **named: Any,
    ) -> list[Reading]:
        names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
        rest = dict(zip(names, more, strict=False)) | named
        kernel, dilation = tuple(weight.shape), _per_axis(rest.get("dilation", 1), space)
        readings = [
            Reading(
                weight=weight,
                batched=input,
                operation=lambda batch: Convolution(
                    inputs=input,
                    samples=batch.samples,
                    kernel=kernel,
                    stride=_per_axis(stride, space),
                    padding=_ahead_and_behind(padding, kernel, dilation, space),
                    dilation=dilation,
                    groups=rest.get("groups", 1),
                    transposed=transposed,
                ),
            )
        ]
        if bias is not None:
            readings.append(_broadcast(bias, input, _one, (len(bias), *[1] * space)))
        return readings

    return read


def _per_axis(setting: Any, space: int) -> tuple[int, ...]:
    given = (setting,) if isinstance(setting, int) else tuple(setting)
    return given * space if len(given) == 1 else given


def _ahead_and_behind(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...], space: int
) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [step * (taps - 1) for taps, step in zip(kernel[2:], dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)
    return tuple((n, n) for n in _per_axis(padding, space))


def _embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, *more: Any, **named: Any
) -> list[Reading]:
    rows = len(weight)
    return [
        Reading(
            weight=weight,
            batched=indices,
            operation=lambda batch: Lookup(
                indices=indices, batch=batch, rows=rows, padding=padding_idx
            ),
        )
    ]


def _add(input: Any, other: Any, *, alpha: float = 1) -> list[Reading]:
    return _two_sided(input, other, _one, lambda: float(alpha))


def _sub(input: Any, other: Any, *, alpha: float = 1) -> list[Reading]:
    return _two_sided(input, other, _one, lambda: -float(alpha))


def _mul(input: Any, other: Any) -> list[Reading]:
    return _two_sided(input, other, lambda: other, lambda: input)


def _two_sided(input: Any, other: Any, left: Any, right: Any) -> list[Reading]:
    """A weight on either side, broadcast against what is on the other."""
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        return []
    return [
        _broadcast(weight, batched, factor, tuple(weight.shape))
        for weight, batched, factor in ((input, other, left), (other, input, right))
        if weight.ndim <= batched.ndim
    ]


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *more: Any,
) -> list[Reading]:
    def normalised() -> Tensor:
        return torch.batch_norm(input, None, None, running_mean, running_var, training, *more)

    shape = (input.shape[1], *[1] * (input.ndim - 2))
    return _scale_and_offset(weight, bias, input, normalised, shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *more: Any,
    **named: Any,
) -> list[Reading]:
    def normalised() -> Tensor:
        return torch.layer_norm(input, normalized_shape, None, None, *more, **named)

    return _scale_and_offset(weight, bias, input, normalised, tuple(normalized_shape))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *more: Any,
    **named: Any,
) -> list[Reading]:
    def normalised() -> Tensor:
        return torch.group_norm(input, num_groups, None, None, *more, **named)

    shape = (input.shape[1], *[1] * (input.ndim - 2))
    return _scale_and_offset(weight, bias, input, normalised, shape)


def _scale_and_offset(
    weight: Tensor | None,
    bias: Tensor | None,
    input: Tensor,
    normalised: Callable[[], Tensor],
    shape: tuple[int, ...],
) -> list[Reading]:
    readings = [] if weight is None else [_broadcast(weight, input, normalised, shape)]
    if bias is not None:
        readings.append(_broadcast(bias, input, _one, shape))
    return readings


def _cat(tensors: Any, dim: int = 0) -> list[Reading]:
    """A token of its own that is put beside those of the input, expanded over the batch."""
    readings, start = [], 0
    for tensor in tensors:
        length = tensor.shape[dim]
        weight = tensor[:1] if tensor.ndim and tensor.stride(0) == 0 else tensor
        part = (dim % max(tensor.ndim, 1), start, length)
        readings.append(_broadcast(weight, tensor, _one, tuple(weight.shape), part))
        start += length
    return readings


# Function -> the weights that a call of it may consume. What is not here is not lost: a weight
# whose recorded gradients do not add up (`coverage`) is differentiated sample by sample.
READERS: Mapping[Any, Callable[..., list[Reading]]] = MappingProxyType(
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
        torch.layer_norm: _layer_norm,
        torch.group_norm: _group_norm,
    }
)
