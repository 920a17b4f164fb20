"""Linear layers with rotated weights."""

import pytest
import torch
from torch import nn

from joulewise.errors import InputError, ModelError
from joulewise.transforms import rotate_linear


def test_the_function_stays_as_it_is():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6), nn.Linear(6, 3))
    x, before = torch.randn(5, 6), model[0].weight.detach().clone()
    rotated = rotate_linear(model, ["0", "2"], seed=1)
    assert torch.allclose(rotated(x), model(x), atol=1e-6)
    assert torch.equal(model[0].weight, before)
    assert not torch.allclose(rotated[0][1].weight, before, atol=1e-2)
    assert torch.equal(rotated[3].weight, model[3].weight)
    half = rotate_linear(model.bfloat16(), ["0"])
    assert half[0][0].matrix.dtype == torch.bfloat16


def test_an_outlier_among_the_inputs_is_spread():
    layer = nn.Sequential(nn.Linear(64, 4))
    x = torch.zeros(1, 64)
    x[0, 7] = 100.0
    rotated = rotate_linear(layer, ["*"])[0]
    assert float(rotated[0](x).abs().max()) < 50.0


class TwoNames(nn.Module):
    """A layer that is used by its second name."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = self.a

    def forward(self, x):
        return self.b(x)


def test_layers_with_two_names():
    model, x = TwoNames(), torch.randn(2, 3)
    assert torch.allclose(rotate_linear(model, ["a"])(x), model(x), atol=1e-6)


def test_what_is_refused():
    for include in ("*", "0", [3]):
        with pytest.raises(InputError, match="^include is .*; allowed: a list of patterns"):
            rotate_linear(nn.Sequential(nn.Linear(2, 2)), include)
    with pytest.raises(InputError, match="'1', which matches no linear layer; allowed: one of 0"):
        rotate_linear(nn.Sequential(nn.Linear(2, 2)), ["1"])
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    with pytest.raises(ModelError, match="a shared weight"):
        rotate_linear(shared, ["0"])
    with pytest.raises(ModelError, match="no parent"):
        rotate_linear(nn.Linear(2, 2), ["*"])
