"""Stats files of Timeloop with Accelergy (BSD-3): accesses and energies of one layer, as text.

``timeloop-mapper.stats.txt`` and ``timeloop-model.stats.txt``, as versions from 2019 (``pJ/MACC``)
to 2024 (``pJ/Compute``, with leakage) and Sparseloop (actual, gated and skipped accesses) print
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from joulewise.errors import TableError, check_in_range, check_kind, refuse
from joulewise.mappers.access_table import AccessRow, AccessTable, check_total, row_at
from joulewise.mappers.reading import check_roles, files_of, read_text

__all__ = ["read_timeloop"]

_SI = {"aJ": 1e-18, "fJ": 1e-15, "pJ": 1e-12, "nJ": 1e-9, "uJ": 1e-6, "mJ": 1e-3, "J": 1.0}
_TENSORS = ("weights", "inputs", "outputs")
# Energies beside those of accesses; all together are the total.
_OTHER = {
    "temporal reduction energy (total)": "temporal reduction",
    "address generation energy (total)": "address generation",
    "leakage energy (total)": "leak",
    "link transfer energy (total)": "link transfer",
    "spatial reduction energy (total)": "spatial reduction",
}
# "Algorithmic", "gated" and "skipped" accesses do not happen. "Random" ones follow "total" ones.
_ACCESSES = re.compile(r"(?:actual |total )?scalar (?:random +)?(reads|fills|updates) \(per-.+")
_Facts = dict[tuple[str, str], dict[str, str]]
"""By component and tensor (empty for the component itself): text by label in lower case."""


def read_timeloop(path: str | Path, *, tensors: Mapping[str, str] | None = None) -> AccessTable:
    """Accesses and energies of layers that Timeloop has evaluated.

    Timeloop counts scalar accesses, words, for each instance of a memory; they are multiplied by
    the utilized instances. Fills and updates are writes. One energy is stated for all accesses to a
    tensor in a memory: it is shared by reads and writes in proportion to their numbers, as the
    file's energy per scalar access does. Energies are in picojoules by convention.

    Args:
        path: A stats file, or a folder with those of several layers, one in each subfolder. A layer
            is named as the folder of its file.
        tensors: Roles of data spaces by name, such as ``{"A": "weights"}``, where they are not
            called Weights, Inputs and Outputs; others keep Timeloop's names.

    Returns:
        Reads and writes of each layer, tensor and memory; arithmetic as ``"compute"``; leakage,
        reductions, address generation and transfers of networks where their energy is not 0.

    Raises:
        TableError: if a file cannot be read or is no stats file, two are of one layer, no file has
            a data space of ``tensors``, or the energies do not add up to the file's total.
    """
    check_kind("tensors", tensors, Mapping | None, "roles by data space", TableError)
    files = files_of(path, "**/*.stats.txt", "stats of Timeloop")
    root, roles = Path(path), tensors or {}
    texts: dict[str, tuple[str, Path]] = {}
    for file in files:
        folder = file.parent
        layer = folder.relative_to(root).as_posix() if root in folder.parents else folder.name
        if layer in texts:
            refuse(f"{file}: its folder", f"{layer} again", "one file a layer", TableError)
        texts[layer] = read_text(file, "stats of Timeloop"), file
    spaces = [tensor for text, _ in texts.values() for _, tensor in _parsed(text)[0] if tensor]
    check_roles(roles, dict.fromkeys(spaces))
    rows = [_rows(layer, text, str(file), roles) for layer, (text, file) in texts.items()]
    return AccessTable(rows=tuple(row for own in rows for row in own))


def _rows(layer: str, text: str, where: str, roles: Mapping[str, str]) -> list[AccessRow]:
    """Rows of one stats file, checked against the total energy that it states."""
    computes, unit, total = _stated(text, where)
    rows = []
    facts, networks = _parsed(text)
    for (component, tensor), own in facts.items():
        place = f"{where}: {component}{', ' * bool(tensor)}{tensor}"
        role = tensor.lower() if tensor.lower() in _TENSORS else tensor
        names = {"layer": layer, "tensor": roles.get(tensor, role), "component": component}
        joules = _joules(place, own, "energy (total)")
        if component in networks:
            counts = {"transfer": _number(f"{place}: ingresses", own.get("ingresses", "0"))}
        elif tensor:
            counts = _accesses(place, own)
        else:
            counts = {"compute": computes if joules else 0.0}
        accesses = sum(counts.values())
        for action, count in counts.items():
            part = joules * count / accesses if accesses else joules / len(counts)
            if part or (count and component not in networks):
                rows.append(row_at(where, **names, action=action, count=count, joules=part))
        for label, action in _OTHER.items():
            if joules := _joules(place, own, label):
                rows.append(row_at(where, **names, action=action, count=0.0, joules=joules))
    # All figures are printed with two digits after the point.
    tolerance = 0.006 * (computes * unit + len(rows) * _SI["pJ"])
    check_total(where, rows, total * computes * unit, tolerance)
    return rows


def _stated(text: str, where: str) -> tuple[float, float, float]:
    """Number of computes, the unit of energy for each in J, and that energy in all components."""
    computes = unit = ""
    stated: tuple[str, ...] = ()
    for line in map(str.rstrip, text.splitlines()):
        # Sparseloop states algorithmic computes first, then actual ones.
        if number := re.fullmatch(r"(?:Actual )?(?:Computes|MACCs) = (\S+)", line):
            computes, unit = number[1], ""
        elif per := re.fullmatch(r"([afpnum]?J)/\S+", line):
            unit = per[1]
        elif computes and unit and (total := re.fullmatch(r"\s+Total\s+= (\S+)", line)):
            stated = (computes, unit, total[1])
    if not stated:
        allowed = "Computes or MACCs, and energy for each, as at the end of a stats file"
        refuse(where, "a file without a total", allowed, TableError)
    computes, unit, energy = stated
    return _number(f"{where}: computes", computes), _SI[unit], _number(f"{where}: Total", energy)


def _parsed(text: str) -> tuple[_Facts, set[str]]:
    """Facts of a stats file, and the names of its networks."""
    facts: _Facts = {}
    networks = set()
    component = tensor = before = ""
    for line in map(str.strip, text.splitlines()):
        if line in ("Operational Intensity Stats", "Summary Stats"):
            break
        if not line.strip("- "):
            continue
        if level := re.fullmatch(r"=== (.+) ===", line):
            component, tensor = level[1], ""
        elif re.fullmatch(r"Network \d+", before):
            component, tensor = line, ""
            networks.add(line)
        elif line.endswith(("SPECS", "STATS", "MAPPING", "Shared:")):
            tensor = ""
        elif line.endswith(":") and line.count(":") == 1:
            tensor = line[:-1]
        elif component and ":" in line:
            label, _, value = line.partition(":")
            facts.setdefault((component, tensor), {})[label.strip().lower()] = value.strip()
        before = line
    return facts, networks


def _accesses(where: str, facts: Mapping[str, str]) -> dict[str, float]:
    """Words read and written by all instances of a memory."""
    found = {"reads": 0.0, "fills": 0.0, "updates": 0.0}
    for label, value in facts.items():
        if access := _ACCESSES.fullmatch(label):
            found[access[1]] = _number(f"{where}: {label}", value)
    label = "utilized instances (max)"
    instances = _number(f"{where}: {label}", facts.get(label, "1"))
    writes = found["fills"] + found["updates"]
    return {"read": found["reads"] * instances, "write": writes * instances}


def _joules(where: str, facts: Mapping[str, str], label: str) -> float:
    """Energy under a label, J; 0 without it."""
    number, _, unit = facts.get(label, "0 J").partition(" ")
    if unit not in _SI:
        refuse(f"{where}: {label}", repr(facts[label]), f"in {', '.join(_SI)}", TableError)
    return _number(f"{where}: {label}", number) * _SI[unit]


def _number(where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        refuse(where, repr(text), "a number", TableError)
    check_in_range(where, number, 0.0, 1e30, error=TableError)
    return number
