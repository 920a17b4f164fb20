import pytest
import torch
from torch import nn

from joulewise.data import Split
from joulewise.devices import SRAM
from joulewise.placement import place
from joulewise.study import EnergyRecord, ForecastRecord, SimulationRecord, agreement, energy_curve
from joulewise.study.forecasting import MOST_FORECASTS, forecast_curve, losses, nearest, spread

POINTS = [0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.0]


def _simulation(mse):
    return SimulationRecord(
        plan={"weight": 0.5},
        seed=0,
        images=10,
        float_accuracy=None,
        ideal_accuracy=None,
        accuracy=(),
        mse=mse,
        ideal_mse=0.0,
        energy=EnergyRecord(
            memory_j={"weight": 1.0}, memory_reliable_j=2.0, unplaced_j=0.0, arithmetic_j=0.0
        ),
    )


def _forecast(mse):
    return ForecastRecord(
        method="first-order",
        plan={"weight": 0.5},
        images=10,
        mse=mse,
        standard_error=None,
        mean_shift=0.0,
        variance={"weight": mse},
        shares={"weight": 1.0},
        accuracy=None,
    )


def test_ratio_turns_the_interval_of_the_simulation_round():
    simulation = _simulation((1.9, 2.0, 2.1))
    found = agreement(_forecast(3.0), simulation)
    interval = simulation.mse_interval()
    assert found.ratio == pytest.approx(1.5)
    assert (found.low, found.high) == pytest.approx((3 / interval.high, 3 / interval.low))


def test_ratio_where_the_simulation_knows_little():
    wide = agreement(_forecast(3.0), _simulation((0.0, 4.0)))
    assert wide.low is not None
    assert wide.high is None
    single = agreement(_forecast(3.0), _simulation((2.0,)))
    assert (single.ratio, single.low, single.high) == (1.5, None, None)
    assert agreement(_forecast(3.0), _simulation((0.0, 0.0))).ratio is None


@pytest.mark.parametrize(
    ("lost", "drops"),
    [
        ([0.0, 0.001, 0.004, 0.006, 0.011, 0.02, 0.05, 0.1, 0.5], [0.005, 0.01]),
        ([0.0] * 20, [0.01]),
        ([0.3, 0.5], [0.01]),
        ([-0.001, 0.2], []),
        ([], [0.01]),
        ([0.01 * k for k in range(12)], [0.01 * k for k in range(12)]),
    ],
)
def test_spread_keeps_to_the_window_and_its_number(lost, drops):
    chosen = spread(lost, drops)
    able = [index for index, loss in enumerate(lost) if loss <= 0.11]
    assert len(chosen) == min(MOST_FORECASTS, len(able))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(able)


def test_spread_holds_what_is_nearest_to_the_drops_and_the_largest_loss():
    lost = [0.0, 0.001, 0.004, 0.0049, 0.0051, 0.006, 0.0095, 0.011, 0.02, 0.05, 0.1, 0.5]
    chosen = spread(lost, [0.005, 0.01])
    assert nearest(lost, 0.01) == 6
    assert {6, 10} <= set(chosen)
    assert chosen[0] in {2, 3, 4}


@pytest.fixture(scope="module")
def data():
    inputs = torch.linspace(-1, 1, 60).reshape(20, 3)
    return Split(inputs=inputs, targets=(inputs.sum(1) > 0).long())


def test_a_curve_gets_forecasts_where_it_has_not_broken(data):
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0, -0.9, -1.1], [1.0, 1.1, 0.9]]))
        net.bias.zero_()
    placement = place(net, weights=SRAM(), example_inputs=data.inputs)
    curve = energy_curve(placement, data, points=POINTS, chips=40)
    done = []
    found = forecast_curve(placement, data, curve, knob="eta", drops=[0.01], progress=done.append)
    assert len(found.records) == len(POINTS)
    made = [index for index, record in enumerate(found.records) if record is not None]
    lost = losses(curve.simulations)
    assert made == spread(lost, [0.01])
    assert found.records[-1] is None
    assert done == sorted(done)
    assert done[-1] == 1.0
    for index in made:
        assert found.records[index].plan == curve.simulations[index].plan


def test_a_network_that_cannot_be_predicted_says_why(data):
    class Steps(nn.Linear):
        def forward(self, x):
            return super().forward(x).round().detach()

    placement = place(Steps(3, 2), weights=SRAM(), example_inputs=data.inputs)
    curve = energy_curve(placement, data, points=[1.0], chips=2)
    found = forecast_curve(placement, data, curve, knob="eta", drops=[0.01])
    assert found.records == (None,)
    assert "differentiabl" in found.refused
