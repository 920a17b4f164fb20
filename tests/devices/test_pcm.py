import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from contracts import (
    check_description,
    check_energy,
    check_gradient,
    check_moments,
    check_most_reliable,
    check_refusals,
    check_same_chip,
    check_store_and_ideal,
    traffic,
)
from joulewise.devices import PCM, Chip, ReadOut, Traffic
from joulewise.devices.conductance_pairs import Pairs
from joulewise.errors import InputError, OperatingPointError, WeightsError

HOUR, DAY, YEAR = 3600.0, 86400.0, 3.15e7
TIMES = [25.0, HOUR, DAY, YEAR]
KINDS = {
    "all": PCM(),
    "without compensation": PCM(compensate=False),
    "four devices": PCM(devices=4),
    "drift": PCM(programming=False, read_noise=False),
    "read noise": PCM(programming=False, drift=False),
    "drift and read noise": PCM(programming=False, compensate=False),
    "programming and drift": PCM(read_noise=False, compensate=False),
    "programming and read noise": PCM(drift=False),
    "by column, down": PCM(levels=32, rounding="floor", channel_dim=0),
}


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("device", [pytest.param(d, id=name) for name, d in KINDS.items()])
def test_contract(device):
    """The contract but for two checks, which follow: PCM is not exact at its most reliable point,
    and the energy of programming is not proportional to accesses."""
    tensor = gaussian(48, 16, seed=20)
    stored = device.store(tensor, name="w")
    check_description(device)
    check_refusals(device)
    check_store_and_ideal(device, tensor)
    for seconds in TIMES[::2]:
        check_same_chip(device, stored, seconds)
        check_moments(device, stored, seconds)
        check_gradient(lambda at: device.moments(stored, at).mean.sum(), seconds)
        check_gradient(lambda at: device.moments(stored, at).var.sum(), seconds)


def test_drift_is_small_at_the_most_reliable_point_and_programming_noise_is_not():
    tensor = gaussian(48, 16, seed=20)
    for compensate in (False, True):
        silent = PCM(programming=False, read_noise=False, compensate=compensate)
        check_most_reliable(silent, tensor)
    moments = PCM().moments(PCM().store(tensor), PCM().knob.most_reliable)
    error = ((moments.mean - tensor).square() + moments.var).mean() / tensor.square().mean()
    assert 0.11 < float(error) ** 0.5 < 0.13


def test_read_out_is_paid_by_access():
    check_energy(PCM(program_j=0.0), TIMES)


def test_programming_is_paid_by_time():
    once = traffic(1)
    for devices, programmed in ((1, 2), (3, 6)):
        device = PCM(devices=devices, program_j=2e-10, inferences_per_second=50.0)
        free = PCM(devices=devices, program_j=0.0)
        for seconds in TIMES:
            extra = float(device.energy(once, seconds) - free.energy(once, seconds))
            assert extra == pytest.approx(programmed * 768 * 2e-10 / (50 * seconds), rel=1e-6)
            check_gradient(lambda at, device=device: device.energy(once, at), seconds)
    joules = [float(PCM().energy(once, seconds)) for seconds in TIMES]
    assert joules == sorted(joules, reverse=True)


def test_devices_in_parallel_all_conduct():
    """Without amplifiers and converters, four devices take the power of four."""
    bare = ReadOut(v_read=0.2, t_read=1e-7, r_amplifier=0, input_j=0, output_j=0, source="made up")
    one, four = (
        float(PCM(devices=devices, program_j=0.0, readout=bare).energy(traffic(1), HOUR))
        for devices in (1, 4)
    )
    assert four == pytest.approx(4 * one, rel=1e-12)


# Each term against its law, on one side of the pairs. Kolmogorov-Smirnov at 1e-4 on fixed seeds,
# 200,000 numbers each.

COUNT = 200_000
SHARES = [0.05, 0.5, 1.0]


def conductances(device, share, seconds=25.0):
    """Conductances over ``g_max`` as programmed and as read, of active and idle devices."""
    weights = torch.full((COUNT,), share, dtype=torch.float64)
    stored = Pairs(weights=weights, limit=torch.tensor(1.0).double(), dtype=torch.float64)
    times = torch.tensor(seconds / 20 + 1, dtype=torch.float64)
    return [part.numpy() for part in device._conductances(stored, times, Chip(seed=5))]


