import numpy as np
import pytest

from joulewise.contrib.noise_maximisation.balance import LOWEST, moves, price_of

LR = 0.02


def drawn(seed, count=12):
    generator = np.random.Generator(np.random.PCG64(seed))
    benefits, costs = np.exp(4 * generator.normal(size=(2, count)))
    return benefits, costs, generator.uniform(0.1, 0.9, count)


@pytest.mark.parametrize("seed", range(5))
def test_moves_are_towards_balance_bounded_and_without_units(seed):
    benefits, costs, levels = drawn(seed)
    moved = moves(benefits, costs, 2.0, LR, levels)
    assert (np.sign(moved) == np.sign(benefits - 2.0 * costs)).all()
    assert (np.abs(moved) <= LR).all()
    again = moves(1e6 * benefits, 1e-3 * costs, 2e9, LR, levels)
    np.testing.assert_allclose(again, moved, rtol=1e-9)
    balanced = moves(2.0 * costs, costs, 2.0, LR, levels)
    np.testing.assert_array_equal(balanced, 0.0)


def test_what_does_no_harm_falls_and_what_costs_nothing_rises_within_the_range():
    benefits, costs = (
        np.array([-1.0, 0.0, 1.0, 0.0, 1.0, -1.0]),
        np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1]),
    )
    levels = np.array([0.5, 0.5, 0.5, 0.5, 0.995, LOWEST + 0.005])
    moved = moves(benefits, costs, 1.0, LR, levels)
    np.testing.assert_allclose(moved, [-LR, -LR, LR, 0.0, 0.005, -0.005], atol=1e-15)
    # A plan that starts below what is learned is lifted.
    assert moves(np.array([0.0]), np.array([1.0]), 1.0, LR, np.array([0.01])) == LOWEST - 0.01


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("part", [-0.6, 0.0, 0.6])
def test_the_price_leads_to_the_energy_that_is_wanted(seed, part):
    benefits, costs, levels = drawn(seed)
    change = part * LR * costs.sum()
    price = price_of(change, benefits, costs, LR, levels)
    found = costs @ moves(benefits, costs, price, LR, levels)
    assert found == pytest.approx(change, abs=1e-9 * costs.sum())
    dearer = costs @ moves(benefits, costs, 1.1 * price, LR, levels)
    assert dearer < found


def test_beyond_what_a_step_can_do_every_point_moves_as_far_as_it_may():
    benefits, costs, levels = drawn(0)
    for sign in (-1, 1):
        price = price_of(sign * 1e9, benefits, costs, LR, levels)
        np.testing.assert_allclose(moves(benefits, costs, price, LR, levels), sign * LR, rtol=1e-5)


def test_where_nothing_is_known_to_harm_nothing_moves():
    costs, levels = np.ones(3), np.full(3, 0.5)
    price = price_of(-0.01, np.zeros(3), costs, LR, levels)
    assert (moves(np.zeros(3), costs, price, LR, levels) == 0).all()
