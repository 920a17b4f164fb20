"""Planning: the best plans of a small network against everything else that could be tried."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from joulewise.allocation.energy_model import Spending
from joulewise.allocation.granularity import Granularity, Variables
from joulewise.allocation.plan_optimiser import Planner
from joulewise.allocation.problem import Surveyor
from joulewise.devices import ISAAC, SRAM, Crossbar, Flip, Measured
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.placement import energy, place
from joulewise.prediction import error_model


@pytest.fixture
def planner_of(placement, digits):
    def make(granularity, **restricted):
        variables = Variables.of(placement, granularity)
        start = torch.full((variables.count,), 0.5, dtype=torch.float64)
        return Planner(
            errors=error_model(placement, digits.train.subset(200, seed=0), variables.plan(start)),
            spending=Spending(placement),
            variables=variables,
            **restricted,
        )

    return make


def on_a_grid(planner, limit, ticks):
    """The least energy of all combinations of ticks within a predicted error."""
    ticks = torch.as_tensor(ticks, dtype=torch.float64)
    grid = torch.cartesian_prod(*[ticks] * planner.variables.count)

    def both(shares):
        plan = planner.variables.plan(shares)
        return planner.spending.normalised(plan), planner.errors.mse(plan)

    energies, errors = torch.func.vmap(both, chunk_size=512)(grid)
    return float(energies[errors <= limit].min())


@pytest.fixture
def limit(planner_of):
    planner = planner_of(Granularity())
    return planner.mse(torch.full((planner.variables.count,), 0.4, dtype=torch.float64))


def test_no_grid_has_a_cheaper_plan(planner_of, limit):
    planner = planner_of(Granularity())
    found = planner.cheapest(limit)
    assert planner.mse(found) <= limit
    ticks = torch.linspace(0.2, 0.6, 17)
    best = on_a_grid(planner, limit, ticks)
    assert planner.energy(found) <= best * (1 + 1e-3)
    assert planner.energy(found) < 0.98 * planner.energy(torch.full_like(found, 0.4))


def test_finer_granularities_cost_less(planner_of, limit):
    spent = []
    for granularity in (
        Granularity(per="network"),
        Granularity(),
        Granularity(bit_planes=True),
    ):
        planner = planner_of(granularity)
        found = planner.cheapest(limit)
        assert planner.mse(found) <= limit
        spent.append(planner.energy(found))
    assert spent[0] > spent[1] > spent[2]
    assert abs(spent[0] - 0.4) < 1e-3


def uneven(memory):
    """A network some of whose channels hardly matter to what follows."""
    with seeded(0):
        first, last = nn.Linear(6, 12), nn.Linear(12, 2)
    with torch.no_grad():
        last.weight[:, ::2] *= 0.02
        last.weight[1] *= 0.2
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    placement = place(nn.Sequential(first, nn.ReLU(), last), weights=memory, inputs=inputs)
    return placement, [(inputs, None)]


# Converters cost the same at any point: without them, points are all that is paid for.
DEVICES_ALONE = replace(ISAAC, input_j=0.0, output_j=0.0)


@pytest.mark.parametrize("memory", [SRAM(), Crossbar(sigma=1e-6, readout=DEVICES_ALONE)])
def test_channels_cost_less_at_the_same_error_where_they_differ(memory):
    placement, data = uneven(memory)
    tensor, channel = (
        survey(placement, data, Granularity(per=per)).around() for per in ("tensor", "channel")
    )
    limit = tensor.mse(tensor._everywhere(0.4))
    by_tensor, by_channel = tensor.cheapest(limit), channel.cheapest(limit)
    assert tensor.mse(by_tensor) <= limit and channel.mse(by_channel) <= limit
    plans = [p.variables.exact_plan(s) for p, s in ((tensor, by_tensor), (channel, by_channel))]
    spent = [energy(placement, plan).normalised for plan in plans]
    assert spent[1] < 0.97 * spent[0]
    # Rows of little weight in what follows are the ones that are let go.
    points = torch.as_tensor(plans[1]["0.weight"])[:, 0]
    assert float(points[::2].max()) < float(points[1::2].min())
    # Both models say the same of a plan that both know.
    known = [float(planner.errors.mse(plans[0])) for planner in (tensor, channel)]
    assert math.isclose(known[0], known[1], rel_tol=1e-5)
    # As good as starting from the best plan of tensors, and never worse than it.
    again = channel.cheapest(limit, channel.variables.shares(plans[0]))
    assert math.isclose(channel.energy(again), channel.energy(by_channel), rel_tol=5e-3)


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_channels_that_are_alike_cost_what_the_tensor_costs(per):
    """One row, sixteen times over, to outputs of their own."""
    layer = nn.Linear(5, 16, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 5).expand(16, 5))
    inputs = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    placement = place(layer, weights=SRAM(), inputs=inputs)
    planner = survey(placement, [(inputs, None)], Granularity(per=per)).around()
    limit = planner.mse(planner._everywhere(0.4))
    assert math.isclose(planner.energy(planner.cheapest(limit)), 0.4, rel_tol=1e-3)


def test_no_grid_has_a_cheaper_plan_of_channels():
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    with seeded(0):
        layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight *= torch.tensor([[1.0], [0.3], [0.05]])
    placement = place(layer, weights=SRAM(channel_dim=0), inputs=inputs)
    planner = survey(placement, [(inputs, None)], Granularity(per="channel")).around()
    limit = planner.mse(planner._everywhere(0.4))
    found = planner.cheapest(limit)
    assert planner.variables.count == 3 and planner.mse(found) <= limit
    best = on_a_grid(planner, limit, torch.linspace(0.0, 0.7, 29))
    assert planner.energy(found) <= best * (1 + 1e-3)


@pytest.mark.parametrize("restricted", [{"rails": 2}, {"levels": (0.2, 0.35, 0.5, 1.0)}])
def test_channels_on_few_points(restricted):
    placement, data = uneven(SRAM())
    granularity = Granularity(per="channel", **restricted)
    planner = survey(placement, data, granularity).around()
    free = survey(placement, data, Granularity(per="channel")).around()
    common = survey(placement, data, Granularity(per="network", **restricted)).around()
    limit = free.mse(free._everywhere(0.4))
    found = planner.cheapest(limit)
    assert planner.mse(found) <= limit and len(set(found.tolist())) <= 4
    assert free.energy(free.cheapest(limit)) <= planner.energy(found) * (1 + 1e-3)
    assert planner.energy(found) < common.energy(common.cheapest(limit))


def test_levels_are_those_of_the_best_combination(planner_of, limit):
    ticks = (0.2, 0.35, 0.5, 0.7)
    planner = planner_of(Granularity(), levels=ticks)
    found = planner.cheapest(limit)
    assert set(found.tolist()) <= set(ticks) and planner.mse(found) <= limit
    assert planner.energy(found) <= on_a_grid(planner, limit, ticks) * (1 + 1e-3)


@pytest.mark.parametrize("rails", [2, 3])
def test_no_way_to_share_out_tensors_among_rails_costs_less(planner_of, limit, rails):
    planner = planner_of(Granularity(), rails=rails)
    found = planner.cheapest(limit)
    assert planner.mse(found) <= limit and len(set(found.tolist())) == rails
    every = itertools.product(range(rails), repeat=planner.variables.count)
    energies = []
    for belongs in every:
        start = torch.full((rails,), planner.common(limit), dtype=torch.float64)
        tied = planner._least(limit, start, torch.tensor(belongs))
        energies.append(planner.energy(tied.shares[list(belongs)]))
    assert planner.energy(found) <= min(energies) * (1 + 1e-3)


def test_two_rails_are_nearly_as_good_as_the_best_pair(planner_of, limit):
    planner = planner_of(Granularity(per="network", bit_planes=True), rails=2)
    found = planner.cheapest(limit)
    assert len(set(found.tolist())) == 2 and planner.mse(found) <= limit
    pairs = itertools.combinations(torch.linspace(0, 0.7, 8).tolist(), 2)
    free = planner_of(Granularity(per="network", bit_planes=True)).cheapest(limit)
    best = min(
        energy for pair in pairs if (energy := _on_levels(planner, free, pair, limit)) is not None
    )
    assert planner.energy(found) <= best * 1.01
    assert planner.energy(found) >= planner.energy(free)


def _on_levels(planner, shares, pair, limit):
    found = planner._on_levels(limit, shares, torch.tensor(pair, dtype=torch.float64).numpy())
    return planner.energy(found) if planner.mse(found) <= limit else None


def test_as_many_rails_as_variables_are_no_restriction(planner_of, limit):
    free, railed = planner_of(Granularity()), planner_of(Granularity(), rails=99)
    torch.testing.assert_close(free.cheapest(limit), railed.cheapest(limit))


@pytest.mark.parametrize("restricted", [{}, {"rails": 2}, {"levels": (0.2, 0.4, 0.6, 1.0)}])
def test_the_least_error_within_an_energy(planner_of, restricted):
    per = "network" if restricted else "tensor"
    planner = planner_of(Granularity(per=per, bit_planes=True), **restricted)
    found = planner.best(0.4)
    assert planner.energy(found) <= 0.4
    common = torch.full_like(found, 0.4)
    assert planner.mse(found) < 0.5 * planner.mse(common)
    # The dual: no cheaper plan has that error.
    assert planner.energy(planner.cheapest(planner.mse(found))) >= 0.4 * 0.97


def test_out_of_reach_gives_the_ends(planner_of):
    planner = planner_of(Granularity())
    assert planner.cheapest(1e-12).tolist() == [1.0] * planner.variables.count
    assert float(planner.best(1e-12).max()) <= 1e-9
    assert planner.best(1.0).tolist() == [1.0] * planner.variables.count


def test_a_measured_map_goes_by_its_levels(network, digits):
    thresholds = 10 ** torch.linspace(-5, -0.5, 512).double()
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    fault_map = Measured(columns=64, thresholds=tuple(thresholds[order].tolist()))
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=SRAM(bits=8, fault_map=fault_map), inputs=inputs)
    few, levels = digits.train.subset(100, seed=0), (0.3, 0.5, 0.8)
    with pytest.raises(InputError, match=r"features.1.weight is one whose errors change .* steps"):
        survey(placement, few, Granularity())
    planner = survey(placement, few, Granularity(levels=levels)).around()
    limit = planner.mse(planner._everywhere(0.5))
    found = planner.cheapest(limit)
    assert set(found.tolist()) <= set(levels) and planner.mse(found) <= limit
    ticks = itertools.product(levels, repeat=planner.variables.count)
    best = min(
        planner.energy(at)
        for shares in ticks
        if planner.mse(at := torch.tensor(shares, dtype=torch.float64)) <= limit
    )
    assert planner.energy(found) <= best * (1 + 1e-3)


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
def test_errors_fall_with_a_common_share(network, digits, memory):
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=memory, inputs=inputs)
    planner = survey(placement, digits.train.subset(50, seed=0), Granularity()).around()
    errors = [planner.mse(planner._everywhere(share / 8)) for share in range(9)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("restricted", [{"levels": (0.2, 0.4, 0.6, 1.0)}, {"rails": 2}])
def test_few_points_for_many_planes_cost_less_than_one_for_all(planner_of, limit, restricted):
    planner = planner_of(Granularity(bit_planes=True), **restricted)
    found = planner.cheapest(limit)
    assert planner.mse(found) <= limit
    assert planner.energy(found) < 0.8 * 0.4


def survey(placement, few, granularity):
    return Surveyor(
        placement=placement,
        few=few,
        granularity=granularity,
        seed=0,
        batch_size=None,
        progress=lambda *told: None,
    )


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.9])
def test_wherever_it_starts_the_plan_is_within_the_limit(planner_of, factor):
    planner = planner_of(Granularity(bit_planes=True))
    limit = factor * planner.mse(planner.lowest)
    if limit <= planner.mse(planner.reliable):
        limit = 2 * planner.mse(planner.reliable)
    best = planner.cheapest(limit)
    for start in (planner.lowest, planner.reliable, 1 - best):
        shares = planner.cheapest(limit, start)
        assert planner.mse(shares) <= limit * 1.01
        assert planner.energy(shares) <= planner.energy(planner.common_within(1.0))
        common = torch.full_like(shares, planner.common(limit))
        assert planner.energy(shares) <= planner.energy(common) * (1 + 1e-6)


@pytest.mark.parametrize("memory", [SRAM(), Crossbar(sigma=1e-6, readout=ISAAC)], ids=str)
@pytest.mark.parametrize("per", ["network", "tensor", "channel"])
def test_alternatives_are_the_energy_and_the_error_of_every_choice(network, digits, memory, per):
    inputs = next(iter(digits.train.batches(4)))[0]
    placement = place(network, weights=memory, inputs=inputs)
    few = digits.train.subset(50, seed=0)
    planner = survey(placement, few, Granularity(per=per)).around()
    generator = torch.Generator().manual_seed(0)
    count, levels = planner.variables.count, np.array([0.3, 0.5, 0.8])
    shares = torch.rand(count, generator=generator, dtype=torch.float64)
    known = planner._alternatives(shares, levels)
    for _ in range(3):
        choice = torch.randint(3, (count,), generator=generator).numpy()
        there = torch.from_numpy(levels[choice])
        assert known.cost(choice) == pytest.approx(planner.energy(there), rel=1e-9)
        assert known.error(choice) == pytest.approx(planner.mse(there), rel=1e-9)
