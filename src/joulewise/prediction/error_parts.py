"""Sums over the words of each placed tensor, from which an error model is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from joulewise.devices import Device, WordClasses, WordMemory
from joulewise.errors import refuse
from joulewise.placement import Memory, Placed, Placement
from joulewise.prediction.linearisation import WeightGradients
from joulewise.prediction.tensor_groups import TensorGroup, mean_directions, moments_at

__all__ = ["Part", "grouped", "tensor_group"]


class Part:
    """A placed tensor at points of the shape of ``point``, and the sums over its words so far.

    ``squares`` is ``(scale dz/dw)^2`` summed over samples and the words of each class, float64
    ``[classes]`` or ``[channels, classes]``. ``directions`` and ``response``, here in pieces of the
    data, are those of `TensorGroup`.
    """

    directions: Tensor

    def __init__(self, placed: Placed, memory: Memory, point: Tensor) -> None:
        self.placed, self._memory = placed, memory
        classes = self.classes
        self.count, self.moments = classes.count, classes.moments
        self.by_channel = point.ndim > (1 if placed.device.knob.bit_planes else 0)
        # ``[rows, *point]``; a scalar for each channel comes as ``[channels, 1]``.
        self.rows = point if self.by_channel else point[None]
        if self.by_channel and point.ndim == 2 and point.shape[1] == 1:
            self.rows = point[:, 0]
        self.squares = torch.zeros(self.count, dtype=torch.float64)
        self.response: list[Tensor] = []

    @property
    def classes(self) -> WordClasses:
        """Classes of the words, made anew: the index of all words takes more than the weights."""
        return _classes_of(self.placed, self._memory)

    @property
    def has_single_faults(self) -> bool:
        """True for words, not protected, whose faults are independent and have rates."""
        memory = self.placed.device
        return isinstance(memory, WordMemory) and memory.protection is None and memory.smooth

    def variance(self) -> Tensor:
        """Variance of each class at the points, ``[rows, classes]``; differentiable in them."""
        return moments_at(self.moments, self.rows, self.placed.device.smooth)[1]

    def plane_sums(self, squares: Tensor) -> Tensor:
        """Squares of the classes times variance with faults in one bit plane alone, ``[bits]``.

        Args:
            squares: ``[classes]`` or ``[channels, classes]``.
        """
        memory = self.placed.device
        assert isinstance(memory, WordMemory)
        rows = torch.stack([memory.plane_variances(row) for row in self.rows.detach()])
        # r: rows of points, p: planes, c: classes.
        return torch.einsum("rpc,rc->p", rows, squares.expand(len(rows), -1))

    def by_channel_sum(self, gradient: Tensor, factors: Tensor) -> Tensor:
        """Squared gradients times a factor for each class, ``[channels]`` of the first axis.

        Args:
            gradient: In the shape of the weight.
            factors: ``[rows, classes]``.
        """
        classes = self.classes
        index = classes.index.flatten(1).long()
        table = factors.to(index.device).expand(len(index), -1)
        scaled = (gradient.double() * classes.scale.double()).flatten(1).square_()
        return (table.gather(1, index) * scaled).sum(1).cpu()

    def add_weight(self, gradients: WeightGradients) -> None:
        """Add the gradients of the last piece with respect to a weight."""
        classes = self.classes
        summed = classes.summed(gradients.summed(), by_channel=self.by_channel)
        self.squares = self.squares + summed.cpu()
        spread = classes.spread(self.directions)
        # In the memory layout of the weight.
        along = [torch.empty_like(gradients.mean).copy_(direction) for direction in spread]
        if along:
            response = gradients.response_by_channel if self.by_channel else gradients.response
            self.response[-1] += response(along).flatten(1).double().cpu()

    def add_scores(self, gradient: Tensor, weight: float) -> Tensor:
        """Add the squared gradient of a weight, times ``weight``.

        Returns:
            Sums of the squared gradient, without ``weight``.
        """
        return self._add_squares(self.classes, gradient, weight)

    def _add_squares(self, classes: WordClasses, gradient: Tensor, weight: float = 1.0) -> Tensor:
        summed = classes.summed(gradient, by_channel=self.by_channel, squared=True).cpu()
        self.squares = self.squares + weight * summed
        return summed

    def add_response(self, gradient: Tensor, *, squares: bool) -> None:
        """Add the gradient of a weight to the last response, that of one draw.

        Args:
            gradient: In the shape of the weight.
            squares: True to add its squares, too.
        """
        classes = self.classes
        if squares:
            self._add_squares(classes, gradient)
        along = classes.summed(gradient, by_channel=self.by_channel, power=1).cpu()
        self.response[-1] += (along @ self.directions.mT).reshape(1, -1)

    def add_activation(self, inputs: Tensor, g: Tensor, *, squares: bool = True) -> None:
        """Add the gradients of the last piece at the mean read of an activation.

        Args:
            inputs: The values stored, ``[samples, ...]``.
            g: The gradients, in that shape.
            squares: False to add the response alone.
        """
        stored = self.placed.device.store(inputs, limit=self.placed.limit, name=self.placed.name)
        classes, wide = self.placed.device.word_classes(stored), g.double()
        if squares:
            self.squares = self.squares + classes.summed(wide.square()).cpu()
        directions = classes.spread(self.directions).to(wide)
        steps = torch.einsum("w...,...->...w", directions, wide)
        each = steps.reshape(len(g), -1, len(directions)).sum(1).cpu()
        # One row a sample, or one for all samples.
        self.response[-1] += each if len(self.response[-1]) > 1 else each.sum(0, keepdim=True)


def _classes_of(placed: Placed, memory: Memory) -> WordClasses:
    """Classes of the words of a placed tensor.

    Raises:
        InputError: if it is an activation whose memory knows none.
    """
    device: Device[Any] = placed.device
    if placed.role == "weight":
        stored = memory.stored[placed.name]
        if device.states_moments:
            return device.word_classes(stored)
        # A class for each word: words of one class would have equal estimation errors, which do
        # not average out.
        return Device.word_classes(device, stored)
    if type(device).word_classes is Device.word_classes:
        refuse(
            f"the memory of {placed.name}",
            f"{type(device).__name__}, which knows no classes of words",
            "one with a word_classes that does not depend on what is stored, for activations",
        )
    if device.step_s is not None:
        allowed = "None, with lifetime_s for the oldest entries, or predict, which has their ages"
        refuse(f"step_s of the memory of {placed.name}", device.step_s, allowed)
    # Any tensor will do: only the moments are used, which do not depend on the content.
    return device.word_classes(device.store(torch.zeros(1), limit=placed.limit))


def grouped(placement: Placement, memory: Memory, points: Mapping[str, Tensor]) -> list[list[Part]]:
    """Placed tensors whose classes have the same moments, at points of the same shape."""
    groups: list[list[Part]] = []
    for placed in placement.placed:
        part = Part(placed, memory, points[placed.name])
        for group in groups:
            same = group[0].moments == part.moments
            if same and group[0].rows.shape[1:] == part.rows.shape[1:]:
                group.append(part)
                break
        else:
            groups.append([part])
    for group in groups:
        device = group[0].placed.device
        # An estimate at one point takes many reads.
        sampled = 48 if device.states_moments else 8
        moments, shape = group[0].moments, group[0].rows.shape[1:]
        directions = mean_directions(moments, device.knob, shape, device.smooth, sampled=sampled)
        for part in group:
            part.directions = directions
    return groups


def tensor_group(parts: Sequence[Part], numbers: int) -> TensorGroup:
    """Parts with the same moments as one group, whose squares are a mean over ``numbers``."""
    first, rows = parts[0], [part.rows for part in parts]
    device, moments = first.placed.device, first.moments
    mean, _ = moments_at(moments, torch.cat(rows), device.smooth)
    squares = [part.squares.expand(len(part.rows), -1) / numbers for part in parts]
    group = TensorGroup(
        names=tuple(part.placed.name for part in parts),
        rows=tuple(len(row) for row in rows),
        row=rows[0].shape[1:],
        by_channel=any(part.by_channel for part in parts),
        moments=moments,
        smooth=device.smooth,
        squares=torch.cat(squares),
        directions=first.directions,
        response=torch.cat([torch.cat(part.response) for part in parts], 1),
        origin=mean @ first.directions.mT,
    )
    return group.with_curves(device.knob) if group.smooth and rows[0].ndim == 1 else group
