import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import SRAM, Chip, Flip
from joulewise.errors import DataError, InputError, OperatingPointError, WeightsError
from joulewise.models import build
from joulewise.placement import loaded, place
from joulewise.simulation import Simulation, mean_interval, simulate, sweep
from joulewise.simulation.montecarlo import sure_enough
from joulewise.simulation.scoring import top1


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def test(digits):
    return digits.test.subset(64)


@pytest.fixture
def model(digits):
    return build("cnn", digits.input_shape, digits.classes, seed=0)


@pytest.fixture
def placement(model, test):
    memory = SRAM(bits=8)
    return place(model, weights=memory, activations=memory, inputs=next(test.batches(64))[0])


def snapshot(model):
    return copy.deepcopy(model.state_dict()), {n: m.training for n, m in model.named_modules()}


def assert_untouched(model, before):
    state, modes = before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert {n: m.training for n, m in model.named_modules()} == modes


def test_figures_are_those_of_a_loop_by_hand(placement, test):
    result = simulate(placement, test, eta=0.3, chips=4, seed=7)
    inputs, targets = next(test.batches(64))
    plan = placement.plan(eta=0.3)
    with loaded(placement) as memory:
        memory.original()
        reference = memory.call(inputs)
        for number in range(4):
            memory.read(plan, Chip(seed=7 + number))
            output = memory.call(inputs)
            right = float((output.argmax(1) == targets).double().mean())
            error = float((output - reference).double().square().mean())
            assert result.accuracy[number] == pytest.approx(right, abs=1e-12)
            assert result.mse[number] == pytest.approx(error, rel=1e-5)


def test_same_seed_same_result_and_other_seed_another(placement, test):
    first = simulate(placement, test, eta=0.3, chips=5, seed=3)
    assert simulate(placement, test, eta=0.3, chips=5, seed=3) == first
    assert simulate(placement, test, eta=0.3, chips=5, seed=4).mse != first.mse


def test_chips_do_not_depend_on_how_many_there_are_or_where_one_starts(placement, test):
    whole = simulate(placement, test, eta=0.3, chips=6, seed=0)
    part = simulate(placement, test, eta=0.3, chips=3, seed=3)
    assert whole.mse[3:] == part.mse


def test_batch_size_changes_nothing_but_rounding(placement, test):
    whole = simulate(placement, test, eta=0.35, chips=3)
    split = simulate(placement, test, eta=0.35, chips=3, batch_size=17)
    assert split.mse == pytest.approx(whole.mse, rel=1e-4)
    assert split.images == whole.images == 64


def test_a_sweep_uses_the_same_chips_at_every_point(placement, test):
    plans = [placement.plan(eta=eta) for eta in (0.5, 0.3)]
    both = sweep(placement, test, plans, chips=3)
    assert both[1] == simulate(placement, test, eta=0.3, chips=3)
    # Common random numbers: chips that are bad at one point are bad at the other.
    assert both[0].energy.normalised == pytest.approx(0.5)


def test_a_chip_without_a_fault_is_a_perfect_memory(placement, test):
    """At eta = 1 a cell fails with 2.8e-6: most chips of this small network have no fault."""
    result = simulate(placement, test, eta=1.0, chips=20)
    clean = sum(error == result.ideal_mse for error in result.mse)
    cells = 8 * sum(tensor.words for tensor in placement.placed)
    expected = 20 * math.exp(-cells * math.exp(-12.8))
    assert clean >= expected - 5 * math.sqrt(20 * 0.25)
    assert clean > 0


def test_bfloat16_and_float64_models(digits, test):
    for dtype in (torch.bfloat16, torch.float64):
        model = build("mlp", digits.input_shape, digits.classes, seed=0).to(dtype)
        inputs, targets = next(test.batches(64))
        batches = [(inputs.to(dtype), targets)]
        result = simulate(place(model, weights=SRAM(bits=8)), batches, eta=0.4, chips=3)
        assert result.mean_mse > 0


@pytest.mark.parametrize("thrown", [KeyboardInterrupt, RuntimeError])
def test_the_model_is_restored_when_a_simulation_is_cut_short(placement, model, test, thrown):
    before = snapshot(model)

    def stop(done):
        if done == 2:
            raise thrown

    with pytest.raises(thrown):
        simulate(placement, test, eta=0.2, chips=5, progress=stop)
    assert_untouched(model, before)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_model_is_restored_after_a_full_run(placement, model, test):
    before = snapshot(model)
    simulate(placement, test, eta=0.2, chips=2)
    assert_untouched(model, before)


