"""The method of multipliers against closed forms and a generic constrained optimiser."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from joulewise.allocation.constrained import minimise


def problem(seed, variables=6):
    generator = torch.Generator().manual_seed(seed)
    sensitivity = 10 ** (3 * torch.rand(variables, generator=generator, dtype=torch.float64))
    words = 1 + 9 * torch.rand(variables, generator=generator, dtype=torch.float64)
    words = words / words.sum()
    shift = torch.rand(variables, generator=generator, dtype=torch.float64)

    def error(levels):
        rate = torch.exp(-12.8 * levels)
        return (sensitivity * rate * (1 - rate / 2)).sum() + 1e3 * (shift @ rate).square()

    limit = float(error(torch.full((variables,), 0.55, dtype=torch.float64)))
    return lambda levels: ((words * levels).sum(), error(levels) / limit)


# Few variables go through SLSQP, many do not.
COUNTS = pytest.mark.parametrize("count", [6, 12])


@COUNTS
def test_a_generic_optimiser_finds_nothing_better(count):
    for seed in range(5):
        figures = problem(seed, count)
        start = torch.full((count,), 0.55, dtype=torch.float64)
        found = minimise(figures, start)
        assert found.ratio <= 1.0

        def left(x, figures=figures):
            return -math.log(float(figures(torch.from_numpy(x))[1]))

        def objective(x, figures=figures):
            return float(figures(torch.from_numpy(x))[0])

        generic = min(
            (
                minimize(
                    objective,
                    first,
                    method="SLSQP",
                    bounds=[(0, 1)] * count,
                    constraints={"type": "ineq", "fun": left},
                )
                for first in (np.full(count, 0.55), np.full(count, 0.7), found.levels.numpy())
            ),
            key=lambda r: r.fun if r.success else np.inf,
        )
        # A thousandth of the limit is kept in reserve, which costs that times the multiplier.
        assert found.objective <= generic.fun + 3e-3 * found.multiplier + 1e-5


def test_an_exhaustive_search_of_a_grid_finds_nothing_better():
    figures = problem(7, variables=3)
    found = minimise(figures, torch.full((3,), 0.55, dtype=torch.float64))
    ticks = torch.linspace(0, 1, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks, ticks)
    best = math.inf
    for block in grid.split(50_000):
        both = torch.func.vmap(figures)(block)
        allowed = both[0][both[1] <= 1.0]
        best = min(best, float(allowed.min()) if len(allowed) else math.inf)
    assert found.objective <= best
    # And no grid is so coarse that its best is far off.
    assert best <= found.objective + 0.01


@COUNTS
def test_a_limit_that_does_not_bind_gives_the_ends(count):
    found = minimise(lambda x: (x.sum(), 0.5 + 0 * x.sum()), torch.full((count,), 0.5).double())
    assert found.levels.tolist() == [0.0] * count
    assert found.multiplier == 0.0


@COUNTS
def test_the_price_is_what_a_larger_limit_saves(count):
    figures = problem(2, count)
    start = torch.full((count,), 0.55, dtype=torch.float64)
    found = minimise(figures, start)
    wider = minimise(lambda x: (figures(x)[0], figures(x)[1] / 1.1), start)
    saved = found.objective - wider.objective
    assert math.isclose(saved, found.multiplier * math.log(1.1), rel_tol=0.05)


@COUNTS
def test_the_limit_is_kept_where_slopes_jump(count):
    """Gradients with kinks, from a start that is within the limit."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        worth = 1 + 9 * torch.rand(count, generator=generator, dtype=torch.float64)

        def figures(x, worth=worth):
            kinked = torch.where(x < 0.4, 3 * x, 1.2 + 0.5 * (x - 0.4))
            return -(worth * kinked).sum() / 10, x.sum() / (0.4 * count)

        start = torch.full((count,), 0.395, dtype=torch.float64)
        found = minimise(figures, start)
        assert found.ratio <= 1.0
        assert found.objective <= float(figures(start)[0])
