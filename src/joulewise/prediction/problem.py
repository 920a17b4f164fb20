"""The problem that a method of prediction solves, and the interface of such methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Point
from joulewise.errors import ModelError, check_kind, refuse
from joulewise.metrics import Accuracy, Metric
from joulewise.nested import batch_size
from joulewise.placement import (
    At,
    Batch,
    Memory,
    Placement,
    Plan,
    prepare,
    private_memory,
    reference_pass,
)
from joulewise.prediction.forecast import Forecast

__all__ = ["Method", "Problem", "loaded_problem"]

# See `joulewise.placement.GivenOutputs`: passes with gradients cost more than outputs do.
_KEPT_BYTES = 2**26


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A loaded placement, a plan, and the samples to predict for.

    Args:
        placement: The model and its memories.
        memory: The placement's memory, loaded; decides the weights that the model computes with.
        plan: The plan that is predicted.
        points: Its operating point of each placed tensor, on the device's knob.
        batches: The samples, on the model's device.
        references: The outputs of the model as given for each batch, float32 or float64.
        metric: The metric of the targets; None without targets, or for those of no known metric.
        progress: Takes the number of samples done and expected.
        numbers: Indices of the batches to process; the others are left to other workers.
    """

    placement: Placement
    memory: Memory
    plan: Plan
    points: Mapping[str, Point]
    batches: Sequence[Batch]
    references: Sequence[Tensor]
    metric: Metric | None
    progress: Callable[[float, float], None]
    numbers: Sequence[int]

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        return sum(batch_size(batch.inputs) for batch in self.batches)

    @property
    def outputs(self) -> int:
        """Number of outputs of one sample."""
        return self.references[0].numel() // batch_size(self.batches[0].inputs)

    @property
    def differentiable(self) -> bool:
        """True if a point of the plan requires a gradient."""
        points = [p for p in self.points.values() if isinstance(p, Tensor)]
        return any(point.requires_grad for point in points)

    @property
    def refusal(self) -> str | None:
        """Reason why the metric is not predicted; None if it is, or if there is none."""
        if self.metric is None or self.has_classes:
            return None
        return (
            f"{self.metric.name} is not predicted: only top-1 accuracy of outputs [batch, classes] "
            "is; simulate gives it, and the output error is predicted"
        )

    @property
    def has_classes(self) -> bool:
        """True if the metric is top-1 accuracy of outputs ``[batch, classes]``."""
        top_1 = isinstance(self.metric, Accuracy) and self.metric == Accuracy()
        return top_1 and all(r.ndim == 2 and r.shape[1] >= 2 for r in self.references)


@contextmanager
def loaded_problem(
    placement: Placement,
    data: Split | Iterable[Any],
    at: At,
    *,
    metric: Any = None,
    targets: bool = True,
    one_shape: bool = True,
    batch_size: int | None = None,
    progress: Callable[[float, float], None] = lambda done, expected: None,
) -> Iterator[Problem]:
    """Set up a problem on a private copy of the model, with its memory.

    Arguments are those of `joulewise.prediction.predict`. Targets are left out if ``targets`` is
    False; ``progress`` is called with the number of samples done and expected. ``one_shape`` is
    False to take outputs that differ in shape from batch to batch.

    Raises:
        ModelError: if the model's outputs are no tensors, or of several shapes.
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    plan, points = placement.plan(at), placement.points(at)
    batches = prepare(data, placement.model, batch_size)
    if not targets:
        batches = [replace(batch, targets=None) for batch in batches]
    with private_memory(placement, frozen=True) as memory:
        reference = reference_pass(memory, batches, metric, required=False, kept_bytes=_KEPT_BYTES)
        shapes = {shape and shape[1:] for shape in reference.outputs.shapes}
        if None in shapes:
            got = "outputs without a tensor of one shape, such as lists of detections"
            refuse("the model", f"one with {got}", "simulate, with a metric", ModelError)
        if one_shape and len(shapes) > 1:
            got = "another one in some batches, such as sequences of several lengths"
            allowed = "batches of one shape, method fisher, or simulate"
            refuse("the shape of the outputs", got, allowed, ModelError)
        yield Problem(
            placement=memory.placement,
            memory=memory,
            plan=plan,
            points=points,
            batches=batches,
            references=reference.outputs,
            metric=reference.metric,
            progress=progress,
            numbers=range(len(batches)),
        )


class Method(Protocol):
    """A method of prediction: a frozen value that holds its options."""

    def forecast(self, problem: Problem) -> Forecast:
        """Predict the output error; may change the memory's tensors, which the caller restores."""
