"""The allocation problem: samples, energies without a table, refusals."""

import pytest
import torch

from joulewise.allocation import Granularity
from joulewise.allocation.problem import AllocationProblem
from joulewise.errors import InputError
from joulewise.placement import energy


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
