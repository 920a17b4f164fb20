"""Co-design: alternate allocation of a network and training with the faults of its plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from joulewise.allocation import (
    Allocation,
    EnergyBudget,
    Goal,
    Granularity,
    MetricDrop,
    MetricTarget,
    Yield,
    allocate,
)
from joulewise.data import Dataset, Split
from joulewise.errors import check_count, check_in_range, refuse
from joulewise.placement import Placement, restored_modes
from joulewise.progress import Progress, Report, reporting
from joulewise.training import TrainingMemory, TrainingRecord, TrainingSpec, accuracy, train

__all__ = ["CoDesign", "Round", "co_design"]

_EACH_TENSOR = Granularity()
_FINE_TUNING = TrainingSpec(epochs=2, lr=0.02)
# Rounds use a fraction of the chips of the result, whose chips no round has seen: seeds of rounds
# are 2^32 apart.
_FRACTION_OF_CHIPS, _FEWEST_CHIPS = 5, 20
_SEED_STEP = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One round: training with the faults of a cheaper plan, then another allocation.

    Args:
        training: The training; None in the first round, the network as given.
        training_energy: Energy of the plan of the training memory, over the most reliable one's.
        allocation: The plan for the goal, of the trained network.
        kept: True if this network is the best so far; the next round continues from the best.
    """

    training: TrainingRecord | None
    training_energy: float | None
    allocation: Allocation
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoDesign:
    """A trained network's plan, and the rounds that led to it.

    Args:
        given_accuracy: Accuracy of the network as given, in floating point.
        min_accuracy: The accuracy that the plan has to reach.
        rounds: The rounds, in order.
        allocation: The plan of the best network, verified on chips that no round used.
    """

    given_accuracy: float
    min_accuracy: float
    rounds: tuple[Round, ...]
    allocation: Allocation


