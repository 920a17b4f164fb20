"""A plan by the memories of a mapper's accelerator: points, accesses and joules of each tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from joulewise.devices import PlainPoint, Point, plain_point
from joulewise.mappers import AccessRow, AccessTable
from joulewise.placement.accesses import reads_and_writes, rows_by_tensor
from joulewise.placement.placement import Placed, Placement
from joulewise.placement.plan import At
from joulewise.results import Result, write_csv
from joulewise.units import format_percent, format_si

__all__ = ["ComponentPlan", "ComponentPoint", "plan_by_component"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPoint:
    """Operating point of one tensor of one layer in a memory of a mapper's accelerator.

    Args:
        layer: The layer, as the mapper names it.
        tensor: The tensor, as the mapper's table names it.
        component: The memory, as the mapper names it.
        knob: The knob of the point, such as ``"v_dd"``.
        point: Its value; lists for bit planes and channels, see `Plan`.
        count: Words read and written in one inference.
        joules: Energy of these accesses at the point, J.
        reliable_j: The same at the device's most reliable point, J.
    """

    layer: str
    tensor: str
    component: str
    knob: str
    point: PlainPoint
    count: float
    joules: float
    reliable_j: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ComponentPlan(Result):
    """A plan in terms of a mapper: a row for each placed tensor of each layer.

    Args:
        rows: The rows.
    """

    rows: tuple[ComponentPoint, ...]

    @property
    def by_component(self) -> list[dict[str, Any]]:
        """Joules of placed tensors by component, at the most reliable points and under the plan.

        Returns:
            Mappings of ``component``, ``reliable_j``, ``joules`` and ``saved_j``.
        """
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            start = {"component": row.component, "reliable_j": 0.0, "joules": 0.0, "saved_j": 0.0}
            own = found.setdefault(row.component, start)
            own["reliable_j"] += row.reliable_j
            own["joules"] += row.joules
            own["saved_j"] = own["reliable_j"] - own["joules"]
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """See `Result`."""
        return {"rows": list(self._rows()), "by_component": self.by_component}

    def to_csv(self, path: str | Path) -> None:
        """Write the rows to a CSV file; a point of several values is a JSON list in its cell.

        Raises:
            InputError: if it cannot be written.
        """
        write_csv(path, [{**row, "point": json.dumps(row["point"])} for row in self._rows()])

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [asdict(row) for row in self.rows]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        figures = {
            own["component"] or "memory": f"{format_si(own['joules'], 'J')} of "
            f"{format_si(own['reliable_j'], 'J')}, "
            f"{format_percent(own['saved_j'] / own['reliable_j'] if own['reliable_j'] else 0.0, 1)}"
            " saved"
            for own in self.by_component
        }
        return f"Plan of {len(self.rows)} tensors by component", figures


def plan_by_component(
    placement: Placement,
    plan: At,
    table: AccessTable | str | Path,
    *,
    component: str | None = None,
    names: Mapping[str, str] | None = None,
) -> ComponentPlan:
    """A plan written back in terms of the mapper that counted accesses.

    Joules at the most reliable point are the mapper's for reads and writes, if it states them, and
    else the device's for as many accesses. At the plan they are that times the ratio of the
    device's energies: the mapper's price is taken to be of the most reliable point.

    Args:
        placement: A traced placement.
        plan: The plan, or common points; see `Placement.points`.
        table: The mapper's table, or its CSV file.
        component: See `with_accesses`.
        names: See `with_accesses`.

    Raises:
        InputError: if the placement was not traced, or the plan is for another one.
        TableError: if the table does not fit; see `with_accesses`.
    """
    found = rows_by_tensor(placement, table, component, names)
    settings, points = placement.plan(plan), placement.points(plan)
    rows = []
    for placed in placement.placed:
        parts: dict[tuple[str, str, str], list[AccessRow]] = {}
        for row in found.get(placed.name, ()):
            parts.setdefault((row.layer, row.tensor, row.component), []).append(row)
        ((knob, point),) = settings[placed.name].items()
        total = sum(row.count for own in parts.values() for row in own)
        for (layer, tensor, memory), own in parts.items():
            # Words are held once, however many parts their accesses have.
            fraction = sum(row.count for row in own) / total if total else 1 / len(parts)
            joules, reliable_j = _joules(placed, own, points[placed.name], fraction)
            rows.append(
                ComponentPoint(
                    layer=layer,
                    tensor=tensor,
                    component=memory,
                    knob=knob,
                    point=plain_point(point),
                    count=sum(row.count for row in own),
                    joules=joules,
                    reliable_j=reliable_j,
                )
            )
    return ComponentPlan(rows=tuple(rows))


def _joules(
    placed: Placed, rows: Sequence[AccessRow], point: Point, fraction: float
) -> tuple[float, float]:
    """Joules of accesses to a fraction of a tensor at a point and at its most reliable one."""
    assert placed.traffic is not None
    reads, writes = reads_and_writes(rows)
    words = round(placed.traffic.words * fraction)
    traffic = replace(placed.traffic, words=words, reads=reads, writes=writes)
    device = placed.device
    joules, reliable_j = (
        float(torch.as_tensor(device.energy(traffic, at)).detach())
        for at in (point, device.knob.most_reliable)
    )
    if any(row.joules is None for row in rows):
        return joules, reliable_j
    stated = sum(row.joules or 0.0 for row in rows)
    return stated * (joules / reliable_j if reliable_j else 1.0), stated
