from dataclasses import replace

import pytest

from joulewise.data import load_digits
from joulewise.devices import PCM, SRAM, Array, Crossbar, VoltageTable
from joulewise.devices.reliability_laws import VoltageRow
from joulewise.errors import InputError, OperatingPointError
from joulewise.models import build
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.study import Comparison, Contender, compare, energy_curve
from joulewise.training import TrainingSpec, train


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def contenders(digits):
    made = []
    for name in ("mlp", "cnn"):
        model = build(name, digits.input_shape, digits.classes, seed=0)
        record = train(model, digits, TrainingSpec(epochs=6, lr=0.1))
        calibration = next(digits.train.batches(128))[0]
        memory = SRAM(bits=8)
        placement = place(model, weights=memory, activations=memory, example_inputs=calibration)
        made.append(Contender(name=name, placement=placement, training=record))
    return made


@pytest.fixture(scope="module")
def comparison(contenders, digits):
    return compare(contenders, digits.test.subset(120), data_name="digits", chips=12)


def test_every_network_has_a_curve_and_a_saving_for_each_drop(comparison):
    assert [c.name for c in comparison.contenders] == ["mlp", "cnn"]
    for contender in comparison.contenders:
        assert len(contender.points) == len(contender.simulations)
        assert list(contender.points) == sorted(contender.points, reverse=True)
        assert [saving.at.drop for saving in contender.savings] == [0.005, 0.01]
        assert all(simulation.chips == 12 for simulation in contender.simulations)


def test_a_common_point_saves_what_it_leaves(comparison):
    for contender in comparison.contenders:
        for saving in contender.savings:
            assert saving.memory_saved == pytest.approx(1 - saving.at.point)
            assert saving.memory_saved_low <= saving.memory_saved <= saving.memory_saved_high
            reliable = contender.reliable.energy
            everything = reliable.memory_reliable_j + reliable.unplaced_j + reliable.arithmetic_j
            spent = everything - reliable.memory_reliable_j + saving.memory_j
            assert saving.total_saved == pytest.approx(1 - spent / everything)


def test_a_larger_drop_never_needs_more_energy(comparison):
    for contender in comparison.contenders:
        small, large = contender.savings
        assert large.at.point <= small.at.point


def test_points_lie_on_both_sides_of_the_crossing(comparison):
    for contender in comparison.contenders:
        for saving in contender.savings:
            assert min(contender.points) < saving.at.point < max(contender.points)


def test_the_record_survives_json(comparison):
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_forecasts_beside_the_simulations(comparison):
    for contender in comparison.contenders:
        assert len(contender.forecasts) == len(contender.points)
        made = [k for k, forecast in enumerate(contender.forecasts) if forecast is not None]
        assert 2 <= len(made) <= 6
        assert contender.forecast_refused == ""
        names = {placed.name for placed in contender.placed}
        for k in made:
            forecast, simulation = contender.forecasts[k], contender.simulations[k]
            assert forecast.plan == simulation.plan
            assert forecast.images == simulation.images
            assert set(forecast.variance) == names == set(simulation.energy.memory_j)
            # Twelve chips, and accuracy within 11 points: a sanity check, not a test of prediction.
            assert forecast.accuracy.mean == pytest.approx(simulation.mean_accuracy, abs=0.05)


def test_placed_tensors_add_up(comparison):
    for contender in comparison.contenders:
        for role, words in contender.placed_words.items():
            assert sum(p.words for p in contender.placed if p.role == role) == words
        reliable = sum(placed.reliable_j for placed in contender.placed)
        assert reliable == pytest.approx(contender.reliable.energy.memory_reliable_j)


def test_records_of_older_versions_still_load(comparison):
    record = comparison.model_dump(mode="json")
    for contender in record["contenders"]:
        for field in ("placed", "forecasts", "forecast_refused"):
            del contender[field]
    for contender in Comparison.model_validate(record).contenders:
        assert (contender.placed, contender.forecasts) == ((), ())


def test_given_points_are_used_and_chips_are_common(contenders, digits):
    test = digits.test.subset(50)
    curve = energy_curve(contenders[0].placement, test, points=[0.3, 0.5], chips=3)
    assert curve.points == (0.5, 0.3)
    assert curve.simulations[0].seed == curve.simulations[1].seed


def test_progress_ends_at_its_total(contenders, digits):
    seen = []
    compare(
        contenders[:1],
        digits.test.subset(50),
        data_name="digits",
        chips=3,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )
    assert seen[-1][1] == seen[-1][2]
    assert {name for name, _, _ in seen} == {"mlp"}


def test_a_table_of_a_narrow_range_is_scouted_to_its_end(contenders, digits):
    rows = (VoltageRow(0.5, 0.83e-13, 0.3), VoltageRow(0.6, 1e-13, 1e-6))
    memory = SRAM(bits=8, law=VoltageTable(rows=rows, source="made up"))
    placement = place(
        contenders[0].placement.model,
        weights=memory,
        example_inputs=next(digits.train.batches(8))[0],
    )
    curve = energy_curve(placement, digits.test.subset(50), chips=3)
    assert max(curve.points) == 1.0
    assert min(curve.points) < 0.95
    with pytest.raises(InputError, match="points on v_dd cannot be chosen"):
        energy_curve(placement, digits.test.subset(50), knob="v_dd", chips=3)