def clipped_at_0(samples, mean, std):
    """True if samples follow a clipped Gaussian, by the fraction at 0 and the law of the others."""
    zero = stats.norm.cdf(-mean / std)
    error = math.sqrt(zero * (1 - zero) / len(samples))
    assert np.mean(samples == 0) == pytest.approx(zero, abs=5 * error)
    rest = samples[samples > 0]
    return stats.kstest(rest, stats.truncnorm(-mean / std, np.inf, mean, std).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("share", "siemens"), [(0.5, 0.953e-6), (1.0, 1.055e-6), (0.05, 0.359e-6)])
def test_programming_noise_is_a_clipped_gaussian(share, siemens):
    programmed, now = conductances(PCM(drift=False, read_noise=False), share)
    assert np.array_equal(programmed, now)
    std = (-1.1731 * share**2 + 1.9650 * share + 0.26348) / 25
    assert std * 25e-6 == pytest.approx(siemens, abs=0.5e-9)
    assert clipped_at_0(programmed[0], share, std)
    assert clipped_at_0(programmed[1], 0.0, 0.26348 / 25)


def exponent_law(share):
    """Mean and standard deviation before folding."""
    log = math.log(max(share, 1e-7))
    mean = min(max(-0.0155 * log + 0.0244, 0.049), 0.1)
    return mean, min(max(-0.0125 * log - 0.0059, 0.008), 0.045)


@pytest.mark.parametrize("share", [0.0, *SHARES])
def test_the_drift_exponent_is_a_folded_gaussian(share):
    programmed, now = conductances(PCM(read_noise=False), share, DAY)
    mean, std = exponent_law(share)
    drifted = programmed[0] > 0
    exponent = -np.log(now[0][drifted] / programmed[0][drifted]) / math.log(DAY / 20 + 1)
    assert len(exponent) > 0.49 * COUNT
    assert stats.kstest(exponent, stats.foldnorm(mean / std, 0, std).cdf).pvalue > 1e-4


@pytest.mark.parametrize("seconds", TIMES)
def test_the_mean_drifts_by_the_formula(seconds):
    """Both sides of the pairs are drawn alike, so 400,000 numbers; 5 standard errors."""
    for share in SHARES:
        _, now = conductances(PCM(programming=False, read_noise=False), share, seconds)
        mean, std = exponent_law(share)
        law = stats.foldnorm(mean / std, 0, std)
        left = law.expect(lambda nu, t=seconds: (t / 20 + 1) ** -nu)
        error = now[0].std() / math.sqrt(COUNT)
        assert now[0].mean() == pytest.approx(share * left, abs=5 * error)
        assert error < 1e-3 * share * left


@pytest.mark.parametrize("share", [0.005, *SHARES])
def test_read_noise_is_a_clipped_gaussian_in_proportion(share):
    _, now = conductances(PCM(programming=False, drift=False), share)
    grown = math.sqrt(math.log((45 + 250e-9) / 500e-9))
    std = min(0.0088 / share**0.65, 0.2) * grown
    assert clipped_at_0(now[0] / share, 1.0, std)
    assert not now[1].any()
    if share == 1:
        assert std == pytest.approx(0.038, abs=5e-4)


def test_a_pair_against_the_laws_in_a_row():
    """The whole device without compensation, against 2 million simulated pairs."""
    rng, count, x, seconds = np.random.default_rng(8), 2_000_000, 0.3, HOUR
    found = []
    for share in (x, 0.0):
        n = rng.standard_normal((3, count))
        micro = 25 * share + (-1.1731 * share**2 + 1.9650 * share + 0.26348) * n[0]
        held = np.maximum(micro, 0)
        mean, std = exponent_law(share)
        drifted = held * ((seconds + 20) / 20) ** -np.abs(mean + std * n[1])
        with np.errstate(divide="ignore"):
            q = np.minimum(0.0088 / (held / 25) ** 0.65, 0.2)
        q *= math.sqrt(math.log((seconds + 20 + 250e-9) / 500e-9))
        found.append(np.maximum(drifted + drifted * q * n[2], 0))
    wanted = (found[0] - found[1]) / 25
    device = PCM(compensate=False, limit=2.0)
    weights = torch.full((COUNT,), -2 * x, dtype=torch.float64)
    read = device.read(device.store(weights), seconds, Chip(seed=1)) / -2.0
    assert stats.ks_2samp(read.numpy(), wanted).pvalue > 1e-4


# The closed forms.


def flicker(g, t):
    """Mean and variance of ``g max(0, 1 + k n)``."""
    k = min(0.0088 / max(g**0.65, 1e-3), 0.2) * math.sqrt(math.log((t + 250e-9) / 500e-9))
    share = 0.5 * math.erfc(-1 / k / math.sqrt(2))
    density = k * math.exp(-1 / k**2 / 2) / math.sqrt(2 * math.pi)
    mean = share + density
    return g * mean, g * g * ((1 + k * k) * share + density - mean**2)


