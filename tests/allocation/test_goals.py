"""Goals: bounds that cover, refusals of chips that can show nothing."""

import numpy as np
import pytest
from scipy import stats

from joulewise.allocation import EnergyBudget, MetricDrop, MetricTarget, OutputError, Yield
from joulewise.allocation.goals import Condition, MeanCondition, check_chips
from joulewise.errors import InputError
from joulewise.metrics import Accuracy, NegativeLogLikelihood
from joulewise.placement import Energy, Plan
from joulewise.simulation import Simulation


def simulation(values=(), mse=None, metric=None, ideal=0.95):
    mse = tuple(np.ones(len(values))) if mse is None else tuple(mse)
    energy = Energy(
        memory_j={"w": 1.0},
        memory_reliable_j=2.0,
        converters_j=0.0,
        unplaced_j=0.0,
        arithmetic_j=0.0,
    )
    return Simulation(
        plan=Plan({"w": {"eta": 0.5}}),
        seed=0,
        samples=100,
        metric=metric or Accuracy(),
        original=0.95,
        ideal=ideal,
        values=tuple(values),
        mse=mse,
        ideal_mse=0.0,
        energy=energy,
    )


def of(goal, metric=None, ideal=0.95):
    return Condition.of(goal, metric or Accuracy(), ideal)


MEAN = of(MetricTarget(0.9))


def test_the_bound_of_a_mean_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    goal = MEAN
    trials = 2000
    wrong = sum(
        goal.bound(simulation(generator.normal(0.9 - 1e-12, 0.01, 30)), 0.95)[1]
        for _ in range(trials)
    )
    # Held though the true mean is just below: at most 5 % of the time, within five sigma.
    assert wrong <= stats.binom.ppf(1 - 3e-7, trials, 0.05)
    assert wrong >= stats.binom.ppf(3e-7, trials, 0.05)


def test_a_yield_is_shown_by_enough_good_chips_and_no_fewer():
    goal = of(Yield(0.95, of=MetricTarget(0.9)))
    good = [0.91] * 195 + [0.8] * 5
    better = [0.91] * 197 + [0.8] * 3
    assert goal.bound(simulation(better), 0.95)[1]
    assert not goal.bound(simulation(good), 0.95)[1]
    check_chips(Yield(0.95, of=MetricTarget(0.9)), 59, 0.95)
    with pytest.raises(InputError, match="chips is 58.*allowed: 59 or more"):
        check_chips(Yield(0.95, of=MetricTarget(0.9)), 58, 0.95)


def test_the_bound_of_an_error_is_above_it():
    found = simulation((0.9,) * 20, mse=np.linspace(0.9, 1.1, 20))
    bound, holds = of(OutputError(1.1)).bound(found, 0.95)
    assert 1.0 < bound < 1.1 and holds
    assert of(OutputError(1.0)).bound(found, 0.95) == (bound, False)


@pytest.mark.parametrize(
    ("goal", "better", "worse"),
    [
        (MEAN, 0.92, 0.89),
        (of(Yield(0.9, of=MetricTarget(0.9))), 0.94, 0.9),
    ],
)
def test_slack_is_above_zero_where_a_goal_will_hold(goal, better, worse):
    generator = np.random.default_rng(1)
    for mean, sign in ((better, 1), (worse, -1)):
        found = simulation(generator.normal(mean, 0.01, 20))
        assert sign * goal.slack(found, 200, 0.975) > 0


def test_slack_of_an_error_is_a_logarithm():
    found = simulation((0.9,) * 20, mse=(1.0,) * 20)
    assert of(OutputError(np.e)).slack(found, 200, 0.95) == pytest.approx(1.0)


@pytest.mark.parametrize("goal", [MEAN, of(Yield(0.9, of=MetricTarget(0.88)))])
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
    assert covered <= (0.95 if isinstance(goal, MeanCondition) else 0.98) * rounds + 5 * spread


def test_a_margin_of_errors_is_a_logarithm():
    value, interval = of(OutputError(1.0)).margin(simulation(mse=[0.4, 0.6]))
    assert value == pytest.approx(np.log(2)) and interval.high == np.inf
    value, interval = of(OutputError(1.0)).margin(simulation(mse=[0.5] * 30))
    assert interval.low == interval.high == value


def test_few_chips_bound_no_high_share():
    _, interval = of(Yield(0.99, of=MetricTarget(0.9))).margin(simulation([0.95] * 19 + [0.9]))
    assert interval.low == -np.inf


