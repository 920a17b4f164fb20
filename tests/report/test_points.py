import math

import pytest

from joulewise.devices import ExponentialLaw, VoltageTable
from joulewise.devices.reliability_laws import VoltageRow
from joulewise.report.points import bit_error_rate, point_figures, reliable_total_j

TABLE = VoltageTable(
    rows=(VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.7, 2e-14, 1e-4)), source="made up"
)


def test_rates_are_those_of_the_described_law():
    assert bit_error_rate(ExponentialLaw(a=10.0).describe(), "eta", 0.5) == pytest.approx(
        math.exp(-5)
    )
    # Halfway in volts is halfway in log rate, and 0.75 of the highest energy.
    assert bit_error_rate(TABLE.describe(), "v_dd", 0.6) == pytest.approx(1e-3)
    assert bit_error_rate(TABLE.describe(), "eta", 0.75) == pytest.approx(1e-3)


def test_rates_that_are_not_known():
    assert bit_error_rate(None, "eta", 0.5) is None
    assert bit_error_rate({"law": "of a later version"}, "eta", 0.5) is None
    assert bit_error_rate(TABLE.describe(), "g_max", 0.6) is None


def test_figures_of_a_point(cases):
    contender = cases.contender("mlp")
    points = point_figures(contender)
    assert [point.point for point in points] == list(contender.points)
    point, simulation = points[2], contender.simulations[2]
    assert point.memory_j == simulation.energy.memory_total_j
    assert point.normalised == pytest.approx(0.4)
    assert point.mean == pytest.approx(0.942)
    assert point.low < point.mean < point.high
    assert point.quantiles[0] == min(simulation.accuracy)
    assert point.quantiles[2] < max(simulation.accuracy) + 1e-12
    assert point.bit_error_rate == pytest.approx(math.exp(-12.8 * 0.4))


def test_a_chip_exactly_at_the_target_counts(cases):
    # 0.95 - 0.01 is above 0.94 in floating point.
    lone = cases.contender("mlp", ideal=0.95)
    simulations = tuple(s.model_copy(update={"accuracy": (0.94,) * 4}) for s in lone.simulations)
    lone = lone.model_copy(update={"simulations": simulations})
    assert point_figures(lone)[0].good == 1.0


def test_a_single_chip_has_no_interval(cases):
    lone = cases.contender("mlp", chips=1)
    point = point_figures(lone)[0]
    assert (point.low, point.high) == (None, None)


def test_reliable_total_counts_all(cases):
    assert reliable_total_j(cases.contender("mlp", weights_j=2e-6)) == pytest.approx(3.6e-6)
