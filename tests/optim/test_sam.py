import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from ascents import batch, generator, moves
from joulewise.optim import ASAM, SAM, SAMSON

# SAM.


def test_every_tensor_moves_along_its_gradient_by_one_factor():
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    params[0].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    params[1].grad = torch.tensor([5.0, 3.0, 0.0])
    found = moves(SAM(params, SGD, lr=0.1, rho=8.0))  # the gradient is 8 long
    assert torch.equal(found[0], params[0].new_tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(found[1], params[1].new_tensor([5.0, 3.0, 0.0]))


def test_rho_of_sam_by_default():
    assert SAM([nn.Parameter(torch.zeros(1))], SGD, lr=0.1).param_groups[0]["rho"] == 0.05


# ASAM.


def normalised(factor):
    """A network whose loss does not feel the scale of its first layer; BatchNorm sees to that."""
    norm = nn.BatchNorm1d(5, eps=1e-300, affine=False)  # torch refuses 0; this is lost in the sum
    first = nn.Linear(16, 5, bias=False)
    model = nn.Sequential(nn.Flatten(), first, norm, nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator(3))
            parameter.copy_(drawn)
        model[1].weight.mul_(factor)
    return model.double()


def relative_moves(factor, make):
    model = normalised(factor)
    inputs, targets = batch()
    (model(inputs) - targets).square().mean().backward()
    found = moves(make(model.parameters(), SGD, lr=0.1))
    return [eps / p.detach() for eps, p in zip(found, model.parameters(), strict=True)]


@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-20, 20))
def test_relative_moves_do_not_feel_the_scale_of_a_layer(exponent):
    def make(params, base, lr):
        return ASAM(params, base, lr=lr, rho=0.5, eta=0.0)

    # Powers of two scale without rounding, so this is exact.
    plain, scaled = relative_moves(1.0, make), relative_moves(2.0**exponent, make)
    assert plain[0].abs().max() > 1e-3
    assert all(map(torch.equal, plain, scaled))


def test_eta_moves_weights_that_are_zero():
    def first_move(eta):
        weight = nn.Parameter(torch.tensor([[0.0, 2.0]]))
        weight.grad = torch.ones(1, 2)
        return moves(ASAM([weight], SGD, lr=0.1, eta=eta))[0][0, 0].item()

    assert first_move(0.0) == 0
    assert first_move(0.5) == pytest.approx(0.5 * 0.25 / (0.25 + 6.25) ** 0.5, rel=1e-6)


def test_options_of_asam_by_default_and_by_group():
    one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = ASAM([{"params": [one]}, {"params": [two], "eta": 0.1}], SGD, lr=0.1).param_groups
    assert [(g["rho"], g["eta"], g["scaled"]) for g in groups] == [
        (0.5, 0.01, "shape"),
        (0.5, 0.1, "shape"),
    ]


# SAMSON.


NORMS = {2: lambda w: w.square().sum().sqrt(), math.inf: lambda w: w.abs().max()}


def layers(factor=1.0):
    """Two tensors; the first is ``factor`` times as large, and its gradient that much smaller."""
    params = [
        nn.Parameter(torch.randn(3, 2, 2, 2, generator=generator(0), dtype=torch.float64)),
        nn.Parameter(torch.randn(4, 3, generator=generator(1), dtype=torch.float64)),
    ]
    for seed, parameter in enumerate(params):
        parameter.grad = torch.randn(
            parameter.shape, generator=generator(seed + 5), dtype=torch.float64
        )
    with torch.no_grad():
        params[0].mul_(factor)
        params[0].grad.div_(factor)
    return params


@pytest.mark.parametrize("p", NORMS)
def test_the_range_is_that_of_the_whole_tensor(p):
    params = layers()
    ts = [w.detach().abs() / NORMS[p](w.detach()) for w in params]
    length = sum((t * w.grad).square().sum() for t, w in zip(ts, params, strict=True)).sqrt()
    wanted = [0.2 * t**2 * w.grad / length for t, w in zip(ts, params, strict=True)]
    for a, b in zip(moves(SAMSON(params, SGD, lr=0.1, p=p, eta=0.0)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("p", NORMS)
@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-12, 12))
def test_relative_moves_fall_with_the_square_of_a_layers_scale(p, exponent):
    """Against an unscaled layer; ASAM's stay. The reach of SAMSON is absolute."""

    def share(factor):
        params = layers(factor)
        first, second = moves(SAMSON(params, SGD, lr=0.1, p=p, eta=0.0))
        return (first / params[0]).flatten()[0] / (second / params[1]).flatten()[0]

    # Moves are read as w + eps - w, with half an ulp of w, and may be 2**-24 of w.
    tolerance = 2.0**-52 * 4.0 ** abs(exponent) * 1e3
    factor = 2.0**exponent
    assert (share(factor) * factor**2 / share(1.0)).item() == pytest.approx(1.0, rel=tolerance)


@pytest.mark.parametrize("p", NORMS)
def test_a_tensor_of_zeros_has_no_range_to_divide_out(p):
    def first_moves(eta):
        zeros = nn.Parameter(torch.zeros(2, 2))
        zeros.grad = torch.full((2, 2), 0.5)
        bias = nn.Parameter(torch.zeros(1))
        bias.grad = torch.zeros(1)
        return moves(SAMSON([zeros, bias], SGD, lr=0.1, rho=0.2, p=p, eta=eta))[0]

    torch.testing.assert_close(first_moves(0.01), torch.full((2, 2), 0.1), rtol=1e-6, atol=0)
    assert not first_moves(0.0).any()


def test_p_is_infinite_by_default_and_may_differ_between_groups():
    first, second = layers()
    optimizer = SAMSON([{"params": [first]}, {"params": [second], "p": 2}], SGD, lr=0.1)
    assert [g["p"] for g in optimizer.param_groups] == [math.inf, 2]
    ts = [
        (w.detach().abs() + 0.01) / NORMS[p](w.detach())
        for w, p in ((first, math.inf), (second, 2))
    ]
    ratios = [(eps / t).flatten() for eps, t in zip(moves(optimizer), ts, strict=True)]
    assert torch.linalg.vector_norm(torch.cat(ratios)).item() == pytest.approx(0.2, rel=1e-12)
