import math

import pytest
import torch

from joulewise.devices import PCM, SRAM, Crossbar, VoltageTable
from joulewise.devices.operating_point import Knob, as_point
from joulewise.devices.voltage_table import VoltageRow
from joulewise.errors import InputError, OperatingPointError

TABLE = VoltageTable(
    rows=(VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.7, 2e-14, 1e-4)), source="made up"
)
DEVICES = [SRAM(), SRAM(law=TABLE), Crossbar(sigma=1e-6), PCM(time_range=(3.0, 1e7))]


@pytest.mark.parametrize("device", DEVICES)
def test_levels_run_from_the_least_reliable_point_to_the_most_reliable_one(device):
    knob = device.knob
    assert knob.point(0.0) == knob.least_reliable
    assert knob.point(1.0) == knob.most_reliable
    for level in torch.linspace(0, 1, 101, dtype=torch.float64).tolist():
        point = knob.point(level)
        device.point(**{knob.name: point})  # never outside by a rounding error
        assert knob.level(point) == pytest.approx(level, abs=1e-12)


def test_decades_are_logarithmic_and_etas_are_not():
    assert [device.knob.logarithmic for device in DEVICES] == [False, False, True, True]
    knob = DEVICES[2].knob
    ratios = [knob.point(s + 0.1) / knob.point(s) for s in (0.1, 0.5, 0.8)]
    assert ratios == pytest.approx([10**0.4] * 3)


@pytest.mark.parametrize("device", DEVICES)
def test_the_slope_of_a_point_in_its_level(device):
    knob = device.knob
    level = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    point = knob.points(level)
    point.backward()
    assert point.item() == pytest.approx(knob.point(0.4), rel=1e-14)
    width = knob.most_reliable - knob.least_reliable
    if knob.logarithmic:
        width = point.item() * math.log(knob.most_reliable / knob.least_reliable)
    assert level.grad.item() == pytest.approx(width)


def test_gradients_flow_through_a_point():
    point = torch.tensor(0.5, requires_grad=True)
    as_point(point).backward()
    assert float(point.grad) == 1.0
    assert as_point(0.1).dtype == torch.float64
    assert float(as_point(0.1)) == 0.1


# What a knob accepts

VOLTS = Knob(
    name="eta", least_reliable=0.0, most_reliable=1.0, aliases={"v_dd": lambda volts: volts / 2}
)
PLANES = Knob(name="eta", least_reliable=0.0, most_reliable=1.0, bit_planes=4)
CHANNELS = Knob(name="g_max", least_reliable=1e-7, most_reliable=1e-3, channels=True)


def test_a_setting_is_converted_from_an_alias():
    assert VOLTS.checked({"v_dd": 1.0}, "SRAM") == 0.5
    volts = torch.tensor(1.0, requires_grad=True)
    VOLTS.checked({"v_dd": volts}, "SRAM").backward()
    assert float(volts.grad) == 0.5


@pytest.mark.parametrize("value", ["0.5", None, True, 1j, {"eta": 0.5}, [0.5, None]])
def test_a_setting_of_the_wrong_kind_is_refused_by_name(value):
    for device in (SRAM(), Crossbar(sigma=1e-6), PCM()):
        with pytest.raises(OperatingPointError) as refusal:
            device.point(**{device.knob.name: value})
        said = str(refusal.value)
        assert said.startswith(f"{device.knob.name} is {value!r}")
        assert said.endswith("allowed: a number, or a tensor of numbers")


@pytest.mark.parametrize(
    ("knob", "setting", "message"),
    [
        (VOLTS, {"g_max": 0.5}, "^SRAM was given g_max; allowed: one of eta, v_dd$"),
        (PLANES, {"v_dd": 0.5}, "^SRAM was given v_dd; allowed: eta$"),
        (PLANES, {}, "^SRAM was given no setting; allowed: eta$"),
        (VOLTS, {"v_dd": 3.0}, "^eta is 1.5; allowed: 0 to 1$"),
        (VOLTS, {"eta": math.nan}, "^eta is nan; allowed: 0 to 1$"),
        (VOLTS, {"eta": torch.tensor([0.5])}, r"^eta is of shape \(1,\); allowed: one number$"),
        (PLANES, {"eta": torch.ones(3)}, "allowed: one number, or 4, one for each bit plane$"),
        (PLANES, {"eta": torch.ones(2, 4)}, "allowed: one number, or 4, one for each bit plane$"),
        (CHANNELS, {"g_max": torch.ones(2, 3)}, "one number, or one for each output channel$"),
        (CHANNELS, {"g_max": torch.ones(0)}, "one number, or one for each output channel$"),
    ],
)
def test_settings_that_are_refused(knob, setting, message):
    with pytest.raises(OperatingPointError, match=message):
        knob.checked(setting, "SRAM")


def test_shapes_that_a_knob_takes():
    assert PLANES.checked({"eta": [0.1, 0.2, 0.3, 0.4]}, "SRAM").shape == (4,)
    for shape in ((5,), (5, 1)):
        assert CHANNELS.checked({"g_max": torch.full(shape, 1e-5)}, "Crossbar").shape == shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "g max"}, "the name of a knob is 'g max'; allowed: a Python identifier"),
        ({"most_reliable": 0.0}, r"the ends of eta is \(0.0, 0.0\); allowed: two finite numbers"),
        ({"most_reliable": math.inf}, "the ends of eta is .*; allowed: two finite numbers"),
        ({"bit_planes": 0}, "bit_planes is 0; allowed: a whole number, 1 to 64"),
    ],
)
def test_knobs_that_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Knob(**({"name": "eta", "least_reliable": 0.0, "most_reliable": 1.0} | fields))
