"""The allocation problem: samples, energies without a table, refusals."""

import pytest
import torch

from joulewise.allocation import EnergyBudget, Granularity, OutputError, allocate, pareto
from joulewise.allocation.problem import AllocationProblem
from joulewise.errors import InputError
from joulewise.placement import energy
from joulewise.prediction import predict


def problem(placement, data, granularity=None, **options):
    granularity = granularity or Granularity()
    return AllocationProblem(
        placement=placement,
        data=data,
        granularity=granularity,
        **{"samples": 64, **options},
    )


def test_samples_are_a_subset_or_the_first_batches(placement, digits):
    of_split = problem(placement, digits.test, seed=3).few
    assert torch.equal(of_split.inputs, digits.test.subset(64, seed=3).inputs)
    batches = [(torch.ones(30, 1, 8, 8), None)] * 5
    assert len(problem(placement, iter(batches)).few) == 3
    assert len(problem(placement, iter(batches), samples=1000).few) == 5


def test_energies_are_those_of_the_plan(placement, digits):
    found = problem(placement, digits.test)
    levels = torch.linspace(0.2, 0.9, found.variables.count, dtype=torch.float64)
    assert found.energy(levels) == energy(placement, at=found.plan(levels)).normalised
    assert found.energy(found.variables.most_reliable) == 1.0


@pytest.mark.parametrize(
    ("options", "said"), [({"samples": 0}, "samples is 0"), ({"seed": -1}, "seed is -1")]
)
def test_numbers_out_of_range_are_refused(placement, digits, options, said):
    with pytest.raises(InputError, match=said):
        problem(placement, digits.test, **options)


G_MAX = [2e-6 * 100 ** (k / 8) for k in range(9)]


def predicted(wired, at):
    placement, ((inputs, _),) = wired
    return float(predict(placement, [inputs], at=at).mse)


def least_of_common(wired):
    """The least error of common conductances, and that of the largest."""
    errors = [predicted(wired, {"g_max": g}) for g in G_MAX]
    assert min(errors) < 0.2 * errors[-1]  # IR drop
    return min(errors), errors[-1]


@pytest.mark.parametrize("options", [{}, {"per": "network"}, {"rails": 1}, {"levels": G_MAX}])
def test_ranges_end_at_the_least_error(wired, options):
    least, _ = least_of_common(wired)
    found = problem(*wired, granularity=Granularity(**options))
    found.leave_out_points_beyond_the_least_error()
    levels = found.variables.most_reliable
    at = found.plan(levels)
    assert predicted(wired, at) < 1.05 * least
    points = {point for one in at.values() for point in one.values()}
    assert max(points) < G_MAX[-1] / 4
    assert len(points) == (1 if options else 2)
    assert points <= set(G_MAX) or "levels" not in options


def test_ranges_of_other_memories_stay(placement, digits):
    found = problem(placement, digits.test)
    found.leave_out_points_beyond_the_least_error()
    assert found.energy(found.variables.most_reliable) == 1.0 and found.evaluations == 1


@pytest.mark.parametrize("options", [{}, {"levels": G_MAX}])
def test_goals_that_the_largest_conductance_misses(wired, options):
    least, largest = least_of_common(wired)
    limit = (least * largest) ** 0.5
    granularity = Granularity(**options)
    found = allocate(*wired, goal=OutputError(limit), granularity=granularity, chips=40)
    assert found.holds and found.energy.normalised < 0.1
    best = allocate(*wired, goal=EnergyBudget(1.0), granularity=granularity, chips=40)
    assert predicted(wired, best.plan) < 1.05 * least and best.energy.normalised < 0.5


def test_fronts_end_at_the_least_error(wired):
    front = pareto(*wired, plans=3, chips=5)
    assert all(front.points[0].energy < 0.5 for point in front.points)
