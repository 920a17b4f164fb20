import math

import numpy as np
import pytest
from scipy import stats

from joulewise.errors import InputError
from joulewise.simulation import mean_interval, proportion_interval


def test_mean_interval_is_students():
    values = np.random.default_rng(0).normal(size=17)
    low, high = mean_interval(list(values), 0.9)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_mean_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    repeats = 2000
    hits = sum(
        low <= 0.7 <= high
        for low, high in (
            mean_interval(list(generator.beta(70, 30, size=40))) for _ in range(repeats)
        )
    )
    spread = math.sqrt(repeats * 0.95 * 0.05)
    assert abs(hits - 0.95 * repeats) < 5 * spread


def test_one_value_says_nothing():
    assert mean_interval([0.5]) == (-math.inf, math.inf)


def test_equal_values_have_no_width():
    assert mean_interval([0.5, 0.5, 0.5]).half_width == 0


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (150, 200)])
def test_proportion_interval_is_clopper_and_pearsons(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    low, high = proportion_interval(successes, trials)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "values is empty; allowed: at least one"),
        (lambda: mean_interval([1.0], 0.0), "confidence is 0; allowed: above 0 to 1"),
        (lambda: proportion_interval(3, 2), "successes is 3; allowed: 0 to 2"),
        (lambda: proportion_interval(0, 0), "trials is 0; allowed: 1 to inf"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match="^" + message + "$"):
        call()
