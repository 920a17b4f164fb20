"""Checks of a study before its first trial, of all that no network is needed for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joulewise.errors import refuse
from joulewise.mappers import AccessTable
from joulewise.study.messages import named
from joulewise.study.study_file import StudyFile

if TYPE_CHECKING:
    from joulewise.devices import Device

__all__ = ["check_study"]


def check_study(study: StudyFile) -> None:
    """Build each memory, and compare the levels of allocations with its knob.

    Raises:
        InputError: naming the field.
    """
    place = study.place
    limit = 1.0 if place.common_range and place.store != "activations" else None
    for number, memory in enumerate(study.memories):
        where = f"memories[{number}]"
        with named(where):
            device = memory.build(limit)
        if study.goals or study.front:
            _check_levels(study, f"{where} ({memory.name})", device)
    if place.accesses is not None:
        with named("place.accesses"):
            AccessTable.from_csv(place.accesses)


def _check_levels(study: StudyFile, memory: str, device: Device[Any]) -> None:
    """Refuse levels that a memory does not have, and none where it needs them.

    Raises:
        InputError: naming the granularity.
    """
    for number, granularity in enumerate(study.granularities):
        where, knob = f"granularities[{number}]", device.knob.name
        with named(where):
            levels = granularity.build().levels
        if not levels and not device.smooth:
            allowed = f"operating points on {knob}: the moments of {memory} have no gradient"
            refuse(f"{where}.levels", "empty", allowed)
        with named(f"{where}.levels of {memory}"):
            for level in levels:
                device.point(**{knob: level})
