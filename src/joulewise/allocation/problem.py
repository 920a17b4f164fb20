"""Allocation problem of one placement: variables, energy model, error model, simulation."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from joulewise.allocation.energy_model import EnergyModel
from joulewise.allocation.goals import Condition
from joulewise.allocation.granularity import DecisionVariables, Granularity
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.data import Split
from joulewise.errors import ModelError, check_count, check_kind, refuse
from joulewise.metrics import is_loss
from joulewise.nested import batch_size, cloned
from joulewise.placement import (
    Batch,
    Placement,
    Plan,
    energy,
    prepare,
    private_memory,
    reference_pass,
)
from joulewise.prediction import error_model, weight_error_model
from joulewise.progress import Report, silent
from joulewise.simulation import Simulation, simulate
from joulewise.workers import check_executor

__all__ = ["AllocationProblem"]

# Most linearisations on the way to the plan of least error, and the ratio of errors below which one
# counts as less: beside rounding to words, noise may lower an error by chance.
_APPROACHES, _LESS = 6, 0.9


@dataclass(slots=True, kw_only=True, eq=False)
class AllocationProblem:
    """Plans, energies, predicted errors and simulations as functions of levels, in [0, 1].

    Args:
        placement: A traced placement.
        data: A split, or batches; see `allocate`.
        granularity: The granularity of operating points.
        samples: Number of samples that predictions are made from, 1 or more.
        seed: Seed of the samples and of the probes of the error model, 0 or more.
        metric: See `joulewise.simulation.simulate`.
        batch_size: See `joulewise.simulation.simulate`.
        report: Called with the progress.
        executor: See `joulewise.simulation.simulate`.

    Attributes:
        few: The samples that predictions are made from.
        variables: The decision variables.
        energy_model: The energy of a plan.
        of: Predicted figure: the output error, the divergence of a network with a cross-entropy,
            or the relative error of the weights.
        evaluations: Linearisations so far, a forward and a backward pass over ``few`` each.

    Raises:
        InputError: if a field is outside its range, a memory's errors are not differentiable and
            no levels are listed, or as `DecisionVariables.of` and `EnergyModel` say.
    """

    placement: Placement
    data: Split | Iterable[Any]
    granularity: Granularity
    samples: int
    seed: int = 0
    metric: Any = None
    batch_size: int | None = None
    report: Report = silent
    executor: Executor | None = None
    few: Split | list[Batch] = field(init=False)
    variables: DecisionVariables = field(init=False)
    energy_model: EnergyModel = field(init=False)
    of: Literal["outputs", "divergence", "weights"] = field(init=False, default="outputs")
    evaluations: int = field(init=False, default=0)
    _reliable: PlanOptimiser | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Check everything before the network runs."""
        allowed = "the result of joulewise.place(model, ...)"
        check_kind("placement", self.placement, Placement, allowed)
        check_kind("granularity", self.granularity, Granularity, "a joulewise.Granularity")
        check_count("samples", self.samples, 1)
        check_executor(self.executor)
        self.seed = check_count("seed", self.seed, 0)
        if not isinstance(self.data, Split):
            self.data = prepare(self.data, self.placement.model, self.batch_size)
        self.few = _some_of(self.data, self.samples, self.seed)
        self.variables = DecisionVariables.of(self.placement, self.granularity)
        for placed in self.placement.placed:
            if not placed.device.smooth and not self.variables.listed:
                refuse(
                    f"the memory of {placed.name}",
                    "one whose moments have no gradient (a measured fault map, estimated moments)",
                    "Granularity(levels=...), the points to choose from",
                )
        self.energy_model = EnergyModel(self.placement)

    def choose_figure(self, condition: Condition, simulation: Simulation) -> None:
        """Choose the predicted figure for a goal.

        Args:
            condition: The condition of the goal.
            simulation: A simulation, which has output errors where outputs are tensors.
        """
        if is_loss(condition.metric) and not condition.of_error:
            self.of = "divergence"
        elif not self._has_fixed_outputs(simulation):
            # Lists of detections, for instance, or batches of several sequence lengths.
            self.of = "weights"

    def leave_out_targets_of_no_metric(self) -> None:
        """Drop targets that have no default metric, for goals that need none."""
        batches = prepare(self.data, self.placement.model, self.batch_size)
        with private_memory(self.placement) as memory:
            known = reference_pass(memory, batches[:1], required=False).metric
        if known is None:
            self.data = [replace(batch, targets=None) for batch in batches]
            self.few = _some_of(self.data, self.samples, self.seed)

    def linearised_at(self, levels: Tensor) -> PlanOptimiser:
        """Optimiser with the error model linearised at levels ``[variables]``."""
        self.evaluations += 1
        at = self.plan(levels)
        if self.of == "weights":
            errors = weight_error_model(self.placement, at=at)
        else:
            errors = error_model(
                self.placement,
                self.few,
                at=at,
                of=self.of,
                metric=self.metric if self.of == "divergence" else None,
                seed=self.seed,
                batch_size=self.batch_size,
                progress=self.report,
            )
        return PlanOptimiser(
            error_model=errors,
            energy_model=self.energy_model,
            variables=self.variables,
            rails=self.granularity.rails,
            smooth=all(placed.device.smooth for placed in self.placement.placed),
        )

    def leave_out_points_beyond_the_least_error(self) -> None:
        """End the ranges of levels at the plan of least predicted error, which may cost less.

        Gradients can be wrong far from their plan, so it is approached in steps, as long as the
        error of the plan falls.
        """
        levels = self.variables.most_reliable
        best = self._reliable = self.linearised_at(levels)
        first = least = best.error(levels)
        for _ in range(_APPROACHES):
            found = best.least_error()
            if torch.equal(found, levels):
                break
            optimiser = self.linearised_at(found)
            error, before = optimiser.error(found), least
            if error < least:
                best, levels, least = optimiser, found, error
            if error > _LESS * before:
                break
        if least < _LESS * first:
            self.variables = self.variables.up_to(levels)
            self._reliable = replace(best, variables=self.variables)

    def linearised_near(self, max_error: float) -> PlanOptimiser:
        """Optimiser linearised near the cheapest plan within a predicted error.

        Gradients can be wrong far from their plan, so it is approached in steps: the most reliable
        plan, the common level within the error, the optimum. Errors that every plan is within are
        lowered: at the least reliable plan gradients may vanish.
        """
        optimiser = self._reliable or self.linearised_at(self.variables.most_reliable)
        most = optimiser.error(optimiser.variables.least_reliable)
        if most <= max_error:
            max_error = most / 2
        optimiser = self.linearised_at(self.variables.uniform(optimiser.common_level(max_error)))
        return self.linearised_at(optimiser.minimise_energy(max_error))

    def energy(self, levels: Tensor) -> float:
        """Energy over that of the most reliable plan, exact: not from `EnergyModel`."""
        return energy(self.placement, at=self.plan(levels)).normalised

    def plan(self, levels: Tensor) -> Plan:
        """Plan of levels ``[variables]``."""
        return Plan.of_points(self.placement, self.variables.exact_points(levels))

    def outputs(self) -> tuple[list[Batch], list[Tensor]]:
        """Samples for predictions in batches, and the outputs of the model as given for them."""
        batches = prepare(self.few, self.placement.model, self.batch_size)
        with private_memory(self.placement) as memory:
            memory.original()
            return batches, [memory.call(cloned(batch.inputs)) for batch in batches]

    def _has_fixed_outputs(self, simulation: Simulation) -> bool:
        """True if all outputs are tensors of one shape, apart from the batch."""
        return bool(simulation.mse) and len({o.shape[1:] for o in self.outputs()[1]}) == 1

    def output_variance(self) -> float:
        """Variance over samples, mean over outputs: MSE of constant outputs; 1 for one sample."""
        _, found = self.outputs()
        if len({output.shape[1:] for output in found}) > 1:
            got = "one whose outputs differ in shape from batch to batch"
            refuse("the model", got, "batches of one shape, or allocate to a goal", ModelError)
        outputs = torch.cat(found).double()
        return float(outputs.var(0).mean()) if len(outputs) > 1 else 1.0

    def simulate(self, levels: Tensor, chips: int, seed: int, step: str) -> Simulation:
        """Simulate levels on chips.

        Args:
            levels: ``[variables]``.
            chips: Number of chips.
            seed: Seed of the first chip.
            step: Name of the step, for ``progress``.
        """
        return simulate(
            self.placement,
            self.data,
            at=self.plan(levels),
            chips=chips,
            seed=seed,
            metric=self.metric,
            batch_size=self.batch_size,
            progress=lambda _, done, expected: self.report(step, done, expected),
            executor=self.executor,
        )


def _some_of(data: Split | Iterable[Any], samples: int, seed: int) -> Split | list[Batch]:
    """A random subset of a split, or the first batches that hold as many samples."""
    if isinstance(data, Split):
        return data.subset(min(samples, len(data)), seed=seed)
    taken, count = [], 0
    for batch in data:
        taken.append(batch)
        count += batch_size(batch.inputs)
        if count >= samples:
            break
    return taken
