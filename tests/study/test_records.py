import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from joulewise.allocation import (
    EnergyBudget,
    Granularity,
    MetricDrop,
    MetricTarget,
    OutputError,
    Yield,
    allocate,
    pareto,
)
from joulewise.data import Split
from joulewise.devices import SRAM
from joulewise.errors import InputError
from joulewise.metrics import NegativeLogLikelihood
from joulewise.placement import Plan, place
from joulewise.prediction import predict
from joulewise.simulation import proportion_interval, simulate
from joulewise.study import (
    AllocationEvidence,
    ArmComparison,
    CoDesignRecord,
    Comparison,
    EnergyRecord,
    ForecastRecord,
    FrontEvidence,
    SimulationRecord,
    plan_of,
)

STORED = Path(__file__).parents[2] / "results"


@pytest.fixture
def result():
    return SimulationRecord(
        plan={"a": 0.5, "b": 0.25},
        seed=0,
        images=100,
        float_accuracy=0.95,
        ideal_accuracy=0.94,
        accuracy=(0.90, 0.92, 0.94, 0.80),
        mse=(1.0, 2.0, 3.0, 6.0),
        ideal_mse=0.1,
        energy=EnergyRecord(
            memory_j={"a": 1.0, "b": 0.5}, memory_reliable_j=4.0, unplaced_j=0.25, arithmetic_j=2.0
        ),
    )


def test_figures(result):
    assert result.chips == 4
    assert result.mean_accuracy == pytest.approx(0.89)
    assert result.mean_mse == 3.0
    assert result.energy.memory_total_j == 1.5
    assert result.energy.total_j == 3.75
    assert result.energy.normalised == 0.375


def test_yield_is_the_share_at_or_above(result):
    share, interval = result.yield_at(0.92)
    assert share == 0.5
    assert interval == proportion_interval(2, 4)


def test_quantiles_are_accuracies_of_chips(result):
    assert result.accuracy_quantile(0.0) == 0.80
    assert result.accuracy_quantile(1.0) == 0.94
    assert result.accuracy_quantile(0.05) in result.accuracy


def test_summary_has_the_figures_that_people_ask_for(result):
    summary = result.summary(target=0.9)
    assert summary["mean_accuracy"] == pytest.approx(0.89)
    assert summary["yield"] == 0.75
    assert summary["chips"] == 4


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_shares_outside_0_to_1_are_refused(result, bad):
    with pytest.raises(InputError, match="target is"):
        result.yield_at(bad)
    with pytest.raises(InputError, match="share is"):
        result.accuracy_quantile(bad)


@pytest.fixture(scope="module")
def data():
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    return Split(inputs=inputs, targets=network()(inputs).argmax(1))


@pytest.fixture(scope="module")
def placement(data):
    return place(network(), weights=SRAM(bits=8), example_inputs=data.inputs)


def network():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


@pytest.fixture(scope="module")
def plan():
    """A point for each bit plane of one tensor, one point for the other."""
    planes = torch.linspace(0.2, 0.6, 8, dtype=torch.float64)
    return Plan({"0.weight": {"eta": planes}, "2.weight": {"eta": 0.3}})


def survives(record):
    again = type(record).model_validate_json(record.model_dump_json())
    return again == record and again.model_dump_json() == record.model_dump_json()


def test_a_simulation_is_recorded_with_its_figures(placement, data, plan):
    found = simulate(placement, data, at=plan, chips=6, seed=3)
    record = SimulationRecord.of(placement, found)
    assert (record.seed, record.chips, record.images) == (3, 6, 50)
    assert (record.accuracy, record.mse) == (found.values, found.mse)
    assert len(set(record.accuracy)) > 1
    assert (record.float_accuracy, record.ideal_accuracy) == (found.original, found.ideal)
    assert record.ideal_mse == found.ideal_mse
    assert record.mean_accuracy == found.mean and record.mean_mse == found.mean_mse
    assert record.accuracy_interval() == found.interval()
    assert record.mse_interval(0.9) == found.mse_interval(0.9)
    assert record.accuracy_quantile(0.05) == found.quantile(0.05)
    assert record.yield_at(0.7) == found.yield_at(0.7)
    assert record.energy.model_dump() == found.energy.to_dict()
    for figure in ("memory_total_j", "total_j", "normalised"):
        assert getattr(record.energy, figure) == getattr(found.energy, figure)
    assert record.plan == {"0.weight": tuple(plan["0.weight"]["eta"].tolist()), "2.weight": 0.3}
    assert survives(record)


def test_the_plan_of_a_record_gives_the_same_chips(placement, data, plan):
    found = simulate(placement, data, at=plan, chips=3)
    record = SimulationRecord.of(placement, found)
    back = plan_of(placement, record.plan)
    assert back.to_dict() == found.plan.to_dict()
    assert simulate(placement, data, at=back, chips=3).to_dict() == found.to_dict()


