"""A small synthetic comparison, whose figures are chosen rather than simulated."""

from collections.abc import Callable

import pytest

from joulewise.prediction import AccuracyForecast
from joulewise.report import render
from joulewise.study import (
    Comparison,
    ContenderRecord,
    EnergyRecord,
    Environment,
    ForecastRecord,
    IsoAccuracy,
    PlacedRecord,
    SimulationRecord,
)
from joulewise.study.comparison import Saving
from joulewise.training import EpochRecord, TrainingRecord, TrainingSpec

SRAM = {
    "device": "sram",
    "bits": 8,
    "channel_dim": None,
    "limit": None,
    "fault": "mask",
    "fault_map": "independent",
    "law": "exponential",
    "a": 12.8,
    "nominal_energy_per_bit_j": 20e-12 / 64,
}
POINTS = (1.0, 0.6, 0.4, 0.2)
LOSSES = (0.0, 0.002, 0.008, 0.3)


def simulation(eta: float, accuracies: tuple[float, ...], ideal: float, weights_j: float):
    return SimulationRecord(
        plan={"head.weight": eta, "head:input": eta},
        seed=7,
        images=500,
        float_accuracy=ideal + 0.001,
        ideal_accuracy=ideal,
        accuracy=accuracies,
        mse=tuple(0.01 * (1 + 0.1 * (k % 2)) for k in range(len(accuracies))),
        ideal_mse=0.001,
        energy=EnergyRecord(
            memory_j={"head.weight": weights_j * eta, "head:input": 0.25 * weights_j * eta},
            memory_reliable_j=1.25 * weights_j,
            unplaced_j=0.05 * weights_j,
            arithmetic_j=0.5 * weights_j,
        ),
    )


def crossing(drop: float, eta: float, weights_j: float, **changes: object) -> Saving:
    fixed = 0.55 * weights_j
    at = IsoAccuracy(drop=drop, point=eta, low=eta - 0.03, high=eta + 0.02, at_edge=False)
    saving = Saving(
        at=at,
        memory_j=1.25 * weights_j * eta,
        memory_saved=1 - eta,
        memory_saved_low=1 - eta - 0.02,
        memory_saved_high=1 - eta + 0.03,
        total_j=1.25 * weights_j * eta + fixed,
        total_saved=1 - (1.25 * weights_j * eta + fixed) / (1.25 * weights_j + fixed),
    )
    at_fields = {key: changes.pop(key) for key in list(changes) if key in IsoAccuracy.model_fields}
    return saving.model_copy(update=changes | {"at": at.model_copy(update=at_fields)})


def not_reached(drop: float) -> Saving:
    return Saving(
        at=IsoAccuracy(drop=drop, point=None, low=None, high=None, at_edge=False),
        memory_j=None,
        memory_saved=None,
        memory_saved_low=None,
        memory_saved_high=None,
        total_j=None,
        total_saved=None,
    )


def forecast(eta: float, accuracy: float | None) -> ForecastRecord:
    """An error of 0.01: a quarter of it mean shift, the rest shared 2 to 1."""
    return ForecastRecord(
        method="first-order",
        plan={"head.weight": eta, "head:input": eta},
        images=500,
        mse=0.01,
        standard_error=1e-4,
        mean_shift=0.0025,
        variance={"head.weight": 0.005, "head:input": 0.0025},
        shares={"head.weight": 0.5, "head:input": 0.25},
        accuracy=None if accuracy is None else AccuracyForecast(mean=accuracy),
    )


def placed(weights_j: float) -> tuple[PlacedRecord, ...]:
    activation = PlacedRecord(
        name="head:input",
        role="activation",
        words=640,
        bits=8,
        reads=640.0,
        writes=640.0,
        reliable_j=0.25 * weights_j,
    )
    weight = {"name": "head.weight", "role": "weight", "words": 12000, "reads": 12000.0}
    return (
        activation,
        activation.model_copy(update={**weight, "writes": 0.0, "reliable_j": weights_j}),
    )


def contender(
    name: str,
    *,
    ideal: float = 0.95,
    weights_j: float = 2e-6,
    savings: tuple[Saving, ...] | None = None,
    chips: int = 4,
    trained: bool = True,
) -> ContenderRecord:
    spread = [0.002 * (k - (chips - 1) / 2) for k in range(chips)]
    training = TrainingRecord(
        spec=TrainingSpec(epochs=3),
        data="digits",
        train_images=1000,
        test_images=500,
        test_accuracy=0.9512,
        seconds=1.0,
        history=(EpochRecord(epoch=1, loss=1.0, seconds=0.3),),
    )
    return ContenderRecord(
        name=name,
        parameters=12345,
        placed_words={"weight": 12000, "activation": 640},
        macs=1.2e6,
        training=training if trained else None,
        points=POINTS,
        simulations=tuple(
            simulation(eta, tuple(ideal - loss - eta * step for step in spread), ideal, weights_j)
            for eta, loss in zip(POINTS, LOSSES, strict=True)
        ),
        savings=savings
        if savings is not None
        else (crossing(0.005, 0.5, weights_j), crossing(0.01, 0.39, weights_j)),
        knob="eta",
        weights_device=SRAM,
        activations_device=SRAM,
        placed=placed(weights_j),
        # Predicted to lose a tenth of a point more than simulated; not at the last point.
        forecasts=tuple(
            None if loss > 0.1 else forecast(eta, ideal - loss - 0.001)
            for eta, loss in zip(POINTS, LOSSES, strict=True)
        ),
    )


def comparison(*contenders: ContenderRecord, **changes: object) -> Comparison:
    """Changes to a field of networks reach all of them."""
    chosen = contenders or (contender("mlp"), contender("cnn", ideal=0.97, weights_j=3e-6))
    each = {key: changes.pop(key) for key in list(changes) if key in ContenderRecord.model_fields}
    chosen = tuple(one.model_copy(update=each) for one in chosen)
    record = Comparison(
        command="joulewise compare mlp cnn",
        data="digits",
        arithmetic={"mac_j": 0.3e-12, "source": "Horowitz, ISSCC 2014"},
        chips=len(chosen[0].simulations[0].accuracy) if chosen else 0,
        seed=7,
        images=500,
        contenders=chosen,
        environment=Environment(
            joulewise="0.1.0",
            python="3.12.0",
            torch="2.7.0",
            numpy="2.1.0",
            machine="a machine, 2 cores",
            threads=1,
            finished="2026-01-02T03:04:05+00:00",
        ),
        seconds=51.2,
    )
    return record.model_copy(update=changes)


class Cases:
    """What tests build their records from."""

    sram = SRAM
    contender = staticmethod(contender)
    forecast = staticmethod(forecast)
    crossing = staticmethod(crossing)
    not_reached = staticmethod(not_reached)
    comparison: Callable[..., Comparison] = staticmethod(comparison)


@pytest.fixture(scope="session")
def cases() -> type[Cases]:
    return Cases


@pytest.fixture(scope="session")
def page() -> str:
    return render(comparison())
