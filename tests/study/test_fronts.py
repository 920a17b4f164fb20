"""Fronts side by side, and allocations beside the best common point."""

import pytest

from joulewise.allocation import Granularity, MetricDrop, OutputError
from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.placement import place
from joulewise.study import (
    AllocationRecord,
    CoDesignRecord,
    FrontComparison,
    Runner,
    allocate_each,
    co_design_record,
    compare_fronts,
)
from joulewise.training import TrainingSpec, train


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def placement(digits):
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=6, lr=0.1, seed=0))
    return place(model, weights=SRAM(bits=8), example_inputs=next(iter(digits.train.batches(4)))[0])


def test_the_finer_front_needs_less_energy_for_the_same_drop(placement, digits):
    runners = [
        Runner(name="common", placement=placement, granularity=Granularity(per="network")),
        Runner(name="planes", placement=placement, granularity=Granularity(bit_planes=True)),
    ]
    told = []
    comparison = compare_fronts(
        runners,
        digits.test.subset(200, seed=0),
        data_name="digits",
        drops=(0.01, 0.03),
        plans=8,
        chips=20,
        samples=128,
        progress=lambda what, done, expected: told.append(what),
    )
    common, planes = comparison.fronts
    for coarse, fine in zip(common.within, planes.within, strict=True):
        assert fine.high < coarse.low
    assert told[0] == "common, predicting" and told[-1] == "planes, simulating"
    assert FrontComparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_one_name_each(placement, digits):
    one = Runner(name="one", placement=placement, granularity=Granularity())
    for runners in ([], [one, one]):
        with pytest.raises(InputError, match="one name each"):
            compare_fronts(runners, digits.test, data_name="digits")


def test_savings_are_against_the_first(placement, digits):
    record = allocate_each(
        placement,
        digits.test.subset(200, seed=0),
        [Granularity(per="network"), Granularity()],
        network="mlp",
        data_name="digits",
        goal=OutputError(0.3),
        chips=20,
        samples=128,
    )
    assert record.saved_against_first(0) == 0.0
    first, other = (found.energy.normalised for found in record.allocations)
    assert record.saved_against_first(1) == pytest.approx(1 - other / first)
    assert 0 < record.saved_against_first(1) < 1
    saving = record.saving_at_goal(1)
    assert 0 < saving.low < saving.share < saving.high < 1
    assert record.saving_at_goal(0).share == 0.0
    unknown = record.allocations[1].model_copy(update={"at_goal": None})
    other = record.model_copy(update={"allocations": (record.allocations[0], unknown)})
    assert other.saving_at_goal(1) is None
    assert AllocationRecord.model_validate_json(record.model_dump_json()) == record


def test_a_co_design_is_a_record_of_two_allocations(digits):
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=6, lr=0.1, seed=0))
    placed = place(
        model, weights=SRAM(bits=8), example_inputs=next(iter(digits.train.batches(4)))[0]
    )
    record = co_design_record(
        placed,
        digits,
        digits.test.subset(200, seed=0),
        network="mlp",
        goal=MetricDrop(0.02),
        rounds=1,
        chips=20,
        samples=128,
    )
    first, last = record.allocations
    assert first == record.design.rounds[0].allocation and last == record.design.allocation
    assert record.images == 200
    text = record.model_dump_json()
    assert CoDesignRecord.model_validate_json(text).model_dump_json() == text
