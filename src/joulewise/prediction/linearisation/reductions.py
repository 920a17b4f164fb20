"""Reductions of the per-sample gradients that interception catches in a backward pass.

Each reduces the gradients as they are caught, since those of all weights and samples do not fit in
memory together: to variances (`VarianceReduction`), squared gradients (`SensitivityReduction`), or
sums over classes of words (`ClassReduction`). `LogitJacobians` keeps them until those of all logits
are there. Gradients of a weight that is used several times in a pass add up before squaring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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
from joulewise.prediction.linearisation.op_interception import Key, WeightUse
from joulewise.prediction.linearisation.operation_gradients import OperationGradients
from joulewise.prediction.linearisation.self_check import Coverage

__all__ = [
    "ClassReduction",
    "LogitJacobians",
    "Reduction",
    "SensitivityReduction",
    "UncheckedUse",
    "VarianceReduction",
    "weighted_products",
]

Caught = Callable[[Tensor], None]
"""Takes the gradient at an operation's output."""

Activation = tuple[Placed, Tensor, Tensor, Tensor, list[Tensor]]
"""A placed activation: values stored, mean read, variance, and the gradient there by output."""


class UncheckedUse(Exception):  # noqa: N818
    """A use that did not occur in the self-check; the pass is repeated without its weight."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True, kw_only=True, eq=False)
class Reduction(ABC):
    """A reduction of the gradients of one pass.

    Args:
        samples: Samples in the pass.
        means: The mean read of each placed weight.
        coverage: Result of the self-check.
    """

    samples: int
    means: Mapping[str, Tensor]
    coverage: Coverage
    sums: dict[str, Tensor] = field(default_factory=dict)

    @abstractmethod
    def receive(self, use: WeightUse) -> Caught | None:
        """Receive a use of a weight; see `Interception`."""

    @abstractmethod
    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """Receive a placed activation, each of whose words has faults of its own."""

    def gradients_of(self, use: WeightUse) -> OperationGradients:
        """The gradients of a use, on the batch axis that the self-check found.

        Raises:
            UncheckedUse: if the self-check has not seen such a use.
        """
        axis, batched = self.coverage.batch_axes.get(use.key), use.read.batched
        if axis is None or (use.ordinal and use.name not in self.coverage.repeated):
            raise UncheckedUse(use.name)
        length = batched.shape[axis.axis] if batched.ndim > axis.axis else 0
        if length == 0 or length % self.samples:
            raise UncheckedUse(use.name)
        return use.read.gradients(replace(axis, samples=self.samples))

    def add_repeated(self, use: WeightUse, gradients: OperationGradients) -> Caught:
        """Sum the gradients of a weight that is used several times, until `end_probe`."""

        def caught(g: Tensor) -> None:
            jacobian = gradients.jacobians([g])[:, 0]
            _add(self.sums, use.name, use.spread(jacobian, self.means[use.name]))

        return caught

    def add_whole(self, name: str, gradients: Tensor) -> None:
        """Reduce the gradients ``[samples, *weight]`` of one probe."""
        raise NotImplementedError

    def end_probe(self) -> None:
        """Reduce the summed gradients of one backward pass."""
        for name, total in self.sums.items():
            self.add_whole(name, total)
        self.sums = {}


@dataclass(slots=True, kw_only=True, eq=False)
class VarianceReduction(Reduction):
    """Variance of a probed output, for each sample and placed tensor.

    Args:
        variances: The variance of each placed weight's words, without the factor that they share.
        commons: The shared factor of each weight that has one.
        generator: See `OperationGradients.squared`.

    Attributes:
        totals: For each placed tensor, summed over probes, float64 ``[samples]``.
    """

    variances: Mapping[str, Tensor]
    commons: Mapping[str, Common]
    generator: torch.Generator | None
    totals: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: WeightUse) -> Caught | None:
        """See `Reduction`."""
        name = use.name
        if name in self.coverage.one_by_one:
            return None
        gradients = self.gradients_of(use)
        if name in self.coverage.repeated:
            return self.add_repeated(use, gradients)
        var = use.view(self.variances[name])
        if name not in self.commons:
            return lambda g: self._add_variance(name, gradients.squared(g, var, self.generator))
        common = self.commons[name]
        along = torch.stack([use.view(t) for t in (self.means[name], common.coupling)])

        def caught(g: Tensor) -> None:
            sums = gradients.response([g], along)[:, 0]
            self._add_variance(name, gradients.squared(g, var, self.generator))
            self._add_variance(name, common.variance(sums[:, 0], sums[:, 1]))

        return caught

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""

        def caught(g: Tensor) -> None:
            wide = g.to(var.dtype)
            self._add_variance(placed.name, (wide.square() * var).flatten(1).sum(1))

        return caught

    def add_whole(self, name: str, gradients: Tensor) -> None:
        """See `Reduction`."""
        var = self.variances[name].to(gradients.dtype)
        self._add_variance(name, (gradients.square() * var).flatten(1).sum(1))
        if name in self.commons:
            common = self.commons[name]
            sums = ((gradients * t).flatten(1).sum(1) for t in (self.means[name], common.coupling))
            self._add_variance(name, common.variance(*sums))

    def _add_variance(self, name: str, part: Tensor) -> None:
        _add(self.totals, name, part.double())


@dataclass(slots=True, kw_only=True, eq=False)
class SensitivityReduction(Reduction):
    """Squared gradients of a probed output for each weight, summed over samples.

    Placed activations, weights that are used several times and those that are differentiated sample
    by sample are left out.

    Attributes:
        totals: For each other placed weight, in its shape.
    """

    totals: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: WeightUse) -> Caught | None:
        """See `Reduction`."""
        if use.name in self.coverage.one_by_one | self.coverage.repeated:
            return None
        gradients = self.gradients_of(use)

        def caught(g: Tensor) -> None:
            part = use.spread(gradients.summed(g)[None], self.means[use.name])[0]
            _add(self.totals, use.name, part)

        return caught

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""
        return lambda g: None


@dataclass(slots=True, kw_only=True, eq=False)
class ClassReduction(Reduction):
    """Response of a probed output to the words of each placed tensor, by class of words.

    Words of one class have the same mean and variance at any operating point (`WordClasses`), so
    the error at any plan follows from sums over classes.

    Args:
        classes: Classes of the words of each placed weight.
        shifts: For each placed tensor, the directions in which the means of its classes move,
            ``[directions, classes]``.
        by_channel: Weights that are reduced for each output channel.

    Attributes:
        squares: For each placed tensor, ``(scale dz/dw)^2`` summed over samples and the words of
            each class, float64 ``[classes]`` or ``[channels, classes]``.
        moved: For each, the change of the output for a unit step in each direction, float64
            ``[samples, directions]`` or ``[samples, channels * directions]``.
    """

    classes: Mapping[str, WordClasses]
    shifts: Mapping[str, Tensor]
    by_channel: Collection[str] = ()
    squares: dict[str, Tensor] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, use: WeightUse) -> Caught | None:
        """See `Reduction`."""
        name, mean = use.name, self.means[use.name]
        if name in self.coverage.one_by_one:
            return None
        gradients = self.gradients_of(use)
        if name in self.coverage.repeated:
            return self.add_repeated(use, gradients)
        directions = self._directions(name)
        along = torch.stack([use.view(one) for one in directions]) if len(directions) else None
        index = use.view(channel_index(mean)) if name in self.by_channel else None

        def caught(g: Tensor) -> None:
            moved = g.new_zeros(self.samples, 0)
            if along is not None and index is not None:
                moved = response_by_channel(gradients, g, along, index, len(mean)).flatten(1)
            elif along is not None:
                moved = gradients.response([g], along)[:, 0]
            squares = use.spread(gradients.summed(g)[None], mean)[0]
            self._add_classes(name, self.classes[name], squares, moved)

        return caught

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""
        stored = placed.device.store(inputs, limit=placed.limit, name=placed.name)
        classes = placed.device.word_classes(stored)
        directions = classes.spread(self.shifts[placed.name])

        def caught(g: Tensor) -> None:
            wide = g.double()
            moved = torch.einsum("w...,...->...w", directions.to(wide), wide)
            moved = moved.reshape(self.samples, -1, len(directions)).sum(1)
            self._add_classes(placed.name, classes, wide.square(), moved)

        return caught

    def add_whole(self, name: str, gradients: Tensor) -> None:
        """See `Reduction`."""
        directions = self._directions(name)
        moved = gradients.new_zeros(self.samples, 0)
        if len(directions) and name in self.by_channel:
            moved = sums_by_channel(gradients, directions).flatten(1)
        elif len(directions):
            moved = gradients.flatten(1) @ directions.flatten(1).mT.to(gradients)
        self._add_classes(name, self.classes[name], gradients.double().square().sum(0), moved)

    def _directions(self, name: str) -> Tensor:
        """Directions in the shape and memory layout of a weight, ``[directions, *weight]``."""
        mean = self.means[name]
        found = self.classes[name].spread(self.shifts[name])
        directions = [torch.empty_like(mean).copy_(one) for one in found]
        return torch.stack(directions) if directions else mean.new_zeros(0, *mean.shape)

    def _add_classes(self, name: str, classes: WordClasses, squares: Tensor, moved: Tensor) -> None:
        summed = classes.summed(squares, by_channel=name in self.by_channel)
        _add(self.squares, name, summed.cpu())
        _add(self.moved, name, moved.double().cpu())


@dataclass(slots=True, kw_only=True, eq=False)
class LogitJacobians(Reduction):
    """Gradients at the uses for several outputs of each sample, kept for their covariance.

    Args:
        generator: See `OperationGradients.products`.
    """

    generator: torch.Generator | None = None
    uses: dict[Key, tuple[WeightUse, OperationGradients]] = field(default_factory=dict)
    caught: dict[Key, list[Tensor]] = field(default_factory=dict)
    activations: list[Activation] = field(default_factory=list)

    def receive(self, use: WeightUse) -> Caught | None:
        """See `Reduction`."""
        if use.name in self.coverage.one_by_one:
            return None
        self.uses[use.key] = use, self.gradients_of(use)
        return self.caught.setdefault(use.key, []).append

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""
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
            (use, gradients, gs), *_ = uses
            return gradients.products(gs, use.view(var), self.generator)
        return weighted_products(self.jacobian(name), var)

    def response(self, name: str, noise: Tensor) -> Tensor:
        """``J noise`` for each sample and draw, ``[samples, outputs, draws]``."""
        found = [
            gradients.response(gs, torch.stack([use.view(one) for one in noise]))
            for use, gradients, gs in self._uses_of(name)
        ]
        return torch.stack(found).sum(0)

    def jacobian(self, name: str) -> Tensor:
        """``J``, ``[samples, outputs, *weight]``."""
        whole, found = self.means[name], []
        for use, gradients, gs in self._uses_of(name):
            part = gradients.jacobians(gs)
            spread = use.spread(part.flatten(0, 1), whole)
            found.append(spread.reshape(*part.shape[:2], *whole.shape))
        return torch.stack(found).sum(0)

    def _uses_of(self, name: str) -> list[tuple[WeightUse, OperationGradients, list[Tensor]]]:
        return [(*self.uses[key], gs) for key, gs in self.caught.items() if key[0] == name and gs]


def _add(sums: dict[str, Tensor], name: str, part: Tensor) -> None:
    sums[name] = sums[name] + part if name in sums else part


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
