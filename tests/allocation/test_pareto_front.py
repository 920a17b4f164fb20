"""Pareto front: errors grow as energies fall, finer granularities lie below, the same chips."""

import json

import numpy as np
import pytest

from joulewise.allocation import Granularity, pareto
from joulewise.errors import InputError
from joulewise.simulation import simulate


@pytest.fixture
def split(digits):
    return digits.test.subset(200, seed=0)


def test_errors_grow_as_energies_fall(placement, split):
    front = pareto(placement, split, plans=6, chips=20, samples=128)
    energies = [point.energy for point in front.points]
    errors = [point.simulation.mean_mse for point in front.points]
    assert energies == sorted(energies, reverse=True) and errors == sorted(errors)
    assert front.points[0].simulation.mean > front.points[-1].simulation.mean
    again = simulate(placement, split, at=front.points[2].plan, chips=20)
    assert again.to_dict() == front.points[2].simulation.to_dict()
    assert len(json.loads(json.dumps(front.to_dict(), allow_nan=False))["points"]) == 6
    assert len(front._rows()) == len(repr(front).splitlines()) - 1 == len(front.plot().data.values)


def test_a_finer_front_lies_below(placement, split):
    """At every energy of the common points, the error of the finer front is lower."""
    coarse = pareto(
        placement, split, granularity=Granularity(per="network"), plans=6, chips=20, samples=128
    )
    fine = pareto(
        placement, split, granularity=Granularity(bit_planes=True), plans=6, chips=20, samples=128
    )
    x = [point.energy for point in reversed(fine.points)]
    y = [np.log(point.simulation.mean_mse) for point in reversed(fine.points)]
    for point in coarse.points:
        if x[0] <= point.energy <= x[-1]:
            assert np.interp(point.energy, x, y) < np.log(point.simulation.mean_mse)


@pytest.mark.parametrize("plans", [1, 2.5])
def test_what_is_not_allowed_is_refused(placement, split, plans):
    with pytest.raises(InputError, match="plans is"):
        pareto(placement, split, plans=plans)
