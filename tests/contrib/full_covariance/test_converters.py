import pytest
import torch

from joulewise.contrib.full_covariance.converters import converter, quantised, uniform_noise
from joulewise.contrib.full_covariance.joint import Joint, Outcome
from joulewise.devices import Array
from joulewise.devices.array import rounded
from joulewise.placement.converters import Converters

MEANS = torch.tensor([[0.0, 0.31, 0.97]], dtype=torch.float64)
SAMPLES = 400_000


def ends(bits, limit=1.0, rows=None):
    array = Array(rows=rows, input_bits=bits, output_bits=bits)
    return Converters(array=array, input_limit=limit, output_limit=limit)


def varying(std, joint):
    cov = torch.diag_embed(torch.full_like(MEANS, std**2))
    return joint.add(Outcome(mean=MEANS, cov=cov))


def test_an_input_that_does_not_vary_is_rounded():
    found = quantised(MEANS, "w", converter(1.0, 4), Joint(), order=4)
    assert torch.equal(found.mean, rounded(MEANS, 1.0, 4))
    assert found.cov is None


@pytest.mark.parametrize("std", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("offset", [0.0, 0.23])
def test_a_value_that_varies_against_samples(std, offset):
    """Less than a step, a step, and saturation: mean and variance of what the converter makes."""
    joint = Joint()
    value, bias = varying(std, joint), torch.tensor(offset, dtype=torch.float64)
    found = quantised(value, "w", converter(1.0, 5, bias), joint, order=4)
    normal = torch.randn(
        SAMPLES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    made = rounded(MEANS + std * normal - offset, 1.0, 5) + offset
    step = 1 / 15
    # Five standard errors, and what is said of the quadrature: a twentieth of a step.
    reach = 5 * made.std(0) / SAMPLES**0.5 + step / 20
    assert bool(((found.mean[0] - made.mean(0)).abs() <= reach).all())
    spread = found.cov.diagonal(dim1=1, dim2=2)[0].sqrt()
    slack = 5 * float(made.std(0).max()) / (2 * SAMPLES) ** 0.5
    assert torch.allclose(spread, made.std(0), atol=slack + step / 20)


def test_sums_get_uniform_noise_for_each_array():
    joint = Joint()
    value = varying(0.1, joint)
    found = uniform_noise(value, "weight", ends(4, 0.7, rows=4), rows=10, joint=joint)
    added = 3 * (0.7 / 7) ** 2 / 12  # three arrays
    expected = torch.eye(3, dtype=torch.float64) * (0.01 + added)
    assert torch.allclose(found.cov[0], expected)
    assert torch.equal(joint.own(value)[0], torch.eye(3, dtype=torch.float64) * 0.1**2)
    # The uniform distribution of what is rounded away, sampled.
    spread = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error = rounded(spread, 0.7, 4) - spread
    inside = error[spread < 0.7]
    assert float(inside.var()) == pytest.approx((0.7 / 7) ** 2 / 12, rel=0.02)


def test_sums_of_several_arrays_that_do_not_vary():
    found = uniform_noise(MEANS, "weight", ends(4, 0.7, rows=5), rows=10, joint=Joint())
    assert torch.equal(found.mean, MEANS)
    assert torch.allclose(found.cov[0], 2 * torch.eye(3, dtype=torch.float64) * 0.01 / 12)
