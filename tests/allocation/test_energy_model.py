"""Energy model: the energy of `placement.energy`, at every point, with its slope."""

import math

import pytest
import torch
from torch import nn

from joulewise.allocation.energy_model import EnergyModel, common_levels
from joulewise.allocation.granularity import DecisionVariables, Granularity
from joulewise.devices import PCM, SRAM, Crossbar
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.placement import Plan, energy, place


def placed(memory):
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
        return place(model, weights=memory, example_inputs=torch.rand(3, 6))


@pytest.mark.parametrize(
    ("memory", "points"),
    [
        (SRAM(), (0.2, 0.9)),
        (SRAM(), (torch.linspace(0, 1, 8, dtype=torch.float64), 0.4)),
        (Crossbar(sigma=1e-6), (3.3e-6, 2e-4)),
        (Crossbar(variability=0.1, clip=False), (1e-7, 1e-3)),
        (SRAM(), (torch.linspace(0, 1, 5, dtype=torch.float64)[:, None], 0.4)),
        (Crossbar(sigma=1e-6), (torch.logspace(-7, -3, 5, dtype=torch.float64)[:, None], 2e-5)),
    ],
)
def test_it_is_the_energy(memory, points):
    placement = placed(memory)
    plan = dict(zip(("0.weight", "2.weight"), points, strict=True))
    expected = energy(placement, at=Plan.chosen_for(placement, plan))
    found = EnergyModel(placement)
    assert math.isclose(float(found.normalised(plan)), expected.normalised, rel_tol=1e-3)
    for name, joules in expected.memory_j.items():
        own = found.tensor_energy(name, torch.as_tensor(plan[name]).double()[None])
        assert math.isclose(float(own.sum()) * found.reliable_j, float(joules), rel_tol=1e-3)


@pytest.mark.parametrize("memory", [SRAM(), Crossbar(sigma=1e-6)])
def test_its_slope_in_the_points_of_channels(memory):
    found = EnergyModel(placed(memory))
    limits = memory.knob
    levels = torch.tensor([[0.0], [0.31], [0.5], [0.77], [1.0]], dtype=torch.float64)
    at = limits.points(levels).requires_grad_()
    (slope,) = torch.autograd.grad(found.tensor_energy("0.weight", at[None]).sum(), at)
    for channel in range(5):
        step = torch.zeros_like(at)
        step[channel] = 1e-4 * at[channel].detach().clamp(min=1e-7)
        ends = [
            float(found.tensor_energy("0.weight", (at.detach() + s * step)[None]).sum())
            for s in (-1, 1)
        ]
        difference = (ends[1] - ends[0]) / (2 * float(step[channel]))
        assert math.isclose(float(slope[channel]), difference, rel_tol=1e-3)


@pytest.mark.parametrize(("memory", "point"), [(SRAM(), 0.4), (Crossbar(sigma=1e-6), 2.3e-5)])
def test_its_slope(memory, point):
    placement = placed(memory)
    found = EnergyModel(placement)
    at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(found.tensor_energy("0.weight", at[None]).sum(), at)
    step = 1e-4 * point
    ends = [float(found.tensor_energy("0.weight", at.detach()[None] + d)) for d in (-step, step)]
    assert math.isclose(float(slope), (ends[1] - ends[0]) / (2 * step), rel_tol=1e-3)


def test_a_knob_that_cannot_be_chosen_is_refused():
    with pytest.raises(InputError, match="the knob of 0.weight is seconds, which cannot be chosen"):
        EnergyModel(placed(PCM()))


def test_a_placement_without_accesses_is_refused():
    with pytest.raises(InputError, match="without access counts"):
        EnergyModel(place(nn.Linear(4, 3), weights=SRAM()))


@pytest.mark.parametrize(
    ("listed", "budget", "level"),
    [((), 0.4, 0.4), ((), 0.0, 0.0), ((), 2.0, 1.0), ((0.3, 0.9), 0.4, 0.3), ((0.3,), 0.1, 0.3)],
)
def test_the_common_level_of_an_energy(listed, budget, level):
    placement = placed(SRAM())
    variables = DecisionVariables.of(placement, Granularity(levels=listed))
    found = common_levels(EnergyModel(placement), variables, budget)
    assert found.tolist() == pytest.approx([level] * 2)
