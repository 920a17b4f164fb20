"""Mappings of AccelForge (MIT): actions and energies by Einsum, component, tensor and action.

Read as of version 1.0.467: columns ``Einsum<SEP>action<SEP>component<SEP>tensor<SEP>read`` and
``Einsum<SEP>energy<SEP>...`` of the result of ``spec.map_workload_to_arch()``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, RootModel

from joulewise.errors import TableError, check_in_range, check_kind, refuse
from joulewise.mappers.access_table import AccessRow, AccessTable, check_total, row_at
from joulewise.mappers.reading import check_roles, read_text, validated

__all__ = ["read_accelforge"]

_ROLES = {"weight": "weights", "input": "inputs", "output": "outputs"}
_Key = tuple[str, str, str, str]
"""Einsum, component, tensor and action; no tensor for leakage, ``"None"`` for arithmetic."""
_TOTAL = "Total<SEP>energy"


class _Columns(RootModel[dict[str, JsonValue]]):
    """A JSON file of columns of a mapping by name."""


def read_accelforge(
    source: Any,
    *,
    tensors: Mapping[tuple[str, str], str] | None = None,
    words_per_action: Mapping[str, float] | None = None,
) -> AccessTable:
    """Accesses and energies of a mapping that AccelForge has found.

    AccelForge counts actions, which move ``bits_per_action`` each; reads and writes are converted
    to words of the tensor. Its energies are in joules. A layer is an Einsum.

    Args:
        source: The mapping, one of the result of ``map_workload_to_arch`` or ``evaluate_mapping``;
            or a JSON file, as ``json.dump(mapping.to_dict(), file, default=str)`` writes it.
        tensors: Role of a tensor by Einsum and name, such as ``{("fc1", "W1"): "weights"}``; by
            default those that the workload renames ``weight``, ``input`` and ``output``. A file
            does not have those; tensors that are not named keep AccelForge's names.
        words_per_action: Words that one read or write moves by component, which a file does not
            have: ``bits_per_action`` over ``bits_per_value``. By default from the specification.

    Returns:
        Reads, writes and other actions of each Einsum, component and tensor; joules are None where
        the mapping states no energy.

    Raises:
        TableError: if the file cannot be read, it holds several mappings, an energy has no count, a
            component no words per action, a tensor of ``tensors`` is not there, or the energies do
            not add up to the mapping's total.
    """
    check_kind("tensors", tensors, Mapping | None, "roles by (Einsum, name)", TableError)
    _check_words(words_per_action)
    roles: dict[tuple[str, str], str] = {}
    if isinstance(source, (str, Path)):
        where = str(source)
        columns = validated(_Columns, read_text(source, "the mapping"), where).root
        words_per_action = words_per_action or {}
    else:
        where = "the mapping"
        if not hasattr(source, "to_dict") or not hasattr(source, "evaluated_specs"):
            allowed = "a mapping of AccelForge, or the path of a JSON file"
            refuse("the mapping", f"of type {type(source).__name__}", allowed, TableError)
        columns = source.to_dict()
        roles = _roles(source.evaluated_specs)
    counts, energies = _by_key(where, columns)
    keys = dict.fromkeys([*counts, *energies])
    check_roles(tensors or {}, {(einsum, tensor): None for einsum, _, tensor, _ in keys})
    roles |= tensors or {}
    rows = []
    for key in keys:
        einsum, component, tensor, action = key
        joules = energies.get(key)
        if joules and tensor and key not in counts:
            field = f"{where}: {'<SEP>'.join((einsum, 'action', component, tensor, action))}"
            refuse(field, "missing", "a count beside its energy", TableError)
        count = counts.get(key, 0.0)
        if count and action in ("read", "write"):
            if words_per_action is None:
                count *= _words(source.evaluated_specs[einsum], key)
            elif component in words_per_action:
                count *= words_per_action[component]
            else:
                allowed = f"one for {component}: bits_per_action over bits_per_value"
                got = ", ".join(words_per_action) or "none"
                refuse(f"{where}: words_per_action", got, allowed, TableError)
        if count or joules:
            name = roles.get((einsum, tensor), "" if tensor == "None" else tensor)
            own = {"layer": einsum, "tensor": name, "component": component, "action": action}
            rows.append(row_at(where, **own, count=count, joules=joules))
    if energies or _TOTAL in columns:
        _check_total(where, columns, rows)
    return AccessTable(rows=tuple(rows))


def _check_words(words: Mapping[str, float] | None) -> None:
    """Refuse words per action that are no numbers above 0 by component.

    Raises:
        TableError: naming the component.
    """
    check_kind("words_per_action", words, Mapping | None, "words by component", TableError)
    for component, number in (words or {}).items():
        field = f"words_per_action of {component!r:.60}"
        check_in_range(field, number, 0.0, 1e30, open_low=True, error=TableError)


def _check_total(where: str, columns: Mapping[str, Any], rows: Collection[AccessRow]) -> None:
    """Refuse energies that do not add up to the mapping's total, or stand without one.

    Raises:
        TableError: for those.
    """
    if _TOTAL not in columns:
        refuse(f"{where}: {_TOTAL}", "missing", "the sum of all energies, J", TableError)
    total = columns[_TOTAL]
    check_in_range(f"{where}: {_TOTAL}", total, 0.0, 1e30, error=TableError)
    check_total(where, rows, total, 1e-6 * total)  # AccelForge computes in single precision


def _by_key(where: str, columns: Mapping[str, Any]) -> tuple[dict[_Key, float], dict[_Key, float]]:
    """Counts and joules of a mapping's columns.

    Raises:
        TableError: if one is of several mappings, or no number.
    """
    found: dict[str, dict[_Key, float]] = {"action": {}, "energy": {}}
    for column, value in columns.items():
        einsum, *rest = column.split("<SEP>")
        if len(rest) not in (3, 4) or rest[0] not in found:
            continue
        if isinstance(value, list):
            allowed = "one mapping, such as mappings[0]"
            refuse(f"{where}: {column}", f"of {len(value)} mappings", allowed, TableError)
        check_in_range(f"{where}: {column}", value, 0.0, 1e30, error=TableError)
        kind, component, *tensor, action = rest  # leakage is of no tensor
        found[kind][einsum, component, tensor[0] if tensor else "", action.lower()] = value
    return found["action"], found["energy"]


def _roles(specs: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Roles of tensors by Einsum and name, from the renames of each Einsum."""
    return {
        (einsum, tensor): _ROLES[rename.name]
        for einsum, spec in specs.items()
        for rename in spec.workload.einsums[einsum].renames
        if rename.name in _ROLES
        for tensor in rename.source
    }


def _words(spec: Any, key: _Key) -> float:
    """Words of a tensor that one action moves, as the specification of its Einsum says."""
    einsum, component, tensor, name = key
    memory = spec.arch.find(component)
    action = memory.actions[name]
    for own in (action.values_per_action, memory.values_per_action):
        if tensor in own:
            return float(own[tensor])
    access = spec.workload.einsums[einsum].tensor_accesses[tensor]
    return float(action.bits_per_action / memory.bits_per_value.get(tensor, access.bits_per_value))
