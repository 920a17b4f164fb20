"""Results of ZigZag (KU Leuven): accesses and energies of each layer, as JSON.

ZigZag writes one ``<layer>_complete.json`` a layer (``CompleteSaveStage``); read as of version 3.9.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasPath, BaseModel, Field

from joulewise.errors import TableError, refuse
from joulewise.mappers.access_table import AccessRow, AccessTable, check_total, row_at
from joulewise.mappers.reading import Nonnegative, files_of, read_text, validated

__all__ = ["read_zigzag"]

_PICOJOULE = 1e-12
_TENSORS = {"W": "weights", "I": "inputs", "O": "outputs"}
# Directions of each action in a result, with their abbreviation in the ports of an accelerator.
_DIRECTIONS = {
    "read": {"rd_out_to_low": "tl", "rd_out_to_high": "th"},
    "write": {"wr_in_by_low": "fl", "wr_in_by_high": "fh"},
}


class _Moves(BaseModel):
    """Accesses, or picojoules, between a memory and its neighbours below and above."""

    rd_out_to_low: Nonnegative
    wr_in_by_low: Nonnegative
    rd_out_to_high: Nonnegative
    wr_in_by_high: Nonnegative


def _at(*path: str) -> Any:
    return Field(validation_alias=AliasPath(*path))


class _Result(BaseModel):
    """Results of one layer."""

    accesses: dict[str, list[_Moves]] = _at("outputs", "memory", "word_accesses")
    energies: dict[str, list[_Moves]] = _at(
        "outputs", "energy", "memory_energy_breakdown_per_level_per_operand"
    )
    arithmetic: Nonnegative = _at("outputs", "energy", "operational_energy")
    total: Nonnegative = _at("outputs", "energy", "energy_total")
    accelerator: str = _at("inputs", "accelerator", "name")
    memories: dict[str, list[str]] = _at("inputs", "accelerator", "mem_hierarchy_dict")
    layer: str = _at("inputs", "layer", "name")
    sizes: dict[str, Nonnegative] = _at("inputs", "layer", "loop_dimensions")
    bits: dict[str, Nonnegative] = _at("inputs", "layer", "operand_precision")
    ports: dict[str, str] = _at("inputs", "layer", "memory_operand_links")


class _Port(BaseModel):
    bandwidth_max: Nonnegative
    allocation: list[str]


class _Ports(BaseModel):
    ports: list[_Port]


class _Architecture(BaseModel):
    """The accelerator's own file; the results do not say how wide an access is."""

    name: str
    memories: dict[str, _Ports]


def read_zigzag(path: str | Path, accelerator: str | Path) -> AccessTable:
    """Accesses and energies of the layers that ZigZag has evaluated.

    ZigZag counts accesses as wide as the port of the memory, in whole numbers (rounded down, so
    small tensors may be accessed 0 times). They are converted to words of the tensor by the width
    of the port and the precision of the operand: all words that an access is wide, used or not. For
    outputs that is the precision of partial sums where these return, else that of final outputs.
    Energies are in picojoules by convention.

    Args:
        path: The folder that a run writes, or the ``..._complete.json`` of one layer.
        accelerator: The YAML file of the accelerator that was evaluated.

    Returns:
        Reads and writes of each layer, operand and memory, and the row ``"compute"`` of its
        ``"operational_array"``, whose count is of multiply-accumulates.

    Raises:
        TableError: if a file cannot be read or is malformed, two are of one layer, the accelerator
            is another one, or the energies do not add up to the layer's total.
    """
    architecture = _architecture(accelerator)
    files = files_of(path, "*_complete.json", "results of ZigZag")
    rows: dict[str, list[AccessRow]] = {}
    for file in files:
        if file.name == "overall_complete.json":  # the sum of all layers
            continue
        result = validated(_Result, read_text(file, "results of ZigZag"), str(file))
        if result.layer in rows:
            got = f"{result.layer} again"
            refuse(f"{file}: inputs.layer.name", got, "one file a layer", TableError)
        if result.accelerator != architecture.name:
            allowed = f"{result.accelerator}, as in {file}"
            refuse(f"{accelerator}: name", architecture.name, allowed, TableError)
        rows[result.layer] = _rows(result, architecture, str(file))
    return AccessTable(rows=tuple(row for layer in rows.values() for row in layer))


def _architecture(path: str | Path) -> _Architecture:
    """The accelerator's file, plain YAML only: no tag builds an object.

    Raises:
        TableError: if it cannot be read.
    """
    text = read_text(path, "accelerator")
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise TableError(f"accelerator {path} is not plain YAML: {message}") from error
    return validated(_Architecture, data, str(path))


def _rows(result: _Result, architecture: _Architecture, where: str) -> list[AccessRow]:
    """Rows of one layer, checked against the total energy that its file states."""
    unit = {"tensor": "", "component": "operational_array", "action": "compute"}
    macs, joules = math.prod(result.sizes.values()), result.arithmetic * _PICOJOULE
    rows = [row_at(where, layer=result.layer, **unit, count=macs, joules=joules)]
    for operand, levels in result.accesses.items():
        port = result.ports.get(operand, "")
        memories, spent = result.memories.get(port, []), result.energies.get(operand, [])
        place = f"{where}: outputs.memory.word_accesses.{operand}"
        if len(levels) != len(spent) or len(levels) > len(memories):
            allowed = f"{len(spent)}, as have energies, of {len(memories)} memories"
            refuse(place, f"of {len(levels)} levels", allowed, TableError)
        for moves, energies, memory in zip(levels, spent, memories, strict=False):
            name = memory.removeprefix("MemoryLevel(instance=").partition(",")[0]
            tensor = {"tensor": _TENSORS.get(operand, operand), "component": name}
            for action, ways in _DIRECTIONS.items():
                joules = sum(getattr(energies, way) for way in ways) * _PICOJOULE
                count = 0.0
                for way, short in ways.items():
                    if accesses := getattr(moves, way):
                        width = _width(architecture, name, f"{port}, {short}", place)
                        count += accesses * width / _precision(result, operand, moves, way, place)
                if count or joules:
                    own = tensor | {"layer": result.layer, "action": action}
                    rows.append(row_at(where, **own, count=count, joules=joules))
    total = result.total * _PICOJOULE
    check_total(where, rows, total, 1e-9 * total)
    return rows


def _width(architecture: _Architecture, memory: str, way: str, where: str) -> float:
    """Bits of one access to a memory for an operand in a direction, such as ``"I1, tl"``."""
    ports = architecture.memories[memory].ports if memory in architecture.memories else []
    widths = [port.bandwidth_max for port in ports if way in port.allocation]
    if not widths:
        allowed = f"ports of {memory!r:.60} in the accelerator's file, which have none for it"
        refuse(f"{where}: an access", f"({way})", allowed, TableError)
    return widths[0]


def _precision(result: _Result, operand: str, moves: _Moves, way: str, where: str) -> float:
    """Bits of a word; outputs that do not return as partial sums are final ones."""
    returning = moves.rd_out_to_low if way.endswith("low") else moves.wr_in_by_high
    final = f"{operand}_final"
    name = final if final in result.bits and not returning else operand
    if not result.bits.get(name):
        refuse(f"{where}: the precision of {name}", "0 or missing", "above 0", TableError)
    return result.bits[name]
