import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import SRAM, Chip, Flip
from joulewise.errors import DataError, InputError, OperatingPointError, WeightsError
from joulewise.metrics import FunctionMetric
from joulewise.models import build
from joulewise.placement import Plan, place, private_memory
from joulewise.simulation import mean_interval, simulate, sweep
from joulewise.simulation.montecarlo import sure_enough


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
    return place(
        model, weights=memory, activations=memory, example_inputs=next(test.batches(64))[0]
    )


def snapshot(model):
    return copy.deepcopy(model.state_dict()), {n: m.training for n, m in model.named_modules()}


def assert_untouched(model, before):
    state, modes = before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert {n: m.training for n, m in model.named_modules()} == modes


def test_figures_are_those_of_a_loop_by_hand(placement, test):
    result = simulate(placement, test, at={"eta": 0.3}, chips=4, seed=7)
    inputs, targets = next(test.batches(64))
    points = placement.points({"eta": 0.3})
    with private_memory(placement) as memory:
        memory.original()
        reference = memory.call(inputs)
        for number in range(4):
            memory.read(points, Chip(seed=7 + number))
            output = memory.call(inputs)
            right = float((output.argmax(1) == targets).double().mean())
            error = float((output - reference).double().square().mean())
            assert result.values[number] == pytest.approx(right, abs=1e-12)
            assert result.mse[number] == pytest.approx(error, rel=1e-5)


def test_same_seed_same_result_and_other_seed_another(placement, test):
    first = simulate(placement, test, at={"eta": 0.3}, chips=5, seed=3)
    again = simulate(placement, test, at={"eta": 0.3}, chips=5, seed=3)
    assert again.to_dict() == first.to_dict()
    assert simulate(placement, test, at={"eta": 0.3}, chips=5, seed=4).mse != first.mse


def test_chips_do_not_depend_on_how_many_there_are_or_where_one_starts(placement, test):
    whole = simulate(placement, test, at={"eta": 0.3}, chips=6, seed=0)
    part = simulate(placement, test, at={"eta": 0.3}, chips=3, seed=3)
    assert whole.mse[3:] == part.mse


def test_batch_size_changes_nothing_but_rounding(placement, test):
    whole = simulate(placement, test, at={"eta": 0.35}, chips=3)
    split = simulate(placement, test, at={"eta": 0.35}, chips=3, batch_size=17)
    assert split.mse == pytest.approx(whole.mse, rel=1e-4)
    assert split.samples == whole.samples == 64


def test_a_sweep_uses_the_same_chips_at_every_point(placement, test):
    plans = [placement.plan({"eta": eta}) for eta in (0.5, 0.3)]
    both = sweep(placement, test, at=plans, chips=3)
    assert both[1].to_dict() == simulate(placement, test, at={"eta": 0.3}, chips=3).to_dict()
    # Common random numbers: chips that are bad at one point are bad at the other.
    assert both[0].energy.normalised == pytest.approx(0.5)


def test_a_chip_without_a_fault_is_a_perfect_memory(placement, test):
    """At eta = 1 a cell fails with 2.8e-6: most chips of this small network have no fault."""
    result = simulate(placement, test, at={"eta": 1.0}, chips=20)
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
        result = simulate(place(model, weights=SRAM(bits=8)), batches, at={"eta": 0.4}, chips=3)
        assert result.mean_mse > 0


@pytest.mark.parametrize("thrown", [KeyboardInterrupt, RuntimeError])
def test_the_model_is_restored_when_a_simulation_is_cut_short(placement, model, test, thrown):
    before = snapshot(model)

    def stop(step, done, expected):
        if done == 2:
            raise thrown

    with pytest.raises(thrown):
        simulate(placement, test, at={"eta": 0.2}, chips=5, progress=stop)
    assert_untouched(model, before)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_model_is_restored_after_a_full_run(placement, model, test):
    before = snapshot(model)
    simulate(placement, test, at={"eta": 0.2}, chips=2)
    assert_untouched(model, before)


def test_progress_counts_every_pass(placement, test):
    seen = []
    plans = [placement.plan({"eta": 0.4}), placement.plan({"eta": 0.5})]
    sweep(placement, test, at=plans, chips=3, progress=lambda *said: seen.append(said))
    assert seen == [("simulating", done, 6) for done in range(1, 7)]