def test_a_network_on_several_devices_of_a_kind_is_refused(contenders, digits):
    model = contenders[1].placement.model
    inputs = next(digits.train.batches(8))[0]
    placement = place(model, weights=SRAM(bits=4), example_inputs=inputs)
    first, *rest = placement.placed
    mixed = replace(placement, placed=(replace(first, device=SRAM(bits=6)), *rest))
    with pytest.raises(InputError, match="the weights of two words lie on several devices"):
        compare([Contender(name="two words", placement=mixed)], digits.test, data_name="digits")


@pytest.fixture(scope="module")
def devices(contenders, digits):
    """One network on three memories, of which one is more reliable the lower its knob is."""
    model, inputs = contenders[0].placement.model, next(digits.train.batches(64))[0]
    made = [
        Contender(
            name=name, placement=place(model, weights=memory, example_inputs=inputs), points=points
        )
        for name, memory, points in (
            ("sram", SRAM(bits=8), None),
            ("crossbar", Crossbar(sigma=2e-6), None),
            ("pcm", PCM(), (3e7, 1.0, 3600.0)),
        )
    ]
    return compare(made, digits.test.subset(120), data_name="digits", chips=12)


def test_memories_side_by_side(devices):
    sram, crossbar, pcm = devices.contenders
    assert [one.knob for one in devices.contenders] == ["eta", "g_max", "seconds"]
    assert [one.weights_device["device"] for one in devices.contenders] == [
        *("sram", "crossbar", "pcm")
    ]
    assert crossbar.points[0] > crossbar.points[-1] > 0
    assert pcm.points == (1.0, 3600.0, 3e7)
    for one in devices.contenders:
        spent = [simulation.energy.total_j for simulation in one.simulations]
        assert spent == sorted(spent, reverse=True), one.name
        assert one.simulations[0].mean_mse < one.simulations[-1].mean_mse
    # The crossbar multiplies, so arithmetic has nothing left to do.
    assert sram.reliable.energy.arithmetic_j > crossbar.reliable.energy.arithmetic_j == 0


def test_points_are_chosen_on_a_knob_that_runs_the_other_way(contenders, digits):
    model, inputs = contenders[0].placement.model, next(digits.train.batches(64))[0]
    placement = place(model, weights=PCM(compensate=False), example_inputs=inputs)
    curve = energy_curve(placement, digits.test.subset(100), knob="seconds", chips=3)
    assert not curve.rising
    assert list(curve.points) == sorted(curve.points)
    assert curve.points[0] == 1.0
    assert len(curve.points) >= 8


@pytest.mark.parametrize("g_range", [(1e-6, 5e-5), (1e-5, 1e-4), (1e-7, 1e-3)])
def test_points_fill_a_range_of_any_size(contenders, digits, g_range):
    model, inputs = contenders[0].placement.model, next(digits.train.batches(64))[0]
    placement = place(model, weights=Crossbar(sigma=1e-6, g_range=g_range), example_inputs=inputs)
    curve = energy_curve(placement, digits.test.subset(50), knob="g_max", chips=2)
    assert (max(curve.points), len(set(curve.points)) >= 5) == (g_range[1], True)
    assert all(g_range[0] <= point <= g_range[1] for point in curve.points)


def test_points_are_checked_before_anything_runs(contenders, digits):
    placement = contenders[0].placement
    wrong = Contender(name="wrong", placement=placement, points=(0.5, 1.5))
    seen = []
    with pytest.raises(OperatingPointError, match="eta is 1.5"):
        compare(
            [contenders[0], wrong],
            digits.test,
            data_name="digits",
            chips=10**6,
            progress=lambda *done: seen.append(done),
        )
    assert not seen
    with pytest.raises(InputError, match="drops is empty"):
        compare([contenders[0]], digits.test, data_name="digits", drops=())


def test_an_untraced_placement_is_traced_as_for_a_simulation(contenders, digits):
    """Converters take their ranges from what is traced: not from a single image."""
    model, test = contenders[0].placement.model, digits.test.subset(50)
    memory = Crossbar(sigma=1e-6, array=Array(input_bits=6, output_bits=6))
    placement = place(model, weights=memory)
    compared = compare(
        [Contender(name="a", placement=placement, points=(1e-4,))], test, data_name="d", chips=3
    )
    (there,) = compared.contenders[0].simulations
    here = simulate(placement, test, at={"g_max": 1e-4}, chips=3)
    assert there.mse == pytest.approx(here.mse, rel=1e-6)


def test_knobs_that_run_in_opposite_directions_have_no_curve(contenders, digits):
    model, inputs = contenders[0].placement.model, next(digits.train.batches(64))[0]
    mixed = place(model, weights=PCM(), activations=SRAM(), example_inputs=inputs)
    with pytest.raises(InputError, match="eta, seconds: they run in opposite directions"):
        energy_curve(mixed, digits.test.subset(50), chips=3)


def test_drops_are_checked_before_anything_runs(contenders, digits):
    with pytest.raises(InputError, match="drop is -1"):
        compare(contenders, digits.test, data_name="digits", drops=[-1.0], chips=10**6)


def test_contenders_need_names_of_their_own(contenders, digits):
    for wrong in ([], [contenders[0], contenders[0]]):
        with pytest.raises(InputError, match="names all different"):
            compare(wrong, digits.test, data_name="digits")
