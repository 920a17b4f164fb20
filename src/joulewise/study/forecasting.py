"""Forecasting: predictions along a curve that was simulated, and how well the two agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from joulewise.data import Split
from joulewise.errors import JoulewiseError
from joulewise.placement import Placement
from joulewise.prediction import predict
from joulewise.study.curve import Curve
from joulewise.study.records import ForecastRecord, SimulationRecord

__all__ = [
    "MOST_FORECASTS",
    "Agreement",
    "Forecasts",
    "agreement",
    "forecast_curve",
    "losses",
    "nearest",
    "spread",
]

MOST_FORECASTS = 4
"""A curve gets at most this many forecasts."""

# Past this loss nobody runs a network, and no expansion is made for it.
_WINDOW = 0.11


class Agreement(BaseModel):
    """A forecast beside a simulation of the same plan and samples.

    Args:
        ratio: Predicted over simulated output error; None where the simulated one is 0.
        low: Lower end of the ratio's 95 % interval, from that of the simulation over chips; None
            for a single chip.
        high: Upper end; None where the simulation's interval reaches 0.
    """

    model_config = ConfigDict(frozen=True)

    ratio: float | None
    low: float | None
    high: float | None


def agreement(forecast: ForecastRecord, simulation: SimulationRecord) -> Agreement:
    """How far a forecast of the output error is from what chips show.

    Args:
        forecast: The forecast.
        simulation: Chips with the same plan, on the same samples.
    """
    if simulation.mean_mse == 0:
        return Agreement(ratio=None, low=None, high=None)
    low = high = None
    if simulation.chips > 1:
        interval = simulation.mse_interval()
        low = forecast.mse / interval.high
        high = forecast.mse / interval.low if interval.low > 0 else None
    return Agreement(ratio=forecast.mse / simulation.mean_mse, low=low, high=high)


class Forecasts(BaseModel):
    """Forecasts along a curve.

    Args:
        records: One for each point of the curve; None where none was made.
        refused: Why the network cannot be predicted; empty if it can.
    """

    model_config = ConfigDict(frozen=True)

    records: tuple[ForecastRecord | None, ...]
    refused: str = ""


def forecast_curve(
    placement: Placement,
    data: Split,
    curve: Curve,
    *,
    knob: str,
    drops: Sequence[float],
    progress: Callable[[float], None] = lambda share: None,
) -> Forecasts:
    """Second-order forecasts at a few points of a curve, well spread over the accuracy lost.

    The points nearest to the drops are among them. A network that cannot be predicted is no
    mistake in a comparison: its forecasts say why.

    Args:
        placement: What is stored where.
        data: The samples that were simulated.
        curve: What simulation found.
        knob: The setting that a point is.
        drops: The accuracy drops that were asked for.
        progress: Called with the share of the work done.
    """
    found: dict[int, ForecastRecord] = {}
    chosen = spread(losses(curve.simulations), drops)
    for number, index in enumerate(chosen):
        try:
            forecast = predict(
                placement,
                data,
                at={knob: curve.points[index]},
                method="second-order",
                progress=_part(progress, number, len(chosen)),
            )
        except JoulewiseError as error:
            return Forecasts(records=(None,) * len(curve.points), refused=str(error))
        found[index] = ForecastRecord.of(placement, forecast)
    return Forecasts(records=tuple(found.get(index) for index in range(len(curve.points))))


def _part(
    progress: Callable[[float], None], number: int, parts: int
) -> Callable[[str, float, float], None]:
    return lambda _, done, expected: progress((number + done / expected) / parts)


def losses(simulations: Sequence[SimulationRecord]) -> list[float]:
    """The accuracy that each simulation lost against a perfect memory of the same words."""
    return [s.ideal_accuracy - s.mean_accuracy if s.ideal_accuracy else 0.0 for s in simulations]


def nearest(lost: Sequence[float], drop: float) -> int:
    """The index of the loss that is closest to ``drop``."""
    return min(range(len(lost)), key=lambda index: abs(lost[index] - drop))


def spread(lost: Sequence[float], drops: Sequence[float]) -> list[int]:
    """Indices of at most `MOST_FORECASTS` losses within 0.11, in order.

    First those nearest to the drops; then, one after the other, the one that is farthest from all
    that were chosen, between square roots: small losses are where networks are run.

    Example:
        >>> spread([0.0, 0.0, 0.001, 0.004, 0.006, 0.009, 0.02, 0.1, 0.5], drops=[0.005, 0.01])
        [1, 3, 5, 7]
    """
    able = [index for index, loss in enumerate(lost) if loss <= _WINDOW]
    chosen: list[int] = []
    for drop in sorted(drops):
        if able and (index := able[nearest([lost[i] for i in able], drop)]) not in chosen:
            chosen.append(index)
    root = [max(loss, 0.0) ** 0.5 for loss in lost]
    while len(chosen) < min(MOST_FORECASTS, len(able)):
        # Of points that lose alike, the least reliable: with hardly a fault there is little to say.
        rest = [index for index in reversed(able) if index not in chosen]
        chosen.append(
            max(
                rest,
                key=lambda index: min((abs(root[index] - root[c]) for c in chosen), default=0.0),
            )
        )
    return sorted(chosen[:MOST_FORECASTS])
