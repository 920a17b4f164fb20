"""Meeting a goal: the energy at which a known law would just meet it."""

import math

import numpy as np
import pytest

from joulewise.allocation import Trial
from joulewise.allocation.meeting import energy_at_goal
from joulewise.simulation import Interval


def _trials(energies, margins):
    return [
        Trial(energy=e, predicted_mse=1.0, margin=m) for e, m in zip(energies, margins, strict=True)
    ]


def test_the_interval_covers_as_often_as_it_says():
    """Margins of a known law with the chance of chips: the slope comes from other chips."""
    generator = np.random.default_rng(0)
    spread, chips, rounds = 0.01, 200, 1000
    covered = 0
    for _ in range(rounds):
        energies = np.array([0.46, 0.48, 0.50, 0.53])
        # The same few chips for all, so that their luck is one number.
        seen = (energies - 0.5) * 0.4 + generator.normal(0, spread / 20**0.5)
        energy = 0.51
        margin = 0.004 + generator.normal(0, spread / chips**0.5)
        reach = 1.96 * spread / chips**0.5
        found = energy_at_goal(
            _trials(energies, seen), energy, margin, Interval(margin - reach, margin + reach)
        )
        covered += found.low <= 0.5 <= found.high
    assert 0.95 * rounds - 5 * (rounds * 0.95 * 0.05) ** 0.5 <= covered
    assert covered <= 0.95 * rounds + 5 * (rounds * 0.95 * 0.05) ** 0.5


@pytest.mark.parametrize(
    ("energies", "margins", "interval"),
    [
        ([], [], Interval(0.0, 0.1)),
        ([0.5], [0.0], Interval(0.0, 0.1)),
        ([0.5, 0.5], [0.0, 0.1], Interval(0.0, 0.1)),
        ([0.5, 0.6], [0.1, 0.0], Interval(0.0, 0.1)),
        ([0.5, 0.6], [0.0, math.inf], Interval(0.0, 0.1)),
        ([0.5, 0.6], [0.0, 0.1], Interval(-math.inf, 0.1)),
    ],
)
def test_nothing_is_made_up_where_there_is_no_slope_or_no_interval(energies, margins, interval):
    assert energy_at_goal(_trials(energies, margins), 0.5, 0.05, interval) is None


def test_far_trials_do_not_bend_the_slope():
    energies = [0.49, 0.5, 0.51, 0.52, 0.9, 1.0]
    margins = [-0.01, 0.0, 0.01, 0.02, 0.03, 0.03]
    found = energy_at_goal(_trials(energies, margins), 0.505, 0.005, Interval(0.004, 0.006))
    assert found.energy == pytest.approx(0.5) and found.low == pytest.approx(0.499)
