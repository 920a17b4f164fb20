"""Allocating: the least energy that holds a goal, shown on chips that no plan was chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from joulewise.allocation.goals import ErrorGoal, Goal, MeanGoal, YieldGoal
from joulewise.allocation.guessing import error_for_drop
from joulewise.allocation.meeting import energy_at_goal, line_through
from joulewise.allocation.planning import Planner
from joulewise.allocation.result import Allocation, Attempt, EnergyAtGoal, Trial
from joulewise.allocation.sampling import check_counts, some_of
from joulewise.allocation.searching import Search
from joulewise.allocation.surveying import Progress, Surveyor
from joulewise.allocation.variables import Granularity
from joulewise.data import Split
from joulewise.devices import plain_point
from joulewise.errors import InputError, check_in_range, refuse
from joulewise.placement import Placement, energy, guarded, loaded, outputs_of, prepare
from joulewise.simulation import EnergyRecord, Simulation, simulate

__all__ = ["allocate"]

# Chips to choose by: far from the seeds that people simulate with.
_SEED_OF_TRIALS = 1 << 44
_ATTEMPTS, _STEP_BACK = 6, 0.8
_PASSES, _PARTS = 3, (1.0, 0.5, 0.25)
# From one attempt to the next: the longest way, in logarithms of the error; standard deviations
# beyond what would just hold; and the energy that another attempt has to save.
_LONGEST, _SPARE, _WORTH_IT = math.log(3.0), 1.2, 0.02
_EACH_TENSOR = Granularity()
_GOALS = ("max_accuracy_drop", "min_accuracy", "max_mse", "max_energy")


@guarded
def allocate(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    granularity: Granularity = _EACH_TENSOR,
    chips: int = 200,
    confidence: float = 0.95,
    samples: int = 512,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    **goal: float,
) -> Allocation:
    """Choose an operating point for each placed tensor: the least energy that holds a goal.

    Plans of least energy for each predicted output error are found without simulation. Of these,
    the cheapest that holds the goal is looked for by simulating a tenth of ``chips``. It is then
    simulated on fresh chips; where these do not show that it holds, a more reliable one is, where
    they leave much over, a cheaper one, on chips that are fresh again. The ``confidence`` is
    one-sided and that of all attempts together: the first is held to half of the chance of error,
    the next to a quarter, and so on.

    The goal is one of these; with ``max_energy`` the predicted output error is least, else energy:

    - ``max_accuracy_drop``: the mean accuracy over chips is at most this much below that of a
      perfect memory of the same words; above 0 to 1.
    - ``min_accuracy``: the mean accuracy is at least this; above 0 to 1.
    - ``max_mse``: the output error, mean over chips, is at most this; above 0.
    - ``max_energy``: the energy of placed memory is at most this share of the most reliable plan's.

    With ``min_yield`` beside one of the first two, above 0 and below 1, this share of the chips is
    held to that accuracy, not their mean.

    Args:
        placement: What is stored where; traced, so give `place` a batch as ``inputs``.
        data: A split, or an iterable of ``(inputs, targets)`` batches, read once and kept. Some
            ``samples`` of a split, chosen by chance, or the first batches of others, are predicted
            with; all are simulated.
        granularity: What has an operating point of its own.
        chips: Fresh chips in each attempt, 20 or more for a mean; 0 for none, with ``max_mse`` or
            ``max_energy`` alone.
        confidence: See above; above 0.5, below 1.
        samples: See ``data``; 1 or more.
        seed: The first fresh chip, and of the samples and probes.
        batch_size: As for `joulewise.simulation.simulate`.
        progress: Called with a word for what is done, how much of it, and how much there is.
        **goal: One of the goals above, and perhaps ``min_yield``.

    Returns:
        The plan, its energy, and the evidence. ``holds`` is False where the goal is out of reach:
        the plan is then the best that there is.

    Raises:
        InputError: if no goal or several are given, a field is outside its range, or a knob is not
            there to be set.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> placement = place(model, weights=SRAM(bits=8), inputs=digits.train.inputs[:1])
        >>> found = allocate(placement, digits.test, max_mse=1e-3, chips=20)
        >>> found.holds, found.simulation.chips, found.attempts[-1].bound < 1e-3
        (True, 20, True)

    References:
        S. Henwood et al., "Layerwise noise maximisation to train low-energy deep neural networks",
        AICAS 2020, arXiv 1912.10764 (an operating point for each layer). The method is ours.
    """
    check_counts(chips=(chips, 0), samples=(samples, 1), seed=(seed, 0))
    check_in_range("confidence", confidence, 0.5, 1.0 - 1e-9, open_low=True)
    asked = _Asked.of(goal)
    if not chips and asked.max_mse is None and asked.max_energy is None:
        refuse("chips", 0, "2 or more: accuracy is not held without simulation")
    if chips and asked.max_energy is None:
        asked.check(chips, confidence)
    data = data if isinstance(data, Split) else list(data)
    surveyor = Surveyor(
        placement=placement,
        few=some_of(data, samples, seed),
        granularity=granularity,
        seed=seed,
        batch_size=batch_size,
        progress=progress or (lambda what, done, expected: None),
    )
    run = _Run(surveyor=surveyor, data=data, asked=asked, chips=chips, confidence=confidence)
    return run.within_energy() if asked.max_energy is not None else run.within_goal()


def _confidence_of(number: int, confidence: float) -> float:
    """Of one attempt, from 0: the first takes half of the chance of error, the next a quarter."""
    return float(1 - (1 - confidence) / 2 ** (number + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The goal as it was given; what depends on the network is not known yet."""

    max_accuracy_drop: float | None = None
    min_accuracy: float | None = None
    max_mse: float | None = None
    max_energy: float | None = None
    min_yield: float | None = None

    @classmethod
    def of(cls, goal: Mapping[str, float]) -> _Asked:
        """The goal, refused unless there is one.

        Raises:
            InputError: naming what is missing, unknown or out of range.
        """
        for name, value in goal.items():
            if name not in (*_GOALS, "min_yield"):
                refuse("the goal", name, f"one of {', '.join(_GOALS)}; and min_yield")
            check_in_range(name, value, 0.0, 1e30 if name == "max_mse" else 1.0, open_low=True)
        named = [name for name in _GOALS if name in goal]
        if len(named) != 1:
            refuse("the goal", " and ".join(named) or "missing", f"one of {', '.join(_GOALS)}")
        if "min_yield" in goal:
            if named[0] in ("max_mse", "max_energy"):
                refuse("min_yield", f"given with {named[0]}", "with an accuracy or a drop of it")
            check_in_range("min_yield", goal["min_yield"], 0.0, 1.0 - 1e-9, open_low=True)
        return cls(**goal)

    def check(self, chips: int, confidence: float) -> None:
        """Refuse chips that can never show the goal to hold, before anything runs."""
        goal: Goal = MeanGoal(accuracy=0.0)
        if self.max_mse is not None:
            goal = ErrorGoal(mse=self.max_mse)
        if self.min_yield is not None:
            goal = YieldGoal(accuracy=0.0, share=self.min_yield)
        goal.check(chips, _confidence_of(0, confidence))

    def goal(self, ideal_accuracy: float | None) -> Goal:
        """The goal of a network whose accuracy on a perfect memory is known.

        Raises:
            InputError: if accuracy is wanted, and not known.
        """
        if self.max_mse is not None:
            return ErrorGoal(mse=self.max_mse)
        if ideal_accuracy is None:
            raise InputError("a goal of accuracy needs targets; allowed: max_mse or max_energy")
        accuracy = self.min_accuracy
        if accuracy is None:
            assert self.max_accuracy_drop is not None
            # Accuracies are whole numbers over images: a tie is within the drop.
            accuracy = max(ideal_accuracy - self.max_accuracy_drop - 1e-12, 0.0)
        if self.min_yield is not None:
            return YieldGoal(accuracy=accuracy, share=self.min_yield)
        return MeanGoal(accuracy=accuracy)


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One call of `allocate`."""

    surveyor: Surveyor
    data: Split | list[Any]
    asked: _Asked
    chips: int
    confidence: float
    attempts: list[Attempt] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def within_energy(self) -> Allocation:
        """The least predicted error within an energy."""
        budget = self.asked.max_energy
        assert budget is not None
        planner, shares = self._best_within(budget)
        spent = self._spent(shares)
        if spent > budget:  # what a table of energies was off by
            shares = planner.best(budget * 0.999 * budget / spent, shares)
            spent = self._spent(shares)
        seed = self.surveyor.seed
        simulation = self._simulated(shares, self.chips, seed) if self.chips else None
        return self._allocation(
            planner,
            shares,
            goal={"goal": "EnergyGoal", "energy": budget},
            simulation=simulation,
            holds=spent <= budget * (1 + 1e-9),
        )

    def _best_within(self, budget: float) -> tuple[Planner, Tensor]:
        """The least error within an energy, and a planner around about there.

        Gradients of one plan can be wrong about another, far off: a plan is taken only if the error
        model around it agrees that it is better, else one that is less far away.
        """
        shares = self.surveyor.common_within(budget)
        planner = self.surveyor.around(shares)
        for _ in range(_PASSES):
            wanted = planner.best(budget)
            restricted = self.surveyor.granularity.rails or self.surveyor.granularity.levels
            for part in _PARTS[: 1 if restricted else None]:
                tried = torch.lerp(shares, wanted, part)  # of 1.0: to the last bit
                around = self.surveyor.around(tried)
                if around.mse(tried) < planner.mse(shares):
                    planner, shares = around, tried
                    break
            else:
                break
        return planner, shares

    def _spent(self, shares: Tensor) -> float:
        return energy(
            self.surveyor.placement, self.surveyor.variables.exact_plan(shares)
        ).normalised

    def within_goal(self) -> Allocation:
        """The least energy that holds a goal."""
        if not self.chips:
            return self._unsimulated()
        few = max(10, self.chips // 10)
        ideal = self._simulated(self.surveyor.reliable, few, _SEED_OF_TRIALS)
        goal = self.asked.goal(ideal.ideal_accuracy)
        limit = self._first_limit(goal, ideal)
        planner = self.surveyor.near(limit)
        found = self._search(planner, goal, few).run(limit)
        if found is None:
            return self._verified(planner, goal, planner.mse(planner.reliable))
        # Gradients where the answer will be, if the few chips agree that they are better.
        there = self.surveyor.around(found.shares)
        shares = there.cheapest(there.mse(found.shares), found.shares)
        cheaper = self._spent(shares) < self._spent(found.shares)
        if cheaper and self._slack(there, goal, few, shares) >= 0:
            return self._verified(there, goal, there.mse(shares), shares)
        return self._verified(planner, goal, found.limit, found.shares)

    def _unsimulated(self) -> Allocation:
        assert self.asked.max_mse is not None
        planner = self.surveyor.near(self.asked.max_mse)
        planner = self.surveyor.around(planner.cheapest(self.asked.max_mse))
        shares = planner.cheapest(self.asked.max_mse)
        out_of_reach = planner.mse(shares) > self.asked.max_mse
        return self._allocation(
            planner,
            shares,
            goal=ErrorGoal(mse=self.asked.max_mse).describe(),
            simulation=None,
            holds=False if out_of_reach else None,
        )

    def _verified(
        self, planner: Planner, goal: Goal, limit: float, start: Tensor | None = None
    ) -> Allocation:
        """The cheapest plan that fresh chips show to hold, each near where the others point."""
        tried: list[tuple[Planner, Tensor, Simulation]] = []
        following: float | None = limit
        while following is not None:
            limit, number = following, len(tried)
            if (
                start is not None
                and tried
                and limit <= planner.mse(planner.reliable)
                and number + 1 < _ATTEMPTS
            ):
                planner, limit = self._halfway(planner, start)
            shares = planner.cheapest(limit, start)
            seed = self.surveyor.seed + number * self.chips
            simulation = self._simulated(shares, self.chips, seed)
            confidence = _confidence_of(number, self.confidence)
            self.attempts.append(_attempt(planner, goal, shares, simulation, confidence))
            tried.append((planner, shares, simulation))
            start, following = shares, self._next_limit(limit, goal, *tried[-1])
        held = [k for k, attempt in enumerate(self.attempts) if attempt.holds]
        chosen = min(held, key=lambda k: self.attempts[k].energy, default=len(tried) - 1)
        planner, shares, simulation = tried[chosen]
        return self._allocation(
            planner,
            shares,
            goal=goal.describe(),
            simulation=simulation,
            holds=bool(held),
            chosen=chosen,
            at_goal=energy_at_goal(self.trials, self.attempts, self.attempts[chosen]),
        )

    def _halfway(self, planner: Planner, shares: Tensor) -> tuple[Planner, float]:
        """A planner, and a limit, half way to the most reliable plan.

        Far from where gradients are from, the shift of the mean may be predicted never to vanish.
        """
        if self.surveyor.granularity.rails or self.surveyor.granularity.levels:
            return planner, planner.mse(planner.reliable)
        between = (shares + planner.reliable) / 2
        planner = self.surveyor.around(between)
        return planner, planner.mse(between)

    def _next_limit(
        self, limit: float, goal: Goal, planner: Planner, shares: Tensor, simulation: Simulation
    ) -> float | None:
        """Where the next attempt should be; None where it would gain nothing."""
        number, last = len(self.attempts), self.attempts[-1]
        held = any(attempt.holds for attempt in self.attempts)
        if number == _ATTEMPTS or held > last.holds or bool((shares == planner.reliable).all()):
            return None
        if not held and number + 1 == _ATTEMPTS:  # the last attempt is the best that there is
            return planner.mse(planner.reliable)
        line = line_through(self.trials, self.attempts)
        if line is None:
            return None if held else limit * _STEP_BACK
        confidence = _confidence_of(number, self.confidence)
        spared = float(stats.norm.cdf(stats.norm.ppf(confidence) + _SPARE))
        needed = last.margin - goal.slack(simulation, self.chips, spared)
        move = (line.level - needed) / -line.slope
        if held:
            saved = min(move, _LONGEST) * -line.energy_slope
            worth_it = saved > _WORTH_IT * last.energy and limit < planner.mse(planner.lowest)
            return limit * math.exp(min(move, _LONGEST)) if worth_it else None
        return limit * math.exp(min(max(move, -_LONGEST), math.log(_STEP_BACK) / 4))

    def _search(self, planner: Planner, goal: Goal, few: int) -> Search:
        return Search(
            planned=planner.cheapest,
            slack=lambda shares: self._slack(planner, goal, few, shares),
            lowest=planner.mse(planner.reliable),
            highest=planner.mse(planner.lowest),
        )

    def _slack(self, planner: Planner, goal: Goal, few: int, shares: Tensor) -> float:
        """How much better than needed a plan is on the few chips."""
        simulation = self._simulated(shares, few, _SEED_OF_TRIALS)
        self.trials.append(
            Trial(
                energy=simulation.energy.normalised,
                predicted_mse=planner.mse(shares),
                margin=goal.margin(simulation)[0],
                chips=few,
            )
        )
        return goal.slack(simulation, self.chips, _confidence_of(0, self.confidence))

    def _first_limit(self, goal: Goal, ideal: Simulation) -> float:
        """A guess of the predicted error that the goal allows."""
        if isinstance(goal, ErrorGoal):
            return goal.mse
        assert isinstance(goal, (MeanGoal, YieldGoal)) and ideal.ideal_accuracy is not None
        drop = max(ideal.ideal_accuracy - goal.accuracy, 1e-4)
        placement = self.surveyor.placement
        batches = prepare(self.surveyor.few, placement.model, self.surveyor.batch_size)
        with loaded(placement) as memory:
            memory.original()
            return error_for_drop(outputs_of(memory, batches), batches, drop)

    def _simulated(self, shares: Tensor, chips: int, seed: int) -> Simulation:
        what = "choosing" if seed >= _SEED_OF_TRIALS else "verifying"
        return simulate(
            self.surveyor.placement,
            self.data,
            plan=self.surveyor.variables.exact_plan(shares),
            chips=chips,
            seed=seed,
            batch_size=self.surveyor.batch_size,
            progress=lambda done: self.surveyor.progress(what, done, chips),
        )

    def _allocation(
        self,
        planner: Planner,
        shares: Tensor | None,
        *,
        goal: dict[str, Any],
        simulation: Simulation | None,
        holds: bool | None,
        chosen: int | None = None,
        at_goal: EnergyAtGoal | None = None,
    ) -> Allocation:
        assert shares is not None
        plan = self.surveyor.variables.exact_plan(shares)
        with torch.no_grad():
            shift, variance = planner.errors.parts(self.surveyor.variables.plan(shares))
        return Allocation(
            granularity=self.surveyor.granularity,
            goal=goal,
            plan={name: plain_point(point) for name, point in plan.items()},
            energy=EnergyRecord.of(energy(self.surveyor.placement, plan)),
            predicted_shift=float(shift),
            predicted_variance={name: float(part) for name, part in variance.items()},
            simulation=simulation,
            attempts=tuple(self.attempts),
            chosen=chosen,
            trials=tuple(self.trials),
            at_goal=at_goal,
            holds=holds,
            confidence=self.confidence,
            evaluations=self.surveyor.passes,
        )


def _attempt(
    planner: Planner,
    goal: Goal,
    shares: Tensor,
    simulation: Simulation,
    confidence: float,
) -> Attempt:
    margin, interval = goal.margin(simulation)
    return Attempt(
        energy=simulation.energy.normalised,
        predicted_mse=planner.mse(shares),
        seed=simulation.seed,
        chips=simulation.chips,
        confidence=confidence,
        bound=goal.bound(simulation, confidence),
        holds=goal.holds(simulation, confidence),
        margin=margin,
        half_width=interval.half_width,
        mean_accuracy=simulation.mean_accuracy if simulation.accuracy else None,
        mean_mse=simulation.mean_mse,
    )
