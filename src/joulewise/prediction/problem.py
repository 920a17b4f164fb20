"""The problem that a method of prediction solves, and the interface of such methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Point
from joulewise.nested import batch_size
from joulewise.placement import Batch, Memory, Placement, loaded, outputs_of, prepare
from joulewise.prediction.forecast import Forecast

__all__ = ["Method", "Problem", "is_class", "posed"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A loaded placement, a plan, and the samples to predict for.

    Args:
        placement: The model and its memories.
        memory: The placement's memory, loaded; decides the weights that the model computes with.
        plan: An operating point for each placed tensor.
        batches: The samples, on the model's device.
        references: The outputs of the model as given for each batch, float32 or float64.
        progress: Takes the number of samples done and expected.
    """

    placement: Placement
    memory: Memory
    plan: Mapping[str, Point]
    batches: Sequence[Batch]
    references: Sequence[Tensor]
    progress: Callable[[float, float], None]

    @property
    def images(self) -> int:
        """Number of samples in all batches."""
        return sum(batch_size(batch.inputs) for batch in self.batches)

    @property
    def outputs(self) -> int:
        """Number of outputs of one sample."""
        return self.references[0].numel() // batch_size(self.batches[0].inputs)

    @property
    def differentiable(self) -> bool:
        """True if a point of the plan requires a gradient."""
        points = [p for p in self.plan.values() if isinstance(p, Tensor)]
        return any(point.requires_grad for point in points)

    @property
    def has_classes(self) -> bool:
        """True if each sample has scores of two classes or more, and a class as its target."""
        return all(
            is_class(batch.targets) and reference.ndim == 2 and reference.shape[1] >= 2
            for batch, reference in zip(self.batches, self.references, strict=True)
        )


def is_class(targets: Tensor | None) -> bool:
    """True if targets are one integer for each sample."""
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
    """Set up a problem on a private copy of the model, with its memory.

    Args:
        placement: The model and its memories.
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
    """A method of prediction: a frozen value that holds its options."""

    def forecast(self, problem: Problem) -> Forecast:
        """Predict; the memory may be set to read anything, and is restored by the caller."""
