"""The Pareto front: the least energy for every error, from harmless to useless, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from joulewise.allocation.result import as_points
from joulewise.allocation.sampling import check_counts, some_of
from joulewise.allocation.surveying import Progress, Surveyor
from joulewise.allocation.variables import Granularity
from joulewise.data import Split
from joulewise.devices import PlainPoint, Point, plain_point
from joulewise.placement import Placement, guarded, loaded, outputs_of, prepare
from joulewise.simulation import Simulation, sweep

__all__ = ["Front", "FrontPoint", "pareto"]

# Predicted errors of a front, over the largest that its network can have: that of outputs which say
# nothing. At a thousandth no accuracy is lost, at a half little is left.
_HARMLESS, _USELESS = 1e-3, 0.5
_EACH_TENSOR = Granularity()


class FrontPoint(BaseModel):
    """One plan of a front.

    Args:
        plan: The operating point of each placed tensor.
        energy: Of placed memory, over that of the most reliable plan.
        predicted_mse: The output error that was predicted.
        simulation: The plan on chips; the same chips for all plans of a front.
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
        granularity: What has points of its own.
        points: The plans.
        evaluations: Passes of the network over the samples that predictions needed.
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
    """Plans of least energy over the whole range of errors, all simulated on the same chips.

    Predicted errors go in equal ratios from a thousandth to half of the variance that outputs have
    over samples. Each plan begins where the one before ended, with gradients of that one.

    Args:
        placement: As for `allocate`.
        data: As for `allocate`.
        granularity: What has an operating point of its own.
        plans: How many, 2 or more.
        chips: To simulate each of them on, 1 or more.
        samples: As for `allocate`.
        seed: As for `allocate`.
        batch_size: As for `allocate`.
        progress: As for `allocate`.

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
    check_counts(plans=(plans, 2), chips=(chips, 1), samples=(samples, 1), seed=(seed, 0))
    data = data if isinstance(data, Split) else list(data)
    tell = progress or (lambda what, done, expected: None)
    surveyor = Surveyor(
        placement=placement,
        few=some_of(data, samples, seed),
        granularity=granularity,
        seed=seed,
        batch_size=batch_size,
        progress=tell,
    )
    limits = _limits(surveyor, plans)
    planner = surveyor.near(limits[0])
    found: list[torch.Tensor] = []
    predicted: list[float] = []
    for limit in limits:
        shares = planner.cheapest(limit, found[-1] if found else None)
        planner = surveyor.around(shares)
        found.append(shares)
        predicted.append(planner.mse(shares))
    chosen = [surveyor.variables.exact_plan(shares) for shares in found]
    simulations = sweep(
        placement,
        data,
        chosen,
        chips=chips,
        seed=seed,
        batch_size=batch_size,
        progress=lambda done: tell("simulating", done, chips * plans),
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
        evaluations=surveyor.passes,
    )


def _limits(surveyor: Surveyor, plans: int) -> list[float]:
    """Predicted errors in equal ratios, ascending."""
    batches = prepare(surveyor.few, surveyor.placement.model, surveyor.batch_size)
    with loaded(surveyor.placement) as memory:
        memory.original()
        outputs = torch.cat(outputs_of(memory, batches))
    spread = float(outputs.double().var(0).mean()) if len(outputs) > 1 else 1.0
    return [float(x) for x in np.geomspace(_HARMLESS * spread, _USELESS * spread, plans)]
