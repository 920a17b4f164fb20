"""Rails: cuts against every way to share out variables among rails."""

import itertools

import numpy as np
import pytest
import torch

from joulewise.allocation.supply_rails import Tied, cut_in_order

LIMIT = 1.0


class Exponential:
    """Errors ``a exp(-8 share)`` that add up, energies ``w share``: rails have a closed form."""

    def __init__(self, seed, count):
        generator = np.random.default_rng(seed)
        self.weights = torch.from_numpy(generator.uniform(1, 10, count))
        self.errors = torch.from_numpy(10 ** generator.uniform(0, 4, count))
        self.calls = 0

    def tied(self, belongs, start, price):
        self.calls += 1
        rails = int(belongs.max()) + 1
        weights, errors = (
            torch.zeros(rails, dtype=torch.float64).index_add_(0, belongs, x)
            for x in (self.weights, self.errors)
        )
        found = (errors * weights.sum() / (weights * LIMIT)).log() / 8
        energy = float((weights * found).sum())
        return Tied(shares=found[belongs], rails=found, cost=energy, price=float(weights.sum()))


# Two cuts that would have to move at once stay where they are.
@pytest.mark.parametrize(("rails", "gap"), [(1, 1e-12), (2, 1e-12), (3, 1e-3)])
@pytest.mark.parametrize("seed", range(6))
def test_no_other_way_to_share_them_out_costs_less(seed, rails, gap):
    problem = Exponential(seed, 7)
    alone = problem.tied(torch.arange(7), None, None).shares
    found = cut_in_order(alone, rails, problem.tied)
    every = itertools.product(range(rails), repeat=7)
    energies = [
        problem.tied(torch.tensor(belongs), None, None).cost
        for belongs in every
        if len(set(belongs)) == rails
    ]
    assert found.cost == pytest.approx(min(energies), rel=gap)
    assert len(found.rails) == rails
    assert float((problem.errors * (-8 * found.shares).exp()).sum()) == pytest.approx(LIMIT)


def test_many_variables_take_few_tries():
    problem = Exponential(0, 3000)
    alone = problem.tied(torch.arange(3000), None, None).shares
    problem.calls = 0
    found = cut_in_order(alone, 3, problem.tied)
    assert problem.calls < 80
    # Of all pairs of cuts at a thirtieth each, none is better.
    order = alone.argsort()
    for cuts in itertools.combinations(range(100, 3000, 100), 2):
        belongs = torch.zeros(3000, dtype=torch.long)
        for cut in cuts:
            belongs[order[cut:]] += 1
        assert found.cost <= problem.tied(belongs, None, None).cost * (1 + 1e-3)
