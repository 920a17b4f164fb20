"""The plans that a command was given: points of one knob, or a file of `joulewise allocate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from joulewise.cli import options
from joulewise.units import format_point

if TYPE_CHECKING:
    from joulewise.devices import Point
    from joulewise.placement import Placement, PlanFile

__all__ = ["Setting", "settings_of"]


class Setting(NamedTuple):
    """One plan, and how it was named on the command line.

    Args:
        title: The knob, or ``plan``.
        name: The point.
        said: Both, for ``--json``.
        plan: What they stand for.
    """

    title: str
    name: str
    said: dict[str, Any]
    plan: Mapping[str, Point]

    @property
    def label(self) -> str:
        """In a sentence."""
        return f"{self.title} {self.name}"


def settings_of(
    placement: Placement, knobs: Mapping[str, list[float] | None], file: PlanFile | None
) -> list[Setting]:
    """Every plan that was asked for.

    Args:
        placement: What they are for.
        knobs: What each knob's option was given.
        file: Of `options.plan_file`.

    Raises:
        InputError: if the file is of another placement, or a point is out of range.
    """
    if file is not None:
        plan = file.plan_for(placement)
        if not file.is_for_weights_of(placement):
            typer.echo("joulewise: the plan was chosen for other weights than these", err=True)
        from joulewise.devices import plain_point

        said = {"plan": {name: plain_point(point) for name, point in plan.items()}}
        return [Setting("plan", "of the file", said, plan)]
    knob, points = options.operating_points(**knobs)
    return [
        Setting(knob, format_point(knob, p), {knob: p}, placement.plan(**{knob: p})) for p in points
    ]
