import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.study.crossing import Ladder


def test_interpolates_between_the_points_around():
    ladder = Ladder([0.3, 0.5, 0.4], rising=True)
    (place,) = ladder.crossings(np.array([[0.0, 0.01, 0.03]]), 0.02)
    assert ladder.setting(place) == pytest.approx(0.35)


def test_points_over_decades_are_interpolated_by_ratios():
    ladder = Ladder([1e-3, 1e-5, 1e-7], rising=True)
    (place,) = ladder.crossings(np.array([[0.0, 0.0, 0.02]]), 0.01)
    assert ladder.setting(place) == pytest.approx(1e-6)


def test_where_a_smaller_setting_is_more_reliable_the_ladder_runs_up():
    ladder = Ladder([25.0, 50.0, 100.0], rising=False)
    assert ladder.order.tolist() == [0, 1, 2]
    (place,) = ladder.crossings(np.array([[0.0, 0.01, 0.03]]), 0.02)
    assert ladder.setting(place) == pytest.approx(75.0)


def test_the_ends_nothing_crosses_and_all_is_lost():
    ladder = Ladder([0.5, 0.4], rising=True)
    last, none = ladder.crossings(np.array([[0.0, 0.0], [0.5, 0.5]]), 0.1)
    assert ladder.setting(last) == 0.4
    assert math.isinf(none) and ladder.setting(none) is None


def test_a_loss_that_ties_with_the_limit_is_within_it_whatever_rounds():
    ladder = Ladder([0.5, 0.4, 0.3], rising=True)
    tie = 0.9 - 0.87  # 0.030000000000000027
    lost = np.array([[0.0, 0.01, tie]])
    assert tie > 0.03
    assert ladder.last_within(lost, 0.03)[0] == ladder.crossings(lost, 0.03)[0] == 0.3
    # Beyond it by less than what rounds, between two points that differ by less: still between.
    steep = np.array([[0.03 + 9e-10, 0.03 + 1.1e-9, 0.5]])
    assert 0.4 <= ladder.last_within(steep, 0.03)[0] <= 0.5


def test_a_place_beyond_all_numbers_has_an_infinite_point():
    ladder = Ladder([20.0, 1e3, 1e5, 1e7], rising=False)
    assert ladder.setting(-800.0) == math.inf and ladder.setting(800.0) == 0.0


@given(
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6, unique=True),
    st.data(),
    st.floats(0.01, 0.2),
)
def test_a_larger_limit_never_ends_at_a_more_reliable_place(points, data, limit):
    size = len(points)
    lost = np.array([data.draw(st.lists(st.floats(-0.1, 0.5), min_size=size, max_size=size))])
    ladder = Ladder(points, rising=True)
    assert ladder.crossings(lost, limit * 2)[0] <= ladder.crossings(lost, limit)[0]
