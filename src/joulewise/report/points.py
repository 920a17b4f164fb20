"""What is known at each simulated point, as numbers: charts and tables read the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from joulewise.devices import ExponentialLaw, VoltageTable
from joulewise.devices.reliability_laws import ReliabilityLaw, VoltageRow
from joulewise.study import ContenderRecord, SimulationRecord

__all__ = ["YIELD_DROP", "PointFigures", "bit_error_rate", "point_figures", "reliable_total_j"]

YIELD_DROP = 0.01
# An accuracy is a count over images: far smaller than one image, far larger than rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFigures:
    """One network at one operating point.

    Args:
        point: The knob's setting; ``eta`` has no unit, ``v_dd`` is in volts.
        bit_error_rate: Of the weights' memory, or of the activations' where weights are not
            placed; None if the device's law is not one that can be rebuilt from the record.
        memory_j: Joules of placed memory per inference.
        normalised: ``memory_j`` over that of the same memory at its most reliable point.
        total_j: Joules per inference, unplaced memory and arithmetic included.
        mean: Mean accuracy over chips, in [0, 1].
        low: Lower end of the mean's 95 % interval over chips; None for a single chip.
        high: Upper end.
        quantiles: Accuracies that 5, 50 and 95 % of the chips stay at or below.
        good: Share of chips within one point of the accuracy with a perfect memory.
    """

    point: float
    bit_error_rate: float | None
    memory_j: float
    normalised: float
    total_j: float
    mean: float
    low: float | None
    high: float | None
    quantiles: tuple[float, float, float]
    good: float


def point_figures(contender: ContenderRecord) -> list[PointFigures]:
    """The figures of one network, in the order of its points."""
    return [
        _figures(simulation, point, bit_error_rate(contender.device, contender.knob, point))
        for point, simulation in zip(contender.points, contender.simulations, strict=True)
    ]


def _figures(simulation: SimulationRecord, point: float, rate: float | None) -> PointFigures:
    low, high = simulation.accuracy_interval()
    target = (simulation.ideal_accuracy or 0.0) - YIELD_DROP - _ROUNDING
    q05, q50, q95 = (simulation.accuracy_quantile(share) for share in (0.05, 0.5, 0.95))
    return PointFigures(
        point=point,
        bit_error_rate=rate,
        memory_j=simulation.energy.memory_total_j,
        normalised=simulation.energy.normalised,
        total_j=simulation.energy.total_j,
        mean=simulation.mean_accuracy,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        quantiles=(q05, q50, q95),
        good=simulation.yield_at(max(target, 0.0))[0],
    )


def bit_error_rate(device: Mapping[str, Any] | None, knob: str, point: float) -> float | None:
    """The probability that a cell fails, from a device's description.

    Args:
        device: As its ``describe`` wrote it; None if there is none.
        knob: ``"eta"``, ``"v_dd"`` or ``"bit_error_rate"``.
        point: The knob's setting; ``v_dd`` in volts.

    Returns:
        In [0, 1]; None if the law or the knob is not known here.

    Example:
        >>> rate = bit_error_rate({"law": "exponential", "a": 12.8}, "eta", 0.5)
        >>> round(rate, 6)
        0.001662
    """
    if knob == "bit_error_rate":
        return point
    law = _law(device or {})
    if law is None or knob not in {"eta", "v_dd"}:
        return None
    setting = torch.tensor(point, dtype=torch.float64)
    return float(law.bit_error_rate(law.eta(setting) if knob == "v_dd" else setting))


def _law(device: Mapping[str, Any]) -> ReliabilityLaw | None:
    match device:
        case {"law": "exponential", "a": a}:
            return ExponentialLaw(a=a)
        case {"law": "voltage table", "rows": rows}:
            return VoltageTable(rows=tuple(VoltageRow(*row) for row in rows), source="")
        case _:
            return None


def reliable_total_j(contender: ContenderRecord) -> float:
    """Joules per inference with the placed memory at its most reliable point."""
    energy = contender.reliable.energy
    return energy.memory_reliable_j + energy.unplaced_j + energy.arithmetic_j
