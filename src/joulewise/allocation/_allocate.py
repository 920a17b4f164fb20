"""Allocation: the plan of least energy for a goal, or of least error for an energy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from joulewise.allocation.bracketing import largest_feasible
from joulewise.allocation.energy_model import common_levels
from joulewise.allocation.goals import ErrorGoal, Goal, GoalRequest, MeanGoal, YieldGoal
from joulewise.allocation.granularity import Granularity
from joulewise.allocation.held_out import Verification, attempt_confidence, energy_at_goal
from joulewise.allocation.initial_guess import mse_for_accuracy_drop
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.allocation.problem import AllocationProblem, Progress, check_counts
from joulewise.allocation.result import Allocation, Trial
from joulewise.data import Split
from joulewise.devices import plain_point
from joulewise.errors import check_in_range, refuse
from joulewise.placement import Placement, energy, guarded, loaded, outputs_of, prepare
from joulewise.simulation import EnergyRecord, Simulation

__all__ = ["allocate"]

# Seed of the first tuning chip: far from the seeds that people simulate with.
_TUNING_SEED = 1 << 44
# Fraction of the chips that tuning simulates for each candidate, and the fewest.
_TUNING_FRACTION, _FEWEST_TUNING = 10, 10
# Linearisations on the way to the least error within an energy, and fractions of the way to the
# optimum of the last one that are tried: gradients can be wrong far from their plan.
_LINEARISATIONS, _FRACTIONS = 3, (1.0, 0.5, 0.25)
_EACH_TENSOR = Granularity()


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
    """Choose an operating point for each placed tensor: the least energy at which a goal holds.

    An error model, linear in the noise, gives the plan of least energy for each predicted output
    error without simulation. The largest error at which the goal holds is bracketed by simulating a
    tenth of ``chips``, the tuning chips. The plan is then verified on held-out chips, which no plan
    was chosen by. Where it fails, a more reliable plan follows, where its margin is large, a
    cheaper one, on new chips each. The one-sided ``confidence`` is that of all attempts together:
    the first has half of the chance of error, the next a quarter, and so on.

    The goal is one of the following; ``max_energy`` minimises the predicted output error, the
    others energy:

    - ``max_accuracy_drop``: mean accuracy over chips at most this much below that of a perfect
      memory with the same words; above 0 to 1.
    - ``min_accuracy``: mean accuracy of at least this; above 0 to 1.
    - ``max_mse``: output error, mean over chips, of at most this; above 0.
    - ``max_energy``: energy of placed memory at most this fraction of the most reliable plan's.

    With ``min_yield`` beside one of the first two, above 0 and below 1, at least this fraction of
    the chips has to reach that accuracy, instead of their mean.

    Args:
        placement: A traced placement: give `place` a batch as ``inputs``.
        data: A split, or an iterable of ``(inputs, targets)`` batches, read once and kept.
            Predictions use a random subset of a split, the first batches of others; simulations
            use all.
        granularity: The granularity of operating points, and restrictions on their values.
        chips: Held-out chips of each attempt, 20 or more for a mean; 0 for no simulation, with
            ``max_mse`` or ``max_energy`` only.
        confidence: One-sided; above 0.5, below 1.
        samples: Number of samples for predictions, 1 or more.
        seed: Seed of the first held-out chip, of the samples and of the probes.
        batch_size: See `joulewise.simulation.simulate`.
        progress: Called with the name of a step, how much of it is done, and how much there is.
        **goal: One of the goals above, and optionally ``min_yield``.

    Returns:
        The plan, its energy, and the evidence. If the goal is out of reach ``holds`` is False and
        the plan is the best one there is.

    Raises:
        InputError: if no goal or several are given, a field is outside its range, or a memory has
            no adjustable knob.

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
    check_counts(chips=(chips, 0))
    check_in_range("confidence", confidence, 0.5, 1.0 - 1e-9, open_low=True)
    request = GoalRequest.of(goal)
    if not chips and request.max_mse is None and request.max_energy is None:
        refuse("chips", 0, "2 or more: accuracy is not held without simulation")
    if chips and request.max_energy is None:  # the check does not depend on the accuracy
        request.goal(ideal_accuracy=1.0).check(chips, attempt_confidence(0, confidence))
    problem = AllocationProblem(
        placement=placement,
        data=data,
        granularity=granularity,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    run = _Run(problem=problem, chips=chips, confidence=confidence)
    if request.max_energy is not None:
        return run.minimise_mse(request.max_energy)
    if not chips:
        assert request.max_mse is not None
        return run.predict_only(request.max_mse)
    return run.minimise_energy(request)


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One call of `allocate`."""

    problem: AllocationProblem
    chips: int
    confidence: float
    trials: list[Trial] = field(default_factory=list)

    def minimise_mse(self, budget: float) -> Allocation:
        """The least predicted error within an energy."""
        problem = self.problem
        optimiser, levels = self._best_within(budget)
        required = problem.energy(levels)
        if required > budget:  # by the error of the table of energies
            levels = optimiser.minimise_mse(budget * 0.999 * budget / required, levels)
            required = problem.energy(levels)
        simulation: Simulation | None = None
        if self.chips:
            simulation = problem.simulate(levels, self.chips, problem.seed, "verifying")
        return self._allocation(
            optimiser,
            levels,
            goal={"goal": "EnergyGoal", "energy": budget},
            simulation=simulation,
            holds=required <= budget * (1 + 1e-9),
        )

    def _best_within(self, budget: float) -> tuple[PlanOptimiser, Tensor]:
        """The least error within an energy, and an optimiser linearised there.

        A plan is taken only if the error model around it agrees that it is better than the last
        one; otherwise one nearer to that is tried.
        """
        problem = self.problem
        levels = common_levels(problem.energy_model, problem.variables, budget)
        optimiser = problem.linearised_at(levels)
        # Plans between two discrete ones are not allowed.
        restricted = optimiser.rails or optimiser.variables.listed
        for _ in range(_LINEARISATIONS):
            optimum = optimiser.minimise_mse(budget)
            for fraction in _FRACTIONS[: 1 if restricted else None]:
                tried = torch.lerp(levels, optimum, fraction)  # 1.0 gives the optimum bit for bit
                there = problem.linearised_at(tried)
                if there.mse(tried) < optimiser.mse(levels):
                    optimiser, levels = there, tried
                    break
            else:
                break
        return optimiser, levels

    def predict_only(self, max_mse: float) -> Allocation:
        """The least energy within a predicted error, without simulation."""
        optimiser = self.problem.linearised_near(max_mse)
        optimiser = self.problem.linearised_at(optimiser.minimise_energy(max_mse))
        levels = optimiser.minimise_energy(max_mse)
        return self._allocation(
            optimiser,
            levels,
            goal=ErrorGoal(mse=max_mse).describe(),
            simulation=None,
            holds=False if optimiser.mse(levels) > max_mse else None,
        )

    def minimise_energy(self, request: GoalRequest) -> Allocation:
        """The least energy at which a goal holds: choose on tuning chips, verify on others."""
        problem = self.problem
        tuning_chips = max(_FEWEST_TUNING, self.chips // _TUNING_FRACTION)
        ideal = problem.simulate(
            problem.variables.most_reliable, tuning_chips, _TUNING_SEED, "choosing"
        )
        goal = request.goal(ideal.ideal_accuracy)
        first = self._first_limit(goal, ideal)
        optimiser = problem.linearised_near(first)
        verification = Verification(
            problem=problem,
            goal=goal,
            chips=self.chips,
            confidence=self.confidence,
            trials=self.trials,
        )
        found = largest_feasible(
            first,
            lowest=optimiser.mse(optimiser.variables.most_reliable),
            highest=optimiser.mse(optimiser.variables.least_reliable),
            optimise=optimiser.minimise_energy,
            slack=partial(self._slack, optimiser, goal, tuning_chips),
        )
        max_mse, start = optimiser.mse(optimiser.variables.most_reliable), None
        if found is not None:
            max_mse, start = found.max_mse, found.levels
            # Gradients at the plan that was found: a cheaper plan, if the tuning chips agree.
            there = problem.linearised_at(start)
            levels = there.minimise_energy(there.mse(start), start)
            cheaper = problem.energy(levels) < problem.energy(start)
            if cheaper and self._slack(there, goal, tuning_chips, levels) >= 0:
                optimiser, max_mse, start = there, there.mse(levels), levels
        chosen, optimiser, levels, simulation = verification.run(optimiser, max_mse, start)
        attempts = verification.attempts
        return self._allocation(
            optimiser,
            levels,
            goal=goal.describe(),
            simulation=simulation,
            holds=attempts[chosen].holds,
            attempts=tuple(attempts),
            chosen=chosen,
            at_goal=energy_at_goal(self.trials, attempts, attempts[chosen]),
        )

    def _slack(self, optimiser: PlanOptimiser, goal: Goal, chips: int, levels: Tensor) -> float:
        """The slack of levels on the tuning chips; also kept as a trial."""
        simulation = self.problem.simulate(levels, chips, _TUNING_SEED, "choosing")
        self.trials.append(
            Trial(
                energy=simulation.energy.normalised,
                predicted_mse=optimiser.mse(levels),
                margin=goal.margin(simulation)[0],
                chips=chips,
            )
        )
        return goal.slack(simulation, self.chips, attempt_confidence(0, self.confidence))

    def _first_limit(self, goal: Goal, ideal: Simulation) -> float:
        """A guess of the predicted error at which the goal holds."""
        if isinstance(goal, ErrorGoal):
            return goal.mse
        assert isinstance(goal, (MeanGoal, YieldGoal)) and ideal.ideal_accuracy is not None
        drop = max(ideal.ideal_accuracy - goal.accuracy, 1e-4)
        placement = self.problem.placement
        batches = prepare(self.problem.few, placement.model, self.problem.batch_size)
        with loaded(placement) as memory:
            memory.original()
            return mse_for_accuracy_drop(outputs_of(memory, batches), batches, drop)

    def _allocation(self, optimiser: PlanOptimiser, levels: Tensor, **evidence: Any) -> Allocation:
        """The result.

        Args:
            optimiser: The optimiser whose predictions are reported.
            levels: The levels that are chosen.
            **evidence: Other fields of `Allocation`.
        """
        problem = self.problem
        plan = problem.variables.exact_plan(levels)
        with torch.no_grad():
            shift, variance = optimiser.error_model.parts(problem.variables.plan(levels))
        return Allocation(
            granularity=problem.granularity,
            plan={name: plain_point(point) for name, point in plan.items()},
            energy=EnergyRecord.of(energy(problem.placement, plan)),
            predicted_shift=float(shift),
            predicted_variance={name: float(part) for name, part in variance.items()},
            trials=tuple(self.trials),
            confidence=self.confidence,
            evaluations=problem.evaluations,
            **evidence,
        )
