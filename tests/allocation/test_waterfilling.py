"""Water-filling: the closed form where errors fall exponentially; never worse than its start."""

import torch

from joulewise.allocation.waterfilling import water_filling


def exponential(sensitivity, rate):
    return lambda levels: (sensitivity * torch.exp(-rate * levels)).sum()


def test_error_rates_in_proportion_to_bits_over_sensitivity():
    """min sum b x with sum s exp(-a x) = E: p_l = b_l E / (s_l sum b)."""
    generator = torch.Generator().manual_seed(0)
    sensitivity = 10 ** (2 * torch.rand(12, generator=generator, dtype=torch.float64))
    bits = 1 + 9 * torch.rand(12, generator=generator, dtype=torch.float64)
    start = torch.full((12,), 0.6, dtype=torch.float64)
    error = exponential(sensitivity, 12.8)
    found = water_filling(error, lambda x: (bits * x).sum(), start)
    limit = float(error(start))
    expected = -torch.log(bits * limit / (sensitivity * bits.sum())) / 12.8
    assert bool(((expected > 0) & (expected < 1)).all())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_shares_stay_within_their_range_and_the_error_within_its_limit():
    sensitivity = torch.tensor([1e-12, 1.0, 1e9], dtype=torch.float64)
    start = torch.full((3,), 0.8, dtype=torch.float64)
    error = exponential(sensitivity, 12.8)
    found = water_filling(error, torch.sum, start)
    assert float(found[0]) == 0.0
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert float(error(found)) <= float(error(start)) * (1 + 1e-3)
    assert float(found.sum()) < float(start.sum())


def test_a_variable_that_does_not_matter_stays_where_it_is():
    start = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    sensitivity = torch.tensor([1.0, 8.0], dtype=torch.float64)
    found = water_filling(
        lambda x: exponential(sensitivity, 10.0)(x[:2]) + 0 * x[2], torch.sum, start
    )
    assert float(found[2]) == 0.5
    assert float(found[0]) < 0.5 < float(found[1])


def test_nothing_to_gain_is_the_start():
    start = torch.full((2,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(water_filling(lambda x: (1 + x).sum(), torch.sum, start), start)
