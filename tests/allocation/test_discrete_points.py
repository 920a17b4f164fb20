"""Discrete operating points: the choice of levels against enumeration."""

import itertools
import time

import numpy as np
import pytest

from joulewise.allocation import discrete_points
from joulewise.allocation.discrete_points import Knapsack, solve


def knapsack(seed, variables, levels, *, shift=1.0, samples=6):
    """Errors as those of memories: they fall with the level, and shift outputs together."""
    generator = np.random.default_rng(seed)
    words = generator.uniform(1, 10, variables)
    points = np.sort(generator.uniform(0, 1, levels))
    rates = np.exp(-8 * points)
    directions = generator.normal(size=(variables, 1, samples)) + 0.5
    return Knapsack(
        energies=words[:, None] * points,
        variances=10 ** generator.uniform(0, 2, variables)[:, None] * rates,
        shifts=shift * directions * rates[:, None] * np.sqrt(words)[:, None, None],
        offset=0.1 * generator.normal(size=samples),
        numbers=samples,
    )


def of_every_choice(known):
    variables, levels = known.energies.shape
    rows = np.arange(variables)
    every = np.array(list(itertools.product(range(levels), repeat=variables)))
    outputs = known.offset + known.shifts[rows, every].sum(1)
    errors = np.square(outputs).sum(1) / known.numbers + known.variances[rows, every].sum(1)
    return known.energies[rows, every].sum(1), errors


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_is_better(seed):
    known = knapsack(seed, 5, 4)
    costs, errors = of_every_choice(known)
    limit = float(np.median(errors))
    choice = solve(known, limit, np.full(5, 3))
    assert known.error(choice) <= limit
    assert known.energy(choice) <= costs[errors <= limit].min() * (1 + 1e-9)


def test_choices_that_are_not_enumerated_are_mostly_the_best():
    gaps = []
    for seed in range(12):
        known = knapsack(seed, 8, 4, shift=0.3)  # 65,536 combinations, more than are enumerated
        costs, errors = of_every_choice(known)
        limit = float(np.median(errors))
        choice = solve(known, limit, np.full(8, 3))
        assert known.error(choice) <= limit
        gaps.append(known.energy(choice) / costs[errors <= limit].min() - 1)
    # Exchanges of two variables do not always find the best.
    assert np.median(gaps) < 1e-9 and max(gaps) < 0.2


def test_single_changes_are_differences_of_errors_and_costs():
    known = knapsack(0, 4, 3)
    choice = np.array([0, 2, 1, 1])
    energies, errors = known.changes(choice)
    for variable, level in itertools.product(range(4), range(3)):
        other = choice.copy()
        other[variable] = level
        assert np.isclose(errors[variable, level], known.error(other) - known.error(choice))
        assert np.isclose(energies[variable, level], known.energy(other) - known.energy(choice))


def test_without_a_choice_within_the_limit_the_error_is_least():
    known = knapsack(1, 4, 3)
    _, errors = of_every_choice(known)
    choice = solve(known, errors.min() / 2, np.zeros(4, dtype=np.int64))
    assert known.error(choice) == pytest.approx(errors.min())


def test_few_changes_are_few():
    known = knapsack(2, 60, 4)
    start = np.full(60, 3)
    limit = 3 * known.error(start)
    near = discrete_points._relaxed(known, limit, start, 5)
    assert known.error(near) <= limit and np.count_nonzero(near != start) <= 5
    assert known.energy(near) < known.energy(start)


def test_a_choice_does_not_depend_on_time(monkeypatch):
    known = knapsack(3, 80, 4)
    limit = 2 * known.error(np.full(80, 3))
    choice = solve(known, limit, np.full(80, 3))
    for clock in ("time", "monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, clock, lambda: 1e12)
    assert solve(known, limit, np.full(80, 3)).tolist() == choice.tolist()
