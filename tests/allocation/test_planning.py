"""Planning: the best plans of a small network against everything else that could be tried."""

import itertools

import pytest
import torch

from joulewise.allocation.planning import Planner
from joulewise.allocation.spending import Spending
from joulewise.allocation.surveying import Surveyor
from joulewise.allocation.variables import Granularity, Variables
from joulewise.devices import SRAM, Crossbar, Flip, Measured
from joulewise.errors import InputError
from joulewise.placement import place
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


def test_levels_are_those_of_the_best_combination(planner_of, limit):
    ticks = (0.2, 0.35, 0.5, 0.7)
    planner = planner_of(Granularity(), levels=ticks)
    found = planner.cheapest(limit)
    assert set(found.tolist()) <= set(ticks) and planner.mse(found) <= limit
    assert planner.energy(found) <= on_a_grid(planner, limit, ticks) * (1 + 1e-3)


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
