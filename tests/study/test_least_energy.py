"""The least energy within a drop: crossings, intervals, failed chips."""

import math

import numpy as np
import pytest

from joulewise.errors import InputError
from joulewise.study.least_energy import least_energy, lost, lost_by

ENERGIES = [1.0, 0.8, 0.6, 0.4]


def test_a_crossing_is_interpolated():
    found = least_energy(ENERGIES, [[0.0, 0.0, 0.02, 0.1]], 0.06)
    assert found.energy == pytest.approx(0.5)
    assert (found.low, found.high, found.at_edge) == (None, None, False)


def test_the_order_of_plans_does_not_matter():
    lost = np.array([[0.0, 0.01, 0.02, 0.1], [0.0, 0.0, 0.03, 0.2]])
    shuffled = [2, 0, 3, 1]
    one = least_energy(ENERGIES, lost, 0.03)
    other = least_energy([ENERGIES[k] for k in shuffled], lost[:, shuffled], 0.03)
    assert one == other


def test_losses_are_made_monotone():
    assert least_energy(ENERGIES, [[0.0, 0.1, 0.0, 0.2]], 0.05).energy == pytest.approx(0.9)


def test_ties_are_within():
    assert least_energy(ENERGIES, [[0.0, 0.0, 0.01, 0.5]], 0.01).energy == pytest.approx(0.6)


def test_the_ends():
    assert least_energy(ENERGIES, [[0.2, 0.3, 0.4, 0.5]], 0.1).energy is None
    edge = least_energy(ENERGIES, [[0.0, 0.0, 0.0, 0.0]] * 3, 0.1)
    assert (edge.energy, edge.at_edge) == (0.4, True)
    single = least_energy([1.0], [[0.0]], 0.1)
    assert (single.energy, single.at_edge) == (1.0, True)
    assert least_energy([1.0], [[0.2]], 0.1).energy is None


def test_plans_above_those_within_the_drop_are_left_out():
    lost = [[0.3, 0.2, 0.0, 0.0, 0.2], [0.3, 0.2, 0.02, 0.0, 0.2]]
    found = least_energy([1.0, 0.8, 0.6, 0.5, 0.4], lost, 0.1)
    assert found.energy == pytest.approx(0.45, abs=0.006) and found.high < 0.6


def test_failed_chips_are_beyond_any_drop():
    lost = [[0.0, 0.0, np.inf, np.inf], [0.0, 0.0, 0.0, 0.0]]
    assert least_energy(ENERGIES, lost, 0.1).energy == pytest.approx(0.8)


def test_intervals_cover():
    """About 95 % of intervals hold the true crossing; 300 studies give +- 2.5 points (2 sigma)."""
    generator = np.random.default_rng(0)
    means, covered = np.array([0.0, 0.005, 0.02, 0.08]), 0
    truth = least_energy(ENERGIES, means[None], 0.03).energy
    for seed in range(300):
        lost = means + generator.normal(0, 1, (40, 1)) * means * 0.5
        found = least_energy(ENERGIES, lost, 0.03, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 300 <= 0.985


def test_losses_of_perplexities_are_logarithms_of_ratios():
    """The mean loss is within that of a drop where the geometric mean is within the fraction."""
    found = lost([10.0, 14.4, np.nan], 12.0, higher_is_better=False, geometric=True)
    assert found[:2] == pytest.approx([-math.log(1.2), math.log(1.2)])
    assert np.isinf(found[2])
    assert lost([11.0], 10.0, higher_is_better=False, geometric=True) == pytest.approx(
        lost_by(0.1, geometric=True)
    )
    differences = lost([0.9, np.nan], 0.95, higher_is_better=True, geometric=False)
    assert differences == pytest.approx([0.05, np.inf])
    assert lost([2.0], 1.5, higher_is_better=False, geometric=False) == 0.5
    assert lost_by(0.1, geometric=False) == 0.1


@pytest.mark.parametrize("losses", [[], [0.0, 0.1], [[0.0, 0.1]]])
def test_shapes_that_do_not_fit(losses):
    with pytest.raises(InputError, match="losses has the shape"):
        least_energy(ENERGIES, losses, 0.1)