def co_design(  # noqa: PLR0913  each is a choice of the caller, by keyword
    placement: Placement,
    data: Dataset,
    *,
    goal: Goal,
    judge: Split | None = None,
    granularity: Granularity = _EACH_TENSOR,
    spec: TrainingSpec = _FINE_TUNING,
    rounds: int = 3,
    step: float = 0.8,
    chips: int = 200,
    seed: int = 0,
    progress: Progress = False,
    **options: Any,
) -> CoDesign:
    """Fit a network and its plan to each other: the least energy at which an accuracy holds.

    Each round finds the plan of least error at ``step`` times the least energy so far, trains the
    network with its faults, so that it adapts to the noisiest tensors, and allocates again. A round
    that does not save energy by simulation is undone, and the next step is half as far.

    The accuracy to reach is that of the network *as given*, in floating point, less a drop:
    accuracy that is lost in training is not made up for by a lower goal.

    Args:
        placement: Traced. Its model is trained, and left with the best weights; after an exception
            with its first ones.
        data: The data; its training split is trained on.
        goal: A `MetricDrop` from the accuracy as given, a `MetricTarget`, or a `Yield` of one.
        judge: The split that accuracy is simulated on; None for the test split of ``data``. Plans
            are chosen by it: for an unbiased accuracy on the test split, give a validation split.
        granularity: See `allocate`.
        spec: Training of each round; its seed counts up from round to round.
        rounds: Number of rounds, 1 or more.
        step: Above 0, below 1.
        chips: See `allocate`, 20 or more; rounds use a fifth of them.
        seed: See `allocate`; also of training.
        progress: See `allocate`.
        **options: Other options of `allocate`: ``confidence``, ``samples``, ``batch_size``.

    Returns:
        The rounds, and the plan of the best network.

    Raises:
        InputError: if a field is outside its range, or the goal is no accuracy.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> _ = train(model, digits, TrainingSpec(epochs=4, lr=0.1))
        >>> placement = place(model, weights=SRAM(bits=8), example_inputs=digits.train.inputs[:1])
        >>> found = co_design(placement, digits, goal=MetricDrop(0.02), rounds=1, chips=20)
        >>> found.allocation.energy.normalised <= found.rounds[0].allocation.energy.normalised
        True

    References:
        S. Henwood et al., arXiv 1912.10764, train operating points and weights together, by
        gradients of both (see `NoiseMaximisation`). The alternation is ours.
    """
    check_count("rounds", rounds, 1, 10**6)
    check_count("chips", chips, _FEWEST_CHIPS)
    seed = check_count("seed", seed, 0)
    check_in_range("step", step, 0.0, 1.0 - 1e-9, open_low=True)
    judge = judge or data.test
    given = accuracy(placement.model, judge)
    target = _target(goal, given)
    with reporting(progress) as report, _restored_after_exceptions(placement.model):
        run = _Run(
            placement=placement,
            data=data,
            judge=judge,
            granularity=granularity,
            spec=spec,
            seed=seed,
            report=report,
            goal=replace(goal, of=target) if isinstance(goal, Yield) else target,
            options=options,
        )
        few = max(_FEWEST_CHIPS, chips // _FRACTION_OF_CHIPS)
        tried = run.rounds(rounds, step, few)
        allocation = run.allocate("confirming", goal=run.goal, chips=chips, seed=seed)
    return CoDesign(
        given_accuracy=given,
        min_accuracy=target.value,
        rounds=tuple(tried),
        allocation=allocation,
    )


def _target(goal: Goal, given: float) -> MetricTarget:
    """The accuracy to reach, from that of the network as given.

    Raises:
        InputError: if the goal is none of accuracy.
    """
    one = goal.of if isinstance(goal, Yield) else goal
    if isinstance(one, MetricTarget):
        return one
    if not isinstance(one, MetricDrop):
        allowed = "a MetricDrop, a MetricTarget, or a Yield of one"
        refuse("the goal of a co-design", f"{goal!r:.80}", allowed)
    check_in_range("amount", one.amount, 0.0, 1.0, open_low=True)
    drop = one.amount * (given if one.relative else 1.0)
    return MetricTarget(max(given - drop - 1e-12, 1e-12))  # ties count


@contextmanager
def _restored_after_exceptions(model: nn.Module) -> Iterator[None]:
    """Restore weights and buffers after an exception, training modes in any case."""
    before = copy.deepcopy(model.state_dict())
    try:
        with restored_modes(model):
            yield
    except BaseException:
        model.load_state_dict(before)
        raise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """One call of `co_design`."""

    placement: Placement
    data: Dataset
    judge: Split
    granularity: Granularity
    spec: TrainingSpec
    seed: int
    report: Report
    goal: Goal
    options: dict[str, Any]

    def rounds(self, count: int, step: float, chips: int) -> list[Round]:
        """The rounds; the model is left with the best weights."""
        model = self.placement.model
        seed = self.seed + _SEED_STEP
        best = self.allocate("round 0", goal=self.goal, chips=chips, seed=seed)
        found = [Round(training=None, training_energy=None, allocation=best, kept=True)]
        weights = copy.deepcopy(model.state_dict())
        for number in range(1, count + 1):
            energy, training = self._trained(number, step * best.energy.normalised)
            seed = self.seed + (number + 1) * _SEED_STEP
            allocation = self.allocate(f"round {number}", goal=self.goal, chips=chips, seed=seed)
            kept = _better(allocation, best)
            found.append(
                Round(training=training, training_energy=energy, allocation=allocation, kept=kept)
            )
            if kept:
                best, weights = allocation, copy.deepcopy(model.state_dict())
            else:
                model.load_state_dict(weights)
                step = (1 + step) / 2
        return found

    def _trained(self, number: int, budget: float) -> tuple[float, TrainingRecord]:
        """Train with the plan of least error within an energy: that energy, and the record."""
        name = f"round {number}"
        harder = self.allocate(name, goal=EnergyBudget(budget), chips=0, seed=self.seed)
        spec = self.spec.model_copy(update={"seed": self.spec.seed + number})
        training = train(
            self.placement.model,
            self.data,
            spec,
            lambda epoch: self.report(f"{name}, training", epoch.epoch, spec.epochs),
            memory=TrainingMemory(
                self.placement, at=harder.plan, seed=self.seed + number * _SEED_STEP
            ),
        )
        return harder.energy.normalised, training

    def allocate(self, name: str, **options: Any) -> Allocation:
        """Allocate the network as it is now; progress is reported under a name."""
        return allocate(
            self.placement,
            self.judge,
            granularity=self.granularity,
            progress=lambda step, done, expected: self.report(f"{name}, {step}", done, expected),
            **self.options,
            **options,
        )


def _better(found: Allocation, best: Allocation) -> bool:
    """True if it holds at less energy, or holds where the best so far does not.

    Energies at the goal are compared where both are known: the margin beyond it is chance.
    """
    if not found.holds:
        return False
    if not best.holds:
        return True
    if found.at_goal is None or best.at_goal is None:
        return found.energy.normalised < best.energy.normalised
    return found.at_goal.energy < best.at_goal.energy
