"""Draws of noise: the error of their mean, and the allocation of further draws."""

import math

import pytest
import torch

from joulewise.prediction.noise_draws import NoiseDraw, NoiseDraws, further_draws


def draw(value, weight=1.0):
    return NoiseDraw(weight, weight, value, 2 * value, 0.0, -value)


def test_means_and_errors():
    draws = NoiseDraws()
    draws.add([(0, draw(1.0)), (0, draw(3.0)), (1, draw(5.0)), (1, draw(5.0))])
    assert draws.mean_of("noise") == 7.0
    assert draws.mean_of("curvature") == 14.0
    assert draws.variances() == [2.0, 0.0]
    assert draws.squared_error() == pytest.approx(1.0)
    assert (len(draws), draws.weight, draws.freedom) == (4, 2.0, 2)


def test_one_draw_of_each_batch():
    draws = NoiseDraws()
    draws.add([(0, draw(1.0))])
    assert draws.squared_error() is None
    draws.add([(1, draw(3.0)), (2, draw(5.0))])
    assert draws.variances() == [4.0] * 3
    assert (draws.freedom, draws.squared_error()) == (2, pytest.approx(12.0))


def test_draws_without_a_backward_pass():
    draws = NoiseDraws()
    draws.add([(0, draw(1.0)), (0, draw(9.0)._replace(curvature_weight=0.0))])
    assert (draws.mean_of("noise"), draws.mean_of("curvature")) == (5.0, 2.0)
    draws.all_orders = False
    assert draws.squared_error() is None


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_further_draws_reach_the_error_with_few_draws(spread):
    variances = [spread**2] + [1.0] * 7
    done, error = 2, 1.0
    share, further = further_draws(variances, done, error, 10_000)
    # Variances as they are taken to be: half-way to their mean.
    mean = sum(variances) / len(variances)
    taken = [(v + mean) / 2 for v in variances]
    reached = sum(
        v * (share**2 / done + (1 - share) ** 2 / m) for v, m in zip(taken, further, strict=True)
    )
    assert reached <= error**2 * (1 + 1e-9)
    equal = math.ceil(sum(taken) / error**2) - done
    assert sum(further) <= len(variances) * equal
    if spread > 1:
        assert sum(further) < 0.85 * len(variances) * equal
        assert further[0] > 2.5 * further[1]


def test_the_estimate_is_unbiased_and_has_the_error_that_it_states():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        draws = NoiseDraws()
        first = 10 * torch.randn(2, 2, generator=generator) * torch.tensor([[1.0], [0.1]])
        draws.add((n, draw(1.0 + float(x))) for n, row in enumerate(first) for x in row)
        share, further = further_draws(draws.variances(), 2, 3.0, 50)
        for number, m in enumerate(further):
            noise = torch.randn(m, generator=generator) * (10.0 if number == 0 else 1.0)
            weight = (1 / share - 1) * 2 / m
            draws.add((number, draw(1.0 + float(x), weight)) for x in noise)
        squared = draws.squared_error()
        assert squared is not None
        found.append(((draws.mean_of("noise") - 2.0) / squared**0.5, squared))
    z = torch.tensor([one for one, _ in found])
    # Student's t of a few degrees of freedom or more: the mean of 400 has an error of 0.07.
    assert abs(float(z.mean())) < 4 * float(z.std()) / 20
    assert 0.8 < float(z.abs().median()) / 0.6745 < 1.4


def test_no_more_than_the_most():
    share, further = further_draws([1.0, 4.0], 2, 1e-6, 5)
    assert further == [5, 5]
    assert 0 < share < 1