def test_progress_counts_every_pass(placement, test):
    seen = []
    plans = [placement.plan(eta=0.4), placement.plan(eta=0.5)]
    sweep(placement, test, plans, chips=3, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_sequential_run_stops_when_it_is_sure(placement, test):
    wide = simulate(placement, test, eta=0.3, chips=200, half_width=0.2)
    assert wide.chips == 20
    narrow = simulate(placement, test, eta=0.3, chips=40, half_width=1e-6)
    assert narrow.chips == 40
    errors = [(inputs, None) for inputs, _ in test.batches(64)]
    relative = simulate(placement, errors, eta=0.3, chips=200, half_width=0.5)
    assert relative.chips < 200
    assert relative.mse_interval().half_width <= 0.5 * relative.mean_mse


def test_stopping_when_sure_keeps_the_coverage_above_92_percent():
    generator = np.random.default_rng(0)
    repeats, hits = 3000, 0
    for _ in range(repeats):
        # Skewed, as accuracies under faults are: most chips near the top, a few far below.
        values = 1 - generator.gamma(1.5, 0.02, size=400)
        count = next(n for n in range(1, 401) if n == 400 or sure_enough(values[:n], 0.004))
        low, high = mean_interval(values[:count])
        hits += low <= 1 - 1.5 * 0.02 <= high
    # The claim is 92 %; the standard error of this estimate is 0.5 points.
    assert hits / repeats > 0.92 + 2 * 0.005


def test_chips_that_are_all_alike_do_not_end_a_run():
    assert not sure_enough([1.0] * 20, 0.1)
    assert sure_enough([1.0, 0.999] * 10, 0.1)


def test_data_may_be_batches_without_targets_or_mappings(test):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, *, pixels):
            return self.layer(pixels.flatten(1))

    batches = [{"pixels": inputs} for inputs, _ in test.batches(20)]
    result = simulate(place(Named(), weights=SRAM(bits=8)), batches, eta=0.3, chips=3)
    assert result.images == 64
    assert result.accuracy == ()
    with pytest.raises(InputError, match="accuracy is not known: the data had no targets"):
        _ = result.mean_accuracy


def test_a_metric_of_ones_own(placement, test):
    result = simulate(
        placement, test, eta=0.9, chips=2, metric=lambda outputs, targets: torch.ones(len(targets))
    )
    assert result.accuracy == (1.0, 1.0)


def test_a_plan_may_differ_between_tensors(placement, test):
    plan = placement.plan(eta=0.9)
    first = placement.placed[0].name
    plan[first] = 0.2
    result = simulate(placement, test, plan=plan, chips=2)
    assert result.plan[first] == 0.2
    assert 0.2 < result.energy.normalised < 0.9


def test_bit_planes_may_have_points_of_their_own(placement, test):
    protected = [0.25] * 4 + [0.75] * 4
    result = simulate(placement, test, eta=protected, chips=20)
    common = simulate(placement, test, eta=0.25, chips=20)
    # The same chips, and the faults of one are a subset of the other's.
    assert all(a < b for a, b in zip(result.mse, common.mse, strict=True))
    assert len(next(iter(result.plan.values()))) == 8
    again = simulate(placement, test, plan=result.plan, chips=20)
    assert again == result
    assert simulate(placement, test, eta=torch.tensor(protected), chips=20) == result


def test_channels_may_have_points_of_their_own(placement, test):
    weights = [p for p in placement.placed if p.role == "weight"]
    plan = placement.plan(eta=0.9) | {p.name: 0.25 for p in weights}
    common = simulate(placement, test, plan=plan, chips=10)
    points = {p.name: torch.full((p.channels, 1), 0.25, dtype=torch.float64) for p in weights}
    plan |= points
    equal = simulate(placement, test, plan=plan, chips=10)
    assert (equal.mse, equal.accuracy) == (common.mse, common.accuracy)  # the same chips
    assert math.isclose(equal.energy.normalised, common.energy.normalised, rel_tol=1e-12)
    for point in points.values():
        point[1::2] = 0.8
    result = simulate(placement, test, plan=plan, chips=10)
    assert all(a < b for a, b in zip(result.mse, common.mse, strict=True))
    assert simulate(placement, test, plan=result.plan, chips=10) == result
    assert Simulation.model_validate_json(result.model_dump_json()) == result
    name = weights[0].name
    plan[name] = plan[name][1:]
    with pytest.raises(OperatingPointError, match=f"the points of {name} is"):
        simulate(placement, test, plan=plan, chips=2)


