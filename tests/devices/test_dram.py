import math

import pytest
import torch
from scipy import stats

from contracts import check_device
from joulewise.devices import DRAM, Chip, Flip, Retention, Traffic, VoltageTable
from joulewise.devices.voltage_table import VoltageRow
from joulewise.errors import InputError, OperatingPointError

SUPPLY = VoltageTable(
    rows=(VoltageRow(1.0, 1e-12, 1e-2), VoltageRow(1.2, 1.44e-12, 1e-7)),
    source="made up",
    v_nominal=1.5,
)
QUICK = Retention(median_s=10.0, log_std=1.0, source="made up")


def test_rates_are_those_of_a_log_normal_retention():
    memory = DRAM(retention=QUICK)
    for seconds in (0.1, 1.0, 20.0):
        expected = stats.lognorm.cdf(seconds, s=1.0, scale=10.0)
        assert float(memory.bit_error_rate(seconds)) == pytest.approx(expected, rel=1e-9)


def test_measured_retention_passes_the_measured_counts():
    """53, 481 and 1,700 failing bits of 2 GiB, and what the source says of the fitted line."""
    memory = DRAM()
    for seconds, failing, fitted in ((1.024, 53, 55), (1.536, 481, 441), (2.048, 1700, 1790)):
        found = float(memory.bit_error_rate(seconds)) * 2**34
        assert found == pytest.approx(fitted, rel=0.01)
        assert found == pytest.approx(failing, rel=0.1)


def test_energy_of_accesses_and_refreshes():
    memory = DRAM(access_j=1e-12, refresh_j=1e-14, latency_s=0.5)
    traffic = Traffic(words=100, reads=200, writes=50)
    for interval in (0.064, 1.0):
        expected = 8 * (250 * 1e-12 + 100 * 1e-14 * 0.5 / interval)
        assert float(memory.energy(traffic, interval)) == pytest.approx(expected)


def test_a_lower_supply():
    memory = DRAM(retention=QUICK, law=SUPPLY, knob="v_dd", refresh_s=1.0, refresh_j=1e-14)
    kept = 1 - stats.lognorm.cdf(1.0, s=1.0, scale=10.0)
    for volts, rate in ((1.0, 1e-2), (1.2, 1e-7)):
        expected = 1 - kept * (1 - rate)
        assert float(memory.bit_error_rate(volts)) == pytest.approx(expected, rel=1e-9)
        relative = (volts / 1.5) ** 2
        assert float(memory.access_bit_j(volts)) == pytest.approx(8.8e-12 * relative)
        assert float(memory.holding_bit_w(volts)) == pytest.approx(1e-14 * relative)
    assert memory.describe()["law"] == "voltage table"
    traffic = Traffic(words=10, reads=10, writes=0)
    memory = DRAM(retention=QUICK, law=SUPPLY, knob="v_dd", refresh_s=1.0, latency_s=0.0)
    nominal = memory.reference_energies(traffic)["nominal supply"]
    assert nominal == pytest.approx(80 * 8.8e-12)
    assert DRAM().reference_energies(traffic) == {}


def test_energy_without_refresh_has_a_gradient():
    interval = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    joules = DRAM(latency_s=0.0).energy(Traffic(words=10, reads=10, writes=0), interval)
    assert torch.autograd.grad(joules, interval) == (torch.zeros((), dtype=torch.float64),)


def test_a_list_is_a_range():
    assert hash(DRAM(refresh_range=[0.1, 1.0])) == hash(DRAM(refresh_range=(0.1, 1.0)))


def test_cells_lose_their_charge_and_stay_so():
    memory = DRAM(retention=QUICK)
    stored = memory.store(torch.linspace(-1, 1, 5000))
    chip = Chip(seed=3)
    few, many = (memory.read(stored, point, chip) != memory.ideal(stored) for point in (0.5, 5.0))
    assert few.any()
    assert (many & ~few).any()
    again = memory.read(stored, 0.5, chip)
    assert torch.equal(again, memory.read(stored, 0.5, chip))


@pytest.mark.parametrize(
    ("memory", "points"),
    [
        (DRAM(fault=Flip()), [20.0, 60.0]),
        (DRAM(retention=QUICK), [0.8, torch.linspace(0.5, 2.0, 8, dtype=torch.float64), 3.0]),
        (DRAM(law=SUPPLY, knob="v_dd", bits=4), [1.02, 1.05]),
    ],
    ids=["refresh", "planes", "supply"],
)
def test_contract(memory, points):
    check_device(memory, points)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"knob": "eta"}, "^knob is 'eta'; allowed: refresh_s or v_dd$"),
        ({"knob": "v_dd"}, "^law is None; allowed: a VoltageTable where the knob is v_dd"),
        ({"law": SUPPLY}, "^law is given; allowed: a VoltageTable where the knob is v_dd"),
        ({"refresh_range": (1.0, 0.5)}, "^refresh_range is .*; allowed: two numbers of seconds, a"),
        ({"refresh_range": 1.0}, "^refresh_range is 1.0 .float.; allowed: two numbers"),
        ({"refresh_s": math.nan}, "^refresh_s is nan"),
        ({"access_j": 0.0}, "^access_j is 0; allowed: above 0"),
        ({"retention": 1.0}, "^retention is 1.0 .float.; allowed: a Retention"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        DRAM(**fields)


def test_points_are_within_the_range():
    with pytest.raises(OperatingPointError, match=r"^refresh_s is 0.001; allowed: 0.064 to 300"):
        DRAM().point(refresh_s=1e-3)
