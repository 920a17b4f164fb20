import pytest
import torch
from torch import nn

from joulewise.devices import SRAM
from joulewise.errors import InputError
from joulewise.placement import place
from joulewise.training import clip_weights


def network():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    for parameter in model.parameters():
        parameter.data = 3.0 * torch.randn(parameter.shape, generator=generator)
    return model


def test_fixed_clips_matrices_and_leaves_the_rest():
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    addresses = [p.data_ptr() for p in model.parameters()]
    clip_weights(model, fixed=0.5)
    for name, parameter in model.named_parameters():
        matrix = before[name].ndim > 1
        expected = before[name].clip(-0.5, 0.5) if matrix else before[name]
        assert torch.equal(parameter, expected)
        assert bool(before[name].abs().max() > 0.5) and parameter.requires_grad
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_deviations_are_those_of_each_tensor():
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(100)
    limits = [1.2 * model[k].weight.std().item() for k in (0, 3)]
    clip_weights(model, deviations=1.2)
    assert limits[1] > 50 * limits[0]
    assert [model[k].weight.abs().max().item() for k in (0, 3)] == pytest.approx(limits)


def test_of_a_placement_what_is_placed():
    model = network()
    placement = place(model, weights=SRAM(bits=8), exclude=["0.weight"])
    before = model[0].weight.detach().clone()
    clip_weights(placement, fixed=0.5)
    assert torch.equal(model[0].weight, before)
    assert model[3].weight.abs().max() == 0.5


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("same_object", [False, True])
def test_what_shares_storage_is_clipped_once(placed, same_object):
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    own = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    model[0].weight = nn.Parameter(own)
    model[1].weight = model[0].weight if same_object else nn.Parameter(own)
    expected = own.clip(-own.std(), own.std())
    clip_weights(place(model, weights=SRAM(bits=8)) if placed else model, deviations=1.0)
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert torch.equal(model[0].weight, model[1].weight)


def test_one_weight_has_no_deviation():
    layer = nn.Linear(1, 1)
    before = layer.weight.detach().clone()
    clip_weights(layer, deviations=2.0)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "either fixed= or deviations="),
        ({"fixed": 0.1, "deviations": 2.0}, "either fixed= or deviations="),
        ({"fixed": 0.0}, "fixed is 0"),
        ({"deviations": -1.0}, "deviations is -1"),
        ({"deviations": float("nan")}, "deviations is nan"),
    ],
)
def test_what_is_not_allowed_is_refused(options, match):
    with pytest.raises(InputError, match=match):
        clip_weights(nn.Linear(2, 2), **options)
