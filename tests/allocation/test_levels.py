"""Levels: the integer programme against every choice there is."""

import itertools

import numpy as np
import pytest

from joulewise.allocation.levels import assigned


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_is_better(seed):
    generator = np.random.default_rng(seed)
    variables, levels = 5, 4
    words = generator.uniform(1, 10, variables)
    points = np.sort(generator.uniform(0, 1, levels))
    costs = words[:, None] * points
    harms = 10 ** generator.uniform(0, 2, variables)[:, None] * np.exp(-8 * points)
    limit = float(np.median(harms.sum(0)))
    choice = assigned(costs, harms, limit)
    rows = np.arange(variables)
    assert harms[rows, choice].sum() <= limit * (1 + 1e-6)
    every = np.array(list(itertools.product(range(levels), repeat=variables)))
    allowed = harms[rows, every].sum(1) <= limit
    best = costs[rows, every].sum(1)[allowed].min()
    assert costs[rows, choice].sum() <= best * (1 + 1e-3)


def test_harms_below_zero_are_allowed():
    costs, harms = np.array([[1.0, 2.0], [1.0, 3.0]]), np.array([[5.0, 0.0], [0.0, -4.0]])
    assert assigned(costs, harms, 1.0).tolist() == [0, 1] or assigned(
        costs, harms, 1.0
    ).tolist() == [1, 0]


def test_no_choice_within_the_limit():
    assert assigned(np.ones((2, 2)), np.array([[3.0, 2.0], [3.0, 2.0]]), 1.0) is None
