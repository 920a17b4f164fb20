import math

import numpy as np
import pytest
import torch
from scipy import stats

from contracts import check_device
from joulewise.devices import Chip, Crossbar
from joulewise.errors import InputError, OperatingPointError, WeightsError

G = 25e-6
KINDS = {
    "additive": Crossbar(sigma=1e-6),
    "additive, unclipped": Crossbar(sigma=1e-6, clip=False),
    "variability": Crossbar(variability=0.005),
    "variability, unclipped": Crossbar(variability=0.005, clip=False),
    "all": Crossbar(sigma=5e-7, variability=0.004, read_noise=5e-7, levels=64),
    "all, unclipped": Crossbar(sigma=5e-7, variability=0.004, read_noise=5e-7, clip=False),
    "by column, down": Crossbar(sigma=5e-7, levels=128, rounding="floor", channel_dim=0),
}


@pytest.mark.parametrize("device", [pytest.param(d, id=name) for name, d in KINDS.items()])
def test_contract(device):
    check_device(device, [1e-5, 5e-5])


def reads(device, weights, chips=1, g_max=G):
    stored = device.store(weights)
    return torch.stack([device.read(stored, g_max, Chip(seed=seed)) for seed in range(chips)])


# Each term against its law. Kolmogorov-Smirnov at 1e-4 on fixed seeds, 200,000 numbers each.


def noise_of(device, value, count=200_000, g_max=G):
    """Noise in siemens on equal weights, of which the first one sets the range."""
    weights = torch.full((count,), value, dtype=torch.float64)
    weights[0] = 1.0
    read = reads(device, weights, g_max=g_max)[0]
    return ((read - weights)[1:] * g_max).numpy()


def p_value(samples, law):
    return stats.kstest(samples, law).pvalue


def test_additive_noise_is_gaussian_on_both_devices():
    noise = noise_of(Crossbar(sigma=1e-6, clip=False), 0.5)
    assert p_value(noise, stats.norm(0, math.sqrt(2) * 1e-6).cdf) > 1e-4


def test_variability_is_proportional():
    noise = noise_of(Crossbar(variability=0.1, clip=False), 0.5)
    assert p_value(noise, stats.norm(0, 0.1 * 0.5 * G).cdf) > 1e-4
    assert not noise_of(Crossbar(variability=0.1), 0.0).any()


def test_read_noise_is_gaussian_on_both_devices():
    noise = noise_of(Crossbar(read_noise=2e-6), 0.5)
    assert p_value(noise, stats.norm(0, math.sqrt(2) * 2e-6).cdf) > 1e-4


def test_a_clipped_idle_pair_is_a_difference_of_half_normals():
    noise = noise_of(Crossbar(sigma=1e-6), 0.0)
    assert np.mean(noise == 0) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 200_000))
    ranked = np.random.default_rng(1).normal(0, 1e-6, (2, 400_000)).clip(0)
    assert stats.ks_2samp(noise[noise != 0], (ranked[0] - ranked[1])[ranked.any(0)]).pvalue > 1e-4


def test_the_clamp_settled():
    """Variance and shift of a pair far from 0: 1.3408 and -0.3989 clipped, 2 and 0 unclipped."""
    sigma, count = 1e-7, 200_000
    for clip, variance, shift in ((True, 1.5 - 1 / (2 * math.pi), -0.3989423), (False, 2.0, 0.0)):
        device = Crossbar(sigma=sigma, clip=clip)
        noise = noise_of(device, 0.5, count) / sigma
        assert noise.mean() == pytest.approx(shift, abs=5 * math.sqrt(variance / count))
        kurtosis = stats.kurtosis(noise) + 2
        assert noise.var() == pytest.approx(variance, rel=5 * math.sqrt(kurtosis / count))
        stored = device.store(torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64))
        moments = device.moments(stored, G)
        assert (moments.var * (G / sigma) ** 2).tolist() == pytest.approx([variance] * 3, rel=1e-6)
        moved = (moments.mean - stored.weights) * G / sigma
        assert moved.tolist() == pytest.approx([shift, shift, -shift], rel=1e-6, abs=1e-9)


def test_unclipped_formula_is_wrong_for_clipped_devices():
    """Public closed forms assume 2 sigma^2 for every pair, 1.5 to 2.9 times too much."""
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    device = Crossbar(sigma=1e-6)
    var = device.moments(device.store(weights), G).var
    published = 2 * (1e-6 / G * float(weights.abs().max())) ** 2
    found = reads(device, weights, chips=400).var(0).mean()
    assert float(var.mean()) == pytest.approx(float(found), rel=0.01)  # 1.6 million numbers
    assert published / float(found) > 1.4


def test_variability_does_not_depend_on_g_max():
    device = Crossbar(variability=0.05)
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        reads(device, weights, g_max=1e-6), reads(device, weights, g_max=1e-4)
    )


def test_a_point_for_each_column():
    device = Crossbar(sigma=1e-6)
    stored = device.store(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)))
    points = torch.tensor([1e-5, 2e-5, 4e-5], dtype=torch.float64)
    together = device.moments(stored, device.point(g_max=points))
    read = device.read(stored, points, Chip(seed=0))
    for column, point in enumerate(points):
        alone = device.moments(stored, point)
        torch.testing.assert_close(together.var[column], alone.var[column])
        torch.testing.assert_close(read[column], device.read(stored, point, Chip(seed=0))[column])
    with pytest.raises(WeightsError, match="g_max is 2 numbers; allowed: one, or 3"):
        device.read(stored, points[:2], Chip(seed=0))


def test_programming_noise_stays_and_read_noise_does_not():
    static, fresh = Crossbar(sigma=1e-6), Crossbar(read_noise=1e-6)
    assert fresh.fresh
    assert not static.fresh
    for device, same in ((static, True), (fresh, False)):
        stored = device.store(torch.randn(20, generator=torch.Generator().manual_seed(0)))
        chip = Chip(seed=1)
        first, second = (device.read(stored, G, c) for c in (chip, chip.next_use()))
        assert torch.equal(first, second) is same
        assert torch.equal(second, device.read(stored, G, chip.next_use()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": -1e-6}, "sigma is -1e-06"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"variability": 1.5}, "variability is 1.5"),
        ({"read_noise": -1.0}, "read_noise is -1"),
        ({"g_range": (1e-3, 1e-6)}, "g_range is"),
        ({"g_range": (0.0, 1e-6)}, "g_range is 0"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        Crossbar(**options)


def test_points_of_another_device_are_refused():
    with pytest.raises(OperatingPointError, match="given eta; allowed: g_max"):
        Crossbar().point(eta=0.5)
    with pytest.raises(OperatingPointError, match="g_max is 1; allowed"):
        Crossbar().point(g_max=1.0)
    with pytest.raises(OperatingPointError, match="one for each output channel"):
        Crossbar().point(g_max=torch.ones(2, 2))
