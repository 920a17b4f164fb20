"""Supply rails: cuts against every assignment of variables to rails."""

import itertools

import numpy as np
import pytest
import torch

from joulewise.allocation.supply_rails import RailPlan, assign_rails

LIMIT = 1.0


class Exponential:
    """Errors ``a exp(-8 x)`` and energies ``w x`` that add up: rails have a closed form."""

    def __init__(self, seed, count):
        generator = np.random.default_rng(seed)
        self.weights = torch.from_numpy(generator.uniform(1, 10, count))
        self.errors = torch.from_numpy(10 ** generator.uniform(0, 4, count))
        self.calls = 0

    def optimise(self, rail_of, start, multiplier):
        self.calls += 1
        rails = int(rail_of.max()) + 1
        weights, errors = (
            torch.zeros(rails, dtype=torch.float64).index_add_(0, rail_of, x)
            for x in (self.weights, self.errors)
        )
        found = (errors * weights.sum() / (weights * LIMIT)).log() / 8
        energy = float((weights * found).sum())
        return RailPlan(
            levels=found[rail_of], rails=found, cost=energy, multiplier=float(weights.sum())
        )


# Two cuts that would have to move at once stay where they are.
@pytest.mark.parametrize(("rails", "gap"), [(1, 1e-12), (2, 1e-12), (3, 1e-3)])
@pytest.mark.parametrize("seed", range(6))
def test_no_other_assignment_costs_less(seed, rails, gap):
    problem = Exponential(seed, 7)
    alone = problem.optimise(torch.arange(7), None, None).levels
    found = assign_rails(alone, rails, problem.optimise)
    every = itertools.product(range(rails), repeat=7)
    energies = [
        problem.optimise(torch.tensor(rail_of), None, None).cost
        for rail_of in every
        if len(set(rail_of)) == rails
    ]
    assert found.cost == pytest.approx(min(energies), rel=gap)
    assert len(found.rails) == rails
    assert float((problem.errors * (-8 * found.levels).exp()).sum()) == pytest.approx(LIMIT)


def test_many_variables_take_few_tries():
    problem = Exponential(0, 3000)
    alone = problem.optimise(torch.arange(3000), None, None).levels
    problem.calls = 0
    found = assign_rails(alone, 3, problem.optimise)
    assert problem.calls < 80
    # Of all pairs of cuts at a thirtieth each, none is better.
    order = alone.argsort()
    for cuts in itertools.combinations(range(100, 3000, 100), 2):
        rail_of = torch.zeros(3000, dtype=torch.long)
        for cut in cuts:
            rail_of[order[cut:]] += 1
        assert found.cost <= problem.optimise(rail_of, None, None).cost * (1 + 1e-3)