def test_a_sequential_run_stops_when_it_is_sure(placement, test):
    wide = simulate(placement, test, at={"eta": 0.3}, chips=200, half_width=0.2)
    assert wide.chips == 20
    narrow = simulate(placement, test, at={"eta": 0.3}, chips=40, half_width=1e-6)
    assert narrow.chips == 40
    errors = [(inputs, None) for inputs, _ in test.batches(64)]
    relative = simulate(placement, errors, at={"eta": 0.3}, chips=200, half_width=0.5)
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
    # 0.4 and 0.9871 have means that are not themselves: rounding is no spread.
    for value in (1.0, 0.4, 0.9871):
        assert not any(sure_enough([value] * count, 0.1) for count in (20, 30, 40, 50))
    assert sure_enough([1.0, 0.999] * 10, 0.1)


def test_data_may_be_batches_without_targets_or_mappings(test):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, *, pixels):
            return self.layer(pixels.flatten(1))

    batches = [{"pixels": inputs} for inputs, _ in test.batches(20)]
    result = simulate(place(Named(), weights=SRAM(bits=8)), batches, at={"eta": 0.3}, chips=3)
    assert result.samples == 64
    assert result.values == ()
    assert result.metric is None
    with pytest.raises(InputError, match="there is no metric without targets"):
        _ = result.mean


def test_a_metric_of_ones_own(placement, test):
    ones = FunctionMetric(lambda outputs, targets: torch.ones(len(targets)), "ones", True)
    result = simulate(placement, test, at={"eta": 0.9}, chips=2, metric=ones)
    assert result.values == (1.0, 1.0)
    assert result.metric.name == "ones"


def test_a_plan_may_differ_between_tensors(placement, test):
    plan = placement.plan({"eta": 0.9})
    first = placement.placed[0].name
    plan = Plan({**plan, first: {"eta": 0.2}})
    result = simulate(placement, test, at=plan, chips=2)
    assert result.plan[first] == {"eta": 0.2}
    assert 0.2 < result.energy.normalised < 0.9


def test_bit_planes_may_have_points_of_their_own(placement, test):
    protected = [0.25] * 4 + [0.75] * 4
    result = simulate(placement, test, at={"eta": protected}, chips=20)
    common = simulate(placement, test, at={"eta": 0.25}, chips=20)
    # The same chips, and the faults of one are a subset of the other's.
    assert all(a < b for a, b in zip(result.mse, common.mse, strict=True))
    assert len(next(iter(result.plan.values()))["eta"]) == 8
    again = simulate(placement, test, at=result.plan, chips=20)
    assert again.to_dict() == result.to_dict()
    again = simulate(placement, test, at={"eta": torch.tensor(protected)}, chips=20)
    assert again.to_dict() == result.to_dict()


def test_channels_may_have_points_of_their_own(placement, test):
    weights = [p for p in placement.placed if p.role == "weight"]
    at_all = placement.plan({"eta": 0.9})
    common = Plan({**at_all, **{p.name: {"eta": 0.25} for p in weights}})
    points = {p.name: torch.full((p.channels, 1), 0.25, dtype=torch.float64) for p in weights}
    alike = Plan({**at_all, **{name: {"eta": point.clone()} for name, point in points.items()}})
    lowest, equal = sweep(placement, test, at=[common, alike], chips=10)
    assert (equal.mse, equal.values) == (lowest.mse, lowest.values)  # the same chips
    assert math.isclose(equal.energy.normalised, lowest.energy.normalised, rel_tol=1e-12)
    for point in points.values():
        point[1::2] = 0.8
    plan = Plan({**at_all, **{name: {"eta": point} for name, point in points.items()}})
    result = simulate(placement, test, at=plan, chips=10)
    assert all(a < b for a, b in zip(result.mse, lowest.mse, strict=True))
    again = simulate(placement, test, at=result.plan, chips=10)
    assert again.to_dict() == result.to_dict()
    name = weights[0].name
    with pytest.raises(OperatingPointError, match=f"the points of {name} is"):
        simulate(placement, test, at=Plan({**plan, name: {"eta": points[name][1:]}}), chips=2)