def test_faults_that_cannot_matter_are_warned_of(test):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) * 0.0

    with pytest.warns(UserWarning, match="weights were read wrongly and yet no output"):
        simulate(place(Detached(), weights=SRAM(bits=8)), test, eta=0.1, chips=5)


def test_no_warning_where_nothing_fails(placement, test):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(placement, test, eta=1.0, chips=6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, InputError, "needs a plan or one setting"),
        ({"eta": 0.5, "plan": {}}, InputError, "and not both"),
        ({"eta": 1.5}, OperatingPointError, "eta is 1.5; allowed: 0 to 1"),
        ({"eta": float("nan")}, OperatingPointError, "eta is nan"),
        (
            {"g_max": 1.0},
            OperatingPointError,
            "SRAM was given g_max; allowed: one of eta, v_dd, bit_error_rate",
        ),
        ({"eta": 0.5, "chips": 0}, InputError, "chips is 0"),
        ({"eta": 0.5, "seed": -1}, InputError, "seed is -1"),
        ({"eta": 0.5, "half_width": 0.0}, InputError, "half_width is 0"),
        ({"plan": {"fc.weight": 0.5}}, InputError, "fc.weight, which is not placed"),
    ],
)
def test_refusals(placement, test, settings, error, message):
    with pytest.raises(error, match=message):
        simulate(placement, test, **{"chips": 2, **settings})


def test_empty_data_is_refused(placement):
    with pytest.raises(DataError, match="the data holds no batch"):
        simulate(placement, [], eta=0.5)


def test_nan_weights_are_named(model, test):
    placement = place(model, weights=SRAM(bits=8))
    name = placement.placed[1].name
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = float("nan")
    before = snapshot(model)[1]
    with pytest.raises(WeightsError, match=f"{name} is NaN or infinite in 1 of"):
        simulate(placement, test, eta=0.5, chips=2)
    assert {n: m.training for n, m in model.named_modules()} == before


def test_a_model_that_gives_nan_is_refused(test):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) / 0.0 * 0.0

    with pytest.raises(InputError, match="the model's output is NaN or infinite"):
        simulate(place(Broken(), weights=SRAM(bits=8)), test, eta=0.5, chips=2)


def test_batches_whose_first_axis_is_not_the_batch_are_refused(test):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(6, 10)

        def forward(self, x):
            return self.cell(x)[0][-1]

    batches = [(torch.randn(8, 64, 6), torch.arange(64) % 10)]
    with pytest.raises(DataError, match="first axis is 8 and targets of shape .64,."):
        simulate(place(Recurrent(), weights=SRAM(bits=8)), batches, eta=0.5, chips=2)


def test_a_metric_gives_one_score_for_each_sample(placement, test):
    with pytest.raises(DataError, match="one score for each of the 64 samples"):
        simulate(placement, test, eta=0.5, chips=2, metric=lambda outputs, targets: torch.ones(()))


def test_a_split_serves_models_of_other_dtypes(digits, test):
    model = build("mlp", digits.input_shape, digits.classes, seed=0).to(torch.bfloat16)
    result = simulate(place(model, weights=SRAM(bits=8)), test, eta=0.4, chips=2)
    assert result.images == 64


def test_top1_counts_nan_as_wrong():
    outputs = torch.tensor([[float("nan"), float("nan")], [0.0, 1.0], [float("nan"), 2.0]])
    assert top1(outputs, torch.tensor([0, 1, 1])).tolist() == [0, 1, 1]


def test_outputs_that_are_not_classes_are_refused():
    with pytest.raises(DataError, match="give a metric of your own"):
        top1(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))


def test_batch_of_one(model, test):
    one = test.subset(1)
    result = simulate(place(model, weights=SRAM(fault=Flip())), one, eta=0.3, chips=2)
    assert result.images == 1


def test_results_survive_json(placement, test):
    result = simulate(placement, test, eta=torch.tensor([0.5] * 8), chips=2)
    assert Simulation.model_validate_json(result.model_dump_json()) == result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_chip_is_the_same_on_a_gpu(digits, test):
    model = build("cnn", digits.input_shape, digits.classes, seed=0)
    on_cpu = simulate(place(model, weights=SRAM(bits=8)), test, eta=0.3, chips=3)
    on_gpu = simulate(place(model.cuda(), weights=SRAM(bits=8)), test, eta=0.3, chips=3)
    # The same cells; what differs is the order of sums in float32.
    assert on_gpu.mse == pytest.approx(on_cpu.mse, rel=1e-3)
