"""Energy per inference: accesses times energy per access, plus arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from joulewise.devices import HOROWITZ_INT8, Arithmetic
from joulewise.devices.tables import read_csv
from joulewise.errors import InputError, TableError, check_in_range, check_kind, refuse
from joulewise.placement.placement import Placement
from joulewise.placement.plan import At
from joulewise.results import Result
from joulewise.units import format_percent, format_si

__all__ = ["Energy", "energy", "supply_energies", "with_accesses"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Energy(Result):
    """Energy of one inference in joules, by component.

    Args:
        memory_j: Accesses to each placed tensor, scalar tensors, differentiable in the points.
        memory_reliable_j: The same accesses, all at each device's most reliable point.
        unplaced_j: Reads of parameters left in reliable memory, once each.
        arithmetic_j: Multiply-accumulates; does not depend on the points.
    """

    memory_j: Mapping[str, Tensor]
    memory_reliable_j: float
    unplaced_j: float
    arithmetic_j: float

    @property
    def memory_total_j(self) -> float:
        """Energy of all placed tensors, J."""
        return sum(self._joules().values())

    @property
    def total_j(self) -> float:
        """Energy of placed and unplaced memory and arithmetic, J."""
        return self.memory_total_j + self.unplaced_j + self.arithmetic_j

    @property
    def normalised(self) -> float:
        """Energy of placed memory over that of the same memory at its most reliable point."""
        return self.memory_total_j / self.memory_reliable_j

    def to_dict(self) -> dict[str, Any]:
        """See `Result`."""
        return {
            "memory_j": self._joules(),
            "memory_reliable_j": self.memory_reliable_j,
            "unplaced_j": self.unplaced_j,
            "arithmetic_j": self.arithmetic_j,
        }

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [{"tensor": name, "memory_j": joules} for name, joules in self._joules().items()]

    def _joules(self) -> dict[str, float]:
        """Joules of each placed tensor as floats, detached from the graph."""
        return {n: float(torch.as_tensor(j).detach()) for n, j in self.memory_j.items()}

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        part = format_percent(self.normalised, 1)
        return f"{format_si(self.total_j, 'J')} an inference", {
            "placed memory": f"{format_si(self.memory_total_j, 'J')}, {part} of its most reliable",
            "other memory": format_si(self.unplaced_j, "J"),
            "arithmetic": format_si(self.arithmetic_j, "J"),
        }


def energy(placement: Placement, *, at: At, arithmetic: Arithmetic = HOROWITZ_INT8) -> Energy:
    """Energy of one inference, in joules.

    Activations are counted only if they are placed. Parameters that are not placed are read once
    each, at `Device.reliable_bit_j` of the first placed tensor's device.

    Args:
        placement: A traced placement.
        at: Operating points; see `Placement.points`.
        arithmetic: The energy of a multiply-accumulate.

    Returns:
        The energy, by component.

    Raises:
        InputError: if the placement was not traced, the points do not fit it, or no placed tensor
            is ever accessed.
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    if placement.macs is None:
        raise InputError("energy needs access counts; give place(..., example_inputs=a batch)")
    points = placement.points(at)
    memory, reliable = {}, 0.0
    for tensor in placement.placed:
        assert tensor.traffic is not None
        memory[tensor.name] = tensor.device.energy(tensor.traffic, points[tensor.name])
        reliable += float(tensor.device.energy(tensor.traffic, tensor.device.knob.most_reliable))
    if reliable == 0:
        raise InputError("no placed tensor is ever accessed; allowed: reads or writes above 0")
    return Energy(
        memory_j=memory,
        memory_reliable_j=reliable,
        unplaced_j=placement.placed[0].device.reliable_bit_j * placement.reliable_bits,
        arithmetic_j=arithmetic.mac_j * placement.macs,
    )


def supply_energies(placement: Placement) -> dict[str, float]:
    """Energy of the placed memory at the supplies that savings are compared with, J.

    Args:
        placement: A traced placement.

    Returns:
        Joules of one inference by name, such as ``"V_min"``; only names that the memories of all
        placed tensors state.

    Raises:
        InputError: if the placement was not traced.
    """
    if not placement.traced:
        refuse("placement", "without access counts", "place(..., example_inputs=a batch)")
    found = [
        placed.device.reference_energies(placed.traffic)
        for placed in placement.placed
        if placed.traffic is not None
    ]
    return {
        name: sum(joules[name] for joules in found)
        for name in (found[0] if found else {})
        if all(name in joules for joules in found)
    }


_COLUMNS = ("name", "reads", "writes")


def with_accesses(placement: Placement, path: str | Path) -> Placement:
    """Take accesses per inference from a file, as a mapper such as Timeloop counts them.

    Args:
        placement: A traced placement.
        path: A CSV file with the columns ``name,reads,writes``: a placed tensor's name, and how
            many of its words one inference reads and writes. Tensors that are not named keep what
            was traced. Lines that start with ``#`` are comments.

    Returns:
        The placement with those accesses.

    Raises:
        InputError: if the placement was not traced.
        TableError: if the file cannot be read or a line is malformed; the message names the line.
    """
    if not placement.traced:
        raise InputError(
            "with_accesses needs a traced placement; give place(..., example_inputs=a batch)"
        )
    known, named = {tensor.name: tensor for tensor in placement.placed}, set()
    for where, (name, reads, writes) in read_csv(path, _COLUMNS, "access counts", texts=1)[1]:
        if name not in known:
            allowed = f"a placed tensor, one of {', '.join(known)}"
            refuse(f"{where}: name", name, allowed, TableError)
        if name in named:
            refuse(f"{where}: name", f"{name} again", "one line a name", TableError)
        named.add(name)
        check_in_range(f"{where}: reads", reads, 0.0, 1e30, error=TableError)
        check_in_range(f"{where}: writes", writes, 0.0, 1e30, error=TableError)
        before = known[name].traffic
        assert before is not None
        if before.matrix_inputs:
            allowed = "a tensor that is read word by word; this one lies on a memory that computes"
            refuse(f"{where}: name", name, allowed, TableError)
        traffic = replace(before, reads=reads, writes=writes)
        known[name] = replace(known[name], traffic=traffic)
    return replace(placement, placed=tuple(known.values()))