def test_faults_that_cannot_matter_are_warned_of(test):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) * 0.0

    with pytest.warns(UserWarning, match="weights were read wrongly and yet no output"):
        simulate(place(Detached(), weights=SRAM(bits=8)), test, at={"eta": 0.1}, chips=5)


def test_no_warning_where_nothing_fails(placement, test):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(placement, test, at={"eta": 1.0}, chips=6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": {}}, OperatingPointError, "at, for .* on a SRAM, is nothing; allowed: .*eta"),
        (
            {"at": 0.5},
            InputError,
            'at is 0.5 .float.; allowed: knobs with values, such as {"eta": 0.5}',
        ),
        ({"at": {"eta": 0.5, "v_dd": 0.6}}, OperatingPointError, "is eta and v_dd"),
        ({"at": {"eta": 0.5, "seconds": 1}}, OperatingPointError, "seconds, which sets no placed"),
        ({"at": {"eta": 1.5}}, OperatingPointError, "eta is 1.5; allowed: 0 to 1"),
        ({"at": {"eta": float("nan")}}, OperatingPointError, "eta is nan"),
        ({"at": {"g_max": 1.0}}, OperatingPointError, "is g_max; allowed: one of eta, v_dd"),
        ({"at": Plan({"fc.weight": {"eta": 0.5}})}, InputError, "fc.weight, which is not placed"),
        ({"chips": 0}, InputError, "chips is 0; allowed: a whole number, 1 to 10000000"),
        ({"chips": "5"}, InputError, "chips is '5'; allowed: a whole number"),
        ({"chips": True}, InputError, "chips is True"),
        ({"seed": -1}, InputError, "seed is -1"),
        ({"half_width": 0.0}, InputError, "half_width is 0"),
        ({"half_width": "0.1"}, InputError, "half_width is '0.1' .str.; allowed: a number"),
        ({"batch_size": 0}, InputError, "batch_size is 0"),
        ({"metric": "accuracy"}, InputError, "metric is 'accuracy'; allowed: a metric such as"),
        (
            {"progress": "yes"},
            InputError,
            "progress is 'yes' .str.; allowed: True, False, or a function",
        ),
    ],
)
def test_refusals(placement, test, options, error, message):
    with pytest.raises(error, match=message):
        simulate(placement, test, **{"at": {"eta": 0.5}, "chips": 2, **options})


def test_a_model_in_place_of_a_placement_is_refused(model, test):
    with pytest.raises(
        InputError, match="placement is of type SmallCNN; allowed: the result of joulewise.place"
    ):
        simulate(model, test, at={"eta": 0.5})


def test_one_point_in_place_of_a_list_is_refused(placement, test):
    with pytest.raises(InputError, match="at is {'eta': 0.5}; allowed: a list such as"):
        sweep(placement, test, at={"eta": 0.5})


def test_a_misspelt_keyword_is_a_type_error(placement, test):
    with pytest.raises(TypeError, match="chps"):
        simulate(placement, test, at={"eta": 0.5}, chps=2)


def test_empty_data_is_refused(placement):
    with pytest.raises(DataError, match="the data holds no batch"):
        simulate(placement, [], at={"eta": 0.5})


def test_nan_weights_are_named(model, test):
    placement = place(model, weights=SRAM(bits=8))
    name = placement.placed[1].name
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = float("nan")
    before = snapshot(model)[1]
    with pytest.raises(WeightsError, match=f"{name} is NaN or infinite in 1 of"):
        simulate(placement, test, at={"eta": 0.5}, chips=2)
    assert {n: m.training for n, m in model.named_modules()} == before


def test_a_model_that_gives_nan_is_refused(test):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) / 0.0 * 0.0

    with pytest.raises(InputError, match="the model's output is NaN or infinite"):
        simulate(place(Broken(), weights=SRAM(bits=8)), test, at={"eta": 0.5}, chips=2)


