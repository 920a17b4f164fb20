import json
import math

import pytest
import torch

from joulewise.devices import DRAM, PROFILES, SRAM, ExponentialLaw, Traffic, VoltageTable, law
from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J
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
    assert list(PROFILES)[:2] == ["exponential", STUTZ]
    assert PROFILES["exponential"] == ExponentialLaw()
    with pytest.raises(TypeError):
        PROFILES["mine"] = ExponentialLaw()
    for other in ("mine", None, [], {}):
        with pytest.raises(InputError, match="^the profile is .*; allowed: exponential, stutz"):
            law(other)


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_is_monotone_described_and_usable(name):
    profile = law(name)
    eta = torch.linspace(*profile.eta_range, 2001, dtype=torch.float64)
    rates, joules = profile.bit_error_rate(eta), profile.energy_per_bit_j(eta)
    assert bool((rates.diff() < 0).all())
    assert bool((joules.diff() > 0).all())
    assert 0 < float(rates.min()) < 1e-5
    assert profile.leakage is None or profile.describe()["leakage"]["source"]
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
    message = f"^the profile is 'sram'; allowed: {', '.join(PROFILES)}$"
    with pytest.raises(InputError, match=message):
        law("sram")


def test_the_reference_of_stutz_is_v_min():
    # The energy at 0.958 Vmin is 0.918 of that at Vmin.
    stutz = law("stutz2021-14nm")
    assert stutz.reference_supplies == {"V_min": 1.0}
    most = float(stutz.energy_per_bit_j(torch.tensor(1.0, dtype=torch.float64)))
    assert stutz.access_j_at(1.0) == pytest.approx(most / 0.918402778, rel=1e-3)


# Published counts of faults, typed a second time: MICRO 2018.
BLOCK_RAMS = {
    "salami2018-kc705b-28nm": (890, 0.53, (2274, 690, 252, 62, 26, 8, 2)),
    "salami2018-vc707-28nm": (2060, 0.54, (23706, 7520, 2732, 772, 146, 24, 4)),
}


@pytest.mark.parametrize("name", BLOCK_RAMS)
def test_block_rams_have_the_published_counts(name):
    rams, lowest, counts = BLOCK_RAMS[name]
    profile = law(name)
    for step, count in enumerate(counts):
        volts = lowest + 0.01 * step
        eta = profile.eta(torch.tensor(volts, dtype=torch.float64))
        rate = float(profile.bit_error_rate(eta))
        assert rate * rams * 16 * 1024 == pytest.approx(count, rel=1e-6)
        assert float(profile.energy_per_bit_j(eta)) == pytest.approx(
            HOROWITZ_SRAM_BIT_J * volts**2, rel=1e-6
        )
    assert profile.v_nominal == 1.0
    assert profile.v_min == pytest.approx(lowest + 0.07)


def test_block_rams_leak_as_their_power_falls():
    """A tenth of the power from 1.0 V to 0.61 V, and 36.1 % less from there to 0.54 V."""
    leakage = law("salami2018-vc707-28nm").leakage
    watts = [
        float(leakage.power_w(torch.tensor(v, dtype=torch.float64))) for v in (1.0, 0.61, 0.54)
    ]
    assert watts[1] / watts[0] == pytest.approx(0.1, rel=0.02)
    assert 1 - watts[2] / watts[1] == pytest.approx(0.361, abs=0.002)
    at = float(leakage.power_w(torch.tensor(0.4, dtype=torch.float64)))
    assert at == pytest.approx(10.1e-12 * 0.4)


def test_leakage_dominates_where_an_inference_takes_long():
    """Savings against the nominal supply rise with the latency, as leakage falls faster."""
    profile = law("salami2018-kc705b-28nm")
    traffic = Traffic(words=1000, reads=1000, writes=0)
    saved = []
    for latency in (0.0, 1e-3, 1.0):
        memory = SRAM(law=profile, knob="v_dd", latency_s=latency)
        nominal = memory.reference_energies(traffic)["nominal supply"]
        saved.append(1 - float(memory.energy(traffic, 0.53)) / nominal)
    assert saved[0] == pytest.approx(1 - 0.53**2)
    assert saved == sorted(saved)
    assert saved[2] == pytest.approx(1 - 0.53 * math.exp(-4.66 * 0.47), abs=1e-3)


def test_a_dram_takes_the_law_of_its_supply():
    memory = DRAM(law=law("chang2017-ddr3l-c"), knob="v_dd")
    assert memory.knob.range == ("v_dd", 1.15, 1.25)
    lines = 1 - (1 - float(memory.bit_error_rate(1.20))) ** 512
    assert lines == pytest.approx(0.2, rel=0.12)  # one bit a line, and two or more in some
    assert float(memory.access_bit_j(1.25)) == pytest.approx(8.8e-12 * (1.25 / 1.35) ** 2)
