"""Predictions beside simulations, and who hurts most: as numbers, in words and as table rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from joulewise.report.knob import Knob
from joulewise.report.style import si
from joulewise.study import (
    Comparison,
    ContenderRecord,
    ForecastRecord,
    PlacedRecord,
    SimulationRecord,
    agreement,
)
from joulewise.study.forecasting import losses, nearest
from joulewise.units import format_percent

__all__ = [
    "Layer",
    "LayerShares",
    "Pair",
    "agreement_in_words",
    "hover",
    "layer_cells",
    "layer_shares",
    "pair_cells",
    "pairs",
    "shares_in_words",
]

_DROP = 0.01
_NEAR = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One network at one operating point, predicted and simulated.

    Args:
        point: The knob's setting.
        forecast: What was predicted.
        simulation: What chips showed.
        lost: Accuracy lost on the mean chip against a perfect memory of the same words.
        low: Lower end of the 95 % interval of ``lost``; None for a single chip.
        high: Upper end.
        predicted: Accuracy lost as predicted; None where no accuracy was.
    """

    point: float
    forecast: ForecastRecord
    simulation: SimulationRecord
    lost: float
    low: float | None
    high: float | None
    predicted: float | None

    @property
    def is_inside(self) -> bool:
        """Whether the predicted accuracy is within the simulated interval."""
        if self.predicted is None or self.low is None or self.high is None:
            return False
        return self.low <= self.predicted <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A placed tensor, who pays and who hurts.

    Args:
        placed: Name, role and size.
        memory_j: Joules of its accesses at the point.
        energy_share: Of the memory energy there.
        error_share: Of the predicted output error there.
    """

    placed: PlacedRecord
    memory_j: float
    energy_share: float
    error_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShares:
    """The layers of one network at the predicted point nearest to the largest drop.

    Args:
        name: The network.
        point: The knob's setting.
        lost: Accuracy that simulation lost there.
        mean_shift: Share of the predicted error that is a shift of the mean, by all tensors.
        layers: From input to output.
    """

    name: str
    point: float
    lost: float
    mean_shift: float
    layers: tuple[Layer, ...]


def pairs(contender: ContenderRecord) -> list[Pair]:
    """The points of a network that were predicted, most reliable first."""
    return [
        _pair(point, forecast, simulation)
        for point, forecast, simulation in zip(
            contender.points, contender.forecasts, contender.simulations, strict=False
        )
        if forecast is not None
    ]


def _pair(point: float, forecast: ForecastRecord, simulation: SimulationRecord) -> Pair:
    ideal = simulation.ideal_accuracy or 0.0
    low, high = simulation.accuracy_interval()
    known = math.isfinite(low)
    return Pair(
        point=point,
        forecast=forecast,
        simulation=simulation,
        lost=ideal - simulation.mean_accuracy,
        low=ideal - high if known else None,
        high=ideal - low if known else None,
        predicted=None if forecast.accuracy is None else ideal - forecast.accuracy.mean,
    )


def pair_cells(pair: Pair, knob: Knob) -> list[tuple[str, str]]:
    """One row of the table: each cell and its interval, which may be empty."""
    simulation, forecast = pair.simulation, pair.forecast
    ratio = agreement(forecast, simulation)
    several = simulation.chips > 1
    error, accuracy = simulation.mse_interval(), simulation.accuracy_interval()
    return [
        (knob.text(pair.point), ""),
        (f"{simulation.mean_mse:.3g}", f"{error.low:.3g} to {error.high:.3g}" if several else ""),
        (f"{forecast.mse:.3g}", ""),
        ("" if ratio.ratio is None else f"{ratio.ratio:.2f}", _ends(ratio.low, ratio.high)),
        (
            format_percent(simulation.mean_accuracy),
            f"{100 * accuracy.low:.2f} to {format_percent(accuracy.high)}" if several else "",
        ),
        ("" if forecast.accuracy is None else format_percent(forecast.accuracy.mean), ""),
    ]


def _ends(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f"{low:.2f} or more" if high is None else f"{low:.2f} to {high:.2f}"


def agreement_in_words(comparison: Comparison) -> str:
    """How well predictions agree with simulation, in a few sentences; empty without predictions."""
    found = [pair for contender in comparison.contenders for pair in pairs(contender)]
    ratios = [
        ratio
        for pair in found
        if (ratio := agreement(pair.forecast, pair.simulation).ratio) is not None
    ]
    said = _accuracies_in_words([pair for pair in found if pair.predicted is not None])
    if ratios:
        said += (
            f" The predicted output error is {min(ratios):.2f} to {max(ratios):.2f} times the "
            "simulated one."
        )
    return said.strip()


def _accuracies_in_words(found: list[Pair]) -> str:
    """Small losses, where networks are run, apart from large ones."""
    apart = [(pair.lost, abs((pair.predicted or 0.0) - pair.lost)) for pair in found]
    near = [distance for lost, distance in apart if lost <= _NEAR]
    far = [distance for lost, distance in apart if lost > _NEAR]
    if not apart:
        return ""
    said = "Predicted and simulated mean accuracy are "
    if near:
        said += f"at most {_points(max(near))} apart where up to {_points(_NEAR)} are lost"
    said += ", and " if near and far else ""
    if far:
        said += (
            f"at most {_points(max(far))} where more are lost"
            if near
            else (f"at most {_points(max(far))} apart")
        )
    inside = sum(pair.is_inside for pair in found)
    count = f"{inside} of the {len(found)} operating points below"
    return f"{said}; at {count}, the prediction is within the simulation's 95 % interval."


def _points(share: float) -> str:
    return f"{100 * share:.2g} points"


def layer_shares(contender: ContenderRecord) -> LayerShares | None:
    """Who pays and who hurts in a network; None without a forecast.

    The point is the predicted one whose simulated loss is nearest to the largest drop.
    """
    predicted = pairs(contender)
    if not predicted or not contender.placed:
        return None
    drop = max((saving.at.drop for saving in contender.savings), default=_DROP)
    pair = predicted[nearest(losses([pair.simulation for pair in predicted]), drop)]
    mse, energy = pair.forecast.mse, pair.simulation.energy
    return LayerShares(
        name=contender.name,
        point=pair.point,
        lost=pair.lost,
        mean_shift=pair.forecast.mean_shift / mse if mse else 0.0,
        layers=tuple(
            Layer(
                placed=placed,
                memory_j=energy.memory_j[placed.name],
                energy_share=energy.memory_j[placed.name] / (energy.memory_total_j or 1.0),
                error_share=pair.forecast.shares[placed.name],
            )
            for placed in contender.placed
        ),
    )


def shares_in_words(shares: LayerShares, knob: Knob) -> str:
    """Who hurts most, who pays most, and the share of the mean shift."""
    hurts = max(shares.layers, key=lambda layer: layer.error_share)
    pays = max(shares.layers, key=lambda layer: layer.energy_share)
    lost = round(100 * shares.lost, 2) + 0.0  # no minus before a zero
    where = f"at {knob.named(shares.point)}, {lost:.2f} points lost"
    most = f"{hurts.placed.name} hurts most, {_percent(hurts.error_share)} of the predicted error"
    if hurts is pays:
        said = f"{most}, and pays most, {_percent(pays.energy_share)} of the memory energy"
    else:
        said = (
            f"{most} for {_percent(hurts.energy_share)} of the memory energy; {pays.placed.name} "
            f"pays most, {_percent(pays.energy_share)}, and has {_percent(pays.error_share)} of "
            "the error"
        )
    return f"{where}: {said}. {_percent(shares.mean_shift)} of the error is the mean shift."


def layer_cells(shares: LayerShares, knob: Knob) -> list[list[str]]:
    """Rows of the full table of layers: plain numbers in SI units, for copying."""
    return [_cells(layer, knob.text(shares.point)) for layer in shares.layers]


def _cells(layer: Layer, point: str) -> list[str]:
    placed = layer.placed
    return [
        point,
        placed.name,
        placed.role,
        str(placed.words),
        "" if placed.bits is None else str(placed.bits),
        f"{layer.memory_j:.5g}",
        f"{layer.energy_share:.5f}",
        f"{layer.error_share:.5f}",
    ]


def _percent(share: float) -> str:
    return format_percent(share, 1)


def hover(layer: Layer) -> Sequence[str]:
    """What there is to know of a layer, line by line."""
    placed = layer.placed
    wide = "" if placed.bits is None else f" of {placed.bits} bits"
    return [
        f"{placed.role.capitalize()}, {placed.words:,} words{wide}",
        f"Memory {si(layer.memory_j)}, {_percent(layer.energy_share)} of it all",
        f"{_percent(layer.error_share)} of the predicted error",
    ]
