"""Allocations: plans of one network for one goal, beside the best common point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from joulewise.allocation import Allocation, Granularity, allocate
from joulewise.data import Split
from joulewise.placement import Placement
from joulewise.study.environment import Environment
from joulewise.study.placed import PlacedRecord, placed_records

__all__ = ["AllocationRecord", "allocate_each"]


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
    allocations: tuple[Allocation, ...]

    def saved_against_first(self, index: int) -> float:
        """Share of the first allocation's memory energy that another saves; below 0 for more."""
        first, other = self.allocations[0].energy, self.allocations[index].energy
        return 1 - other.memory_total_j / first.memory_total_j


def allocate_each(
    placement: Placement,
    data: Split,
    granularities: Sequence[Granularity],
    *,
    network: str,
    data_name: str,
    command: str = "",
    progress: Callable[[str, float, float], None] | None = None,
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
        progress: As for `joulewise.allocation.allocate`.
        **options: The goal, and other options of `joulewise.allocation.allocate`.
    """
    allocations = tuple(
        allocate(placement, data, granularity=granularity, progress=progress, **options)
        for granularity in granularities
    )
    device = placement.placed[0].device
    return AllocationRecord(
        command=command,
        environment=Environment.now(),
        network=network,
        data=data_name,
        images=len(data),
        device=device.describe(),
        knob=device.knob,
        tensors=placed_records(placement),
        allocations=allocations,
    )