def test_without_targets_a_record_has_no_accuracy(placement, data):
    found = simulate(placement, [data.inputs], at={"eta": 0.3}, chips=3)
    record = SimulationRecord.of(placement, found)
    assert (record.accuracy, record.ideal_accuracy, record.float_accuracy) == ((), None, None)
    assert (record.chips, record.mse) == (3, found.mse)
    assert "mean_accuracy" not in record.summary()
    with pytest.raises(InputError, match="accuracy is not known"):
        _ = record.mean_accuracy
    assert survives(record)


def test_a_metric_other_than_accuracy_is_not_recorded_as_one(placement, data):
    metric = NegativeLogLikelihood()
    found = simulate(placement, data, at={"eta": 0.3}, chips=3, metric=metric)
    with pytest.raises(InputError, match="negative log-likelihood; allowed: accuracy"):
        SimulationRecord.of(placement, found)


@pytest.mark.parametrize("method", ["first-order", "second-order", "corrected"])
def test_a_forecast_is_recorded_with_its_figures(placement, data, plan, method):
    found = predict(placement, data, at=plan, method=method)
    record = ForecastRecord.of(placement, found)
    assert (record.method, record.images) == (found.method, 50)
    assert record.mse == float(found.mse) and record.mean_shift == float(found.mean_shift)
    assert record.standard_error == found.standard_error
    assert record.variance == {name: float(part) for name, part in found.variance.items()}
    assert record.shares == found.fractions
    assert record.accuracy == found.accuracy
    assert plan_of(placement, record.plan).to_dict() == plan.to_dict()
    assert survives(record)


@pytest.mark.parametrize(
    ("goal", "kind"),
    [
        (MetricDrop(0.1), "MeanGoal"),
        (MetricTarget(0.7), "MeanGoal"),
        (Yield(0.5, of=MetricDrop(0.1)), "YieldGoal"),
        (OutputError(0.02), "ErrorGoal"),
        (EnergyBudget(0.4), "EnergyGoal"),
    ],
)
def test_an_allocation_is_recorded_with_its_figures(placement, data, goal, kind):
    granularity = Granularity(bit_planes=kind == "EnergyGoal")
    found = allocate(placement, data, goal=goal, granularity=granularity, chips=20, samples=32)
    record = AllocationEvidence.of(placement, found)
    limits = {
        "MeanGoal": {"accuracy": found.limit},
        "YieldGoal": {"accuracy": found.limit, "share": 0.5},
        "ErrorGoal": {"mse": 0.02},
        "EnergyGoal": {"energy": 0.4},
    }
    assert record.goal == {"goal": kind, **limits[kind]}
    assert record.granularity == granularity
    assert plan_of(placement, record.plan).to_dict() == found.plan.to_dict()
    assert record.simulation == SimulationRecord.of(placement, found.simulation)
    assert record.energy == EnergyRecord.of(found.energy) == record.simulation.energy
    for figure in ("predicted_shift", "predicted_variance", "predicted_mse", "saved", "holds"):
        assert getattr(record, figure) == getattr(found, figure)
    for figure in ("chosen", "trials", "at_goal", "confidence", "evaluations"):
        assert getattr(record, figure) == getattr(found, figure)
    assert len(record.attempts) == len(found.attempts)
    for one, attempt in zip(record.attempts, found.attempts, strict=True):
        figures = asdict(attempt)
        assert one.model_dump() == {"mean_accuracy": figures.pop("mean"), **figures}
    assert survives(record)


def test_a_yield_of_output_errors_is_not_recorded_as_one_of_accuracies(placement, data):
    goal = Yield(0.5, of=OutputError(0.5))
    found = allocate(placement, data, goal=goal, chips=20, samples=32)
    with pytest.raises(InputError, match="allowed: a yield of accuracies"):
        AllocationEvidence.of(placement, found)


def test_a_front_is_recorded_with_its_figures(placement, data):
    found = pareto(placement, data, plans=3, chips=3, samples=32)
    record = FrontEvidence.of(placement, found)
    assert record.granularity == found.granularity
    assert record.evaluations == found.evaluations
    assert len(record.points) == 3
    for one, point in zip(record.points, found.points, strict=True):
        assert (one.energy, one.predicted_mse) == (point.energy, point.predicted_mse)
        assert plan_of(placement, one.plan).to_dict() == point.plan.to_dict()
        assert one.simulation == SimulationRecord.of(placement, point.simulation)
    assert survives(record)


@pytest.mark.parametrize(
    ("kind", "path", "field"),
    [
        (Comparison, "digits-memories/comparison.json", None),
        (ArmComparison, "robust-training/crossbar/comparison.json", None),
        (AllocationEvidence, "allocation/cnn-mask-tensor-plane.json", "allocation"),
        (AllocationEvidence, "allocation/cnn-crossbar-channel.json", "allocation"),
        (CoDesignRecord, "co-design.json", "record"),
        (SimulationRecord, "co-design.json", "elsewhere"),
    ],
)
def test_stored_records_are_read(kind, path, field):
    stored = json.loads((STORED / path).read_text())
    text = json.dumps(stored if field is None else stored[field])
    record = kind.model_validate_json(text)
    assert record.model_dump(mode="json", exclude_unset=True) == json.loads(text)
    assert survives(record)
