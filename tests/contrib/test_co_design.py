"""Co-design: less energy than allocation alone, for the accuracy of the network as it was given."""

import copy
import sys

import pytest
import torch

from joulewise.allocation import (
    EnergyBudget,
    Granularity,
    MetricDrop,
    MetricTarget,
    OutputError,
    Yield,
)
from joulewise.contrib import co_design
from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, accuracy, train

QUICK = {"chips": 20, "samples": 128, "goal": MetricDrop(0.02)}
PLANES = Granularity(bit_planes=True)
SPEC = TrainingSpec(epochs=10, lr=0.1)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def network(digits):
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=10, lr=0.1, seed=0))
    return model


@pytest.fixture
def fresh(network, digits):
    """The trained network, to be trained further."""
    model = copy.deepcopy(network).eval()
    return place(model, weights=SRAM(bits=8), example_inputs=next(iter(digits.train.batches(4)))[0])


def test_it_needs_less_energy_for_the_accuracy_as_given(fresh, digits):
    judge = digits.test.subset(300, seed=0)
    given = accuracy(fresh.model, judge)
    told = []
    found = co_design(
        fresh, digits, judge=judge, granularity=PLANES, spec=SPEC, rounds=1, step=0.6,
        progress=lambda what, done, expected: told.append(what), **QUICK,
    )  # fmt: skip
    assert found.given_accuracy == given
    assert found.min_accuracy == pytest.approx(given - 0.02)
    assert found.allocation.holds and found.rounds[1].kept
    first = found.rounds[0].allocation.energy.normalised
    assert found.allocation.energy.normalised < 0.9 * first
    again = simulate(fresh, judge, at=found.allocation.plan, chips=100, seed=10**6)
    assert again.interval(1 - 1e-6).high >= found.min_accuracy
    assert not fresh.model.training
    assert {"round 0, choosing", "round 1, training", "confirming, verifying"} <= set(told)


def test_a_round_that_made_it_worse_is_undone(fresh, digits, monkeypatch):
    before = copy.deepcopy(fresh.model.state_dict())

    def ruin(model, data, spec, progress=None, *, memory=None):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)
        return plain(model, data, spec.model_copy(update={"lr": 1e-9, "epochs": 1}))

    module = sys.modules["joulewise.contrib.co_design"]  # the package has the function by this name
    plain = module.train
    monkeypatch.setattr(module, "train", ruin)
    found = co_design(fresh, digits, rounds=2, **QUICK)
    assert [r.kept for r in found.rounds] == [True, False, False]
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    # The next step is half as far.
    base = found.rounds[0].allocation.energy.normalised
    assert found.rounds[1].training_energy == pytest.approx(0.8 * base, rel=1e-3)
    assert found.rounds[2].training_energy == pytest.approx(0.9 * base, rel=1e-3)


def test_the_weights_come_back_after_an_exception(fresh, digits):
    before = copy.deepcopy(fresh.model.state_dict())

    def stop(what, done, expected):
        if what == "round 1, training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        co_design(fresh, digits, rounds=1, progress=stop, **QUICK)
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_same_seed_the_same_design(network, digits):
    results = []
    for _ in range(2):
        model = copy.deepcopy(network)
        placement = place(model, weights=SRAM(bits=8), example_inputs=digits.train.inputs[:1])
        found = co_design(placement, digits, rounds=1, seed=3, **QUICK)
        allocations = [found.allocation, *(r.allocation for r in found.rounds)]
        results.append([allocation.to_dict() for allocation in allocations])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal": None}, "the goal of a co-design is None; allowed: a MetricDrop"),
        ({"goal": OutputError(0.1)}, "the goal of a co-design is OutputError"),
        ({"goal": EnergyBudget(0.5)}, "the goal of a co-design is EnergyBudget"),
        ({"goal": Yield(0.9, of=OutputError(0.1))}, "the goal of a co-design is Yield"),
        ({"goal": MetricTarget(0.9), "rounds": 0}, "rounds is 0"),
        ({"goal": MetricTarget(0.9), "step": 1.0}, "step is 1"),
        ({"goal": MetricTarget(0.9), "chips": 5}, "chips is 5"),
        ({"goal": MetricDrop(1.5)}, "amount is 1.5"),
        ({"goal": Yield(0.9, of=MetricDrop(1.5))}, "amount is 1.5"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(fresh, digits, options, said):
    with pytest.raises(InputError, match=said):
        co_design(fresh, digits, progress=lambda *told: pytest.fail("it ran"), **options)
