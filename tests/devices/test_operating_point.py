import math

import pytest
import torch

from joulewise.devices import PCM, SRAM, Crossbar, VoltageTable
from joulewise.devices.operating_point import KnobRange, as_point
from joulewise.devices.reliability_laws import VoltageRow

TABLE = VoltageTable(
    rows=(VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.7, 2e-14, 1e-4)), source="made up"
)
DEVICES = [SRAM(), SRAM(law=TABLE), Crossbar(sigma=1e-6), PCM(time_range=(3.0, 1e7))]


@pytest.mark.parametrize("device", DEVICES)
def test_shares_run_from_the_least_reliable_point_to_the_most_reliable_one(device):
    limits = KnobRange.of(device)
    assert limits.point(0.0) == device.least_reliable
    assert limits.point(1.0) == device.most_reliable
    for share in torch.linspace(0, 1, 101, dtype=torch.float64).tolist():
        point = limits.point(share)
        device.point(**{device.knob: point})  # never outside by a rounding error
        assert limits.share(point) == pytest.approx(share, abs=1e-12)


def test_decades_are_logarithmic_and_etas_are_not():
    assert [KnobRange.of(device).logarithmic for device in DEVICES] == [False, False, True, True]
    limits = KnobRange.of(DEVICES[2])
    ratios = [limits.point(s + 0.1) / limits.point(s) for s in (0.1, 0.5, 0.8)]
    assert ratios == pytest.approx([10**0.4] * 3)


@pytest.mark.parametrize("device", DEVICES)
def test_the_slope_of_a_point_in_its_share(device):
    limits = KnobRange.of(device)
    share = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    point = limits.differentiable(share)
    point.backward()
    assert point.item() == pytest.approx(limits.point(0.4), rel=1e-14)
    width = limits.most - limits.least
    if limits.logarithmic:
        width = point.item() * math.log(limits.most / limits.least)
    assert share.grad.item() == pytest.approx(width)


def test_gradients_flow_through_a_point():
    point = torch.tensor(0.5, requires_grad=True)
    as_point(point).backward()
    assert float(point.grad) == 1.0
    assert as_point(0.1).dtype == torch.float64
    assert float(as_point(0.1)) == 0.1
