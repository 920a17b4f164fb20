"""Allocation: the plan of least energy for a goal, or of least error for an energy budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from joulewise.allocation.bracketing import Candidate, bracket
from joulewise.allocation.energy_model import common_levels
from joulewise.allocation.goals import (
    Condition,
    EnergyBudget,
    Goal,
    OutputError,
    check_chips,
    check_goal,
    needs_metric,
)
from joulewise.allocation.granularity import Granularity
from joulewise.allocation.held_out import (
    MOST_ATTEMPTS,
    Verification,
    attempt_confidence,
    energy_at_goal,
)
from joulewise.allocation.initial_guess import first_error
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.allocation.problem import AllocationProblem
from joulewise.allocation.result import Allocation, TuningTrial
from joulewise.data import Split
from joulewise.errors import check_count, check_in_range, refuse
from joulewise.placement import Placement, Plan, energy, guarded
from joulewise.progress import Progress, reporting

__all__ = ["allocate"]

# Seed of the first tuning chip, far from commonly used seeds.
_TUNING_SEED = 1 << 44
# Fraction of the chips that tuning simulates for each candidate, and the fewest.
_TUNING_FRACTION, _FEWEST_TUNING = 10, 10
# Most linearisations under an energy budget, and the step fractions of their backtracking line
# search: gradients can be wrong far from the plan of their linearisation.
_LINEARISATIONS, _FRACTIONS = 3, (1.0, 0.5, 0.25)
# Most searches for the limit, each with a new linearisation, and the ratio of the energies at both
# ends of a bracket above which its linearisation does not resolve the plans between them.
_SEARCHES, _COARSE = 3, 1.25
# Before a plan is returned, a common point of this fraction of its energy is tried.
_CHEAPER = 0.99
_EACH_TENSOR = Granularity()


@guarded
def allocate(  # noqa: PLR0913  each is a choice of the caller, by keyword
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    goal: Goal,
    granularity: Granularity = _EACH_TENSOR,
    chips: int = 200,
    confidence: float = 0.95,
    samples: int = 512,
    seed: int = 0,
    metric: Any = None,
    batch_size: int | None = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> Allocation:
    """Choose an operating point for each placed tensor: the least energy at which a goal holds.

    An error model, linear in the noise, gives the plan of least energy for each predicted output
    error without simulation. The largest error at which the goal holds is bracketed by simulating a
    tenth of ``chips``, the tuning chips. The plan is then verified on held-out chips, which had
    no part in choosing it. If it fails, a more reliable plan is tried, if its margin is large, a
    cheaper one, each on new chips. A common point for all tensors is returned instead if a cheaper
    one is verified. The one-sided ``confidence`` is that of all attempts together: the first is
    given half of the error probability, the next a quarter, and so on.

    Args:
        placement: A traced placement: give `place` a batch as ``example_inputs``.
        data: See `joulewise.simulation.simulate`. Predictions use a random subset of a split, the
            first batches of others; simulations use all.
        goal: A `MetricDrop`, `MetricTarget` or `OutputError`, of the mean over chips, or a `Yield`
            of one of them; or an `EnergyBudget`, within which the predicted output error is least.
        granularity: The granularity of operating points, and restrictions on their values.
        chips: Held-out chips of each attempt, 20 or more for a mean; for a `Yield` as many as the
            last of six attempts needs, 140 for 95 % of the chips at 95 % confidence; 0 for no
            simulation, with an `OutputError` or `EnergyBudget` only.
        confidence: One-sided; above 0.5, below 1.
        samples: Number of samples for predictions, 1 or more.
        seed: Seed of the first held-out chip, of the samples and of the probes.
        metric: See `joulewise.simulation.simulate`.
        batch_size: See `joulewise.simulation.simulate`.
        progress: See `joulewise.simulation.simulate`.
        executor: Workers that the chips of simulations are spread over; see
            `joulewise.simulation.simulate`.

    Returns:
        The plan, its energy, and the evidence. If the goal is out of reach ``holds`` is False and
        the plan is the best one found.

    Raises:
        InputError: if an argument is of the wrong kind or out of range, or a memory has no
            adjustable knob.
        DataError: if targets do not fit the outputs or the metric, or a goal needs them.

    Example:
        >>> from joulewise.allocation import OutputError
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> placement = place(model, weights=SRAM(), example_inputs=digits.train.inputs[:1])
        >>> found = allocate(placement, digits.test, goal=OutputError(1e-3), chips=20)
        >>> found.holds, found.simulation.chips, found.attempts[-1].bound < 1e-3
        (True, 20, True)

    References:
        S. Henwood et al., "Layerwise noise maximisation to train low-energy deep neural networks",
        AICAS 2020, arXiv 1912.10764 (an operating point for each layer). The method is ours.
    """
    check_goal(goal)
    check_count("chips", chips, 0)
    check_in_range("confidence", confidence, 0.5, 1.0 - 1e-9, open_low=True)
    budget = isinstance(goal, EnergyBudget)
    if not chips and not budget and not isinstance(goal, OutputError):
        refuse("chips", 0, "2 or more: a metric is not held without simulation")
    if chips and not budget:
        check_chips(goal, chips, attempt_confidence(MOST_ATTEMPTS - 1, confidence))
    with reporting(progress) as report:
        problem = AllocationProblem(
            placement=placement,
            data=data,
            granularity=granularity,
            samples=samples,
            seed=seed,
            metric=metric,
            batch_size=batch_size,
            report=report,
            executor=executor,
        )
        if metric is None and not needs_metric(goal):
            problem.leave_out_targets_of_no_metric()
        run = _Run(problem=problem, goal=goal, chips=chips, confidence=confidence)
        if isinstance(goal, EnergyBudget):
            return run.minimise_error(goal.fraction)
        if not chips:
            assert isinstance(goal, OutputError)
            return run.predict_only(goal.mse)
        return run.minimise_energy()


class _Search(NamedTuple):
    """A bracket of the limit on the error with one linearisation.

    Args:
        energy: Normalised energy of the plan found; infinite if there is none.
        optimiser: Optimiser of the linearisation.
        found: The cheapest plan that holds on the tuning chips.
        trials: Plans that were simulated; their predicted errors are of this linearisation.
    """

    energy: float
    optimiser: PlanOptimiser
    found: Candidate | None
    trials: list[TuningTrial]


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One call of `allocate`."""

    problem: AllocationProblem
    goal: Goal
    chips: int
    confidence: float
    trials: list[TuningTrial] = field(default_factory=list)

    def minimise_error(self, budget: float) -> Allocation:
        """Allocation of least predicted error within an energy budget."""
        problem = self.problem
        problem.leave_out_points_beyond_the_least_error()
        optimiser, levels = self._best_within(budget)
        required = problem.energy(levels)
        if required > budget:  # by interpolation error of the energy model
            levels = optimiser.minimise_error(budget * 0.999 * budget / required, levels)
            required = problem.energy(levels)
        simulation = (
            problem.simulate(levels, self.chips, problem.seed, "verifying") if self.chips else None
        )
        holds = required <= budget * (1 + 1e-9)
        return self._allocation(optimiser, levels, simulation=simulation, holds=holds)

    def _best_within(self, budget: float) -> tuple[PlanOptimiser, Tensor]:
        """Optimiser linearised at the levels of least error within an energy budget, and these.

        Sequential linearisation with backtracking: a step is accepted only if the error model
        linearised at its end predicts an improvement too; otherwise it is shortened.
        """
        problem = self.problem
        levels = common_levels(problem.energy_model, problem.variables, budget)
        optimiser = problem.linearised_at(levels)
        # No backtracking: interpolated levels would leave the discrete operating points.
        restricted = optimiser.rails or optimiser.variables.listed
        for _ in range(_LINEARISATIONS):
            optimum = optimiser.minimise_error(budget)
            for fraction in _FRACTIONS[: 1 if restricted else None]:
                tried = torch.lerp(levels, optimum, fraction)  # 1.0 gives the optimum bit for bit
                there = problem.linearised_at(tried)
                if there.error(tried) < optimiser.error(levels):
                    optimiser, levels = there, tried
                    break
            else:
                break
        return optimiser, levels

    def predict_only(self, max_error: float) -> Allocation:
        """Allocation of least energy within a predicted error, without simulation."""
        self.problem.leave_out_points_beyond_the_least_error()
        optimiser = self.problem.linearised_near(max_error)
        optimiser = self.problem.linearised_at(optimiser.minimise_energy(max_error))
        levels = optimiser.minimise_energy(max_error)
        holds = False if optimiser.error(levels) > max_error else None
        return self._allocation(optimiser, levels, simulation=None, limit=max_error, holds=holds)

    def minimise_energy(self) -> Allocation:
        """Allocation of least energy for a goal: chosen on tuning chips, verified on others."""
        problem, chips = self.problem, self._tuning_chips
        ideal = problem.simulate(problem.variables.most_reliable, chips, _TUNING_SEED, "choosing")
        condition = Condition.of(self.goal, ideal.metric, ideal.ideal)
        problem.choose_figure(condition, ideal)
        problem.leave_out_points_beyond_the_least_error()
        _, optimiser, found, trials = self._search(
            first_error(problem, condition, ideal), condition
        )
        max_error, start = optimiser.error(optimiser.variables.most_reliable), None
        if found is not None:
            max_error, start = found.max_error, found.levels
            # Relinearise at the plan found; take its optimum if cheaper and feasible on the chips.
            there = problem.linearised_at(start)
            levels = there.minimise_energy(there.error(start), start)
            cheaper = problem.energy(levels) < problem.energy(start)
            if cheaper:
                holds = self._slack(there, condition, levels) >= 0
                trials.append(self.trials[-1])
                if holds:
                    optimiser, max_error, start = there, there.error(levels), levels
        verification = Verification(
            problem=problem,
            condition=condition,
            chips=self.chips,
            confidence=self.confidence,
            trials=trials,
        )
        chosen, optimiser, levels, simulation = verification.run(optimiser, max_error, start)
        attempts = verification.attempts
        allocation = self._allocation(
            optimiser,
            levels,
            simulation=simulation,
            limit=condition.limit,
            holds=attempts[chosen].holds,
            attempts=tuple(attempts),
            chosen=chosen,
            at_goal=energy_at_goal(trials, attempts, attempts[chosen]),
        )
        if problem.granularity.per == "network" and not problem.granularity.bit_planes:
            return allocation
        return self._common_if_cheaper(allocation, condition)

    def _search(self, first: float, condition: Condition) -> _Search:
        """Search for the cheapest plan that holds on the tuning chips.

        A linearisation at a noisy plan can keep an error that reliable plans do not have: no limit
        then gives the plans between both ends of the bracket, and a new one is made near them.
        """
        problem = self.problem
        searches: list[_Search] = []
        for _ in range(_SEARCHES):
            optimiser, before = problem.linearised_near(first), len(self.trials)
            feasible, infeasible = bracket(
                first,
                lowest=optimiser.error(optimiser.variables.most_reliable),
                highest=optimiser.error(optimiser.variables.least_reliable),
                optimise=optimiser.minimise_energy,
                slack=partial(self._slack, optimiser, condition),
            )
            required = problem.energy(feasible.levels) if feasible else math.inf
            searches.append(_Search(required, optimiser, feasible, self.trials[before:]))
            if feasible is None or infeasible is None:
                break
            if required < _COARSE * problem.energy(infeasible.levels):
                break
            first = math.sqrt(feasible.max_error * infeasible.max_error)
        return min(searches, key=lambda search: search.energy)

    def _common_if_cheaper(self, allocation: Allocation, condition: Condition) -> Allocation:
        """The allocation, or that of one common point if a cheaper one is verified.

        Plans of many points exploit errors of the error model, so a common point can be better.
        """
        granularity = replace(self.problem.granularity, per="network", bit_planes=False, rails=None)
        problem = replace(self.problem, granularity=granularity)
        problem.of = self.problem.of
        model, variables = problem.energy_model, problem.variables
        levels = common_levels(model, variables, allocation.energy.normalised * _CHEAPER)
        if not allocation.holds:
            levels = variables.most_reliable
        simulation = problem.simulate(levels, self._tuning_chips, _TUNING_SEED, "choosing")
        if condition.slack(simulation, self.chips, attempt_confidence(0, self.confidence)) < 0:
            return allocation
        # Spend only the error probability that the attempts so far have left.
        left = 1 - (1 - self.confidence) / 2 ** len(allocation.attempts)
        common = _Run(problem=problem, goal=self.goal, chips=self.chips, confidence=left)
        other = common.minimise_energy()
        cheaper = other.energy.memory_total_j < allocation.energy.memory_total_j
        if not other.holds or (allocation.holds and not cheaper):
            return allocation
        return replace(
            other, common=True, granularity=self.problem.granularity, confidence=self.confidence
        )

    def _slack(self, optimiser: PlanOptimiser, condition: Condition, levels: Tensor) -> float:
        """Slack of levels on the tuning chips; also records a trial."""
        chips = self._tuning_chips
        simulation = self.problem.simulate(levels, chips, _TUNING_SEED, "choosing")
        self.trials.append(
            TuningTrial(
                energy=simulation.energy.normalised,
                predicted_error=optimiser.error(levels),
                margin=condition.margin(simulation)[0],
                chips=chips,
            )
        )
        return condition.slack(simulation, self.chips, attempt_confidence(0, self.confidence))

    @property
    def _tuning_chips(self) -> int:
        return max(_FEWEST_TUNING, self.chips // _TUNING_FRACTION)

    def _allocation(self, optimiser: PlanOptimiser, levels: Tensor, **evidence: Any) -> Allocation:
        """The result; predictions are those of the optimiser, ``evidence`` gives other fields."""
        problem = self.problem
        plan = Plan.chosen_for(problem.placement, problem.variables.exact_points(levels))
        with torch.no_grad():
            points = problem.variables.points(levels)
            shift, variance = optimiser.error_model.shift_and_variance(points)
        return Allocation(
            goal=self.goal,
            granularity=problem.granularity,
            plan=plan,
            energy=energy(problem.placement, at=plan),
            predicted_shift=float(shift),
            predicted_variance={name: float(part) for name, part in variance.items()},
            trials=tuple(self.trials),
            confidence=self.confidence,
            evaluations=problem.evaluations,
            of=problem.of,
            **evidence,
        )
