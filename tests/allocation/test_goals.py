"""Goals: bounds that cover, refusals of chips that can show nothing."""

import numpy as np
import pytest
from scipy import stats

from joulewise.allocation.goals import ErrorGoal, MeanGoal, YieldGoal
from joulewise.errors import InputError
from joulewise.simulation import EnergyRecord, Simulation


def simulation(accuracy=(), mse=None):
    mse = tuple(np.ones(len(accuracy))) if mse is None else tuple(mse)
    energy = EnergyRecord(
        memory_j={"w": 1.0}, memory_reliable_j=2.0, unplaced_j=0.0, arithmetic_j=0.0
    )
    return Simulation(
        plan={"w": 0.5},
        seed=0,
        images=100,
        float_accuracy=0.95,
        ideal_accuracy=0.95,
        accuracy=tuple(accuracy),
        mse=mse,
        ideal_mse=0.0,
        energy=energy,
    )


def test_the_bound_of_a_mean_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    goal = MeanGoal(accuracy=0.9)
    trials = 2000
    wrong = sum(
        goal.bound(simulation(generator.normal(0.9 - 1e-12, 0.01, 30)), 0.95)[1]
        for _ in range(trials)
    )
    # Held though the true mean is just below: at most 5 % of the time, within five sigma.
    assert wrong <= stats.binom.ppf(1 - 3e-7, trials, 0.05)
    assert wrong >= stats.binom.ppf(3e-7, trials, 0.05)


def test_a_yield_is_shown_by_enough_good_chips_and_no_fewer():
    goal = YieldGoal(accuracy=0.9, share=0.95)
    good = [0.91] * 195 + [0.8] * 5
    better = [0.91] * 197 + [0.8] * 3
    assert goal.bound(simulation(better), 0.95)[1]
    assert not goal.bound(simulation(good), 0.95)[1]
    goal.check(59, 0.95)
    with pytest.raises(InputError, match="chips is 58.*allowed: 59 or more"):
        goal.check(58, 0.95)


def test_the_bound_of_an_error_is_above_it():
    found = simulation(accuracy=(0.9,) * 20, mse=np.linspace(0.9, 1.1, 20))
    bound, holds = ErrorGoal(mse=1.1).bound(found, 0.95)
    assert 1.0 < bound < 1.1 and holds
    assert ErrorGoal(mse=1.0).bound(found, 0.95) == (bound, False)


@pytest.mark.parametrize(
    ("goal", "better", "worse"),
    [
        (MeanGoal(accuracy=0.9), 0.92, 0.89),
        (YieldGoal(accuracy=0.9, share=0.9), 0.94, 0.9),
    ],
)
def test_slack_is_above_zero_where_a_goal_will_hold(goal, better, worse):
    generator = np.random.default_rng(1)
    for mean, sign in ((better, 1), (worse, -1)):
        found = simulation(generator.normal(mean, 0.01, 20))
        assert sign * goal.slack(found, 200, 0.975) > 0


def test_slack_of_an_error_is_a_logarithm():
    found = simulation(accuracy=(0.9,) * 20, mse=(1.0,) * 20)
    assert ErrorGoal(mse=np.e).slack(found, 200, 0.95) == pytest.approx(1.0)


@pytest.mark.parametrize("goal", [MeanGoal(accuracy=0.9), YieldGoal(accuracy=0.88, share=0.9)])
def test_the_interval_of_a_margin_covers(goal):
    """Against what the margin is on very many chips."""
    generator = np.random.default_rng(1)
    truth, _ = goal.margin(simulation(generator.normal(0.905, 0.01, 10**6)))
    rounds, covered = 1000, 0
    for _ in range(rounds):
        value, interval = goal.margin(simulation(generator.normal(0.905, 0.01, 100)))
        assert interval.low <= value <= interval.high
        covered += interval.low <= truth <= interval.high
    spread = (rounds * 0.95 * 0.05) ** 0.5
    assert covered >= 0.95 * rounds - 5 * spread
    # Order statistics go by whole chips, outwards.
    assert covered <= (0.95 if isinstance(goal, MeanGoal) else 0.98) * rounds + 5 * spread


def test_a_margin_of_errors_is_a_logarithm():
    value, interval = ErrorGoal(mse=1.0).margin(simulation(mse=[0.4, 0.6]))
    assert value == pytest.approx(np.log(2)) and interval.high == np.inf
    value, interval = ErrorGoal(mse=1.0).margin(simulation(mse=[0.5] * 30))
    assert interval.low == interval.high == value


def test_few_chips_bound_no_high_share():
    _, interval = YieldGoal(accuracy=0.9, share=0.99).margin(simulation([0.95] * 19 + [0.9]))
    assert interval.low == -np.inf
