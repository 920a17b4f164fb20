"""Levels: the choice of levels against every choice there is."""

import itertools
import time

import numpy as np
import pytest

from joulewise.allocation import discrete_points as room
from joulewise.allocation.discrete_points import Alternatives, chosen


def alternatives(seed, variables, levels, *, shift=1.0, samples=6):
    """Errors as those of memories: they fall with the level, and shift outputs together."""
    generator = np.random.default_rng(seed)
    words = generator.uniform(1, 10, variables)
    points = np.sort(generator.uniform(0, 1, levels))
    rates = np.exp(-8 * points)
    directions = generator.normal(size=(variables, 1, samples)) + 0.5
    return Alternatives(
        costs=words[:, None] * points,
        variances=10 ** generator.uniform(0, 2, variables)[:, None] * rates,
        moves=shift * directions * rates[:, None] * np.sqrt(words)[:, None, None],
        off=0.1 * generator.normal(size=samples),
        numbers=samples,
    )


def of_every_choice(known):
    variables, levels = known.costs.shape
    every = np.array(list(itertools.product(range(levels), repeat=variables)))
    return np.array([[known.cost(c), known.error(c)] for c in every]).T


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_is_better(seed):
    known = alternatives(seed, 5, 4)
    costs, errors = of_every_choice(known)
    limit = float(np.median(errors))
    choice = chosen(known, limit, np.full(5, 3))
    assert known.error(choice) <= limit
    assert known.cost(choice) <= costs[errors <= limit].min() * (1 + 1e-9)


def test_choices_that_are_not_all_tried_are_mostly_the_best(monkeypatch):
    monkeypatch.setattr(room, "_COMBINATIONS", 1)
    gaps = []
    for seed in range(12):
        known = alternatives(seed, 5, 4, shift=0.3)
        costs, errors = of_every_choice(known)
        limit = float(np.median(errors))
        choice = chosen(known, limit, np.full(5, 3))
        assert known.error(choice) <= limit
        gaps.append(known.cost(choice) / costs[errors <= limit].min() - 1)
    # One variable here is a fifth of the energy: exchanges of two do not always find the best.
    assert np.median(gaps) < 1e-9 and max(gaps) < 0.2


def test_single_changes_are_differences_of_errors_and_costs():
    known = alternatives(0, 4, 3)
    choice = np.array([0, 2, 1, 1])
    saved, harms = known.changes(choice)
    for variable, level in itertools.product(range(4), range(3)):
        other = choice.copy()
        other[variable] = level
        assert np.isclose(harms[variable, level], known.error(other) - known.error(choice))
        assert np.isclose(saved[variable, level], known.cost(other) - known.cost(choice))


def test_without_a_choice_within_the_limit_the_error_is_least():
    known = alternatives(1, 4, 3)
    _, errors = of_every_choice(known)
    choice = chosen(known, errors.min() / 2, np.zeros(4, dtype=np.int64))
    assert known.error(choice) == pytest.approx(errors.min())


def test_few_changes_are_few():
    known = alternatives(2, 60, 4)
    start = np.full(60, 3)
    limit = 3 * known.error(start)
    near = room._priced(known, limit, start, most=5)
    assert known.error(near) <= limit and np.count_nonzero(near != start) <= 5
    assert known.cost(near) < known.cost(start)


def test_a_choice_does_not_depend_on_time(monkeypatch):
    known = alternatives(3, 80, 4)
    limit = 2 * known.error(np.full(80, 3))
    choice = chosen(known, limit, np.full(80, 3))
    for clock in ("time", "monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, clock, lambda: 1e12)
    assert chosen(known, limit, np.full(80, 3)).tolist() == choice.tolist()