def test_batches_whose_first_axis_is_not_the_batch_are_refused(test):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(6, 10)

        def forward(self, x):
            return self.cell(x)[0][-1]

    batches = [(torch.randn(8, 64, 6), torch.arange(64) % 10)]
    with pytest.raises(DataError, match="first axis is 8 and targets of shape .64,."):
        simulate(place(Recurrent(), weights=SRAM(bits=8)), batches, at={"eta": 0.5}, chips=2)


def test_a_chip_whose_metric_has_no_value_has_failed(placement, test):
    class Rare:
        """A metric without a value where the lowest output moved far."""

        higher_is_better = True

        def reset(self):
            self.lowest = 0.0

        def update(self, outputs, targets):
            self.lowest = min(self.lowest, float(outputs.min()))

        def compute(self):
            return float("nan") if abs(self.lowest - self.original) > self.limit else 0.5

    metric = Rare()
    metric.original = lowest_output(placement, test, None)
    moved = [abs(lowest_output(placement, test, c) - metric.original) for c in range(8)]
    metric.limit = sum(sorted(moved)[3:5]) / 2
    result = simulate(placement, test, at={"eta": 0.2}, chips=8, metric=metric)
    assert result.failed == 4
    assert result.mean == 0.5
    assert result.yield_at(0.0)[0] == 0.5
    assert result.quantile(0.05) == -math.inf
    assert "4 of 8 chips" in repr(result)


def lowest_output(placement, test, chip):
    inputs, _ = next(test.batches(64))
    with private_memory(placement) as memory:
        memory.original()
        if chip is not None:
            memory.read(placement.points({"eta": 0.2}), Chip(seed=chip))
        return float(memory.call(inputs).min())


def test_a_split_serves_models_of_other_dtypes(digits, test):
    model = build("mlp", digits.input_shape, digits.classes, seed=0).to(torch.bfloat16)
    result = simulate(place(model, weights=SRAM(bits=8)), test, at={"eta": 0.4}, chips=2)
    assert result.samples == 64


def test_batch_of_one(model, test):
    one = test.subset(1)
    result = simulate(place(model, weights=SRAM(fault=Flip())), one, at={"eta": 0.3}, chips=2)
    assert result.samples == 1


def test_results_are_plain_data_for_json(placement, test):
    result = simulate(placement, test, at={"eta": torch.tensor([0.5] * 8)}, chips=2)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["mse"] == list(result.mse)
    assert plain["plan"] == {p.name: {"eta": [0.5] * 8} for p in placement.placed}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_chip_is_the_same_on_a_gpu(digits, test):
    model = build("cnn", digits.input_shape, digits.classes, seed=0)
    on_cpu = simulate(place(model, weights=SRAM(bits=8)), test, at={"eta": 0.3}, chips=3)
    on_gpu = simulate(place(model.cuda(), weights=SRAM(bits=8)), test, at={"eta": 0.3}, chips=3)
    # The same cells; what differs is the order of sums in float32.
    assert on_gpu.mse == pytest.approx(on_cpu.mse, rel=1e-3)


def test_failed_chips_do_not_end_a_run_by_the_output_error(placement, test):
    class Never:
        higher_is_better = True

        def __init__(self):
            self.passes = 0

        def reset(self):
            pass

        def update(self, outputs, targets):
            self.outputs = outputs

        def compute(self):
            exact = torch.equal(self.outputs, self.expected) or torch.equal(
                self.outputs, self.ideal
            )
            return 1.0 if exact else float("nan")

    metric = Never()
    with private_memory(placement) as memory:
        inputs, _ = next(test.batches(64))
        memory.original()
        metric.expected = memory.call(inputs)
        memory.ideal()
        metric.ideal = memory.call(inputs)
    result = simulate(placement, test, at={"eta": 0.1}, chips=30, half_width=0.5, metric=metric)
    assert (result.chips, result.failed) == (30, 30)


def test_a_metric_that_works_in_place_spoils_no_output_error(placement, test):
    def wipe(outputs, targets):
        outputs.zero_()
        return torch.ones(len(targets))

    plain = simulate(placement, test, at={"eta": 0.3}, chips=2)
    wiped = simulate(
        placement, test, at={"eta": 0.3}, chips=2, metric=FunctionMetric(wipe, "wiped", True)
    )
    assert wiped.mse == plain.mse
