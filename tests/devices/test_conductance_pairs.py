import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from joulewise.devices import Crossbar
from joulewise.devices.conductance_pairs import rectified_moments
from joulewise.errors import InputError, WeightsError


def store(values, **options):
    return Crossbar(**options).store(torch.tensor(values), name="w")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    st.integers(1, 300),
    st.sampled_from(["nearest", "floor"]),
)
def test_rounding_to_levels(values, levels, rounding):
    stored = store(values, levels=levels, rounding=rounding)
    step = float(stored.limit) / levels
    error = stored.weights.double() - torch.tensor(values).double()
    slack = 1e-5 * step + 1e-6
    if rounding == "nearest":
        assert float(error.abs().max()) <= step / 2 + slack
    else:
        assert float(error.max()) <= slack
        assert float(error.min()) >= -step - slack
    assert float(stored.weights.abs().max()) <= float(stored.limit) * (1 + 1e-6)


def test_floor_shifts_by_half_a_step_on_average():
    weights = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    down = Crossbar(levels=8, rounding="floor", limit=1.0).store(weights)
    near = Crossbar(levels=8, limit=1.0).store(weights)
    # The error is uniform over a step: its mean has a standard error of step / sqrt(12 n).
    spread = 5 / 8 / (12 * len(weights)) ** 0.5
    assert float((down.weights - weights).double().mean()) == pytest.approx(-1 / 16, abs=spread)
    assert float((near.weights - weights).double().mean()) == pytest.approx(0, abs=spread)


def test_a_limit_for_each_column():
    stored = store([[1.0, -2.0], [0.0, 0.0], [8.0, 4.0]], channel_dim=0)
    assert stored.limit.tolist() == [[2.0], [1.0], [8.0]]
    assert stored.targets.tolist() == [[0.5, 1.0], [0.0, 0.0], [1.0, 0.5]]


def test_a_given_limit_saturates():
    assert store([3.0, -3.0, 0.5], limit=1.0).weights.tolist() == [1.0, -1.0, 0.5]


def test_points_along_columns():
    device = Crossbar(sigma=1e-6)
    stored = device.store(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    with pytest.raises(WeightsError, match=r"g_max is 3 numbers; allowed: one, or 2"):
        device.moments(stored, torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "levels is 0"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"limit": 0.0}, "limit is 0"),
        ({"limit": 1.0, "channel_dim": 0}, "limit is given beside channel_dim"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        Crossbar(**options)


def test_nan_is_refused_by_name():
    with pytest.raises(WeightsError, match="w is NaN"):
        store([1.0, float("nan")])


# Rectified Gaussians


def integrated(mean, std):
    density = stats.norm(mean, std).pdf
    ends = (0, mean + 12 * std)
    near = [p for p in (mean - 6 * std, mean, mean + 6 * std) if 0 < p < ends[1]]

    def moment(power):
        return integrate.quad(lambda x: x**power * density(x), *ends, points=near, limit=200)[0]

    first = moment(1)
    away = integrate.quad(lambda x: (x - first) ** 2 * density(x), *ends, points=near, limit=200)[0]
    return first, away + first**2 * stats.norm(mean, std).cdf(0)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.floats(0, 20), st.floats(0.01, 5))
def test_rectified_moments_against_quadrature(mean, std):
    got = rectified_moments(torch.tensor(mean).double(), torch.tensor(std).double())
    wanted = integrated(mean, std)
    assert float(got[0]) == pytest.approx(wanted[0], rel=1e-7)
    assert float(got[1]) == pytest.approx(wanted[1], rel=1e-6)


def test_an_idle_device():
    mean, var = rectified_moments(torch.zeros((), dtype=torch.float64), torch.tensor(2.0).double())
    assert float(mean) == pytest.approx(2 / math.sqrt(2 * math.pi))
    assert float(var) == pytest.approx(4 * (0.5 - 1 / (2 * math.pi)))


def test_far_from_zero_nothing_is_clipped():
    mean, var = rectified_moments(torch.tensor(1e6).double(), torch.tensor(1.0).double())
    assert float(mean) == 1e6
    assert float(var) == 1.0


def test_rectified_moments_without_noise():
    mean = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    std = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found, var = rectified_moments(mean, std)
    assert found.tolist() == [0.0, 3.0]
    assert var.tolist() == [0.0, 0.0]
    slopes = torch.autograd.grad(found.sum() + var.sum(), (mean, std))
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)


def test_gradients_of_rectified_moments():
    mean = torch.tensor([0.0, 0.3, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([1.0, 0.5, 1.5, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rectified_moments, (mean, std))


def test_small_variances_are_kept():
    """The textbook difference of squares has lost all of its digits here."""
    mean, std = 1e5, 1e-5
    _, var = rectified_moments(torch.tensor(mean).double(), torch.tensor(std).double())
    assert float(var) == pytest.approx(std**2, rel=1e-12)
    second = (mean**2 + std**2) * stats.norm.cdf(mean / std)
    assert not np.isclose(second - mean**2, std**2, rtol=0.01, atol=0)
