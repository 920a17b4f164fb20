"""Figures of a result, in the direction of its metric, and its views."""

import json
import math

import pytest

from joulewise.errors import InputError
from joulewise.metrics import Accuracy, NegativeLogLikelihood
from joulewise.placement import Energy, Plan
from joulewise.simulation import Simulation, proportion_interval

ENERGY = Energy(
    memory_j={"a": 1.0, "b": 0.5},
    memory_reliable_j=4.0,
    converters_j=0.0,
    unplaced_j=0.25,
    arithmetic_j=2.0,
)


def simulation(metric, values, original=0.95, ideal=0.94, mse=(1.0, 2.0, 3.0, 6.0)):
    return Simulation(
        plan=Plan({"a": {"eta": 0.5}, "b": {"eta": 0.25}}),
        seed=7,
        samples=100,
        metric=metric,
        original=original,
        ideal=ideal,
        values=values,
        mse=mse,
        ideal_mse=0.1,
        energy=ENERGY,
    )


@pytest.fixture
def result():
    return simulation(Accuracy(), (0.90, 0.92, 0.94, 0.80))


def test_figures(result):
    assert result.chips == 4
    assert result.mean == pytest.approx(0.89)
    assert result.mean_mse == 3.0
    assert result.energy.memory_total_j == 1.5
    assert result.energy.total_j == 3.75
    assert result.energy.normalised == 0.375


def test_yield_is_the_fraction_at_or_above(result):
    fraction, interval = result.yield_at(0.92)
    assert fraction == 0.5
    assert interval == proportion_interval(2, 4)


def test_quantiles_are_values_of_chips(result):
    assert result.quantile(0.0) == 0.80
    assert result.quantile(1.0) == 0.94
    assert result.quantile(0.05) in result.values


def test_where_lower_is_better_yields_and_quantiles_turn_round():
    result = simulation(NegativeLogLikelihood(), (2.0, 2.5, 3.0, 9.0), 1.9, 1.9)
    assert result.yield_at(2.5)[0] == 0.5
    assert result.quantile(0.0) == 9.0
    assert result.quantile(1.0) == 2.0
    assert "perplexity" in repr(result)
    assert result.metric.derived(result.mean)["perplexity"] == pytest.approx(math.exp(4.125))


def test_failed_chips_are_counted_beside_the_mean_and_fail_every_yield():
    result = simulation(Accuracy(), (0.9, None, 0.8, None))
    assert result.failed == 2
    assert result.mean == pytest.approx(0.85)
    assert result.yield_at(0.0)[0] == 0.5
    assert result.quantile(0.3) == -math.inf
    assert "2 of 4 chips" in repr(result)
    none = simulation(Accuracy(), (None, None, None, None))
    assert "4 of 4 chips" in repr(none)
    with pytest.raises(InputError, match="all 4 chips failed"):
        _ = none.mean


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_fractions_outside_0_to_1_are_refused(result, bad):
    with pytest.raises(InputError, match="limit is"):
        result.yield_at(bad)
    with pytest.raises(InputError, match="fraction is"):
        result.quantile(bad)


def test_without_an_output_error_there_is_none_to_average():
    result = simulation(Accuracy(), (0.9, 0.8), mse=())
    with pytest.raises(InputError, match="outputs have no fixed shape"):
        _ = result.mean_mse
    assert "output error" not in repr(result)


def test_views(result):
    lines = repr(result).splitlines()
    assert lines[0] == "4 chips, 100 samples"
    assert lines[1].startswith("  accuracy        89.00 % [79.")
    assert "<caption>4 chips, 100 samples</caption>" in result._repr_html_()
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["values"] == [0.90, 0.92, 0.94, 0.80]
    described = {"name": "accuracy", "higher_is_better": True, "bounds": [0.0, 1.0]}
    assert plain["metric"] == {**described, "geometric": False, "derived": []}
    assert result._rows()[0] == {"chip": 7, "accuracy": 0.90, "output error": 1.0}
    assert len(result.plot().data.values) == 4


def test_infinite_errors_are_none_in_plain_data():
    result = simulation(Accuracy(), (0.9, 0.1), mse=(1.0, math.inf))
    assert result.to_dict()["mse"] == [1.0, None]
