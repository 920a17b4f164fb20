"""Collectors: what is made of the gradients that the interception catches in one backward pass.

`Squares` adds up ``v_i g_i^2`` for each sample and placed tensor as the gradients come by. `Logits`
keeps them until those of every class are there, for the covariance of a sample's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from joulewise.devices import Common, WordClasses
from joulewise.placement import Placed
from joulewise.prediction.linearisation.channel_reductions import (
    channel_index,
    response_by_channel,
    sums_by_channel,
)
from joulewise.prediction.linearisation.linear_gradients import Operation
from joulewise.prediction.linearisation.op_interception import Use
from joulewise.prediction.linearisation.self_check import Coverage, Key

__all__ = ["Logits", "Responses", "Sensitivities", "Squares", "Unforeseen"]

Stored = tuple[Placed, Tensor, Tensor, Tensor, list[Tensor]]
"""A placed activation, what was stored, its mean read, the variance, and the gradients there."""


@dataclass(slots=True, kw_only=True, eq=False)
class Squares:
    """Variance of a probed output, for each sample and placed tensor.

    Args:
        samples: Samples in the pass.
        means: The mean of each placed weight.
        variances: The variance of each.
        commons: What couples the words of a weight, for those whose words are.
        coverage: What the interception can be trusted with.
        generator: See `Operation.squared`.

    Attributes:
        totals: For each placed tensor, summed over outputs and probes, ``[samples]``.
    """

    samples: int
    means: Mapping[str, Tensor]
    variances: Mapping[str, Tensor]
    commons: Mapping[str, Common]
    coverage: Coverage
    generator: torch.Generator | None
    totals: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: Use) -> Callable[[Tensor], None] | None:
        """See `Interception`."""
        if use.name in self.coverage.one_by_one:
            return None
        operation = _operation(use, self.coverage, self.samples)
        if use.name in self.coverage.repeated:
            return lambda g: _add_up(self.sums, use, operation.jacobians([g])[:, 0], self.means)
        var = use.view(self.variances[use.name])
        if use.name not in self.commons:
            return lambda g: self.add(use.name, operation.squared(g, var, self.generator))
        common = self.commons[use.name]
        along = torch.stack([use.view(t) for t in (self.means[use.name], common.coupling)])

        def caught(g: Tensor) -> None:
            sums = operation.response([g], along)[:, 0]
            self.add(use.name, operation.squared(g, var, self.generator))
            self.add(use.name, common.variance(sums[:, 0], sums[:, 1]))

        return caught

    def observe(
        self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor
    ) -> Callable[[Tensor], None]:
        """A placed activation: each of its words has faults of its own."""

        def caught(g: Tensor) -> None:
            wide = g.to(var.dtype)
            self.add(placed.name, (wide.square() * var).flatten(1).sum(1))

        return caught

    def end_probe(self) -> None:
        """After each backward pass: a weight that is used several times is squared only now."""
        for name, total in self.sums.items():
            self.add_whole(name, total)
        self.sums = {}

    def add_whole(self, name: str, gradients: Tensor) -> None:
        """Add what gradients ``[samples, *weight]`` of one probe amount to."""
        var = self.variances[name].to(gradients.dtype)
        self.add(name, (gradients.square() * var).flatten(1).sum(1))
        if name in self.commons:
            common = self.commons[name]
            sums = ((gradients * t).flatten(1).sum(1) for t in (self.means[name], common.coupling))
            self.add(name, common.variance(*sums))

    def add(self, name: str, part: Tensor) -> None:
        """Add ``[samples]`` to what is known of a tensor."""
        part = part.double()
        before = self.totals.get(name)
        self.totals[name] = part if before is None else before + part


@dataclass(slots=True, kw_only=True, eq=False)
class Sensitivities:
    """Squared gradients of a probed output for each weight, summed over samples.

    Args:
        samples: Samples in the pass.
        means: The mean of each placed weight.
        coverage: What the interception can be trusted with.

    Attributes:
        totals: For each placed weight, in its shape.
    """

    samples: int
    means: Mapping[str, Tensor]
    coverage: Coverage
    totals: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: Use) -> Callable[[Tensor], None] | None:
        """See `Interception`; what is used several times or one by one is left out."""
        if use.name in self.coverage.one_by_one | self.coverage.repeated:
            return None
        operation = _operation(use, self.coverage, self.samples)

        def caught(g: Tensor) -> None:
            part = use.spread(operation.summed(g)[None], self.means[use.name])[0]
            before = self.totals.get(use.name)
            self.totals[use.name] = part if before is None else before + part

        return caught

    def observe(
        self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor
    ) -> Callable[[Tensor], None]:
        """A placed activation: left out."""
        return lambda g: None


@dataclass(slots=True, kw_only=True, eq=False)
class Responses:
    """How a probed output of each sample moves with the words of every placed tensor.

    Words count by class, since words of one class have the same moments at any operating point.

    Args:
        samples: Samples in the pass.
        means: The mean of each placed weight.
        coverage: What the interception can be trusted with.
        classes: Of the words of each placed weight.
        shifts: For each placed tensor, ways in which the means of its classes may move,
            ``[ways, classes]``.
        by_channel: The weights whose output channels count one by one.

    Attributes:
        squares: For each placed tensor, ``(scale dz/dw)^2`` summed over samples and the words of
            each class, ``[classes]``, or ``[channels, classes]``.
        moved: For each, how far a unit of each way moves the output, ``[samples, ways]``, or
            ``[samples, channels * ways]``.
    """

    samples: int
    means: Mapping[str, Tensor]
    coverage: Coverage
    classes: Mapping[str, WordClasses]
    shifts: Mapping[str, Tensor]
    by_channel: Collection[str] = ()
    squares: dict[str, Tensor] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: Use) -> Callable[[Tensor], None] | None:
        """See `Interception`."""
        name, mean = use.name, self.means[use.name]
        if name in self.coverage.one_by_one:
            return None
        operation = _operation(use, self.coverage, self.samples)
        if name in self.coverage.repeated:
            return lambda g: _add_up(self.sums, use, operation.jacobians([g])[:, 0], self.means)
        ways = self._ways(name)
        along = torch.stack([use.view(way) for way in ways]) if len(ways) else None
        index = use.view(channel_index(mean)) if name in self.by_channel else None

        def caught(g: Tensor) -> None:
            moved = g.new_zeros(self.samples, 0)
            if along is not None and index is not None:
                moved = response_by_channel(operation, g, along, index, len(mean)).flatten(1)
            elif along is not None:
                moved = operation.response([g], along)[:, 0]
            self._add(name, self.classes[name], use.spread(operation.summed(g)[None], mean), moved)

        return caught

    def observe(
        self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor
    ) -> Callable[[Tensor], None]:
        """A placed activation: each of its words has faults of its own."""
        stored = placed.device.store(inputs, limit=placed.limit, name=placed.name)
        classes = placed.device.word_classes(stored)
        ways = classes.spread(self.shifts[placed.name])

        def caught(g: Tensor) -> None:
            wide = g.double()
            moved = torch.einsum("w...,...->...w", ways.to(wide), wide)
            moved = moved.reshape(self.samples, -1, len(ways)).sum(1)
            self._add(placed.name, classes, wide.square()[None], moved)

        return caught

    def end_probe(self) -> None:
        """After the backward pass: a weight that is used several times is squared only now."""
        for name, total in self.sums.items():
            self.add_whole(name, total)
        self.sums = {}

    def add_whole(self, name: str, gradients: Tensor) -> None:
        """Add what gradients ``[samples, *weight]`` amount to."""
        ways = self._ways(name)
        moved = gradients.new_zeros(self.samples, 0)
        if len(ways) and name in self.by_channel:
            moved = sums_by_channel(gradients, ways).flatten(1)
        elif len(ways):
            moved = gradients.flatten(1) @ ways.flatten(1).mT.to(gradients)
        self._add(name, self.classes[name], gradients.double().square().sum(0)[None], moved)

    def _ways(self, name: str) -> Tensor:
        """Ways in the shape and layout of a weight, ``[ways, *weight]``."""
        mean = self.means[name]
        found = self.classes[name].spread(self.shifts[name])
        ways = [torch.empty_like(mean).copy_(way) for way in found]
        return torch.stack(ways) if ways else mean.new_zeros(0, *mean.shape)

    def _add(self, name: str, classes: WordClasses, squares: Tensor, moved: Tensor) -> None:
        summed = classes.summed(squares[0], by_channel=name in self.by_channel).cpu()
        moved = moved.double().cpu()
        if name in self.squares:
            summed, moved = self.squares[name] + summed, self.moved[name] + moved
        self.squares[name], self.moved[name] = summed, moved


@dataclass(slots=True, kw_only=True, eq=False)
class Logits:
    """Gradients of several outputs of each sample, kept side by side.

    Args:
        samples: Samples in the pass.
        means: The mean of each placed weight.
        coverage: What the interception can be trusted with.
        generator: See `Operation.products`.
    """

    samples: int
    means: Mapping[str, Tensor]
    coverage: Coverage
    generator: torch.Generator | None = None
    uses: dict[Key, tuple[Use, Operation]] = field(default_factory=dict)
    caught: dict[Key, list[Tensor]] = field(default_factory=dict)
    activations: list[Stored] = field(default_factory=list)

    def receive(self, use: Use) -> Callable[[Tensor], None] | None:
        """See `Interception`."""
        if use.name in self.coverage.one_by_one:
            return None
        key = (use.name, use.ordinal)
        self.uses[key] = use, _operation(use, self.coverage, self.samples)
        return self.caught.setdefault(key, []).append

    def observe(
        self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor
    ) -> Callable[[Tensor], None]:
        """A placed activation."""
        gradients: list[Tensor] = []
        self.activations.append((placed, inputs, mean.detach(), var, gradients))
        return gradients.append

    def names(self) -> list[str]:
        """The placed weights whose gradients were caught."""
        caught = [name for (name, _), gs in self.caught.items() if gs]
        return list(dict.fromkeys(caught))

    def products(self, name: str, var: Tensor) -> Tensor:
        """``J diag(var) J^T`` for each sample, ``[samples, outputs, outputs]``."""
        uses = self._uses_of(name)
        if len(uses) == 1:
            (use, operation, gs), *_ = uses
            return operation.products(gs, use.view(var), self.generator)
        return weighted_products(self._jacobian(name), var)

    def response(self, name: str, noise: Tensor) -> Tensor:
        """``J noise`` for each sample and draw, ``[samples, outputs, draws]``."""
        found = [
            operation.response(gs, torch.stack([use.view(one) for one in noise]))
            for use, operation, gs in self._uses_of(name)
        ]
        return torch.stack(found).sum(0)

    def _uses_of(self, name: str) -> list[tuple[Use, Operation, list[Tensor]]]:
        return [(*self.uses[key], gs) for key, gs in self.caught.items() if key[0] == name and gs]

    def _jacobian(self, name: str) -> Tensor:
        whole = self.means[name]
        found = []
        for use, operation, gs in self._uses_of(name):
            part = operation.jacobians(gs)
            spread = use.spread(part.flatten(0, 1), whole)
            found.append(spread.reshape(*part.shape[:2], *whole.shape))
        return torch.stack(found).sum(0)


class Unforeseen(Exception):  # noqa: N818
    """A use that the samples which were tried did not have; its weight goes sample by sample."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _operation(use: Use, coverage: Coverage, samples: int) -> Operation:
    key = (use.name, use.ordinal)
    if key not in coverage.batch_axes or (use.ordinal and use.name not in coverage.repeated):
        raise Unforeseen(use.name)
    axis = replace(coverage.batch_axes[key], samples=samples)
    length = use.reading.batched.shape[axis.axis] if use.reading.batched.ndim > axis.axis else 0
    if length == 0 or length % samples:
        raise Unforeseen(use.name)
    return use.reading.operation(axis)


def _add_up(
    sums: dict[str, Tensor], use: Use, gradients: Tensor, means: Mapping[str, Tensor]
) -> None:
    """Gradients of a weight that is used several times, to be squared once all are there."""
    spread = use.spread(gradients, means[use.name])
    before = sums.get(use.name)
    sums[use.name] = spread if before is None else before + spread


def weighted_products(jacobian: Tensor, var: Tensor) -> Tensor:
    """``J diag(v) J^T`` for each sample.

    Args:
        jacobian: ``[samples, outputs, *tensor]``.
        var: ``[*tensor]``, or ``[samples, *tensor]``.

    Returns:
        ``[samples, outputs, outputs]``.
    """
    flat = jacobian.flatten(2)
    weights = var.to(flat.dtype).reshape(-1, 1, flat.shape[2])
    return torch.matmul(flat * weights, flat.mT)
