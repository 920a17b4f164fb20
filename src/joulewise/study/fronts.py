"""Fronts: accuracy against energy over the whole range, several networks and memories at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from joulewise.allocation import Granularity, pareto
from joulewise.data import Split
from joulewise.errors import InputError
from joulewise.placement import Placement
from joulewise.study.allocation_records import FrontEvidence
from joulewise.study.environment import Environment
from joulewise.study.iso_accuracy import IsoAccuracy, iso_accuracy
from joulewise.study.placed import PlacedRecord, placed_records

__all__ = ["FrontComparison", "FrontRecord", "Runner", "compare_fronts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """One front to be made.

    Args:
        name: What reports call it; one name each.
        placement: What is stored where; traced.
        granularity: What has an operating point of its own.
    """

    name: str
    placement: Placement
    granularity: Granularity


class FrontRecord(BaseModel):
    """One front, and the least energy within each drop.

    Args:
        name: As `Runner` has it.
        device: The memory of the first placed tensor, as its ``describe`` says it.
        knob: The name of its operating point.
        tensors: The placed tensors, from input to output.
        reliable_j: Joules of the placed memory at its most reliable plan.
        front: The plans.
        within: For each drop of the comparison, the energy, over ``reliable_j``, at which mean
            accuracy has fallen by it, interpolated between plans; empty without targets.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    device: dict[str, Any]
    knob: str
    tensors: tuple[PlacedRecord, ...]
    reliable_j: float
    front: FrontEvidence
    within: tuple[IsoAccuracy, ...]


class FrontComparison(BaseModel):
    """Several fronts on the same images and chips.

    Args:
        command: The command line that made it; empty for none.
        environment: What it ran on.
        data: The data's name.
        images: Samples that every chip saw.
        chips: Of each plan.
        seed: Of the first chip.
        drops: Accuracies to give up, against each network on a perfect memory of the same words.
        fronts: In the order in which they were asked for.
    """

    model_config = ConfigDict(frozen=True)

    command: str = ""
    environment: Environment
    data: str
    images: int
    chips: int
    seed: int
    drops: tuple[float, ...]
    fronts: tuple[FrontRecord, ...]


def compare_fronts(
    runners: Sequence[Runner],
    data: Split,
    *,
    data_name: str,
    drops: Sequence[float] = (0.005, 0.01),
    plans: int = 10,
    chips: int = 50,
    samples: int = 512,
    seed: int = 0,
    command: str = "",
    progress: Callable[[str, float, float], None] | None = None,
) -> FrontComparison:
    """Make several fronts.

    Args:
        runners: What to make them of, one or more.
        data: What accuracy is simulated on.
        data_name: For the record.
        drops: Accuracies to give up, each above 0 to 1.
        plans: As for `joulewise.allocation.pareto`.
        chips: Likewise.
        samples: Likewise.
        seed: Likewise.
        command: For the record.
        progress: Called with the name of the front that is made, plans done and plans expected.

    Raises:
        InputError: if there is none, or two have one name.
    """
    names = [runner.name for runner in runners]
    if not names or len(set(names)) < len(names):
        raise InputError(f"the fronts are named {names}; allowed: one or more, one name each")
    records = []
    for runner in runners:

        def told(what: str, done: float, expected: float, name: str = runner.name) -> None:
            if progress is not None:
                progress(f"{name}, {what}", done, expected)

        front = pareto(
            runner.placement,
            data,
            granularity=runner.granularity,
            plans=plans,
            chips=chips,
            samples=samples,
            seed=seed,
            progress=told,
        )
        records.append(_record(runner, FrontEvidence.of(runner.placement, front), drops))
    return FrontComparison(
        command=command,
        environment=Environment.now(),
        data=data_name,
        images=len(data),
        chips=chips,
        seed=seed,
        drops=tuple(drops),
        fronts=tuple(records),
    )


def _record(runner: Runner, front: FrontEvidence, drops: Sequence[float]) -> FrontRecord:
    simulations = [point.simulation for point in front.points]
    energies = [point.energy for point in front.points]
    device = runner.placement.placed[0].device
    known = bool(simulations[0].accuracy)
    return FrontRecord(
        name=runner.name,
        device=device.describe(),
        knob=device.knob.name,
        tensors=placed_records(runner.placement),
        reliable_j=simulations[0].energy.memory_reliable_j,
        front=front,
        within=tuple(iso_accuracy(energies, simulations, drop) for drop in drops if known),
    )
