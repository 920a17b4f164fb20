"""Granularity: which operating points share a variable."""

import pytest
import torch
from torch import nn

from joulewise.allocation.granularity import DecisionVariables, Granularity
from joulewise.devices import PCM, SRAM, Crossbar
from joulewise.errors import InputError, OperatingPointError
from joulewise.placement import Plan, place


def both(**memory):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    return place(
        model, weights=SRAM(**memory), activations=SRAM(**memory), example_inputs=torch.ones(2, 4)
    )


@pytest.mark.parametrize(
    ("granularity", "count"),
    [
        (Granularity(per="network"), 1),
        (Granularity(per="role"), 2),
        (Granularity(), 4),
        (Granularity(per="network", bit_planes=True), 6),
        (Granularity(per="role", bit_planes=True), 12),
        (Granularity(bit_planes=True), 24),
        (Granularity(per="channel"), 3 + 2 + 2),
    ],
)
def test_how_many_there_are(granularity, count):
    placement = both(bits=6)
    variables = DecisionVariables.of(placement, granularity)
    levels = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert variables.count == count
    plan = placement.points(Plan.chosen_for(placement, variables.exact_points(levels)))
    used = torch.cat([index.reshape(-1) for index in variables.index.values()])
    assert used.unique().tolist() == list(range(count))
    for name, point in variables.points(levels).items():
        torch.testing.assert_close(torch.as_tensor(plan[name]).double(), point)


def test_the_ends_are_the_ends_of_the_range():
    placement = place(nn.Linear(4, 3), weights=Crossbar(sigma=1e-6, g_range=(1e-6, 3e-4)))
    variables = DecisionVariables.of(placement, Granularity())
    assert variables.exact_points(torch.ones(1).double()) == {"weight": 3e-4}
    assert variables.exact_points(torch.zeros(1).double()) == {"weight": 1e-6}


def test_a_memory_without_bit_planes_is_refused_by_name():
    placement = place(nn.Linear(4, 3), weights=Crossbar(sigma=1e-6))
    with pytest.raises(InputError, match="weight is stored on a Crossbar, which has no bit planes"):
        DecisionVariables.of(placement, Granularity(bit_planes=True))


def test_channels_have_points_and_activations_one():
    plan = DecisionVariables.of(both(), Granularity(per="channel")).exact_points(
        torch.full((7,), 0.5).double()
    )
    shapes = [tuple(torch.as_tensor(point).shape) for point in plan.values()]
    assert shapes == [(3, 1), (2, 1), (), ()]


@pytest.mark.parametrize(
    ("layer", "memory", "said"),
    [
        (nn.Linear(4, 4), PCM(), "per is 'channel' and weight is stored on a PCM, which takes one"),
        (
            nn.ConvTranspose1d(4, 4, 1),
            Crossbar(sigma=1e-6),
            "the first axis of weight runs over the rows of a matrix",
        ),
    ],
)
def test_channels_without_points_are_refused_by_name(layer, memory, said):
    placement = place(layer, weights=memory, example_inputs=torch.ones(2, 4, 4))
    with pytest.raises(InputError, match=said):
        DecisionVariables.of(placement, Granularity(per="channel"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"per": "layer"}, "per is 'layer'; allowed: one of network, role, tensor, channel"),
        ({"per": "channel", "bit_planes": True}, "bit_planes is True, beside per='channel'"),
        ({"rails": 0}, "rails is 0"),
        ({"rails": 2.5}, "rails is 2.5"),
        ({"rails": 2, "levels": (0.5,)}, "rails is 2, beside levels"),
    ],
)
def test_what_is_not_allowed_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        Granularity(**fields)


def test_operating_points_become_levels():
    assert list(Granularity(levels=(0.7, 0.3, 0.7)).listed(both())) == [0.3, 0.7]
    with pytest.raises(OperatingPointError, match=r"eta is 1\.2"):
        Granularity(levels=(1.2,)).listed(both())


def test_levels_come_back_as_they_were_given():
    placement = place(nn.Linear(4, 3), weights=Crossbar(sigma=1e-6))
    given = (1e-6, 3e-6, 7e-6, 2e-5, 3.3e-5, 1.1e-4, 1e-3)
    granularity = Granularity(levels=given)
    variables = DecisionVariables.of(placement, granularity)
    levels = granularity.listed(placement)
    plans = [variables.exact_points(torch.tensor([s], dtype=torch.float64)) for s in levels]
    assert [plan["weight"] for plan in plans] == list(given)
