import copy
import math

import numpy as np
import pytest
from scipy import stats

from joulewise.data import load_digits
from joulewise.devices import SRAM, Crossbar, law
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.placement import energy, place
from joulewise.simulation import simulate
from joulewise.study import Arm, ArmComparison, Contender, SimulationRecord, compare_arms
from joulewise.study.arms import _jackknife
from joulewise.study.crossing import Ladder
from joulewise.training import TrainingSpec, clip_weights, train

POINTS = (0.6, 0.5, 0.4, 0.3)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def arms(digits):
    found = []
    for name, epochs in (("short", 6), ("long", 12)):
        networks = []
        for seed in range(3):
            model = build("mlp", digits.input_shape, digits.classes, seed=seed)
            record = train(model, digits, TrainingSpec(epochs=epochs, lr=0.1, seed=seed))
            inputs = next(digits.train.batches(64))[0]
            placement = place(model, weights=SRAM(bits=8), example_inputs=inputs)
            networks.append(
                Contender(
                    name=f"{name} {seed}", placement=placement, training=record, points=POINTS
                )
            )
        found.append(Arm(name=name, networks=tuple(networks), recipe=f"{epochs} epochs"))
    return found


@pytest.fixture(scope="module")
def comparison(arms, digits):
    return compare_arms(
        arms, digits.test, data_name="digits", model_name="mlp", drops=(0.01, 0.03), chips=6
    )


def test_each_network_is_simulated_at_each_point_on_the_same_chips(comparison, arms, digits):
    for arm, record in zip(arms, comparison.arms, strict=True):
        assert record.points == POINTS
        for network, found in zip(arm.networks, record.networks, strict=True):
            alone = simulate(network.placement, digits.test, at={"eta": 0.4}, chips=6, seed=0)
            there = found.simulations[POINTS.index(0.4)]
            assert there == SimulationRecord.of(network.placement, alone)


def test_all_are_held_to_the_first_ones_clean_accuracy(comparison):
    reference = np.mean([n.simulations[0].float_accuracy for n in comparison.first.networks])
    assert comparison.first.clean == pytest.approx(reference)
    for arm in comparison.arms:
        means = [np.mean(arm.accuracies(k)) for k in range(len(POINTS))]
        for saving in arm.savings:
            if saving.point is None:
                assert all(reference - mean > saving.drop for mean in means)
            elif not saving.at_edge:
                # By hand: on the line between the points around.
                falling = (POINTS[::-1], means[::-1])
                assert np.interp(saving.point, *falling) == pytest.approx(reference - saving.drop)
                beyond = [m for p, m in zip(POINTS, means, strict=True) if p < saving.point]
                assert all(reference - mean > saving.drop for mean in beyond)


def test_a_saving_is_the_energy_at_the_crossing(comparison, arms):
    for arm, record in zip(arms, comparison.arms, strict=True):
        for saving, first in zip(record.savings, comparison.first.savings, strict=True):
            if saving.point is None:
                assert saving.memory_j is None and saving.saved is None
                continue
            spent = energy(arm.networks[0].placement, at={"eta": saving.point})
            assert saving.memory_j == pytest.approx(spent.memory_total_j)
            assert saving.saved == pytest.approx(1 - saving.point)
            if record is comparison.first or first.at_edge:
                assert saving.against_first is None
            elif first.memory_j:
                expected = 1 - saving.memory_j / first.memory_j
                assert saving.against_first == pytest.approx(expected)


def test_the_interval_is_a_jackknife_over_networks():
    """On a line that falls evenly the crossing is linear in the losses: the t interval of them."""
    points = np.array([0.6, 0.5, 0.4, 0.3])
    shifts = np.array([0.002, -0.001, 0.003, 0.0])
    lost = 0.1 * (0.6 - points)[None] + shifts[:, None]
    ladder = Ladder(points.tolist(), rising=True)
    place = float(ladder.last_within(lost.mean(0)[None], 0.015)[0])
    low, high = _jackknife(ladder, lost, 0.015, place)
    own = 0.6 - (0.015 - shifts) / 0.1
    reach = stats.t.ppf(0.975, 3) * own.std(ddof=1) / 2
    assert place == pytest.approx(own.mean())
    assert (low, high) == pytest.approx((own.mean() - reach, own.mean() + reach))


def test_one_network_has_no_interval_and_neither_has_one_that_never_crosses():
    ladder = Ladder([0.5, 0.4], rising=True)
    lost = np.array([[0.0, 0.02]])
    assert _jackknife(ladder, lost, 0.01, 0.45) == (math.inf, math.inf)
    never = np.array([[0.0, 0.02], [0.05, 0.1]])
    place = float(ladder.last_within(never.mean(0)[None], 0.01)[0])
    assert _jackknife(ladder, never, 0.01, place) == (math.inf, math.inf)


def test_at_the_edge_there_is_no_interval_and_no_difference(arms, digits):
    """All are within so large a drop at all points: how much further down they go is not known."""
    found = compare_arms(
        arms, digits.test, data_name="digits", model_name="mlp", drops=(0.9,), chips=1
    )
    for arm in found.arms:
        (saving,) = arm.savings
        assert saving.at_edge and saving.point == 0.3 and saving.saved == pytest.approx(0.7)
        assert saving.low is saving.high is saving.saved_low is saving.saved_high is None
        assert saving.against_first is None


