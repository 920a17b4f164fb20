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

from joulewise.devices import SharedFactor, WordClasses
from joulewise.errors import JoulewiseError
from joulewise.placement import Placed
from joulewise.prediction.linearisation.channel_reductions import channel_index, response_by_channel
from joulewise.prediction.linearisation.gradients import OperationGradients, WholeGradients
from joulewise.prediction.linearisation.op_interception import Key, WeightUse
from joulewise.prediction.linearisation.self_check import Coverage

__all__ = [
    "ClassReduction",
    "LogitJacobians",
    "Reduction",
    "SensitivityReduction",
    "UncheckedUse",
    "VarianceReduction",
]

Caught = Callable[[Tensor], None]
"""Takes the gradient at an operation's output."""

Activation = tuple[Placed, Tensor, Tensor, Tensor, list[Tensor]]
"""A placed activation: values stored, mean read, variance, and the gradient there by output."""


class UncheckedUse(JoulewiseError):  # noqa: N818
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
    def reduce(self, name: str, gradients: OperationGradients, use: WeightUse | None) -> Caught:
        """Reduce the gradients of a weight: by one use of it, or whole (None)."""

    @abstractmethod
    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """Receive a placed activation, each of whose words has faults of its own."""

    def receive(self, use: WeightUse) -> Caught | None:
        """Receive a use of a weight; see `Interception`."""
        if use.name in self.coverage.one_by_one:
            return None
        gradients = self._gradients_of(use)
        if use.name not in self.coverage.repeated:
            return self.reduce(use.name, gradients, use)

        def caught(g: Tensor) -> None:
            jacobian = use.spread(gradients.jacobians([g])[:, 0], self.means[use.name])
            _add(self.sums, use.name, jacobian)

        return caught

    def add_whole(self, name: str, jacobian: Tensor) -> None:
        """Reduce whole gradients, ``[samples, scalars, *weight]``."""
        self.reduce(name, WholeGradients(jacobian=jacobian), None)(jacobian)

    def end_probe(self) -> None:
        """Reduce the summed gradients of the weights that a backward pass met several times."""
        for name, total in self.sums.items():
            self.add_whole(name, total[:, None])
        self.sums = {}

    def _gradients_of(self, use: WeightUse) -> OperationGradients:
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
    commons: Mapping[str, SharedFactor]
    generator: torch.Generator | None
    totals: dict[str, Tensor] = field(default_factory=dict)

    def reduce(self, name: str, gradients: OperationGradients, use: WeightUse | None) -> Caught:
        """See `Reduction`."""
        var = _seen(use, self.variances[name])
        if name not in self.commons:
            return lambda g: self._add(name, gradients.squared(g, var, self.generator))
        common = self.commons[name]
        along = torch.stack([_seen(use, t) for t in (self.means[name], common.coupling)])

        def caught(g: Tensor) -> None:
            sums = gradients.response([g], along)[:, 0]
            self._add(name, gradients.squared(g, var, self.generator))
            self._add(name, common.variance(sums[:, 0], sums[:, 1]))

        return caught

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""

        def caught(g: Tensor) -> None:
            wide = g.to(var.dtype)
            self._add(placed.name, (wide.square() * var).flatten(1).sum(1))

        return caught

    def _add(self, name: str, part: Tensor) -> None:
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

    def reduce(self, name: str, gradients: OperationGradients, use: WeightUse | None) -> Caught:
        """See `Reduction`."""

        def caught(g: Tensor) -> None:
            part = _spread(use, gradients.summed(g)[None], self.means[name])[0]
            _add(self.totals, name, part)

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

    def reduce(self, name: str, gradients: OperationGradients, use: WeightUse | None) -> Caught:
        """See `Reduction`."""
        mean, classes = self.means[name], self.classes[name]
        # The directions in the shape and memory layout of the weight.
        spread = classes.spread(self.shifts[name])
        directions = [_seen(use, torch.empty_like(mean).copy_(one)) for one in spread]
        index = _seen(use, channel_index(mean)) if name in self.by_channel else None

        def caught(g: Tensor) -> None:
            moved = g.new_zeros(self.samples, 0)
            if directions and index is not None:
                along = torch.stack(directions)
                moved = response_by_channel(gradients, g, along, index, len(mean)).flatten(1)
            elif directions:
                moved = gradients.response([g], torch.stack(directions))[:, 0]
            squares = _spread(use, gradients.summed(g)[None], mean)[0]
            self._add(name, classes, squares, moved)

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
            self._add(placed.name, classes, wide.square(), moved)

        return caught

    def _add(self, name: str, classes: WordClasses, squares: Tensor, moved: Tensor) -> None:
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
    caught: dict[Key, tuple[OperationGradients, WeightUse | None, list[Tensor]]] = field(
        default_factory=dict
    )
    activations: list[Activation] = field(default_factory=list)

    def receive(self, use: WeightUse) -> Caught | None:
        """See `Reduction`; several uses of a weight stay apart until they are asked for."""
        if use.name in self.coverage.one_by_one:
            return None
        return self.reduce(use.name, self._gradients_of(use), use)

    def reduce(self, name: str, gradients: OperationGradients, use: WeightUse | None) -> Caught:
        """See `Reduction`."""
        gs: list[Tensor] = []
        self.caught[name, use.ordinal if use else 0] = gradients, use, gs
        return gs.append

    def observe(self, placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Caught:
        """See `Reduction`."""
        gs: list[Tensor] = []
        self.activations.append((placed, inputs, mean.detach(), var, gs))
        return gs.append

    def names(self) -> list[str]:
        """The placed weights whose gradients were caught."""
        return list(dict.fromkeys(name for (name, _), (*_, gs) in self.caught.items() if gs))

    def products(self, name: str, var: Tensor) -> Tensor:
        """``J diag(var) J^T`` for each sample, ``[samples, outputs, outputs]``."""
        uses = self._uses_of(name)
        if len(uses) > 1:
            return WholeGradients(jacobian=self.jacobian(name)).products([], var, None)
        ((gradients, use, gs),) = uses
        return gradients.products(gs, _seen(use, var), self.generator)

    def response(self, name: str, noise: Tensor) -> Tensor:
        """``J noise`` for each sample and draw, ``[samples, outputs, draws]``."""
        found = [
            gradients.response(gs, torch.stack([_seen(use, one) for one in noise]))
            for gradients, use, gs in self._uses_of(name)
        ]
        return torch.stack(found).sum(0)

    def jacobian(self, name: str) -> Tensor:
        """``J``, ``[samples, outputs, *weight]``."""
        found = []
        for gradients, use, gs in self._uses_of(name):
            part = gradients.jacobians(gs)
            spread = _spread(use, part.flatten(0, 1), self.means[name])
            found.append(spread.reshape(*part.shape[:2], *spread.shape[1:]))
        return torch.stack(found).sum(0)

    def _uses_of(
        self, name: str
    ) -> list[tuple[OperationGradients, WeightUse | None, list[Tensor]]]:
        return [found for key, found in self.caught.items() if key[0] == name and found[2]]


def _seen(use: WeightUse | None, whole: Tensor) -> Tensor:
    return whole if use is None else use.view(whole)


def _spread(use: WeightUse | None, parts: Tensor, whole: Tensor) -> Tensor:
    return parts if use is None else use.spread(parts, whole)


def _add(sums: dict[str, Tensor], name: str, part: Tensor) -> None:
    sums[name] = sums[name] + part if name in sums else part
