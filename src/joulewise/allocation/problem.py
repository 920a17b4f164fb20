"""The allocation problem of one placement: its variables and energy, its error around a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from joulewise.allocation.energy_model import EnergyModel
from joulewise.allocation.granularity import DecisionVariables, Granularity
from joulewise.allocation.plan_optimiser import PlanOptimiser
from joulewise.data import Split
from joulewise.errors import check_in_range, check_whole, refuse
from joulewise.nested import batch_size
from joulewise.placement import Placement, energy
from joulewise.prediction import error_model
from joulewise.simulation import Simulation, simulate

__all__ = ["AllocationProblem", "Progress", "check_counts"]

Progress = Callable[[str, float, float], None]
"""Called with the name of a step, how much of it is done, and how much there is."""


def check_counts(**counts: tuple[float, int]) -> None:
    """Refuse numbers that are not whole, or too small.

    Args:
        **counts: By name, the number and the least that is allowed.
    """
    for name, (value, low) in counts.items():
        check_in_range(name, value, low, 2**40)
        check_whole(name, value)


@dataclass(slots=True, kw_only=True, eq=False)
class AllocationProblem:
    """Levels of one placement: their plans, energies, predicted errors and simulations.

    Args:
        placement: Traced.
        data: A split, or batches; see `allocate`.
        granularity: The granularity of operating points.
        samples: Number of samples that predictions are made from, 1 or more.
        seed: Seed of the samples and of the probes of the error model, 0 or more.
        batch_size: See `joulewise.simulation.simulate`.
        progress: See `Progress`; None for none.

    Attributes:
        few: The samples that predictions are made from.
        variables: The decision variables.
        energy_model: The energy of a plan.
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
    batch_size: int | None = None
    progress: Progress | None = None
    few: Split | list[Any] = field(init=False)
    variables: DecisionVariables = field(init=False)
    energy_model: EnergyModel = field(init=False)
    evaluations: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Check everything before the network runs."""
        check_counts(samples=(self.samples, 1), seed=(self.seed, 0))
        if not isinstance(self.data, Split):
            self.data = list(self.data)
        self.few = _some_of(self.data, self.samples, self.seed)
        self.variables = DecisionVariables.of(self.placement, self.granularity)
        for placed in self.placement.placed:
            if not placed.device.smooth and not self.variables.listed:
                refuse(
                    f"the memory of {placed.name}",
                    "one whose errors change with its point by steps (a measured fault map)",
                    "a list of levels to choose from, or another fault map",
                )
        self.energy_model = EnergyModel(self.placement)

    def linearised_at(self, levels: Tensor) -> PlanOptimiser:
        """An optimiser whose error model has the gradients at some levels, ``[variables]``."""
        self.evaluations += 1
        errors = error_model(
            self.placement,
            self.few,
            self.variables.exact_plan(levels),
            seed=self.seed,
            batch_size=self.batch_size,
            progress=lambda done, expected: self.report("predicting", done, expected),
        )
        return PlanOptimiser(
            error_model=errors,
            energy_model=self.energy_model,
            variables=self.variables,
            rails=self.granularity.rails,
            smooth=all(placed.device.smooth for placed in self.placement.placed),
        )

    def linearised_near(self, max_mse: float) -> PlanOptimiser:
        """An optimiser with the gradients of about the cheapest plan within a predicted error.

        Gradients of one plan can be wrong far from it, so the common level within the error comes
        first, from the gradients at the most reliable plan.
        """
        optimiser = self.linearised_at(self.variables.uniform(1.0))
        optimiser = self.linearised_at(self.variables.uniform(optimiser.common_level(max_mse)))
        return self.linearised_at(optimiser.minimise_energy(max_mse))

    def energy(self, levels: Tensor) -> float:
        """Energy over that of the most reliable plan, without a table."""
        return energy(self.placement, self.variables.exact_plan(levels)).normalised

    def simulate(self, levels: Tensor, chips: int, seed: int, step: str) -> Simulation:
        """Simulate levels on chips.

        Args:
            levels: ``[variables]``.
            chips: Number of chips.
            seed: Seed of the first chip.
            step: Name of the step, for ``progress``.
        """
        assert isinstance(self.data, (Split, list))
        return simulate(
            self.placement,
            self.data,
            plan=self.variables.exact_plan(levels),
            chips=chips,
            seed=seed,
            batch_size=self.batch_size,
            progress=lambda done: self.report(step, done, chips),
        )

    def report(self, step: str, done: float, expected: float) -> None:
        """Report progress, if anyone asked for it."""
        if self.progress is not None:
            self.progress(step, done, expected)


def _some_of(data: Split | Iterable[Any], samples: int, seed: int) -> Split | list[Any]:
    """A random subset of a split, or the first batches that hold as many samples."""
    if isinstance(data, Split):
        return data.subset(min(samples, len(data)), seed=seed)
    taken, count = [], 0
    for batch in data:
        taken.append(batch)
        count += batch_size(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if count >= samples:
            break
    return taken