def test_an_interval_needs_all_but_one_to_cross_too():
    ladder = Ladder([0.5, 0.4, 0.3], rising=True)
    lost = np.array([[0.0, 0.0, 0.05], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    place = float(ladder.last_within(lost.mean(0)[None], 0.015)[0])
    assert 0.3 < place < 0.4
    assert _jackknife(ladder, lost, 0.015, place) == (math.inf, math.inf)


def test_intervals_stay_where_the_device_can_be_set(comparison):
    for arm in comparison.arms:
        for saving in arm.savings:
            for end in (saving.low, saving.high, saving.saved_low, saving.saved_high):
                assert end is None or 0 <= end <= 1


def test_points_are_chosen_around_the_common_accuracy(arms, digits):
    free = [
        Arm(name=arm.name, networks=tuple(_free(network) for network in arm.networks[:1]))
        for arm in arms
    ]
    found = compare_arms(
        free, digits.test, data_name="digits", model_name="mlp", drops=(0.02,), chips=4
    )
    for arm in found.arms:
        (saving,) = arm.savings
        assert saving.point is not None and min(arm.points) < saving.point < max(arm.points)


def _free(network):
    return Contender(name=network.name, placement=network.placement)


def test_the_record_survives_json(comparison):
    assert ArmComparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_refusals(arms, digits):
    def compared(given, **options):
        return compare_arms(given, digits.test, data_name="d", model_name="m", chips=1, **options)

    with pytest.raises(InputError, match="names all different"):
        compared([arms[0], arms[0]])
    with pytest.raises(InputError, match="at least one"):
        compared([])
    with pytest.raises(InputError, match="networks of none is none"):
        compared([Arm(name="none", networks=())])
    with pytest.raises(InputError, match="drops"):
        compared(arms, drops=())
    with pytest.raises(InputError, match="drop is 2"):
        compared(arms, drops=(2.0,))
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    inputs = next(digits.train.batches(64))[0]
    other = place(model, weights=Crossbar(sigma=1e-6), example_inputs=inputs)
    analog = Arm(name="analog", networks=(Contender(name="a", placement=other),))
    with pytest.raises(InputError, match="one kind of memory"):
        compared([arms[0], analog])


def test_intervals_of_voltages_stay_within_the_points_simulated(arms, digits):
    """Two networks: their interval is wide, and the table of voltages has no more of them."""
    points = (0.958, 0.917, 0.875, 0.833, 0.792, 0.75)
    on_volts = {"knob": "v_dd", "points": points}
    unlike = [arm.networks[0] for arm in arms]
    networks = _on(SRAM(law=law("stutz2021-14nm")), unlike, digits, **on_volts)
    found = compare_arms(
        [Arm(name="volts", networks=networks)],
        digits.test,
        data_name="digits",
        model_name="mlp",
        drops=(0.05,),
        chips=4,
    )
    (saving,) = found.first.savings
    assert saving.low == 0.75 and saving.point < saving.high <= 0.958


def test_savings_of_all_arms_are_of_one_energy_where_it_depends_on_the_weights(arms, digits):
    clipped = Arm(name="clipped", networks=_clipped(arms[1].networks[:2]))
    on = {"points": (1e-4, 1e-5, 2e-6)}
    crossbars = [
        Arm(name=arm.name, networks=_on(Crossbar(sigma=1e-6), arm.networks[:2], digits, **on))
        for arm in (arms[0], clipped)
    ]
    found = compare_arms(
        crossbars, digits.test, data_name="digits", model_name="mlp", drops=(0.05,), chips=2
    )
    own = [[_reliable_j(n.placement) for n in arm.networks] for arm in crossbars]
    # Their own would differ: it is not what they are held to.
    assert np.mean(own[1]) > 1.1 * np.mean(own[0])
    assert found.first.reliable_j == pytest.approx(np.mean(own[0]))
    for arm, record in zip(crossbars, found.arms, strict=True):
        (saving,) = record.savings
        assert saving.saved == pytest.approx(1 - saving.memory_j / found.first.reliable_j)
        for end, saved in ((saving.low, saving.saved_high), (saving.high, saving.saved_low)):
            spent = [_joules(n.placement, g_max=end) for n in arm.networks]
            assert saved == pytest.approx(1 - np.mean(spent) / found.first.reliable_j)


def _clipped(networks):
    """Without large weights, so that all conductances are larger: copies."""
    found = []
    for network in networks:
        model = copy.deepcopy(network.placement.model)
        clip_weights(model, deviations=1.5)
        found.append(Contender(name=network.name, placement=place(model, weights=SRAM())))
    return found


def _joules(placement, **setting):
    return energy(placement, at=setting).memory_total_j


def _reliable_j(placement):
    return energy(placement, at=placement.most_reliable()).memory_total_j


def _on(memory, networks, digits, **options):
    """The same networks on another memory."""
    inputs = next(digits.train.batches(64))[0]
    return tuple(
        Contender(
            name=network.name,
            placement=place(network.placement.model, weights=memory, example_inputs=inputs),
            **options,
        )
        for network in networks
    )