def test_limits_of_drops_are_on_the_worse_side_of_a_perfect_memory():
    loss = NegativeLogLikelihood()
    assert of(MetricDrop(0.05)).limit == pytest.approx(0.9)
    assert of(MetricDrop(0.1, relative=True)).limit == pytest.approx(0.855)
    assert of(MetricDrop(0.5), loss, ideal=2.0).limit == pytest.approx(2.5)
    assert of(MetricDrop(0.1, relative=True), loss, ideal=2.0).limit == pytest.approx(2.2)
    assert of(MetricDrop(2.0)).limit == 0.0  # the bound of an accuracy


def test_where_lower_is_better_bounds_and_margins_turn_round():
    loss = NegativeLogLikelihood()
    condition = of(MetricTarget(2.5), loss)
    found = simulation(np.linspace(1.9, 2.1, 20), metric=loss)
    bound, holds = condition.bound(found, 0.95)
    assert 2.0 < bound < 2.1 and holds
    value, interval = condition.margin(found)
    assert value == pytest.approx(np.log(2.5 / 2.0))
    assert interval.low < value < interval.high
    assert condition.slack(found, 200, 0.95) < value
    assert not of(MetricTarget(1.95), loss).bound(found, 0.95)[1]
    share = of(Yield(0.4, of=MetricTarget(2.0)), loss)
    assert share.bound(found, 0.6)[1]
    assert not share.bound(found, 0.95)[1]


def test_a_yield_of_an_output_error():
    condition = of(Yield(0.8, of=OutputError(1.0)))
    assert condition.bound(simulation(mse=[0.9] * 39 + [1.1]), 0.95)[1]
    assert not condition.bound(simulation(mse=[0.9] * 30 + [1.1] * 10), 0.95)[1]


@pytest.mark.parametrize("values", [(0.95,) * 19 + (None,), (None,) * 20])
def test_no_mean_holds_where_a_chip_failed(values):
    found = simulation(values)
    assert MEAN.bound(found, 0.95) == (-np.inf, False)
    assert MEAN.margin(found)[0] == MEAN.slack(found, 200, 0.95) == -np.inf


def test_failed_chips_count_against_a_yield():
    condition = of(Yield(0.8, of=MetricTarget(0.9)))
    assert condition.bound(simulation([0.95] * 60), 0.95)[1]
    assert condition.bound(simulation([0.95] * 58 + [None] * 2), 0.95)[1]
    assert not condition.bound(simulation([0.95] * 48 + [None] * 12), 0.95)[1]
    assert condition.slack(simulation([0.95] * 58 + [None] * 2), 200, 0.95) == -np.inf


def test_a_goal_of_a_metric_needs_one():
    with pytest.raises(InputError, match="a MetricDrop needs targets and a metric"):
        Condition.of(MetricDrop(0.1), None, None)
    with pytest.raises(InputError, match="the target of accuracy is 90; allowed: 0 to 1"):
        of(MetricTarget(90.0))
    with pytest.raises(InputError, match="an OutputError is given for outputs of no fixed shape"):
        of(OutputError(1.0)).bound(simulation([0.9] * 20, mse=()), 0.95)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MetricDrop(0.0), "amount is 0; allowed: above 0"),
        (lambda: MetricDrop("0.1"), "amount is '0.1' .str.; allowed: a number"),
        (lambda: MetricDrop(0.1, relative="yes"), "relative is 'yes'"),
        (lambda: MetricTarget(float("nan")), "value is nan"),
        (lambda: OutputError(float("nan")), "mse is nan"),
        (lambda: OutputError(-1.0), "mse is -1"),
        (lambda: EnergyBudget(1.5), "fraction is 1.5; allowed: above 0 to 1"),
        (lambda: Yield(1.0, of=MetricDrop(0.1)), "at_least is 1"),
        (lambda: Yield(0.9, of=EnergyBudget(0.5)), "of is of type EnergyBudget; allowed: a Metric"),
        (lambda: Yield(0.9, of=0.5), "of is 0.5"),
    ],
)
def test_goals_out_of_range_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_chip_without_any_error_is_no_failure():
    condition = of(Yield(0.5, of=OutputError(1.0)))
    found = simulation(mse=[0.0] * 30 + [0.5] * 10)
    assert condition.slack(found, 40, 0.95) > 0
    value, interval = condition.margin(found)
    assert np.isfinite(value) and np.isfinite(interval.half_width)


def test_a_drop_from_a_metric_that_a_perfect_memory_has_not():
    with pytest.raises(InputError, match="accuracy has no value with a perfect memory"):
        of(MetricDrop(0.1), ideal=None)
    assert of(MetricTarget(0.9), ideal=None).limit == 0.9
