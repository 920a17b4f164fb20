import pytest

from joulewise.errors import InputError
from joulewise.simulation import proportion_interval
from joulewise.study import EnergyRecord, SimulationRecord


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