def integral(function, law, points):
    """The mean of a function of a random number, piece by piece."""
    pieces = zip(points, points[1:], strict=False)
    options = {"epsabs": 1e-16, "epsrel": 1e-12, "limit": 200}
    return sum(
        integrate.quad(lambda u: function(u) * law(u), *piece, **options)[0] for piece in pieces
    )


def pdf(mean, std):
    scale = std * math.sqrt(2 * math.pi)
    return lambda u: math.exp(-(((u - mean) / std) ** 2) / 2) / scale


def integrated(x, t):
    """Mean, variance and covariance with what was programmed, of one device; by quadrature."""
    std = (-1.1731 * x**2 + 1.9650 * x + 0.26348) / 25
    law, zero = pdf(x, std), 0.5 * math.erfc(x / std / math.sqrt(2))
    ends = [0.0, (0.0088 / 0.2) ** (1 / 0.65), x - 5 * std, x, x + 5 * std, x + 10 * std]
    points = sorted({max(end, 0.0) for end in ends})
    mean = integral(lambda g: flicker(g, t)[0], law, points)
    spread = integral(lambda g: (flicker(g, t)[0] - mean) ** 2, law, points) + zero * mean**2
    noise = integral(lambda g: flicker(g, t)[1], law, points)
    held = integral(lambda g: g, law, points)
    tie = integral(lambda g: (flicker(g, t)[0] - mean) * (g - held), law, points)
    nu, nu_std = exponent_law(x)
    ends = [nu - 12 * nu_std, 0.0, nu, nu + 12 * nu_std]
    exponent = pdf(nu, nu_std)
    left = integral(lambda u: (t / 20) ** -abs(u), exponent, ends)
    left_var = integral(lambda u: ((t / 20) ** -abs(u) - left) ** 2, exponent, ends)
    var = left**2 * spread + left_var * (spread + mean**2) + (left**2 + left_var) * noise
    return left * mean, var, left * (tie + zero * mean * held)


def predicted(device, targets, seconds):
    """The same three of active devices, ``[targets, 3]``."""
    weights = torch.as_tensor(targets, dtype=torch.float64)
    stored = Pairs(weights=weights, limit=torch.tensor(1.0).double(), dtype=torch.float64)
    times = torch.tensor(seconds / 20 + 1, dtype=torch.float64)
    active, _ = device._devices(stored, times)
    return torch.stack([active.mean, active.var, active.covariance], 1).numpy()


@pytest.mark.parametrize("seconds", [1.0, 25.0, 3.2e8])
def test_the_quadrature(seconds):
    """At targets of the table: 1e-12 by measurement."""
    targets = [(k / 2048) ** 2 for k in (0, 1, 40, 150, 400, 1024, 2048)]
    wanted = np.array([integrated(x, seconds + 20) for x in targets])
    assert predicted(PCM(), targets, seconds) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("seconds", [1.0, 25.0, 3.2e8])
def test_the_table(seconds):
    """At random targets: less than 1e-5 of mean and variance."""
    rng = np.random.default_rng(3)
    targets = np.concatenate([rng.uniform(0, top, 20) for top in (0.02, 0.2, 1.0)])
    wanted = np.array([integrated(x, seconds + 20) for x in targets])
    assert predicted(PCM(), targets, seconds) == pytest.approx(wanted, rel=1e-5)


def test_the_table_without_programming_noise():
    targets = np.random.default_rng(3).uniform(0, 1, 2000) ** 3
    mean, var, _ = predicted(PCM(programming=False), targets, YEAR).T
    t = YEAR + 20
    for x, m, v in zip(targets, mean, var, strict=True):
        nu, nu_std = exponent_law(x)
        one, two = (folded_laplace(s * math.log(t / 20), nu, nu_std) for s in (1, 2))
        read, noise = flicker(x, t)
        assert m == pytest.approx(one * read, rel=1e-5)
        assert v == pytest.approx(two * (noise + read**2) - (one * read) ** 2, rel=2e-5, abs=2e-9)


def folded_laplace(s, mean, std):
    """``E exp(-s |N|)``."""
    sides = (stats.norm.logcdf(side / std - s * std) - s * side for side in (mean, -mean))
    return sum(math.exp((s * std) ** 2 / 2 + side) for side in sides)


@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("compensate", [False, True])
def test_moments_against_chips(compensate, seconds):
    """300 chips of 8192 weights, by t statistics over chips."""
    device = PCM(compensate=compensate)
    check_moments(device, device.store(gaussian(64, 128)), seconds)


