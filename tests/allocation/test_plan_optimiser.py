"""Plan optimiser: the best plans of a small network against everything else that could be tried."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from joulewise.allocation.granularity import Granularity
from joulewise.allocation.problem import AllocationProblem
from joulewise.devices import ISAAC, SRAM, Crossbar, Flip, MeasuredMap
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.placement import Plan, energy, place


@pytest.fixture
def optimiser_of(placement, digits):
    """Optimisers of a small network, linearised at half of the range."""

    def make(**granularity):
        problem = AllocationProblem(
            placement=placement,
            data=digits.train,
            granularity=Granularity(**granularity),
            samples=200,
        )
        return problem.linearised_at(problem.variables.uniform(0.5))

    return make


def linearised(placement, data, granularity):
    """An optimiser with gradients at the most reliable plan."""
    problem = AllocationProblem(
        placement=placement, data=data, granularity=granularity, samples=1000
    )
    return problem.linearised_at(problem.variables.uniform(1.0))


def on_a_grid(optimiser, limit, ticks):
    """The least energy of all combinations of ticks within a predicted error."""
    ticks = torch.as_tensor(ticks, dtype=torch.float64)
    grid = torch.cartesian_prod(*[ticks] * optimiser.variables.count)

    def both(levels):
        plan = optimiser.variables.points(levels)
        return optimiser.energy_model.normalised(plan), optimiser.error_model.error_at(plan)

    energies, errors = torch.func.vmap(both, chunk_size=512)(grid)
    return float(energies[errors <= limit].min())


@pytest.fixture
def limit(optimiser_of):
    optimiser = optimiser_of()
    return optimiser.error(optimiser.variables.uniform(0.4))


def test_no_grid_has_a_cheaper_plan(optimiser_of, limit):
    optimiser = optimiser_of()
    found = optimiser.minimise_energy(limit)
    assert optimiser.error(found) <= limit
    ticks = torch.linspace(0.2, 0.6, 17)
    best = on_a_grid(optimiser, limit, ticks)
    assert optimiser.energy(found) <= best * (1 + 1e-3)
    assert optimiser.energy(found) < 0.98 * optimiser.energy(torch.full_like(found, 0.4))


def test_finer_granularities_cost_less(optimiser_of, limit):
    spent = []
    for granularity in ({"per": "network"}, {}, {"bit_planes": True}):
        optimiser = optimiser_of(**granularity)
        found = optimiser.minimise_energy(limit)
        assert optimiser.error(found) <= limit
        spent.append(optimiser.energy(found))
    assert spent[0] > spent[1] > spent[2]
    assert abs(spent[0] - 0.4) < 1e-3


def uneven(memory):
    """A network with channels whose weights in the next layer are small."""
    with seeded(0):
        first, last = nn.Linear(6, 12), nn.Linear(12, 2)
    with torch.no_grad():
        last.weight[:, ::2] *= 0.02
        last.weight[1] *= 0.2
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    placement = place(nn.Sequential(first, nn.ReLU(), last), weights=memory, example_inputs=inputs)
    return placement, [(inputs, None)]


# Energy of converters does not depend on the operating point: left out, it hides no saving.
DEVICES_ALONE = replace(ISAAC, input_j=0.0, output_j=0.0)


@pytest.mark.parametrize("memory", [SRAM(), Crossbar(sigma=1e-6, readout=DEVICES_ALONE)])
def test_channels_cost_less_at_the_same_error_where_they_differ(memory):
    placement, data = uneven(memory)
    tensor, channel = (
        linearised(placement, data, Granularity(per=per)) for per in ("tensor", "channel")
    )
    limit = tensor.error(tensor.variables.uniform(0.4))
    by_tensor, by_channel = tensor.minimise_energy(limit), channel.minimise_energy(limit)
    assert tensor.error(by_tensor) <= limit and channel.error(by_channel) <= limit
    plans = [
        Plan.chosen_for(placement, p.variables.exact_points(s))
        for p, s in ((tensor, by_tensor), (channel, by_channel))
    ]
    spent = [energy(placement, at=plan).normalised for plan in plans]
    assert spent[1] < 0.97 * spent[0]
    # Channels with small weights in the next layer get less energy.
    (points,) = (point[:, 0] for point in plans[1]["0.weight"].values())
    assert float(points[::2].max()) < float(points[1::2].min())
    # Both error models agree on a plan of tensors.
    known = [float(optimiser.error_model.error(plans[0])) for optimiser in (tensor, channel)]
    assert math.isclose(known[0], known[1], rel_tol=1e-5)
    # The result does not depend on the start.
    start = channel.variables.uniform(0.0)
    for name, index in channel.variables.index.items():
        start[index] = by_tensor[tensor.variables.index[name]]
    again = channel.minimise_energy(limit, start)
    assert math.isclose(channel.energy(again), channel.energy(by_channel), rel_tol=5e-3)


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_channels_that_are_alike_cost_what_the_tensor_costs(per):
    """Sixteen equal rows, each to one output."""
    layer = nn.Linear(5, 16, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 5).expand(16, 5))
    inputs = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    placement = place(layer, weights=SRAM(), example_inputs=inputs)
    optimiser = linearised(placement, [(inputs, None)], Granularity(per=per))
    limit = optimiser.error(optimiser.variables.uniform(0.4))
    assert math.isclose(optimiser.energy(optimiser.minimise_energy(limit)), 0.4, rel_tol=1e-3)


def test_no_grid_has_a_cheaper_plan_of_channels():
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    with seeded(0):
        layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight *= torch.tensor([[1.0], [0.3], [0.05]])
    placement = place(layer, weights=SRAM(channel_dim=0), example_inputs=inputs)
    optimiser = linearised(placement, [(inputs, None)], Granularity(per="channel"))
    limit = optimiser.error(optimiser.variables.uniform(0.4))
    found = optimiser.minimise_energy(limit)
    assert optimiser.variables.count == 3 and optimiser.error(found) <= limit
    best = on_a_grid(optimiser, limit, torch.linspace(0.0, 0.7, 29))
    assert optimiser.energy(found) <= best * (1 + 1e-3)


@pytest.mark.parametrize("restricted", [{"rails": 2}, {"levels": (0.2, 0.35, 0.5, 1.0)}])
def test_channels_on_few_points(restricted):
    placement, data = uneven(SRAM())
    granularity = Granularity(per="channel", **restricted)
    optimiser = linearised(placement, data, granularity)
    free = linearised(placement, data, Granularity(per="channel"))
    common = linearised(placement, data, Granularity(per="network", **restricted))
    limit = free.error(free.variables.uniform(0.4))
    found = optimiser.minimise_energy(limit)
    assert optimiser.error(found) <= limit and len(set(found.tolist())) <= 4
    assert free.energy(free.minimise_energy(limit)) <= optimiser.energy(found) * (1 + 1e-3)
    assert optimiser.energy(found) < common.energy(common.minimise_energy(limit))


def test_listed_points_are_those_of_the_best_combination(optimiser_of, limit):
    ticks = (0.2, 0.35, 0.5, 0.7)
    optimiser = optimiser_of(levels=ticks)
    found = optimiser.minimise_energy(limit)
    assert set(found.tolist()) <= set(ticks) and optimiser.error(found) <= limit
    assert optimiser.energy(found) <= on_a_grid(optimiser, limit, ticks) * (1 + 1e-3)


@pytest.mark.parametrize("rails", [2, 3])
def test_no_other_assignment_to_rails_costs_less(optimiser_of, limit, rails):
    optimiser = optimiser_of(rails=rails)
    found = optimiser.minimise_energy(limit)
    assert optimiser.error(found) <= limit and len(set(found.tolist())) == rails
    every = itertools.product(range(rails), repeat=optimiser.variables.count)
    energies = []
    for rail_of in every:
        start = torch.full((rails,), optimiser.common_level(limit), dtype=torch.float64)
        tied = optimiser._least_energy(limit, start, torch.tensor(rail_of))
        energies.append(optimiser.energy(tied.levels[list(rail_of)]))
    assert optimiser.energy(found) <= min(energies) * (1 + 1e-3)


def test_two_rails_are_nearly_as_good_as_the_best_pair(optimiser_of, limit):
    optimiser = optimiser_of(per="network", bit_planes=True, rails=2)
    found = optimiser.minimise_energy(limit)
    assert len(set(found.tolist())) == 2 and optimiser.error(found) <= limit
    pairs = itertools.combinations(torch.linspace(0, 0.7, 8).tolist(), 2)
    free = optimiser_of(per="network", bit_planes=True).minimise_energy(limit)
    best = min(
        energy for pair in pairs if (energy := _energy_on(optimiser, free, pair, limit)) is not None
    )
    assert optimiser.energy(found) <= best * 1.01
    assert optimiser.energy(found) >= optimiser.energy(free)


def _energy_on(optimiser, levels, pair, limit):
    found = optimiser._discrete(limit, levels, torch.tensor(pair, dtype=torch.float64).numpy())
    return optimiser.energy(found) if optimiser.error(found) <= limit else None


def test_as_many_rails_as_variables_are_no_restriction(optimiser_of, limit):
    free, railed = optimiser_of(), optimiser_of(rails=99)
    torch.testing.assert_close(free.minimise_energy(limit), railed.minimise_energy(limit))


@pytest.mark.parametrize("restricted", [{}, {"rails": 2}, {"levels": (0.2, 0.4, 0.6, 1.0)}])
def test_the_least_error_within_an_energy(optimiser_of, restricted):
    per = "network" if restricted else "tensor"
    optimiser = optimiser_of(per=per, bit_planes=True, **restricted)
    found = optimiser.minimise_error(0.4)
    assert optimiser.energy(found) <= 0.4
    common = torch.full_like(found, 0.4)
    assert optimiser.error(found) < 0.5 * optimiser.error(common)
    # The dual: no cheaper plan has that error.
    assert optimiser.energy(optimiser.minimise_energy(optimiser.error(found))) >= 0.4 * 0.97


def test_out_of_reach_gives_the_ends(optimiser_of):
    optimiser = optimiser_of()
    assert optimiser.minimise_energy(1e-12).tolist() == [1.0] * optimiser.variables.count
    assert float(optimiser.minimise_error(1e-12).max()) <= 1e-9
    assert optimiser.minimise_error(1.0).tolist() == [1.0] * optimiser.variables.count


def test_a_measured_map_is_allocated_from_listed_points(network, digits):
    thresholds = 10 ** torch.linspace(-5, -0.5, 512).double()
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    fault_map = MeasuredMap.from_thresholds(thresholds[order].reshape(-1, 64))
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=SRAM(bits=8, fault_map=fault_map), example_inputs=inputs)
    few, ticks = digits.train.subset(100, seed=0), (0.3, 0.5, 0.8)
    with pytest.raises(
        InputError, match=r"features.1.weight is one whose moments have no gradient"
    ):
        linearised(placement, few, Granularity())
    optimiser = linearised(placement, few, Granularity(levels=ticks))
    limit = optimiser.error(optimiser.variables.uniform(0.5))
    found = optimiser.minimise_energy(limit)
    assert set(found.tolist()) <= set(ticks) and optimiser.error(found) <= limit
    best = min(
        optimiser.energy(at)
        for levels in itertools.product(ticks, repeat=optimiser.variables.count)
        if optimiser.error(at := torch.tensor(levels, dtype=torch.float64)) <= limit
    )
    assert optimiser.energy(found) <= best * (1 + 1e-3)


@pytest.mark.parametrize(
    "memory",
    [
        SRAM(),
        SRAM(fault=Flip()),
        SRAM(fault=Flip(zero_to_one=2.0, one_to_zero=0.0)),
        Crossbar(sigma=1e-6),
        Crossbar(sigma=1e-6, variability=0.2),
    ],
    ids=str,
)
def test_errors_fall_with_a_common_level(network, digits, memory):
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=memory, example_inputs=inputs)
    optimiser = linearised(placement, digits.train.subset(50, seed=0), Granularity())
    errors = [optimiser.error(optimiser.variables.uniform(level / 8)) for level in range(9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("restricted", [{"levels": (0.2, 0.4, 0.6, 1.0)}, {"rails": 2}])
def test_few_points_for_many_planes_cost_less_than_one_for_all(optimiser_of, limit, restricted):
    optimiser = optimiser_of(bit_planes=True, **restricted)
    found = optimiser.minimise_energy(limit)
    assert optimiser.error(found) <= limit
    assert optimiser.energy(found) < 0.8 * 0.4


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.9])
def test_wherever_it_starts_the_plan_is_within_the_limit(optimiser_of, factor):
    optimiser = optimiser_of(bit_planes=True)
    limit = factor * optimiser.error(optimiser.variables.least_reliable)
    if limit <= optimiser.error(optimiser.variables.most_reliable):
        limit = 2 * optimiser.error(optimiser.variables.most_reliable)
    best = optimiser.minimise_energy(limit)
    for start in (optimiser.variables.least_reliable, optimiser.variables.most_reliable, 1 - best):
        levels = optimiser.minimise_energy(limit, start)
        assert optimiser.error(levels) <= limit * 1.01
        assert optimiser.energy(levels) <= 1.0
        common = torch.full_like(levels, optimiser.common_level(limit))
        assert optimiser.energy(levels) <= optimiser.energy(common) * (1 + 1e-6)


@pytest.mark.parametrize("memory", [SRAM(), Crossbar(sigma=1e-6, readout=ISAAC)], ids=str)
@pytest.mark.parametrize("per", ["network", "tensor", "channel"])
def test_the_knapsack_has_the_energy_and_the_error_of_every_choice(network, digits, memory, per):
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=memory, example_inputs=inputs)
    optimiser = linearised(placement, digits.train.subset(50, seed=0), Granularity(per=per))
    generator = torch.Generator().manual_seed(0)
    count, allowed = optimiser.variables.count, np.array([0.3, 0.5, 0.8])
    levels = torch.rand(count, generator=generator, dtype=torch.float64)
    known = optimiser._knapsack(levels, allowed)
    for _ in range(3):
        choice = torch.randint(3, (count,), generator=generator).numpy()
        there = torch.from_numpy(allowed[choice])
        assert known.energy(choice) == pytest.approx(optimiser.energy(there), rel=1e-9)
        assert known.error(choice) == pytest.approx(optimiser.error(there), rel=1e-9)
