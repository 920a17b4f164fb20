"""Stored activations: layer inputs pass through their memory as a model runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.devices import Chip, Point, WordMemory
from joulewise.devices.aged_memory import AgedMemory
from joulewise.errors import ModelError, refuse
from joulewise.nested import tensors_in
from joulewise.placement.kv_cache import CacheEntries
from joulewise.placement.placement import Placed
from joulewise.placement.straight_through import straight_through
from joulewise.placement.tracing import layer_inputs

__all__ = ["Observer", "Reading", "pass_on", "pass_through", "read_cache"]

Observer = Callable[[Placed, Tensor, Tensor, Tensor], Tensor]
"""Called with a placed activation, its input, the mean read and the variance, ``[batch, ...]``.

What it returns goes on in place of the mean read.
"""


@dataclass(slots=True)
class Reading:
    """State of a memory that its hooks look at in each forward pass.

    Args:
        points: An operating point for each placed tensor; None to compute with what was given.
        chip: The chip that reads; None for a perfect memory.
        observer: Called with the moments of placed activations; None to read on a chip.
        convert: Round words of activations and converters.
        samples: Batch size of the pass that is running; None outside.
    """

    points: Mapping[str, Point] | None = None
    chip: Chip | None = None
    observer: Observer | None = None
    convert: bool = True
    samples: int | None = None


def pass_through(
    reading: Reading,
    layer: str,
    by_name: Mapping[str, Placed],
    module: nn.Module,
    args: Any,
    kwargs: Any,
) -> Any:
    """Pass the placed inputs of a layer through their memory, in a forward pre-hook."""
    if reading.points is None:
        return None
    read: dict[int, Tensor] = {}
    for name, tensor in layer_inputs(layer, args, kwargs).items():
        if name in by_name:
            read[id(tensor)] = _round_trip(reading, by_name[name], tensor)
    return _swap(args, read), _swap(kwargs, read)


def read_cache(
    reading: Reading,
    by_name: Mapping[str, Placed],
    name: str,
    tensor: Tensor,
    entries: CacheEntries,
) -> Tensor:
    """Pass the cached keys or values of a layer, ``[batch, positions, ...]``, through their memory.

    Raises:
        ModelError: if there are more positions than the memory holds.
    """
    if reading.points is None or name not in by_name:
        return tensor
    placed, total = by_name[name], entries.first + tensor.shape[1]
    if total > placed.shape[0]:
        allowed = f"at most {placed.shape[0]}, those of example_inputs"
        refuse(f"the number of positions in {name}", total, allowed, ModelError)
    # Each position has its own cells: zeros stand for those before a sliding window.
    before = tensor.new_zeros(len(tensor), entries.first, *tensor.shape[2:])
    whole = torch.cat([before, tensor], 1) if entries.first else tensor
    device = placed.device
    if isinstance(device, WordMemory) and device.step_s is not None:
        ages = torch.cat([entries.ages.new_zeros(entries.first), entries.ages])
        aged = AgedMemory(memory=device, ages_s=ages.double() * device.step_s)
        placed = replace(placed, device=aged)
    return _round_trip(reading, placed, whole)[:, entries.first :]


def _round_trip(reading: Reading, placed: Placed, tensor: Tensor) -> Tensor:
    assert reading.points is not None
    chip = reading.chip.region(placed.name) if reading.chip is not None else None
    point = reading.points[placed.name]
    if not tensor.numel():
        return tensor
    samples = reading.samples or _samples(placed, tensor)
    rows, left = divmod(tensor.shape[0], samples)
    if left:
        allowed = f"a first axis that is a multiple of the batch, {samples}"
        refuse(f"the shape of {placed.name}", tuple(tensor.shape), allowed, ModelError)
    # Several rows may make up one sample (windows, say): cells are per sample.
    together = tensor if rows == 1 else tensor.reshape(samples, rows, *tensor.shape[1:])
    if reading.observer is not None:
        return _mean_round_trip(reading, placed, together, point).reshape(tensor.shape)
    read: Tensor = placed.device.round_trip(together, point, chip, placed.limit, words=placed.words)
    return straight_through(tensor, read.reshape(tensor.shape))


def _mean_round_trip(reading: Reading, placed: Placed, inputs: Tensor, point: Point) -> Tensor:
    """Mean over chips of what is read; the observer is told its variance.

    Inputs are rounded to words, which has no gradient, so the gradient is that of the least-squares
    line through the mean read as a function of the rounded values; exact for faults that are linear
    in the word.
    """
    assert reading.observer is not None
    device = placed.device
    stored = device.store(inputs, limit=placed.limit, name=placed.name)
    moments = device.moments(stored, point)
    mean = moments.mean.to(inputs.dtype)
    if torch.is_grad_enabled() or not reading.convert:
        ideal = device.ideal(stored).detach()
        # Entries of a cache fade with their age: a line for each position.
        axes = [a for a in range(ideal.ndim) if a != 1 or not isinstance(device, AgedMemory)]
        slope = _slope(ideal, moments.mean, axes).to(inputs.dtype)
        if reading.convert:
            mean = mean + slope * (inputs - inputs.detach())
        else:
            # The line itself, where nothing is rounded.
            inside = inputs.clamp(float(ideal.min()), float(ideal.max()))
            middle = ideal.to(inputs.dtype).mean(axes, keepdim=True)
            mean = mean.mean(axes, keepdim=True) + slope * (inside - middle)
    return reading.observer(placed, inputs.detach(), mean, moments.var)


def pass_on(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Observer that lets the mean go on."""
    return mean


def _slope(x: Tensor, y: Tensor, axes: list[int]) -> Tensor:
    """Least-squares slope of ``y`` over ``x`` along some axes, kept; 1 where ``x`` is constant."""
    x, y = x.double() - x.double().mean(axes, keepdim=True), y.double()
    spread = x.square().sum(axes, keepdim=True)
    slope = (x * y).sum(axes, keepdim=True) / spread.clamp_min(1e-300)
    return torch.where(spread > 0, slope, 1.0)


def _samples(placed: Placed, tensor: Tensor) -> int:
    """Samples in the input of a layer that is called without the model around it."""
    if tensor.ndim == len(placed.shape) + 1:
        return len(tensor)
    return max(tensor.numel() // placed.words, 1)


def _swap(nested: Any, read: Mapping[int, Tensor]) -> Any:
    """Replace tensors in a nesting by identity; parts without any are left alone."""
    if isinstance(nested, Tensor):
        return read.get(id(nested), nested)
    if not any(id(tensor) in read for tensor in tensors_in(nested)):
        return nested
    if isinstance(nested, MutableMapping):
        same = copy.copy(nested)
        for key, value in nested.items():  # an output of transformers refuses update()
            same[key] = _swap(value, read)
        return same
    if isinstance(nested, Mapping):
        return {key: _swap(value, read) for key, value in nested.items()}
    values = [_swap(value, read) for value in nested]
    return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)
