"""The plans that a command was given: points of one knob, or a file of `joulewise allocate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from joulewise.cli import options
from joulewise.units import format_point

if TYPE_CHECKING:
    from joulewise.placement import At, Placement, Plan

__all__ = ["Setting", "settings_of"]


class Setting(NamedTuple):
    """One plan, and how it was named on the command line.

    Args:
        title: The knob, or ``plan``.
        name: The point.
        said: Both, for ``--json``.
        at: Operating points.
    """

    title: str
    name: str
    said: dict[str, Any]
    at: At

    @property
    def label(self) -> str:
        """In a sentence."""
        return f"{self.title} {self.name}"


def settings_of(
    placement: Placement, knobs: Mapping[str, list[float] | None], file: Plan | None
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
        points = placement.points(file)
        if not file.is_for_weights_of(placement):
            typer.echo("joulewise: the plan was chosen for other weights than these", err=True)
        from joulewise.devices import plain_point

        said = {"plan": {name: plain_point(point) for name, point in points.items()}}
        return [Setting("plan", "of the file", said, file)]
    knob, values = options.operating_points(**knobs)
    for value in values:
        placement.points({knob: value})
    return [Setting(knob, format_point(knob, v), {knob: v}, {knob: v}) for v in values]
