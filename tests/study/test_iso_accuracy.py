import numpy as np
import pytest

from joulewise.errors import InputError
from joulewise.study import EnergyRecord, SimulationRecord, iso_accuracy

ENERGY = EnergyRecord(memory_j={"a": 1.0}, memory_reliable_j=1.0, unplaced_j=0.0, arithmetic_j=0.0)


def simulation(accuracies, ideal=0.9):
    accuracies = tuple(float(a) for a in accuracies)
    return SimulationRecord(
        plan={"a": 0.5},
        seed=0,
        images=10,
        float_accuracy=ideal + 0.05,  # rounding is not what faults cost
        ideal_accuracy=ideal,
        accuracy=accuracies,
        mse=(0.0,) * len(accuracies),
        ideal_mse=0.0,
        energy=ENERGY,
    )


def curve(points, drops, chips=5):
    return [simulation([0.9 - drop] * chips) for drop in drops]


def test_interpolates_between_points_in_any_order():
    points = [0.4, 1.0, 0.6]
    found = iso_accuracy(points, curve(points, [0.02, 0.0, 0.004]), 0.01)
    assert found.point == pytest.approx(0.6 - 0.2 * 0.006 / 0.016)
    # Chips that are all alike leave no doubt.
    assert found.low == found.high == pytest.approx(found.point)
    assert not found.at_edge


def test_a_knob_that_runs_the_other_way():
    """The same chips over -x and over x: crossing and interval are mirrored."""
    generator = np.random.default_rng(2)
    points = [1.0, 0.6, 0.4]
    results = [simulation(0.9 - d * generator.random(20)) for d in (0.0, 0.01, 0.05)]
    there = iso_accuracy(points, results, 0.01)
    back = iso_accuracy([3 - point for point in points], results, 0.01, rising=False)
    assert 0.4 < there.low < there.point < there.high < 0.6
    for end in ("low", "point", "high"):
        assert getattr(back, end) == pytest.approx(3 - getattr(there, end))
    one_chip = iso_accuracy(points, [simulation([0.9 - d]) for d in (0.0, 0.004, 0.05)], 0.01)
    assert 0.4 < one_chip.point < 0.6
    assert (one_chip.low, one_chip.high) == (None, None)
    edge = iso_accuracy([1.0, 60.0], curve([1.0, 60.0], [0.0, 0.001]), 0.01, rising=False)
    assert (edge.point, edge.at_edge) == (60.0, True)


def test_decades_are_divided_by_ratios():
    points = [1.0, 1e4]
    found = iso_accuracy(points, curve(points, [0.0, 0.02]), 0.01, rising=False)
    assert found.point == found.low == found.high == pytest.approx(1e2)
    edge = iso_accuracy(points, curve(points, [0.0, 0.0]), 0.01, rising=False)
    assert edge.point == 1e4  # the very setting, not the exponential of a logarithm


def test_a_lucky_point_below_a_bad_one_does_not_count():
    points = [1.0, 0.8, 0.6, 0.4]
    found = iso_accuracy(points, curve(points, [0.0, 0.03, 0.0, 0.05]), 0.01)
    assert 0.8 < found.point < 1.0


def test_lowest_point_within_the_drop_is_an_edge():
    found = iso_accuracy([1.0, 0.5], curve([1.0, 0.5], [0.0, 0.001]), 0.01)
    assert found.point == 0.5
    assert found.at_edge


def test_a_single_point():
    assert iso_accuracy([1.0], curve([1.0], [0.0]), 0.01).point == 1.0
    assert iso_accuracy([1.0], curve([1.0], [0.1]), 0.01).point is None


def test_no_point_within_the_drop():
    found = iso_accuracy([1.0, 0.5], curve([1.0, 0.5], [0.02, 0.2]), 0.01)
    assert (found.point, found.low, found.high) == (None, None, None)


def test_the_interval_covers_the_true_crossing():
    """Chips differ in a factor on a known law; the mean law's crossing is known exactly."""
    generator = np.random.default_rng(0)
    points = np.linspace(0.3, 1.0, 15)
    repeats, hits = 200, 0
    for repeat in range(repeats):
        factor = generator.gamma(4.0, 0.25, size=60)  # mean 1
        drops = np.exp(-12.8 * points)[:, None] * factor
        found = iso_accuracy(points, [simulation(0.9 - d) for d in drops], 0.005, seed=repeat)
        # The truth on the same grid, so that interpolation is not held against the interval.
        exact = iso_accuracy(points, curve(points, np.exp(-12.8 * points)), 0.005).point
        hits += found.low <= exact <= found.high
    # Percentile bootstrap of 60 skewed chips: near 95 %; five standard errors below is 0.87.
    assert hits / repeats > 0.87


def test_the_seed_decides_the_interval():
    generator = np.random.default_rng(1)
    points = [1.0, 0.6, 0.4]
    results = [simulation(0.9 - d * generator.random(20)) for d in (0.0, 0.01, 0.05)]
    first, again = (iso_accuracy(points, results, 0.01, seed=3) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("drop", [0.0, -0.1, 1.5, float("nan")])
def test_drops_out_of_range(drop):
    with pytest.raises(InputError, match="drop is"):
        iso_accuracy([1.0], curve([1.0], [0.0]), drop)


def test_unequal_chips_are_refused():
    with pytest.raises(InputError, match="all with accuracies of the same chips"):
        iso_accuracy([1.0, 0.5], [simulation([0.9]), simulation([0.9, 0.9])], 0.01)