def scale_and_variance(device, weights, seconds, chips):
    """Simulated over predicted mean and variance, each with its standard error."""
    stored = device.store(weights)
    reads = torch.stack([device.read(stored, seconds, Chip(seed=seed)) for seed in range(chips)])
    moments = device.moments(stored, seconds)
    scale = (reads * weights).flatten(1).sum(1) / (moments.mean * weights).sum()
    var = (reads - moments.mean).square().flatten(1).sum(1) / moments.var.sum()
    return [(float(x.mean()), float(x.std()) / chips**0.5) for x in (scale, var)]


# Columns, rows, chips, and what the docstring of `moments` promises of mean and variance.
SIZES = [
    (64, 128, 300, 0.003, 0.01),
    (16, 128, 800, 0.003, 0.01),
    (4, 128, 1500, 0.003, 0.04),
    (4, 8, 3000, 0.003, 0.09),
    (1, 128, 1500, 0.3, 0.3),
]


@pytest.mark.parametrize("seconds", [25.0, YEAR])
@pytest.mark.parametrize(("columns", "rows", "chips", "of_mean", "of_var"), SIZES)
def test_the_error_of_the_compensating_factor(columns, rows, chips, of_mean, of_var, seconds):
    """Within 4 standard errors, which are a small part of what is promised, or 0.5 %."""
    mean, var = scale_and_variance(PCM(), gaussian(columns, rows), seconds, chips)
    assert mean[0] == pytest.approx(1, abs=of_mean + 4 * mean[1])
    assert var[0] == pytest.approx(1, abs=of_var + 4 * var[1])
    assert mean[1] < max(0.1 * of_mean, 0.005)
    assert var[1] < max(0.2 * of_var, 0.005)


def test_the_factor_has_a_variance():
    """Without it, 64 columns would vary by 2.4 % too little after a year."""
    stored, device = PCM().store(gaussian(64, 128)), PCM()
    own = [d.moments(stored, YEAR) for d in (device, PCM(compensate=False))]
    factor = float(own[0].mean.sum() / own[1].mean.sum())
    assert float(own[0].var.sum() / own[1].var.sum()) / factor**2 == pytest.approx(1.02, abs=0.005)


# What compensation does.


def slope(device, weights, seconds):
    reads = device.read(device.store(weights), seconds, Chip(seed=3))
    return float((reads * weights).sum() / weights.square().sum())


@pytest.mark.parametrize("seconds", TIMES[1:])
def test_compensation_restores_the_scale(seconds):
    """Within 3 %: the factor's own error among chips is 1 % with 256 columns."""
    weights = gaussian(256, 128)
    before = slope(PCM(drift=False, read_noise=False), weights, seconds)
    assert slope(PCM(compensate=False), weights, seconds) < 0.82 * before
    assert slope(PCM(), weights, seconds) == pytest.approx(before, rel=0.03)
    mean = PCM().moments(PCM().store(weights), seconds).mean
    assert float((mean * weights).sum() / weights.square().sum()) == pytest.approx(before, rel=0.02)


def test_the_factor_is_one_number_within_its_range():
    """Also where the column currents of a tensor add up to nearly nothing, or to nothing."""
    balanced = gaussian(1, 40)
    balanced = torch.cat([balanced, -balanced], 1)
    for weights in (balanced, gaussian(30), gaussian(6, 5), gaussian(3, 4, 5)):
        raw, device = PCM(compensate=False), PCM()
        stored = device.store(weights)
        for seed in range(20):
            chip = Chip(seed=seed)
            ratio = device.read(stored, YEAR, chip) / raw.read(stored, YEAR, chip)
            ratio = ratio[torch.isfinite(ratio)]
            assert float(ratio.max()) == pytest.approx(float(ratio.min()), rel=1e-12)
            assert 1 <= float(ratio.min()) <= float(ratio.max()) <= (YEAR / 20 + 1) ** 0.1 + 1e-12
        moments = device.moments(stored, YEAR)
        assert bool(torch.isfinite(moments.mean).all() and (moments.var > 0).all())


def test_the_factor_is_that_of_the_currents():
    weights, chip = gaussian(6, 3, 4), Chip(seed=2)
    stored, times = PCM().store(weights), torch.tensor(DAY / 20 + 1).double()
    programmed, now = (g[0] - g[1] for g in PCM()._conductances(stored, times, chip))
    sums = [(weights.sign() * g).sum((1, 2)).abs().sum() for g in (programmed, now)]
    read = PCM(compensate=False).read(stored, DAY, chip) * sums[0] / sums[1]
    torch.testing.assert_close(PCM().read(stored, DAY, chip), read)


