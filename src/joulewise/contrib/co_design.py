"""Co-design: allocation and training in turns, each through what the other left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from joulewise.allocation._allocate import allocate
from joulewise.allocation.granularity import Granularity
from joulewise.allocation.problem import Progress
from joulewise.allocation.result import Allocation
from joulewise.allocation.sampling import check_counts
from joulewise.data import Dataset, Split
from joulewise.errors import check_in_range, refuse
from joulewise.placement import Placement, same_modes
from joulewise.training import TrainingMemory, TrainingRecord, TrainingSpec, accuracy, train

__all__ = ["CoDesign", "Round", "co_design"]

_GOALS = ("max_accuracy_drop", "min_accuracy")
_EACH_TENSOR = Granularity()
_FINE_TUNING = TrainingSpec(epochs=2, lr=0.02)
# Rounds are judged by fewer chips than the result, all of them chips that it never sees.
_SHARE_OF_CHIPS, _FEWEST_CHIPS = 5, 20
_APART = 1 << 32


class Round(BaseModel):
    """One turn: some epochs through a plan of less energy, then another allocation.

    Args:
        training: What was trained; None in the first, which is the network as it was given.
        training_energy: Of the plan that was trained through, over a reliable memory's.
        allocation: For the goal, of the network after it.
        kept: Whether this network was the best so far; the next round goes on from the best.
    """

    model_config = ConfigDict(frozen=True)

    training: TrainingRecord | None
    training_energy: float | None
    allocation: Allocation
    kept: bool


class CoDesign(BaseModel):
    """A network and a plan that were made for each other.

    Args:
        given_accuracy: Of the network as it was given, without any memory.
        min_accuracy: What the plan has to hold.
        rounds: What was tried, in order.
        allocation: Of the best network, shown on chips that no round has seen.
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
    """Fit a network and its plan to each other: the least energy that holds an accuracy.

    Each round plans for ``step`` times the least energy so far, trains a little through that plan,
    so that the network learns to do without what it is given least of, and allocates again. What
    simulation shows to be better is kept; after a round that was not, the network is put back, and
    the next step is half as far.

    The accuracy to hold is that of the network *as given*, without any memory, less a drop: a
    network that lost accuracy in training gets nothing for it.

    Args:
        placement: What is stored where; traced. Its model is trained, and left with the best
            weights; after an exception with those that it had.
        data: To train on; its training split.
        judge: What accuracy is held on; None for the test split of ``data``. Plans are chosen by
            it: give a split that was held out to keep the test split for a last word.
        granularity: As for `allocate`.
        spec: How each round trains; its seed counts up from round to round.
        rounds: How many, 1 or more.
        step: Above 0, below 1.
        chips: As for `allocate`, 20 or more; rounds are judged by a fifth of them.
        seed: As for `allocate`; of training, too.
        progress: As for `allocate`.
        **options: ``max_accuracy_drop``, from the accuracy as given, or ``min_accuracy``; others as
            for `allocate`.

    Returns:
        What was tried, and what was found.

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
        S. Henwood et al., arXiv 1912.10764, train points and weights together, by gradients of
        both (see `NoiseMaximisation`). To alternate, and to keep by simulation, is ours.
    """
    check_counts(rounds=(rounds, 1), chips=(chips, _FEWEST_CHIPS), seed=(seed, 0))
    check_in_range("step", step, 0.0, 1.0 - 1e-9, open_low=True)
    named = [name for name in _GOALS if name in options]
    others = [name for name in ("max_mse", "max_energy") if name in options]
    if len(named) != 1 or others:
        given = " and ".join([*named, *others]) or "missing"
        refuse("the goal of a co-design", given, f"one of {', '.join(_GOALS)}")
    judge = judge or data.test
    tell = progress or (lambda what, done, expected: None)
    given_accuracy = accuracy(placement.model, judge)
    if "max_accuracy_drop" in options:
        drop = options.pop("max_accuracy_drop")
        check_in_range("max_accuracy_drop", drop, 0.0, 1.0, open_low=True)
        options["min_accuracy"] = max(given_accuracy - drop - 1e-12, 1e-12)
    run = _Turns(
        placement=placement,
        data=data,
        judge=judge,
        granularity=granularity,
        spec=spec,
        seed=seed,
        tell=tell,
        options=options,
    )
    with _kept_unless_done(placement.model):
        few = max(_FEWEST_CHIPS, chips // _SHARE_OF_CHIPS)
        tried = run.rounds(rounds, step, few)
        allocation = run.allocated("confirming", chips, seed)
    return CoDesign(
        given_accuracy=given_accuracy,
        min_accuracy=options["min_accuracy"],
        rounds=tuple(tried),
        allocation=allocation,
    )


@contextmanager
def _kept_unless_done(model: nn.Module) -> Iterator[None]:
    """The model as it was, after an exception; and its modes, whatever happens."""
    before = copy.deepcopy(model.state_dict())
    try:
        with same_modes(model):
            yield
    except BaseException:
        model.load_state_dict(before)
        raise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Turns:
    """One call of `co_design`."""

    placement: Placement
    data: Dataset
    judge: Split
    granularity: Granularity
    spec: TrainingSpec
    seed: int
    tell: Progress
    options: dict[str, Any]

    def rounds(self, count: int, step: float, chips: int) -> list[Round]:
        """The turns; the model is left with the weights of the best."""
        model = self.placement.model
        best = self.allocated("round 0", chips, self.seed + _APART)
        found = [Round(training=None, training_energy=None, allocation=best, kept=True)]
        weights = copy.deepcopy(model.state_dict())
        for number in range(1, count + 1):
            energy, training = self._trained(number, step * best.energy.normalised)
            seed = self.seed + (number + 1) * _APART
            allocation = self.allocated(f"round {number}", chips, seed)
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
        """Some epochs through the best plan within an energy; that energy, and the record."""
        what = f"round {number}"
        few = {k: self.options[k] for k in ("samples", "batch_size") if k in self.options}
        harder = self._allocate(what, chips=0, seed=self.seed, max_energy=budget, **few)
        spec = self.spec.model_copy(update={"seed": self.spec.seed + number})
        training = train(
            self.placement.model,
            self.data,
            spec,
            lambda epoch: self.tell(f"{what}, training", epoch.epoch, spec.epochs),
            memory=TrainingMemory(
                self.placement, plan=harder.points, seed=self.seed + number * _APART
            ),
        )
        return harder.energy.normalised, training

    def allocated(self, what: str, chips: int, seed: int) -> Allocation:
        """The least energy that holds the goal, for the network as it is now."""
        return self._allocate(what, chips=chips, seed=seed, **self.options)

    def _allocate(self, what: str, **options: Any) -> Allocation:
        return allocate(
            self.placement,
            self.judge,
            granularity=self.granularity,
            progress=lambda doing, done, expected: self.tell(f"{what}, {doing}", done, expected),
            **options,
        )


def _better(found: Allocation, best: Allocation) -> bool:
    """Whether it holds at less energy, or holds where the best does not.

    Where both are known it is the energy at which the goal is just met that counts: how much is
    left over beyond it is chance.
    """
    if not found.holds:
        return False
    if not best.holds:
        return True
    if found.at_goal is None or best.at_goal is None:
        return found.energy.normalised < best.energy.normalised
    return found.at_goal.energy < best.at_goal.energy
