import json

import pytest
import torch

from joulewise.devices import PROFILES, SRAM, ExponentialLaw, VoltageTable
from joulewise.devices.laws import HOROWITZ_SRAM_BIT_J
from joulewise.devices.profiles import law
from joulewise.errors import InputError, OperatingPointError

STUTZ = "stutz2021-14nm"
# V / Vmin, energy / energy(Vmin), bit error rate: figure 1, typed a second time.
FIGURE_1 = [
    (0.958, 0.918402778, 1.90735e-6),
    (0.917, 0.840277778, 6.86646e-5),
    (0.875, 0.765625, 1.29e-3),
    (0.833, 0.694444444, 1.115e-2),
    (0.792, 0.626736111, 5.573e-2),
    (0.750, 0.5625, 2.056e-1),
]


def test_names():
    assert list(PROFILES) == ["exponential", STUTZ]
    assert PROFILES["exponential"] == ExponentialLaw()
    with pytest.raises(TypeError):
        PROFILES["mine"] = ExponentialLaw()


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_is_monotone_described_and_usable(name):
    profile = law(name)
    eta = torch.linspace(*profile.eta_range, 2001, dtype=torch.float64)
    rates, joules = profile.bit_error_rate(eta), profile.energy_per_bit_j(eta)
    assert bool((rates.diff() < 0).all())
    assert bool((joules.diff() > 0).all())
    assert 0 < float(rates.min()) < 1e-5
    assert float(rates.max()) <= 1
    json.dumps(SRAM(law=profile).describe(), allow_nan=False)


@pytest.mark.parametrize(("volts", "energy", "rate"), FIGURE_1)
def test_stutz_goes_through_the_points_of_the_figure(volts, energy, rate):
    profile = law(STUTZ)
    eta = SRAM(law=profile).point(v_dd=volts)
    at = torch.tensor(eta, dtype=torch.float64)
    assert float(profile.bit_error_rate(at)) == pytest.approx(rate, rel=0.01)
    joules = float(profile.energy_per_bit_j(at))
    assert joules == pytest.approx(energy * HOROWITZ_SRAM_BIT_J, rel=0.01)
    assert energy == pytest.approx(volts**2, rel=0.01)
    assert eta == pytest.approx(energy / 0.918402778, rel=0.01)


def test_stutz_counts_are_of_the_measured_bits():
    bits = 32 * 512 * 64
    assert bits == 1_048_576
    rates = [rate for _, _, rate in FIGURE_1[:2]]
    assert [rate * bits for rate in rates] == pytest.approx([2, 72], abs=0.01)


def test_stutz_says_where_it_comes_from_and_what_it_does_not_know():
    profile = law(STUTZ)
    assert isinstance(profile, VoltageTable)
    for words in (
        "D. Stutz, N. Chandramoorthy, M. Hein, B. Schiele",
        "MLSys 2021, figure 1",
        "14 nm",
        "rests on 2 failing bits",
        "no absolute volts",
        "not measured",
        "leakage excluded",
        "illustrative",
        "45 nm",
    ):
        assert words in profile.source
    described = profile.describe()
    assert described["voltage_unit"] == "Vmin"
    assert described["source"] == profile.source


def test_stutz_refuses_voltages_in_its_own_unit():
    message = r"^v_dd \(Vmin\) is 1; allowed: 0.75 to 0.958$"
    with pytest.raises(OperatingPointError, match=message):
        SRAM(law=law(STUTZ)).point(v_dd=1.0)


def test_an_unknown_profile_is_refused_with_those_that_are_known():
    message = f"^the profile is 'sram'; allowed: exponential, {STUTZ}$"
    with pytest.raises(InputError, match=message):
        law("sram")