def test_a_tensor_of_zeros():
    zeros = torch.zeros(3, 4)
    for device in (PCM(), PCM(programming=False)):
        stored = device.store(zeros)
        at = torch.tensor(HOUR, dtype=torch.float64, requires_grad=True)
        moments = device.moments(stored, at)
        assert not moments.mean.any()
        assert bool((moments.var > 0).all()) is device.programming
        (slope,) = torch.autograd.grad(moments.mean.sum() + moments.var.sum(), at)
        assert bool(torch.isfinite(slope))
        read = device.read(stored, HOUR, Chip(seed=0))
        assert bool(read.any()) is device.programming


def test_words_depend_on_each_other_only_through_the_factor():
    assert not PCM().independent_words
    assert PCM(compensate=False).independent_words
    assert PCM(drift=False).independent_words


# Chips, devices, gradients.


def test_programming_and_drift_stay_and_read_noise_does_not():
    for device, same in ((PCM(read_noise=False), True), (PCM(), False)):
        assert device.fresh is not same
        stored = device.store(gaussian(4, 5))
        chip = Chip(seed=1)
        first, second = (device.read(stored, HOUR, c) for c in (chip, chip.next_use()))
        assert torch.equal(first, second) is same
        assert torch.equal(second, device.read(stored, HOUR, chip.next_use()))


def test_a_chip_only_drifts_downwards():
    device = PCM(read_noise=False, compensate=False)
    stored = device.store(gaussian(200).abs() + 1)
    sides = [device._conductances(stored, torch.tensor(t / 20 + 1), Chip(seed=1))[1] for t in TIMES]
    for before, after in zip(sides, sides[1:], strict=False):
        assert bool((after <= before).all())


def test_four_devices_have_a_quarter_of_the_variance():
    weights = gaussian(64, 128)
    one, four = (PCM(compensate=False, devices=devices) for devices in (1, 4))
    stored = one.store(weights)
    single, several = (device.moments(stored, DAY) for device in (one, four))
    torch.testing.assert_close(several.mean, single.mean)
    torch.testing.assert_close(several.var, single.var / 4)
    check_moments(four, stored, DAY)


def test_noise_is_in_proportion_to_g_max():
    weights, chip = gaussian(4, 5), Chip(seed=1)
    small, large = PCM(g_max=1e-6), PCM(g_max=1e-4)
    stored = small.store(weights)
    assert torch.equal(small.read(stored, DAY, chip), large.read(stored, DAY, chip))
    assert torch.equal(small.moments(stored, DAY).var, large.moments(stored, DAY).var)


@pytest.mark.parametrize("device", [pytest.param(d, id=name) for name, d in KINDS.items()])
def test_gradients(device):
    """In the logarithm of the time, so that finite differences see it."""
    stored = device.store(gaussian(6, 5))

    def both(log):
        moments = device.moments(stored, log.exp())
        return moments.mean, moments.var

    for seconds in (25.0, YEAR):
        at = torch.tensor(math.log(seconds), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(both, at, eps=1e-5, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"g_max": 0.0}, "g_max is 0"),
        ({"g_max": math.nan}, "g_max is nan"),
        ({"devices": 0}, "devices is 0"),
        ({"devices": 1.5}, "devices is 1.5; allowed: a whole number"),
        ({"program_j": -1e-12}, "program_j is -1e-12"),
        ({"inferences_per_second": 0.0}, "inferences_per_second is 0"),
        ({"time_range": (0.5, 1e6)}, "time_range is 0.5"),
        ({"time_range": (1e6, 1e3)}, "time_range is"),
        ({"time_range": (1.0, 1e13)}, "time_range is"),
        ({"levels": 0}, "levels is 0"),
        ({"rounding": "up"}, "rounding is 'up'"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        PCM(**options)


def test_points_of_another_device_are_refused():
    with pytest.raises(OperatingPointError, match="given eta; allowed: seconds"):
        PCM().point(eta=0.5)
    with pytest.raises(OperatingPointError, match=r"seconds is 0\.5; allowed"):
        PCM().point(seconds=0.5)
    with pytest.raises(OperatingPointError, match=r"seconds is of shape \(2,\); allowed: one numb"):
        PCM().point(seconds=torch.ones(2))
    with pytest.raises(WeightsError, match="w"):
        PCM().store(torch.tensor([]), name="w")
    with pytest.raises(InputError, match="depends on its inputs"):
        PCM().energy(Traffic(words=1, reads=1, writes=0), HOUR)


def test_a_range_given_as_a_list_is_kept_as_a_tuple():
    assert hash(PCM(time_range=[1.0, 1e6])) == hash(PCM(time_range=(1.0, 1e6)))
