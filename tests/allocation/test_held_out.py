"""Constraint margins: the energy at which a known law has none, and lines near it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from joulewise.allocation import Attempt, TuningTrial
from joulewise.allocation.held_out import Verification, energy_at_goal, margin_line
from joulewise.simulation import Interval


def trial(mse, margin, energy=None):
    energy = 0.5 - 0.1 * math.log(mse) if energy is None else energy
    return TuningTrial(energy=energy, predicted_error=mse, margin=margin, chips=20)


def attempt(mse, margin, half_width=0.001):
    return Attempt(
        energy=0.5 - 0.1 * math.log(mse),
        predicted_error=mse,
        seed=0,
        chips=200,
        confidence=0.95,
        bound=0.0,
        holds=True,
        margin=margin,
        half_width=half_width,
        mean=None,
        mean_mse=mse,
    )


def test_the_interval_covers_as_often_as_it_says():
    """A law with the chance of chips: the margin is 0 at an error of 1."""
    generator = np.random.default_rng(0)
    spread, rounds, covered, apart = 0.01, 1000, 0, []
    reach = 1.96 * spread / 200**0.5
    for _ in range(rounds):
        luck = generator.normal(0, spread / 20**0.5)  # one for all trials: the same chips
        trials = [trial(mse, -0.02 * math.log(mse) + luck) for mse in (0.5, 0.8, 1.2, 2.0)]
        seen = -0.02 * math.log(0.9) + generator.normal(0, spread / 200**0.5)
        chosen = attempt(0.9, seen, reach)
        found = energy_at_goal(trials, [chosen], chosen)
        covered += found.low <= 0.5 <= found.high
        apart.append(found.energy - 0.5)
    sigma = (rounds * 0.95 * 0.05) ** 0.5
    assert 0.95 * rounds - 5 * sigma <= covered <= 0.95 * rounds + 5 * sigma
    assert abs(np.mean(apart)) < 5 * 0.1 / 0.02 * spread / 200**0.5 / rounds**0.5


def test_attempts_tell_a_slope_without_trials():
    attempts = [attempt(0.8, 0.006), attempt(1.0, 0.001)]
    line = margin_line([], attempts)
    slope = -0.005 / math.log(1.25)
    assert line.level == pytest.approx(0.001) and line.slope == pytest.approx(slope)
    assert line.energy_slope == pytest.approx(-0.1)


def test_deviations_of_tuning_chips_move_no_level():
    trials = [trial(mse, -0.02 * math.log(mse) + 0.5) for mse in (0.5, 1.0, 2.0)]
    line = margin_line(trials, [attempt(1.0, 0.001)])
    assert line.level == pytest.approx(0.001) and line.slope == pytest.approx(-0.02)


def test_far_trials_hardly_bend_the_slope():
    near = [trial(mse, -0.02 * math.log(mse)) for mse in (0.9, 1.0, 1.1)]
    far = [trial(1e-6, 0.03), trial(1e-9, 0.03)]
    line = margin_line(near + far, [attempt(1.0, 0.0)])
    bent = margin_line([near[1], *far], [attempt(1.0, 0.0)])
    assert abs(line.slope + 0.02) < abs(bent.slope + 0.02)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(1.0, 0.0)],
        [trial(1.0, 0.0), trial(1.0, 0.1)],
        [trial(1.0, 0.0), trial(2.0, 0.1)],
        [trial(1.0, 0.1), trial(2.0, math.inf)],
        [trial(1.0, 0.1, 0.5), trial(2.0, 0.0, 0.5)],
    ],
)
def test_nothing_is_made_up_where_there_is_no_slope(trials):
    chosen = attempt(1.0, 0.05)
    assert margin_line(trials, [chosen]) is None
    assert energy_at_goal(trials, [chosen], chosen) is None


def test_nothing_is_made_up_without_an_interval():
    chosen = attempt(1.0, 0.05, math.inf)
    assert margin_line([trial(1.0, 0.0), trial(0.5, 0.1)], [chosen]) is not None
    assert energy_at_goal([trial(1.0, 0.0), trial(0.5, 0.1)], [chosen], chosen) is None
    assert margin_line([trial(1.0, 0.0), trial(0.5, 0.1)], [attempt(1.0, math.inf)]) is None


def simulate(levels, chips, seed, purpose):
    energy = SimpleNamespace(normalised=float(levels.mean()))
    figures = {"values": (0.5,) * chips, "failed": 0, "mean": 0.5, "mse": (), "mean_mse": 0.0}
    return SimpleNamespace(energy=energy, chips=chips, seed=seed, **figures)


def verification_of(problem, enough):
    """Plans hold from an energy on."""
    condition = SimpleNamespace(
        bound=lambda found, confidence: (0.0, found.energy.normalised >= enough),
        margin=lambda found: (found.energy.normalised - enough, Interval(-0.01, 0.01)),
        slack=lambda found, chips, confidence: 0.01,
    )
    return Verification(problem=problem, condition=condition, chips=20, confidence=0.95, trials=[])


@pytest.mark.parametrize(("enough", "expected"), [(0.6, 3), (0.99, 5)])
def test_plans_that_no_prediction_reaches_are_on_the_way_to_the_most_reliable(enough, expected):
    """Predicted errors, by their mean shift, are all above the limit: they choose no plan."""
    first, most_reliable = torch.tensor([0.2, 0.6]), torch.ones(2)
    optimiser = SimpleNamespace(
        error=lambda levels: 2.0,
        minimise_energy=lambda limit, start: first if start is None else most_reliable,
        variables=SimpleNamespace(most_reliable=most_reliable, least_reliable=0 * first, listed=()),
        rails=None,
    )

    verification = verification_of(SimpleNamespace(seed=7, simulate=simulate), enough)
    chosen, *_ = verification.run(optimiser, 1.0)
    energies = [0.4]
    for step in (1 / 16, 1 / 8, 1 / 4, 1 / 2):
        energies.append(energies[-1] + step * (1 - energies[-1]))
    tried = [one.energy for one in verification.attempts]
    assert chosen == expected == len(tried) - 1
    assert tried == pytest.approx([*energies, 1.0][: expected + 1])
    assert [one.seed for one in verification.attempts] == [7 + 20 * k for k in range(len(tried))]


def test_shared_points_go_on_from_the_limit_as_it_is_stated_anew():
    """A linearisation near the limit may state errors a thousand times smaller."""
    limits = []

    def optimiser_of(scale, least):
        def minimise_energy(limit, start):
            limits.append(limit / scale)
            return torch.tensor([max(1 - 0.1 * limit / scale, 0.1)])

        return SimpleNamespace(
            error=lambda levels: scale * (least + 10 * (1 - float(levels.mean()))),
            minimise_energy=minimise_energy,
            variables=SimpleNamespace(
                most_reliable=torch.ones(1), least_reliable=torch.zeros(1), listed=(0.1, 1.0)
            ),
            rails=None,
        )

    problem = SimpleNamespace(
        seed=0, simulate=simulate, linearised_near=lambda limit: optimiser_of(1e-3, 0.0)
    )
    verification = verification_of(problem, enough=0.95)
    verification.run(optimiser_of(1.0, 0.99), 1.0)
    energies = [one.energy for one in verification.attempts]
    assert energies == sorted(energies) and energies[-1] < 1
    assert limits == sorted(limits, reverse=True)
