"""Allocations: plans of one network for one goal, beside the best common point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from joulewise.allocation import EnergyAtGoal, Granularity, allocate
from joulewise.contrib import co_design
from joulewise.data import Dataset, Split
from joulewise.placement import Placement
from joulewise.study.allocation_records import AllocationEvidence, DesignRecord
from joulewise.study.environment import Environment
from joulewise.study.placed import PlacedRecord, placed_records

__all__ = [
    "AllocationRecord",
    "CoDesignRecord",
    "Saving",
    "allocate_each",
    "co_design_record",
    "saving_at_goal",
]


class Saving(NamedTuple):
    """Share of energy that one plan saves against another, both just at the goal.

    Args:
        share: Below 0 where it needs more.
        low: The lower end of its 95 % interval.
        high: The upper end.
    """

    share: float
    low: float
    high: float


class AllocationRecord(BaseModel):
    """Allocations of one network on one memory for one goal.

    Args:
        command: The command line that made it; empty for none.
        environment: What it ran on.
        network: The network's name.
        data: The data's name.
        images: Samples that every chip saw.
        device: The memory, as its ``describe`` says it; the first one's, of several.
        knob: The name of its operating point.
        tensors: The placed tensors, from input to output.
        allocations: The first is what others are held to.
    """

    model_config = ConfigDict(frozen=True)

    command: str = ""
    environment: Environment
    network: str
    data: str
    images: int
    device: dict[str, Any]
    knob: str
    tensors: tuple[PlacedRecord, ...]
    allocations: tuple[AllocationEvidence, ...]

    def saved_against_first(self, index: int) -> float:
        """Share of the first allocation's memory energy that another saves; below 0 for more."""
        first, other = self.allocations[0].energy, self.allocations[index].energy
        return 1 - other.memory_total_j / first.memory_total_j

    def saving_at_goal(self, index: int) -> Saving | None:
        """What another allocation saves against the first; see `saving_at_goal`."""
        return saving_at_goal(self.allocations[0], self.allocations[index])


class CoDesignRecord(AllocationRecord):
    """A network and a plan that were made for each other, as plain data.

    Args:
        design: What was tried. Of ``allocations`` the first is that of the network as it was given,
            the last that of the network as it was left.
    """

    design: DesignRecord


def saving_at_goal(first: AllocationEvidence, other: AllocationEvidence) -> Saving | None:
    """What an allocation saves against another where both just meet their goal.

    Intervals of the two add up as those of independent figures do, in logarithms.

    Args:
        first: What is saved against.
        other: For the same network, memory and goal.

    Returns:
        None where a goal was not shown to hold, or no energy at it is known.
    """
    if first.at_goal is None or other.at_goal is None or not (first.holds and other.holds):
        return None
    if min(first.at_goal.low, other.at_goal.low) <= 0:
        return None
    first_up, first_down = _reaches(first.at_goal)
    other_up, other_down = _reaches(other.at_goal)
    ratio = math.log(other.at_goal.energy / first.at_goal.energy)
    return Saving(
        share=1 - math.exp(ratio),
        low=1 - math.exp(ratio + math.hypot(other_up, first_down)),
        high=1 - math.exp(ratio - math.hypot(other_down, first_up)),
    )


def _reaches(at: EnergyAtGoal) -> tuple[float, float]:
    """How far the interval reaches up and down, in logarithms."""
    return math.log(at.high / at.energy), math.log(at.energy / at.low)


def allocate_each(
    placement: Placement,
    data: Split,
    granularities: Sequence[Granularity],
    *,
    network: str,
    data_name: str,
    command: str = "",
    **options: Any,
) -> AllocationRecord:
    """Allocate by one goal at several granularities.

    Args:
        placement: What is stored where; traced.
        data: What accuracy is simulated on.
        granularities: One allocation for each, in order.
        network: The network's name, for the record.
        data_name: The data's name, for the record.
        command: For the record.
        **options: The goal, and other options of `joulewise.allocation.allocate`.

    Raises:
        InputError: if the placement cannot be given points so, before anything is allocated; or as
            `joulewise.allocation.allocate` says it.
    """
    for granularity in granularities:
        granularity.check(placement)
    allocations = tuple(
        AllocationEvidence.of(
            placement, allocate(placement, data, granularity=granularity, **options)
        )
        for granularity in granularities
    )
    return AllocationRecord(
        command=command,
        network=network,
        data=data_name,
        images=len(data),
        allocations=allocations,
        **_circumstances(placement),
    )


def co_design_record(
    placement: Placement,
    data: Dataset,
    judge: Split,
    *,
    network: str,
    command: str = "",
    **how: Any,
) -> CoDesignRecord:
    """Fit a network and its plan to each other; see `joulewise.contrib.co_design`.

    Args:
        placement: What is stored where; traced. Its model is trained.
        data: To train on.
        judge: What accuracy is held on.
        network: The network's name, for the record.
        command: For the record.
        **how: The goal, and other options of `joulewise.contrib.co_design`.
    """
    design = DesignRecord.of(placement, co_design(placement, data, judge=judge, **how))
    return CoDesignRecord(
        command=command,
        network=network,
        data=data.name,
        images=len(judge),
        allocations=(design.rounds[0].allocation, design.allocation),
        design=design,
        **_circumstances(placement),
    )


def _circumstances(placement: Placement) -> dict[str, Any]:
    """What records say of machine and memory."""
    device = placement.placed[0].device
    return {
        "environment": Environment.now(),
        "device": device.describe(),
        "knob": device.knob.name,
        "tensors": placed_records(placement),
    }
