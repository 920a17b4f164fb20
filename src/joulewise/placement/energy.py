"""Energy per inference: accesses times energy per access, plus arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices import HOROWITZ_INT8, Arithmetic
from joulewise.errors import InputError, check_kind, refuse
from joulewise.placement.placement import Placement
from joulewise.placement.plan import At
from joulewise.results import Result
from joulewise.units import format_percent, format_si

__all__ = ["Energy", "energy", "reference_energies"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Energy(Result):
    """Energy of one inference in joules, by component.

    Args:
        memory_j: Accesses to each placed tensor, scalar tensors, differentiable in the points.
        memory_reliable_j: The same accesses, all at each device's most reliable point.
        converters_j: Converters of analog memories, a part of the first two that no point changes.
        unplaced_j: Reads of parameters left in reliable memory, once each.
        arithmetic_j: Multiply-accumulates; does not depend on the points.
    """

    memory_j: Mapping[str, Tensor]
    memory_reliable_j: float
    converters_j: float
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
            "converters_j": self.converters_j,
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
        converters = f", {format_si(self.converters_j, 'J')} of it converters"
        return f"{format_si(self.total_j, 'J')} an inference", {
            "placed memory": f"{format_si(self.memory_total_j, 'J')}, {part} of its most reliable"
            + (converters if self.converters_j else ""),
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
    memory, reliable, converters = {}, 0.0, 0.0
    for tensor in placement.placed:
        assert tensor.traffic is not None
        memory[tensor.name] = tensor.device.energy(tensor.traffic, points[tensor.name])
        reliable += float(tensor.device.energy(tensor.traffic, tensor.device.knob.most_reliable))
        converters += tensor.device.converter_energy(tensor.traffic)
    if reliable == 0:
        raise InputError("no placed tensor is ever accessed; allowed: reads or writes above 0")
    return Energy(
        memory_j=memory,
        memory_reliable_j=reliable,
        converters_j=converters,
        unplaced_j=placement.placed[0].device.reliable_bit_j * placement.reliable_bits,
        arithmetic_j=arithmetic.mac_j * placement.macs,
    )


def reference_energies(placement: Placement) -> dict[str, float]:
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
