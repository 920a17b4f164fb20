"""Monte Carlo over chips: the same chips at every operating point, with sequential stopping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from joulewise.data import Split
from joulewise.devices import Chip, Point
from joulewise.errors import check_count, check_in_range, check_kind, refuse
from joulewise.metrics import Metric
from joulewise.nested import batch_size as batch_size_of
from joulewise.nested import cloned
from joulewise.placement import (
    At,
    Batch,
    Memory,
    Placement,
    Plan,
    Reference,
    energy,
    guarded,
    prepare,
    private_memory,
    reference_pass,
    score_pass,
)
from joulewise.progress import Progress, reporting
from joulewise.simulation.result import Simulation
from joulewise.simulation.statistics import mean_interval
from joulewise.workers import check_executor, shared_with

__all__ = ["simulate", "sweep"]

# A stopping rule tested after every chip stops on chance runs of similar values. Tested this
# rarely, and never before 20 chips, the 95 % interval of a gamma-distributed loss still covers in
# above 92 % of runs (tests/simulation/test_montecarlo.py). It cannot account for rare bad chips
# that were not drawn.
_FIRST_LOOK, _LOOK_EVERY = 20, 10
# A part copies the model once: fewer chips copy it more often, more leave workers idle at the end.
_CHIPS_OF_PART = 8

_Score = tuple[float | None, float | None]
"""Metric and output error of one chip."""


def simulate(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    chips: int = 200,
    seed: int = 0,
    half_width: float | None = None,
    batch_size: int | None = None,
    metric: Any = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> Simulation:
    """Metric and output error of a placement at one operating point, over many chips.

    Args:
        placement: The model and its memories; the model is not written to.
        data: A split, a torch ``Dataset``, or an iterable of batches such as a ``DataLoader``, read
            once and kept. A batch is ``(inputs, targets)``, a dict with ``labels``, or inputs
            alone, for the output error alone.
        at: Operating points: knobs with their values, such as ``{"eta": 0.5}``, or a plan.
        chips: Number of chips; the maximum if ``half_width`` is given.
        seed: Chip ``k`` has the seed ``seed + k``; equal seeds give equal results.
        half_width: Stop when the half-width of the 95 % interval of the mean metric is at most
            this, in the unit of the metric (without targets: of the mean output error, as a
            fraction of it). A run can end before it draws a rare bad chip, one in fifty, say: set
            ``chips`` alone then.
        batch_size: Samples in a forward pass; None chooses by the size of a sample.
        metric: A value of `joulewise.metrics`, an object with the protocol of torchmetrics, or a
            function of outputs and targets wrapped by `joulewise.metrics.FunctionMetric`; None
            chooses by the targets (`joulewise.metrics.default_metric`), and the result names it.
        progress: True for a bar in terminals and notebooks, or a function of step, done, expected.
        executor: Workers that chips are spread over: a ``ProcessPoolExecutor``, for instance, or
            ``Client.get_executor()`` of Dask. The model, the data and the metric are pickled for
            them once. Figures are the same, bit for bit, whatever the workers: each uses as many
            threads as the caller (``torch.set_num_threads(1)`` suits one process per core).

    Returns:
        The result, with figures for each chip.

    Raises:
        InputError: if an argument is of the wrong kind or out of range.
        DataError: if targets do not fit the outputs or the metric.
        ModelError: if the model cannot be copied or fails.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> placement = place(model, weights=SRAM(bits=8))
        >>> result = simulate(placement, digits.test, at={"eta": 0.5}, chips=5)
        >>> result.chips, result.metric.name, result.energy.normalised
        (5, 'accuracy', 0.5)
    """
    (result,) = sweep(
        placement,
        data,
        at=[at],
        chips=chips,
        seed=seed,
        half_width=half_width,
        batch_size=batch_size,
        metric=metric,
        progress=progress,
        executor=executor,
    )
    return result


@guarded
def sweep(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: Sequence[At],
    chips: int = 200,
    seed: int = 0,
    half_width: float | None = None,
    batch_size: int | None = None,
    metric: Any = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> tuple[Simulation, ...]:
    """Simulate several operating points on the same chips, so that chip noise is common to all.

    ``at`` is a list of operating points; the other arguments are those of `simulate`, with
    ``half_width`` for each result on its own.

    Returns:
        One result for each of ``at``, in order.
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    if isinstance(at, (Mapping, str)) or not isinstance(at, Iterable):
        refuse("at", f"{at!r:.80}", 'a list such as [{"eta": 0.5}, {"eta": 0.6}]')
    check_count("chips", chips, 1, 10**7)
    seed = check_count("seed", seed, 0)
    check_executor(executor)
    if half_width is not None:
        check_in_range("half_width", half_width, 0.0, math.inf, open_low=True)
    runs = [_Run(plan=placement.plan(one), points=placement.points(one)) for one in at]
    with reporting(progress) as report:
        batches = prepare(data, placement.model, batch_size)
        traced = placement.trace(batches[0].inputs)
        with private_memory(traced) as memory:
            reference = reference_pass(memory, batches, metric)
            memory.ideal()
            ideal, ideal_mse = score_pass(memory, batches, reference)
            if reference.metric is None and ideal_mse is None:
                refuse(
                    "the data",
                    "without targets, for a model whose outputs have no fixed shape",
                    "data with targets, and a metric",
                )
            shared = _Shared(traced, batches, reference, [run.points for run in runs])
            computed = (
                _in_turn(memory, shared, runs, range(seed, seed + chips))
                if executor is None
                else _in_workers(executor, shared, runs, range(seed, seed + chips))
            )
            with closing(computed):
                for run, score in computed:
                    run.add(score, half_width, reference.metric)
                    report("simulating", sum(len(r.mse) for r in runs), chips * len(runs))
            for run in runs:
                _warn_if_nothing_happened(memory, run, seed, ideal_mse)
    return tuple(
        Simulation(
            plan=run.plan,
            seed=seed,
            samples=sum(batch_size_of(batch.inputs) for batch in batches),
            metric=reference.metric,
            original=reference.value,
            ideal=ideal,
            values=tuple(run.values) if reference.metric is not None else (),
            mse=run.errors(),
            ideal_mse=ideal_mse,
            energy=energy(traced, at=run.plan),
        )
        for run in runs
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """The data of a sweep, for workers.

    Args:
        placement: The placement.
        batches: The data.
        reference: Outputs and metric of the model as given.
        points: Operating points of each run.
    """

    placement: Placement
    batches: Sequence[Batch]
    reference: Reference
    points: Sequence[Mapping[str, Point]]

    def score(self, memory: Memory, chip: int, number: int) -> _Score:
        """Score of a chip at the points of a run."""
        memory.read(self.points[number], Chip(seed=chip))
        return score_pass(memory, self.batches, self.reference)


def _in_turn(
    memory: Memory, shared: _Shared, runs: Sequence[_Run], seeds: Sequence[int]
) -> Generator[tuple[_Run, _Score], None, None]:
    """Scores of each chip in each run, computed here when they are asked for."""
    for chip in seeds:
        for number, run in enumerate(runs):
            if not run.stopped:
                yield run, shared.score(memory, chip, number)


def _in_workers(
    executor: Executor, shared: _Shared, runs: Sequence[_Run], seeds: Sequence[int]
) -> Generator[tuple[_Run, _Score], None, None]:
    """Scores of each chip in each run from workers, a few chips to a part."""
    parts = [seeds[k : k + _CHIPS_OF_PART] for k in range(0, len(seeds), _CHIPS_OF_PART)]
    with shared_with(executor, shared) as workers, closing(workers.map(_part, parts)) as found:
        for scores in found:
            for of_chip in scores:
                for run, score in zip(runs, of_chip, strict=True):
                    if not run.stopped:
                        yield run, score
            if all(run.stopped for run in runs):
                return


@guarded
def _part(shared: _Shared, seeds: Sequence[int]) -> list[list[_Score]]:
    """Scores of some chips, in a worker."""
    found: list[list[_Score]] = []
    # Clones in the first pass over a batch, which shows whether the model writes to its inputs.
    first = [replace(batch, inputs=cloned(batch.inputs)) for batch in shared.batches]
    data = replace(shared, batches=first)
    with private_memory(shared.placement) as memory:
        for chip in seeds:
            found.append([])
            for number in range(len(shared.points)):
                found[-1].append(data.score(memory, chip, number))
                data = shared
    return found


@dataclass(slots=True)
class _Run:
    """State of one plan during a sweep."""

    plan: Plan
    points: Mapping[str, Point]
    values: list[float | None] = field(default_factory=list)
    mse: list[float | None] = field(default_factory=list)
    stopped: bool = False

    def add(self, score: _Score, half_width: float | None, metric: Metric | None) -> None:
        """Add a chip, and stop when enough are known."""
        self.values.append(score[0])
        self.mse.append(score[1])
        if half_width is None:
            return
        values = [value for value in self.values if value is not None]
        errors = [mse for mse in self.errors() if math.isfinite(mse)]
        if metric is not None:
            self.stopped = sure_enough(values, half_width, geometric=metric.geometric)
        elif errors:
            self.stopped = sure_enough(errors, half_width * sum(errors) / len(errors))

    def errors(self) -> tuple[float, ...]:
        """Output error of each chip; empty if any has none."""
        known = [mse for mse in self.mse if mse is not None]
        if len(known) < len(self.mse):
            return ()
        return tuple(mse if math.isfinite(mse) else math.inf for mse in known)


def sure_enough(values: Sequence[float], half_width: float, *, geometric: bool = False) -> bool:
    """True if a sequential run may stop: the 95 % interval of the mean is narrow enough.

    Equal values give no estimate of the spread, so they never end a run.

    Args:
        values: One number for each chip so far.
        half_width: Largest half-width of the interval.
        geometric: True if the mean is geometric.
    """
    if len(values) < _FIRST_LOOK or len(values) % _LOOK_EVERY:
        return False
    interval = mean_interval(values, geometric=geometric)
    return min(values) < max(values) and interval.half_width <= half_width


def _warn_if_nothing_happened(
    memory: Memory, run: _Run, seed: int, ideal_mse: float | None
) -> None:
    """Warn if faulty weights changed no output: the model may not compute with them."""
    if len(run.mse) < 5 or ideal_mse is None or any(mse != ideal_mse for mse in run.mse):
        return
    wrong = []
    for chip in range(seed, seed + 5):
        memory.read(run.points, Chip(seed=chip))
        wrong.append(memory.differs())
    if all(wrong):
        warnings.warn(
            f"weights were read wrongly and yet no output of {len(run.mse)} chips changed: does "
            "the model compute with the tensors that are placed?",
            stacklevel=3,
        )
