import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from joulewise.devices.rectified import rectified_moments


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
def test_against_quadrature(mean, std):
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


def test_no_noise():
    mean = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    std = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found, var = rectified_moments(mean, std)
    assert found.tolist() == [0.0, 3.0]
    assert var.tolist() == [0.0, 0.0]
    slopes = torch.autograd.grad(found.sum() + var.sum(), (mean, std))
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)


def test_gradients():
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
