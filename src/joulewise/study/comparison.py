"""Comparison: networks on their memories, each from reliable down to where it breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from joulewise.data import Split
from joulewise.devices import HOROWITZ_INT8
from joulewise.errors import InputError, check_in_range
from joulewise.placement import Placement, energy, prepare
from joulewise.study.curve import Curve, energy_curve
from joulewise.study.environment import Environment
from joulewise.study.forecasting import MOST_FORECASTS, Forecasts, forecast_curve
from joulewise.study.iso_accuracy import IsoAccuracy, iso_accuracy
from joulewise.study.placed import PlacedRecord, placed_records
from joulewise.study.records import ForecastRecord, SimulationRecord
from joulewise.training import TrainingRecord

__all__ = ["Comparison", "Contender", "ContenderRecord", "compare", "named"]

# With ten classes a forecast takes about as long as this many chips: for progress alone.
_FORECASTS_IN_PASSES = 40 * MOST_FORECASTS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """A network on its memory.

    Args:
        name: What reports call it.
        placement: What of it is stored where, traced.
        training: How it was trained, where that is known.
        knob: The setting that a point is; None takes the device's own.
        points: Operating points; None to choose them.
    """

    name: str
    placement: Placement
    training: TrainingRecord | None = None
    knob: str | None = None
    points: tuple[float, ...] | None = None

    @property
    def setting(self) -> str:
        """The knob, its device's own unless another was given."""
        return self.knob or self.placement.placed[0].device.knob.name


class Saving(BaseModel):
    """What running at a crossing saves.

    Args:
        at: The crossing.
        memory_j: Joules of placed memory per inference there; None without a crossing.
        memory_saved: Share of the placed memory's energy saved against its most reliable point,
            and the ends of its 95 % interval.
        total_j: Joules per inference there, arithmetic included.
        total_saved: Share of the total saved.
    """

    model_config = ConfigDict(frozen=True)

    at: IsoAccuracy
    memory_j: float | None
    memory_saved: float | None
    memory_saved_low: float | None
    memory_saved_high: float | None
    total_j: float | None
    total_saved: float | None


class ContenderRecord(BaseModel):
    """One network's part in a comparison.

    Args:
        name: What reports call it.
        parameters: Numbers in the model.
        placed_words: Words placed, by role.
        macs: Multiply-accumulates of one inference.
        training: How it was trained, where that is known.
        points: Operating points, most reliable first.
        simulations: One for each point.
        savings: One for each accuracy drop.
        knob: The setting that a point is.
        weights_device: Where the weights are, as its ``describe`` has it; None if not placed.
        activations_device: The same of the activations.
        rising: Whether a larger point is more reliable, or less.
        placed: The placed tensors from input to output; empty in records of older versions.
        forecasts: For each point what was predicted, or None; empty in older records.
        forecast_refused: Why nothing could be predicted; empty if something was.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    parameters: int
    placed_words: dict[str, int]
    macs: float
    training: TrainingRecord | None
    points: tuple[float, ...]
    simulations: tuple[SimulationRecord, ...]
    savings: tuple[Saving, ...]
    knob: str
    weights_device: dict[str, Any] | None
    activations_device: dict[str, Any] | None
    rising: bool = True
    placed: tuple[PlacedRecord, ...] = ()
    forecasts: tuple[ForecastRecord | None, ...] = ()
    forecast_refused: str = ""

    @property
    def device(self) -> Mapping[str, Any]:
        """That of the weights, or of the activations where weights are not placed."""
        return self.weights_device or self.activations_device or {}

    @property
    def reliable(self) -> SimulationRecord:
        """The simulation at the most reliable point."""
        return self.simulations[0]


class Comparison(BaseModel):
    """Several networks on their memories, and how it was found out."""

    model_config = ConfigDict(frozen=True)

    command: str
    data: str
    arithmetic: dict[str, Any]
    chips: int
    seed: int
    images: int
    contenders: tuple[ContenderRecord, ...]
    environment: Environment
    seconds: float


def compare(
    contenders: Sequence[Contender],
    data: Split,
    *,
    data_name: str,
    drops: Sequence[float] = (0.005, 0.01),
    chips: int = 200,
    seed: int = 0,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Simulate each network from reliable memory down to where it breaks, and predict beside it.

    Args:
        contenders: Networks on their memories, names all different.
        data: The samples that accuracy is measured on, the same for all.
        data_name: What reports call them.
        drops: Accuracy drops to find the lowest energy for; 0.01 is one point.
        chips: Chips at each point, the same for all points and networks.
        seed: Of the first chip.
        command: The command line that asked, for the record.
        progress: Called with a name, passes done and passes expected.

    Returns:
        The record.

    Raises:
        InputError: if there is no contender, two share a name, the weights of one lie on several
            devices (or its activations do), there is no drop, or one is outside (0, 1].
        OperatingPointError: if a point is not one of its network's memory.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise InputError(f"the contenders are {names}; allowed: at least one, names all different")
    for drop in drops:
        check_in_range("drop", drop, 0.0, 1.0, open_low=True)
    for contender in contenders:
        _devices(contender)
        for point in contender.points or ():
            contender.placement.points({contender.setting: point})
    began = time.perf_counter()
    records = [
        _contend(
            contender,
            data,
            drops=drops,
            chips=chips,
            seed=seed,
            progress=named(progress, contender.name),
        )
        for contender in contenders
    ]
    return Comparison(
        command=command,
        data=data_name,
        arithmetic=HOROWITZ_INT8.describe(),
        chips=chips,
        seed=seed,
        images=len(data),
        contenders=tuple(records),
        environment=Environment.now(),
        seconds=time.perf_counter() - began,
    )


def _contend(
    contender: Contender,
    data: Split,
    *,
    drops: Sequence[float],
    chips: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> ContenderRecord:
    """One network's part: simulate, predict, and find what it saves."""
    placement, knob = _traced(contender.placement, data), contender.setting
    passes = 0

    def simulated(done: int, total: int) -> None:
        nonlocal passes
        passes = total
        progress(done, total + _FORECASTS_IN_PASSES)

    def predicted(share: float) -> None:
        progress(passes + round(share * _FORECASTS_IN_PASSES), passes + _FORECASTS_IN_PASSES)

    curve = energy_curve(
        placement,
        data,
        points=contender.points,
        knob=knob,
        drops=drops,
        chips=chips,
        seed=seed,
        progress=simulated,
    )
    forecasts = forecast_curve(placement, data, curve, knob=knob, drops=drops, progress=predicted)
    predicted(1.0)
    savings = tuple(
        _saving(
            placement,
            iso_accuracy(curve.points, curve.simulations, drop, rising=curve.rising),
            knob,
        )
        for drop in drops
    )
    return _record(contender, placement, curve, forecasts, savings)


