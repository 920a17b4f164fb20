import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from ascents import batch, moves
from joulewise.optim import ASAM


def normalised(factor):
    """A network whose loss does not feel the scale of its first layer; BatchNorm sees to that."""
    norm = nn.BatchNorm1d(5, eps=1e-300, affine=False)  # torch refuses 0; this is lost in the sum
    first = nn.Linear(16, 5, bias=False)
    model = nn.Sequential(nn.Flatten(), first, norm, nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
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


def test_options_by_default_and_by_group():
    one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = ASAM([{"params": [one]}, {"params": [two], "eta": 0.1}], SGD, lr=0.1).param_groups
    assert [(g["rho"], g["eta"], g["scaled"]) for g in groups] == [
        (0.5, 0.01, "shape"),
        (0.5, 0.1, "shape"),
    ]
