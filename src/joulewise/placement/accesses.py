"""Accesses per inference as a mapper counts them, in place of those that were traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from joulewise.errors import InputError, TableError, check_kind, refuse
from joulewise.mappers import AccessRow, AccessTable
from joulewise.placement.placement import Placed, Placement

__all__ = ["reads_and_writes", "rows_by_tensor", "with_accesses"]

_ROLES = {"weights": "weight", "inputs": "activation"}


def with_accesses(
    placement: Placement,
    accesses: AccessTable | str | Path,
    *,
    component: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Placement:
    """Count the accesses of an inference by a mapper's table, or by a file.

    Reads and writes of ``"weights"`` count for the weight of their layer (not its bias), those of
    ``"inputs"`` for its placed input. Rows of outputs are not taken, since a mapper counts partial
    sums with them. Tensors without rows keep what was traced.

    Args:
        placement: A traced placement.
        accesses: A table, such as from `joulewise.mappers.read_zigzag`, of one inference; or a CSV
            file, see `joulewise.mappers.AccessTable.from_csv`.
        component: The memory whose accesses count; needed if a tensor is in several.
        names: By layer of the table, the layer of the model or the placed tensor, where their names
            differ; for layers in the same order, ``dict(zip(table.layers, (p.name for p in
            placement.weights)))``. Several layers of one tensor add up.

    Returns:
        The placement with those accesses.

    Raises:
        InputError: if the placement was not traced.
        TableError: if a file cannot be read, a layer is not in the model, a tensor is in several
            components, or lies on a memory that computes.
    """
    rows = rows_by_tensor(placement, accesses, component, names)
    placed = []
    for tensor in placement.placed:
        if own := rows.get(tensor.name):
            assert tensor.traffic is not None
            reads, writes = reads_and_writes(own)
            tensor = replace(tensor, traffic=replace(tensor.traffic, reads=reads, writes=writes))
        placed.append(tensor)
    return replace(placement, placed=tuple(placed))


def reads_and_writes(rows: Iterable[AccessRow]) -> tuple[float, float]:
    """Numbers of words read and written."""
    counts = {"read": 0.0, "write": 0.0}
    for row in rows:
        counts[row.action] += row.count
    return counts["read"], counts["write"]


def rows_by_tensor(
    placement: Placement,
    accesses: AccessTable | str | Path,
    component: str | None,
    names: Mapping[str, str] | None,
) -> dict[str, list[AccessRow]]:
    """Reads and writes by the name of the placed tensor that they are of; see `with_accesses`.

    Raises:
        InputError: if the placement was not traced.
        TableError: if the accesses do not fit it.
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    if not placement.traced:
        raise InputError(
            "accesses need a traced placement; give place(..., example_inputs=a batch)"
        )
    allowed = "the model's layer or placed tensor by the table's layer"
    check_kind("names", names, Mapping | None, allowed)
    check_kind("component", component, str | None, "a component of the table, or None")
    if isinstance(accesses, AccessTable):
        where, table = "the access table", accesses
    else:
        where, table = str(accesses), AccessTable.from_csv(accesses)
    for layer, name in (names or {}).items():
        if layer not in table.layers or not isinstance(name, str):
            allowed = f"a layer of {where}, {_some(table.layers)}, with a name"
            refuse("names", f"{layer!r}: {name!r:.60}", allowed)
    if component is not None:
        table = table.filter(component=component)
    found = _matched(placement, table, names or {}, where)
    for name, rows in found.items():
        components = dict.fromkeys(row.component for row in rows)
        if len(components) > 1:
            allowed = f"the memory that {name} lies in, one of {', '.join(components)}"
            refuse("component", repr(component), allowed, TableError)
    if not found:
        got = f"of {_some(table.totals('tensor'))} in {_some(table.layers)}"
        allowed = f"weights or inputs of {_some(p.name for p in placement.placed)}"
        refuse(where, got, allowed, TableError)
    return found


def _matched(
    placement: Placement, table: AccessTable, names: Mapping[str, str], where: str
) -> dict[str, list[AccessRow]]:
    """Reads and writes by placed tensor, found by its name or that of its layer."""
    layers = {path for path, _ in placement.model.named_modules()}
    roles = {tensor.role for tensor in placement.placed}
    found: dict[str, list[AccessRow]] = {}
    for row in table.rows:
        role, target = _ROLES.get(row.tensor), names.get(row.layer, row.layer)
        if row.action not in ("read", "write") or (row.tensor and role not in roles):
            continue
        tensor = _tensor_of(placement.placed, target, role if row.tensor else None)
        if tensor is not None:
            found.setdefault(tensor.name, []).append(row)
        elif target not in layers or not row.tensor:
            allowed = f"a placed tensor, one of {_some(p.name for p in placement.placed)}, or a "
            allowed += f"layer of the model, by names= for those of {where}, {_some(table.layers)}"
            refuse(f"{where}: layer", target, allowed, TableError)
    return found


def _tensor_of(placed: Sequence[Placed], target: str, role: str | None) -> Placed | None:
    """The placed tensor of a name; with a role, also that of a layer, or of a tensor's layer."""
    named = [p for p in placed if p.name == target]
    own = [p for p in named if role in (None, p.role)]
    if not own and role is not None:
        paths = {path for p in named for path, _ in p.owners} or {target}
        own = [p for p in placed if p.role == role and paths & {path for path, _ in p.owners}]
        # A mapper's weights are a layer's matrix or kernels, not its bias.
        own = [p for p in own if role == "activation" or len(p.shape) > 1]
    if len(own) > 1:
        allowed = f"one of {_some(p.name for p in own)}, by names="
        refuse(f"the {role} of the access counts", f"in {target}", allowed, TableError)
    if own and own[0].traffic is not None and own[0].traffic.matrix_inputs:
        allowed = "a tensor that is read word by word; this one lies on a memory that computes"
        refuse("a tensor of the access counts", own[0].name, allowed, TableError)
    return own[0] if own else None


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    listed = list(names)
    return ", ".join(listed[:8]) + ", ..." * (len(listed) > 8)
