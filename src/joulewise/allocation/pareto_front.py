"""Pareto front: plans of least energy over the whole range of output errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from joulewise.allocation.granularity import Granularity
from joulewise.allocation.problem import AllocationProblem
from joulewise.data import Split
from joulewise.errors import check_count
from joulewise.placement import Placement, Plan, guarded
from joulewise.progress import Progress, reporting
from joulewise.results import Result, format_value, plotted
from joulewise.simulation import Simulation, sweep
from joulewise.units import format_percent

__all__ = ["FrontPoint", "ParetoFront", "pareto"]

# Ends of the range of predicted errors, over the variance of the outputs (the MSE of constant
# outputs): at the lower end accuracy is kept, at the upper nearly all of it is lost.
_HARMLESS, _USELESS = 1e-3, 0.5
_EACH_TENSOR = Granularity()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontPoint:
    """One plan of a front.

    Args:
        plan: The operating point of each placed tensor.
        energy: Energy of placed memory over that of the most reliable plan.
        predicted_error: Predicted output error.
        simulation: Simulation of the plan, on the same chips for all plans of a front.
    """

    plan: Plan
    energy: float
    predicted_error: float
    simulation: Simulation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ParetoFront(Result):
    """Plans of least energy, the most reliable first.

    Args:
        granularity: The granularity of operating points.
        points: The plans.
        evaluations: Linearisations: a forward and a backward pass over the samples each.
    """

    granularity: Granularity
    points: tuple[FrontPoint, ...]
    evaluations: int

    def to_dict(self) -> dict[str, Any]:
        """See `Result`."""
        return {
            "granularity": asdict(self.granularity),
            "evaluations": self.evaluations,
            "points": [
                {
                    "plan": point.plan.to_dict(),
                    "energy": point.energy,
                    "predicted_error": point.predicted_error,
                    "simulation": point.simulation.to_dict(),
                }
                for point in self.points
            ],
        }

    def plot(self) -> Any:
        """Metric, or output error without targets, against memory energy (an Altair chart)."""
        rows = self._rows()
        y = list(rows[0])[-1]
        pairs = [(row["energy"], row[y]) for row in rows]
        return plotted("line", "memory energy over the most reliable", y, pairs)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        rows = []
        for point in self.points:
            row: dict[str, float | None] = {
                "energy": point.energy,
                "predicted error": point.predicted_error,
            }
            if point.simulation.mse:
                row["output error"] = point.simulation.mean_mse
            if point.simulation.metric is not None:
                known = point.simulation.failed < point.simulation.chips
                row[point.simulation.metric.name] = point.simulation.mean if known else None
            rows.append(row)
        return rows

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        figures = {}
        for number, (point, row) in enumerate(zip(self.points, self._rows(), strict=True), 1):
            metric = point.simulation.metric
            name, value = list(row.items())[-1]
            bounds = (0.0, np.inf) if metric is None else metric.bounds
            text = f"{name} {format_value(value, bounds)}"
            figures[f"plan {number}"] = f"{format_percent(point.energy, 1)} of the energy, {text}"
        return f"Front of {len(self.points)} plans", figures


@guarded
def pareto(  # noqa: PLR0913  those of allocate
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    granularity: Granularity = _EACH_TENSOR,
    plans: int = 10,
    chips: int = 50,
    samples: int = 512,
    seed: int = 0,
    metric: Any = None,
    batch_size: int | None = None,
    progress: Progress = False,
    executor: Executor | None = None,
) -> ParetoFront:
    """Plans of least energy over the whole range of errors, simulated on the same chips.

        front = joulewise.pareto(placement, data, plans=10, chips=50)
        front.points[3].energy, front.points[3].simulation.mean

    Predicted errors are spaced geometrically, from a thousandth to half of the variance of the
    outputs over samples. Each optimisation starts from the plan before, where the error
    model is linearised anew.

    The front has ``plans``, 2 or more, each simulated on ``chips``, 1 or more. All other arguments
    are those of `allocate`.

    Raises:
        InputError: if a field is outside its range.
    """
    check_count("plans", plans, 2, 10**6)
    check_count("chips", chips, 1, 10**7)
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
        if metric is None:
            problem.leave_out_targets_of_no_metric()
        spread = problem.output_variance()
        problem.leave_out_points_beyond_the_least_error()
        limits = [float(x) for x in np.geomspace(_HARMLESS * spread, _USELESS * spread, plans)]
        optimiser = problem.linearised_near(limits[0])
        levels: Tensor | None = None
        chosen: list[Plan] = []
        predicted: list[float] = []
        for limit in limits:
            levels = optimiser.minimise_energy(limit, levels)
            optimiser = problem.linearised_at(levels)
            chosen.append(Plan.chosen_for(placement, problem.variables.exact_points(levels)))
            predicted.append(optimiser.error(levels))
        simulations = sweep(
            placement,
            problem.data,
            at=chosen,
            chips=chips,
            seed=seed,
            metric=metric,
            batch_size=batch_size,
            progress=report,
            executor=executor,
        )
    return ParetoFront(
        granularity=granularity,
        points=tuple(
            FrontPoint(plan=plan, energy=one.energy.normalised, predicted_error=mse, simulation=one)
            for plan, mse, one in zip(chosen, predicted, simulations, strict=True)
        ),
        evaluations=problem.evaluations,
    )
