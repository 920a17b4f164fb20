"""Co-design: alternate allocation of a network and training with the faults of its plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from joulewise.allocation import Allocation, Granularity, allocate
from joulewise.allocation.problem import Progress, check_counts
from joulewise.data import Dataset, Split
from joulewise.errors import check_in_range, refuse
from joulewise.placement import Placement, same_modes
from joulewise.training import TrainingMemory, TrainingRecord, TrainingSpec, accuracy, train

__all__ = ["CoDesign", "Round", "co_design"]

_GOALS = ("max_accuracy_drop", "min_accuracy")
_EACH_TENSOR = Granularity()
_FINE_TUNING = TrainingSpec(epochs=2, lr=0.02)
# Rounds use a fraction of the chips of the result, whose chips no round has seen: seeds of rounds
# are 2^32 apart.
_FRACTION_OF_CHIPS, _FEWEST_CHIPS = 5, 20
_SEED_STEP = 1 << 32


class Round(BaseModel):
    """One round: training with the faults of a cheaper plan, then another allocation.

    Args:
        training: The training; None in the first round, the network as given.
        training_energy: Energy of the plan of the training memory, over the most reliable one's.
        allocation: The plan for the goal, of the trained network.
        kept: True if this network is the best so far; the next round continues from the best.
    """

    model_config = ConfigDict(frozen=True)

    training: TrainingRecord | None
    training_energy: float | None
    allocation: Allocation
    kept: bool


class CoDesign(BaseModel):
    """A trained network's plan, and the rounds that led to it.

    Args:
        given_accuracy: Accuracy of the network as given, in floating point.
        min_accuracy: The accuracy that the plan has to reach.
        rounds: The rounds, in order.
        allocation: The plan of the best network, verified on chips that no round used.
    """

    model_config = ConfigDict(frozen=True)

    given_accuracy: float
    min_accuracy: float
    rounds: tuple[Round, ...]
    allocation: Allocation


def co_design(
    placement: Placement,
    data: Dataset,
    *,
    judge: Split | None = None,
    granularity: Granularity = _EACH_TENSOR,
    spec: TrainingSpec = _FINE_TUNING,
    rounds: int = 3,
    step: float = 0.8,
    chips: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
    **options: float,
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
        judge: The split that accuracy is simulated on; None for the test split of ``data``. Plans
            are chosen by it: for an unbiased accuracy on the test split, give a validation split.
        granularity: See `allocate`.
        spec: Training of each round; its seed counts up from round to round.
        rounds: Number of rounds, 1 or more.
        step: Above 0, below 1.
        chips: See `allocate`, 20 or more; rounds use a fifth of them.
        seed: See `allocate`; also of training.
        progress: See `allocate`.
        **options: ``max_accuracy_drop``, from the accuracy as given, or ``min_accuracy``; others as
            for `allocate`.

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
        >>> placement = place(model, weights=SRAM(bits=8), inputs=digits.train.inputs[:1])
        >>> found = co_design(placement, digits, rounds=1, chips=20, max_accuracy_drop=0.02)
        >>> found.allocation.energy.normalised <= found.rounds[0].allocation.energy.normalised
        True

    References:
        S. Henwood et al., arXiv 1912.10764, train operating points and weights together, by
        gradients of both (see `NoiseMaximisation`). The alternation is ours.
    """
    check_counts(rounds=(rounds, 1), chips=(chips, _FEWEST_CHIPS), seed=(seed, 0))
    check_in_range("step", step, 0.0, 1.0 - 1e-9, open_low=True)
    named = [name for name in _GOALS if name in options]
    others = [name for name in ("max_mse", "max_energy") if name in options]
    if len(named) != 1 or others:
        given = " and ".join([*named, *others]) or "missing"
        refuse("the goal of a co-design", given, f"one of {', '.join(_GOALS)}")
    judge = judge or data.test
    given_accuracy = accuracy(placement.model, judge)
    if "max_accuracy_drop" in options:
        drop = options.pop("max_accuracy_drop")
        check_in_range("max_accuracy_drop", drop, 0.0, 1.0, open_low=True)
        options["min_accuracy"] = max(given_accuracy - drop - 1e-12, 1e-12)  # ties count
    run = _Run(
        placement=placement,
        data=data,
        judge=judge,
        granularity=granularity,
        spec=spec,
        seed=seed,
        report=progress or (lambda step, done, expected: None),
        options=options,
    )
    with _restored_after_exceptions(placement.model):
        few = max(_FEWEST_CHIPS, chips // _FRACTION_OF_CHIPS)
        tried = run.rounds(rounds, step, few)
        allocation = run.allocate("confirming", chips=chips, seed=seed, **options)
    return CoDesign(
        given_accuracy=given_accuracy,
        min_accuracy=options["min_accuracy"],
        rounds=tuple(tried),
        allocation=allocation,
    )


@contextmanager
def _restored_after_exceptions(model: nn.Module) -> Iterator[None]:
    """Restore weights and buffers after an exception, training modes in any case."""
    before = copy.deepcopy(model.state_dict())
    try:
        with same_modes(model):
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
    report: Progress
    options: dict[str, Any]

    def rounds(self, count: int, step: float, chips: int) -> list[Round]:
        """The rounds; the model is left with the best weights."""
        model = self.placement.model
        seed = self.seed + _SEED_STEP
        best = self.allocate("round 0", chips=chips, seed=seed, **self.options)
        found = [Round(training=None, training_energy=None, allocation=best, kept=True)]
        weights = copy.deepcopy(model.state_dict())
        for number in range(1, count + 1):
            energy, training = self._trained(number, step * best.energy.normalised)
            seed = self.seed + (number + 1) * _SEED_STEP
            allocation = self.allocate(f"round {number}", chips=chips, seed=seed, **self.options)
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
        few = {k: self.options[k] for k in ("samples", "batch_size") if k in self.options}
        harder = self.allocate(name, chips=0, seed=self.seed, max_energy=budget, **few)
        spec = self.spec.model_copy(update={"seed": self.spec.seed + number})
        training = train(
            self.placement.model,
            self.data,
            spec,
            lambda epoch: self.report(f"{name}, training", epoch.epoch, spec.epochs),
            memory=TrainingMemory(
                self.placement, plan=harder.points, seed=self.seed + number * _SEED_STEP
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
