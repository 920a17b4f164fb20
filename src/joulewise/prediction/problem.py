"""The problem that every method of prediction is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Point
from joulewise.placement import Batch, Memory, Placement, loaded, outputs_of, prepare
from joulewise.placement.execution import batch_size
from joulewise.prediction.forecast import Forecast

__all__ = ["Method", "Problem", "is_class", "posed"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What is to be predicted.

    Args:
        placement: What is stored where.
        memory: The placement's memory, loaded: the model computes with what it is told to read.
        plan: An operating point for each placed tensor.
        batches: The samples, on the model's device.
        references: The outputs of the model as given for each batch, float32 or float64.
        progress: To be called with samples done and samples expected.
    """

    placement: Placement
    memory: Memory
    plan: Mapping[str, Point]
    batches: Sequence[Batch]
    references: Sequence[Tensor]
    progress: Callable[[float, float], None]

    @property
    def images(self) -> int:
        """Samples in all batches."""
        return sum(batch_size(batch.inputs) for batch in self.batches)

    @property
    def outputs(self) -> int:
        """Outputs of one sample."""
        return self.references[0].numel() // batch_size(self.batches[0].inputs)

    @property
    def differentiable(self) -> bool:
        """Whether a point of the plan asks for gradients."""
        points = [p for p in self.plan.values() if isinstance(p, Tensor)]
        return any(point.requires_grad for point in points)

    @property
    def has_classes(self) -> bool:
        """Whether every sample has scores of two classes or more, and a class as its target."""
        return all(
            is_class(batch.targets) and reference.ndim == 2 and reference.shape[1] >= 2
            for batch, reference in zip(self.batches, self.references, strict=True)
        )


def is_class(targets: Tensor | None) -> bool:
    """Whether targets are one whole number for each sample."""
    return targets is not None and targets.ndim == 1 and not targets.is_floating_point()


@contextmanager
def posed(
    placement: Placement,
    data: Split | Iterable[Any],
    plan: Mapping[str, Point],
    *,
    batch_size: int | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Iterator[Problem]:
    """A problem whose placement is of a private copy of the model, with its memory.

    Args:
        placement: What is stored where.
        data: As for `joulewise.prediction.predict`.
        plan: An operating point for each placed tensor.
        batch_size: As for `joulewise.prediction.predict`.
        progress: As for `joulewise.prediction.predict`.

    Yields:
        The problem.
    """
    batches = prepare(data, placement.model, batch_size)
    with loaded(placement, frozen=True) as memory:
        memory.original()
        yield Problem(
            placement=memory.placement,
            memory=memory,
            plan=plan,
            batches=batches,
            references=outputs_of(memory, batches),
            progress=progress or (lambda done, expected: None),
        )


class Method(Protocol):
    """A way to predict: a frozen value that holds its own options."""

    def forecast(self, problem: Problem) -> Forecast:
        """Predict; the model's memory may be told to read anything, and is put back later."""
