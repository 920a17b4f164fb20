"""Pareto front: plans of least energy over the whole range of output errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from joulewise.allocation.granularity import Granularity
from joulewise.allocation.problem import AllocationProblem, Progress, check_counts
from joulewise.allocation.result import as_points
from joulewise.data import Split
from joulewise.devices import PlainPoint, Point, plain_point
from joulewise.placement import Placement, guarded, loaded, outputs_of, prepare
from joulewise.simulation import Simulation, sweep

__all__ = ["Front", "FrontPoint", "pareto"]

# Predicted errors at both ends, over the variance of the outputs, which is the error of constant
# outputs: at a thousandth no accuracy is lost, at a half nearly all of it.
_HARMLESS, _USELESS = 1e-3, 0.5
_EACH_TENSOR = Granularity()


class FrontPoint(BaseModel):
    """One plan of a front.

    Args:
        plan: The operating point of each placed tensor.
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_mse: Predicted output error.
        simulation: The plan on chips, the same for all plans of a front.
    """

    model_config = ConfigDict(frozen=True)

    plan: dict[str, PlainPoint]
    energy: float
    predicted_mse: float
    simulation: Simulation

    @property
    def points(self) -> dict[str, Point]:
        """The plan as `joulewise.simulation.simulate` takes it."""
        return as_points(self.plan)


class Front(BaseModel):
    """Plans of least energy, the most reliable first.

    Args:
        granularity: The granularity of operating points.
        points: The plans.
        evaluations: Linearisations: a forward and a backward pass over the samples each.
    """

    model_config = ConfigDict(frozen=True)

    granularity: Granularity
    points: tuple[FrontPoint, ...]
    evaluations: int


@guarded
def pareto(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    granularity: Granularity = _EACH_TENSOR,
    plans: int = 10,
    chips: int = 50,
    samples: int = 512,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Front:
    """Plans of least energy over the whole range of errors, simulated on the same chips.

    Predicted errors are spaced geometrically, from a thousandth to half of the variance of the
    outputs over samples. Each plan starts from the one before, where the error model is
    linearised.

    Args:
        placement: See `allocate`.
        data: See `allocate`.
        granularity: The granularity of operating points, and restrictions on their values.
        plans: Number of plans, 2 or more.
        chips: Number of chips that each is simulated on, 1 or more.
        samples: See `allocate`.
        seed: See `allocate`.
        batch_size: See `allocate`.
        progress: See `allocate`.

    Returns:
        The front.

    Raises:
        InputError: if a field is outside its range.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> placement = place(model, weights=SRAM(bits=8), inputs=digits.train.inputs[:1])
        >>> front = pareto(placement, digits.test, plans=4, chips=2, samples=64)
        >>> energies = [point.energy for point in front.points]
        >>> energies == sorted(energies, reverse=True)
        True
    """
    check_counts(plans=(plans, 2), chips=(chips, 1))
    problem = AllocationProblem(
        placement=placement,
        data=data,
        granularity=granularity,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    limits = _limits(problem, plans)
    optimiser = problem.linearised_near(limits[0])
    levels: torch.Tensor | None = None
    chosen: list[dict[str, Point]] = []
    predicted: list[float] = []
    for limit in limits:
        levels = optimiser.minimise_energy(limit, levels)
        optimiser = problem.linearised_at(levels)
        chosen.append(problem.variables.exact_plan(levels))
        predicted.append(optimiser.mse(levels))
    simulations = sweep(
        placement,
        problem.data,
        chosen,
        chips=chips,
        seed=seed,
        batch_size=batch_size,
        progress=lambda done: problem.report("simulating", done, chips * plans),
    )
    return Front(
        granularity=granularity,
        points=tuple(
            FrontPoint(
                plan={name: plain_point(point) for name, point in plan.items()},
                energy=simulation.energy.normalised,
                predicted_mse=mse,
                simulation=simulation,
            )
            for plan, mse, simulation in zip(chosen, predicted, simulations, strict=True)
        ),
        evaluations=problem.evaluations,
    )


def _limits(problem: AllocationProblem, plans: int) -> list[float]:
    """Limits on the predicted error, spaced geometrically, ascending."""
    batches = prepare(problem.few, problem.placement.model, problem.batch_size)
    with loaded(problem.placement) as memory:
        memory.original()
        outputs = torch.cat(outputs_of(memory, batches))
    spread = float(outputs.double().var(0).mean()) if len(outputs) > 1 else 1.0
    return [float(x) for x in np.geomspace(_HARMLESS * spread, _USELESS * spread, plans)]
