"""Monte Carlo over chips: the same chips at every operating point, until the answer is sure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Chip, Point, plain_point
from joulewise.errors import InputError, check_in_range
from joulewise.nested import batch_size
from joulewise.placement import (
    Batch,
    Memory,
    Placement,
    energy,
    guarded,
    loaded,
    outputs_of,
    prepare,
)
from joulewise.simulation.result import EnergyRecord, Simulation
from joulewise.simulation.scoring import Metric, Score, score, top1
from joulewise.simulation.statistics import mean_interval

__all__ = ["simulate", "sweep"]

Plan = Mapping[str, Point]
# A rule that looks after every chip stops on lucky streaks. Looking this rarely, and never before
# 20 chips, the 95 % interval of a gamma-distributed loss still covers above 92 % of the time
# (tests/simulation/test_montecarlo.py). No such rule sees a rare chip that it has not drawn.
_FIRST_LOOK, _LOOK_EVERY = 20, 10


@guarded
def simulate(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    plan: Plan | None = None,
    chips: int = 200,
    seed: int = 0,
    half_width: float | None = None,
    batch_size: int | None = None,
    metric: Metric = top1,
    progress: Callable[[int], None] | None = None,
    **setting: Point,
) -> Simulation:
    """Accuracy and output error of a placement at one operating point, over many chips.

    Args:
        placement: What is stored where; its model is left as it was, whatever happens.
        data: A split, or an iterable of ``(inputs, targets)`` batches, read once and kept.
        plan: An operating point for each placed tensor; or give one ``setting`` for all.
        chips: How many chips; the most, where ``half_width`` is given.
        seed: Chip ``k`` has the seed ``seed + k``. The same seed, the same result.
        half_width: Stop when the 95 % interval of the mean accuracy (of the mean output error,
            relative to it, without targets) is at most this much to either side. Where one chip in
            fifty is far worse than the others, a run can end before it met one: give chips then.
        batch_size: Samples in a forward pass; None chooses by the size of a sample.
        metric: Scores each sample in [0, 1]; the share of right answers by default.
        progress: Called after each chip with the number of chips done.
        **setting: One operating point for every placed tensor, for instance ``eta=0.5``.

    Returns:
        The result, with figures for each chip.

    Raises:
        InputError: if both or neither of ``plan`` and a setting are given.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> result = simulate(place(model, weights=SRAM(bits=8)), digits.test, eta=0.5, chips=5)
        >>> result.chips, result.energy.normalised
        (5, 0.5)
    """
    if (plan is None) == (not setting):
        raise InputError("simulate needs a plan or one setting such as eta=0.5, and not both")
    chosen = placement.plan(**setting) if plan is None else plan
    (result,) = sweep(
        placement,
        data,
        [chosen],
        chips=chips,
        seed=seed,
        half_width=half_width,
        batch_size=batch_size,
        metric=metric,
        progress=progress,
    )
    return result


@guarded
def sweep(
    placement: Placement,
    data: Split | Iterable[Any],
    plans: Sequence[Plan],
    *,
    chips: int = 200,
    seed: int = 0,
    half_width: float | None = None,
    batch_size: int | None = None,
    metric: Metric = top1,
    progress: Callable[[int], None] | None = None,
) -> tuple[Simulation, ...]:
    """Several plans on the same chips: differences between them are not noise between chips.

    Args:
        placement: As for `simulate`.
        data: As for `simulate`.
        plans: One plan for each result.
        chips: As for `simulate`.
        seed: As for `simulate`.
        half_width: As for `simulate`, for each plan on its own.
        batch_size: As for `simulate`.
        metric: As for `simulate`.
        progress: Called after each chip and plan with the number of both done.

    Returns:
        One result for each plan, in order.
    """
    check_in_range("chips", chips, 1, 10**7)
    check_in_range("seed", seed, 0, 2**62)
    if half_width is not None:
        check_in_range("half_width", half_width, 0.0, 1.0, open_low=True)
    plans = [placement.check_plan(plan) for plan in plans]
    batches = prepare(data, placement.model, batch_size)
    traced = placement.trace(batches[0].inputs)
    with loaded(traced) as memory:
        baseline = _baseline(memory, batches, metric)
        runs = [_Run(plan=plan) for plan in plans]
        for chip in range(seed, seed + chips):
            for run in runs:
                if run.stopped:
                    continue
                memory.read(run.plan, Chip(seed=chip))
                run.scores.append(score(memory, batches, baseline.references, metric))
                run.stop_if_sure(half_width)
                if progress is not None:
                    progress(sum(len(r.scores) for r in runs))
        for run in runs:
            _warn_if_nothing_happened(memory, run, seed, baseline.ideal)
    return tuple(_result(traced, run, baseline, seed, batches) for run in runs)


@dataclass(slots=True)
class _Run:
    """One plan, while it is being simulated."""

    plan: Plan
    scores: list[Score] = field(default_factory=list)
    stopped: bool = False

    def stop_if_sure(self, half_width: float | None) -> None:
        if half_width is None:
            return
        accuracies = [s.accuracy for s in self.scores if s.accuracy is not None]
        if accuracies:
            self.stopped = sure_enough(accuracies, half_width)
        else:
            errors = [s.mse for s in self.scores]
            self.stopped = sure_enough(errors, half_width * sum(errors) / len(errors))


def sure_enough(values: Sequence[float], half_width: float) -> bool:
    """True if a sequential run may stop: the 95 % interval of the mean is narrow enough.

    Chips that are all alike say nothing of the spread, so they never end a run.

    Args:
        values: One number for each chip so far.
        half_width: How far the interval may reach to either side.
    """
    if len(values) < _FIRST_LOOK or len(values) % _LOOK_EVERY:
        return False
    return 0 < mean_interval(values).half_width <= half_width


@dataclass(frozen=True, slots=True)
class _Baseline:
    """The model as given, and with a perfect memory."""

    references: list[Tensor]
    original: Score
    ideal: Score


def _baseline(memory: Memory, batches: Sequence[Batch], metric: Metric) -> _Baseline:
    memory.original()
    references = outputs_of(memory, batches)
    memory.original()
    original = score(memory, batches, references, metric)
    memory.ideal()
    return _Baseline(references, original, score(memory, batches, references, metric))


def _result(
    placement: Placement, run: _Run, baseline: _Baseline, seed: int, batches: Sequence[Batch]
) -> Simulation:
    spent = energy(placement, run.plan)
    accuracies = tuple(s.accuracy for s in run.scores if s.accuracy is not None)
    return Simulation(
        plan={name: plain_point(point) for name, point in run.plan.items()},
        seed=seed,
        images=sum(batch_size(batch.inputs) for batch in batches),
        float_accuracy=baseline.original.accuracy,
        ideal_accuracy=baseline.ideal.accuracy,
        accuracy=accuracies,
        mse=tuple(s.mse for s in run.scores),
        ideal_mse=baseline.ideal.mse,
        energy=EnergyRecord.of(spent),
    )


def _warn_if_nothing_happened(memory: Memory, run: _Run, seed: int, ideal: Score) -> None:
    """A requested fault source that changes nothing is a mistake somewhere."""
    if len(run.scores) < 5 or any(chip.mse != ideal.mse for chip in run.scores):
        return
    wrong = []
    for chip in range(seed, seed + 5):
        memory.read(run.plan, Chip(seed=chip))
        wrong.append(memory.differs())
    if all(wrong):
        warnings.warn(
            f"weights were read wrongly and yet no output of {len(run.scores)} chips changed: does "
            "the model compute with the tensors that are placed?",
            stacklevel=3,
        )