def _traced(placement: Placement, data: Split) -> Placement:
    """Traced with what `simulate` traces with: memories that compute take ranges from it."""
    return placement.trace(prepare(data, placement.model)[0].inputs)


def named(
    progress: Callable[[str, int, int], None] | None, name: str
) -> Callable[[int, int], None]:
    """Progress of one of several, told with its name."""
    return lambda done, total: None if progress is None else progress(name, done, total)


def _devices(contender: Contender) -> dict[str, dict[str, Any] | None]:
    """What a network's weights and its activations lie on, by role.

    Raises:
        InputError: if one of the roles is on several devices.
    """
    found: dict[str, dict[str, Any] | None] = {"weight": None, "activation": None}
    for tensor in contender.placement.placed:
        description = tensor.device.describe()
        if found[tensor.role] not in (None, description):
            raise InputError(
                f"the {tensor.role}s of {contender.name} lie on several devices; allowed: one"
            )
        found[tensor.role] = description
    return found


def _saving(placement: Placement, at: IsoAccuracy, knob: str) -> Saving:
    if at.point is None:
        return Saving(
            at=at,
            memory_j=None,
            memory_saved=None,
            memory_saved_low=None,
            memory_saved_high=None,
            total_j=None,
            total_saved=None,
        )
    here = energy(placement, at={knob: at.point})
    fixed = here.unplaced_j + here.arithmetic_j
    return Saving(
        at=at,
        memory_j=here.memory_total_j,
        memory_saved=1 - here.normalised,
        # A more reliable point saves less: the ends change places.
        memory_saved_low=_saved(placement, knob, at.high),
        memory_saved_high=_saved(placement, knob, at.low),
        total_j=here.total_j,
        total_saved=1 - here.total_j / (here.memory_reliable_j + fixed),
    )


def _saved(placement: Placement, knob: str, point: float | None) -> float | None:
    if point is None:
        return None
    return 1 - energy(placement, at={knob: point}).normalised


def _record(
    contender: Contender,
    placement: Placement,
    curve: Curve,
    forecasts: Forecasts,
    savings: tuple[Saving, ...],
) -> ContenderRecord:
    devices = _devices(contender)
    return ContenderRecord(
        name=contender.name,
        parameters=_count(placement.model),
        placed_words={
            role: sum(tensor.words for tensor in placement.placed if tensor.role == role)
            for role in ("weight", "activation")
        },
        macs=placement.macs or 0.0,
        training=contender.training,
        points=curve.points,
        simulations=curve.simulations,
        savings=savings,
        knob=contender.setting,
        weights_device=devices["weight"],
        activations_device=devices["activation"],
        rising=curve.rising,
        placed=placed_records(placement),
        forecasts=forecasts.records,
        forecast_refused=forecasts.refused,
    )


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
