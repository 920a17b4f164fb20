import pytest
from pydantic import ValidationError

from joulewise.data import load_digits
from joulewise.devices import (
    CorrelatedMap,
    Flip,
    IndependentMap,
    Mask,
    MeasuredMap,
    Stuck,
    VoltageTable,
)
from joulewise.errors import InputError, TableError, WeightsError
from joulewise.models import build, save_weights
from joulewise.study import MemorySpec, NetworkSpec, PlacementSpec, memory_specs


def test_words_become_devices(tmp_path):
    assert MemorySpec().build().fault == Mask()
    assert MemorySpec().build().fault_map == IndependentMap()
    assert MemorySpec(fault="flip", zero_to_one=0.5).build().fault == Flip(zero_to_one=0.5)
    assert MemorySpec(fault="stuck", stuck_at_one=1.0).build().fault == Stuck(at_one=1.0)
    assert MemorySpec(row=0.2).build().fault_map == CorrelatedMap(row=0.2)
    assert MemorySpec(row=0.2, bits=6).build().fault_map.columns == 192
    assert isinstance(MemorySpec(profile="stutz2021-14nm").build().law, VoltageTable)
    cells = tmp_path / "map.csv"
    cells.write_text("row,column,bit_error_rate\n1,2,0.01\n")
    measured = MemorySpec(fault_map=cells, map_rows=4, map_columns=8).build().fault_map
    assert isinstance(measured, MeasuredMap)
    assert MemorySpec(bits=4).build(0).channel_dim == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_to_one": 0.5}, "zero_to_one is 0.5, and does nothing with fault mask"),
        ({"fault": "flip", "stuck_at_one": 1.0}, "stuck_at_one is 1.0, and does nothing"),
        (
            {"device": "crossbar", "rounding": "floor"},
            "rounding is floor, and does nothing with no",
        ),
        (
            {"device": "crossbar", "clip": False},
            "clip is False, and does nothing with no programming",
        ),
        ({"device": "pcm", "array_columns": 8}, "array_columns is 8, and does nothing"),
        ({"map_rows": 8}, "map_rows is 8, and does nothing with no fault_map"),
        ({"fault_map": "m.csv", "row": 0.1}, "row is 0.1, and does nothing with a measured"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MemorySpec(**settings).build()


@pytest.mark.parametrize(
    ("settings", "perfect", "message"),
    [
        ({"common_range": True}, False, "common_range is that of the network as it was"),
        ({"common_range": True}, True, "allowed: without it, or with per_channel"),
        ({"device": "crossbar"}, False, "allowed: one with levels or input_bits or .* read_noise"),
        ({"device": "crossbar", "array_rows": 64}, False, "a crossbar that reads weights exactly"),
        ({"device": "crossbar", "sigma": 1e-6}, True, "a perfect crossbar that reads .* exactly"),
        ({"device": "pcm"}, True, "training through it would change nothing; allowed: .* levels$"),
    ],
)
def test_memories_that_training_would_not_follow_or_not_notice_are_refused(
    settings, perfect, message
):
    with pytest.raises(InputError, match=message):
        MemorySpec(**settings).check_trains(perfect=perfect)


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({}, None),
        ({}, {"eta": 0.5}),
        ({"device": "crossbar", "read_noise": 1e-6}, {"g_max": 1e-5}),
        ({"device": "crossbar", "output_bits": 4}, None),
        ({"device": "crossbar", "levels": 3}, {"g_max": 1e-5}),
        ({"device": "pcm"}, {"seconds": 1e5}),
        ({"device": "pcm", "levels": 3}, None),
    ],
)
def test_memories_that_are_trained_through_change_what_is_computed(settings, at):
    """What is not refused: the outputs in a block differ by more than rounding."""
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0).eval()
    inputs = digits.test.subset(4).inputs
    memory = PlacementSpec(memory=MemorySpec(**settings)).place_to_train(model, digits, at=at)
    plain = model(inputs)
    with memory:
        through = model(inputs)
    assert (through - plain).abs().max() > 1e-4 * plain.abs().max()


@pytest.mark.parametrize(
    "settings",
    [{"fault": "flip"}, {"row": 0.1}, {"device": "crossbar", "levels": 3, "sigma": 1e-6}],
)
def test_a_perfect_memory_has_no_use_for_faults_and_noise(settings):
    with pytest.raises(InputError, match="and does nothing with a perfect memory"):
        MemorySpec(**settings).check_perfect()
    MemorySpec(bits=4).check_perfect()


def test_folding_channels_and_calibration_are_done_as_told():
    digits = load_digits()
    plain, folded, channels = (
        NetworkSpec(model="cnn").place(digits, PlacementSpec(**settings)).placement
        for settings in (
            {"store": "both"},
            {"store": "both", "fold_batchnorm": True},
            {"memory": MemorySpec(per_channel=True)},
        )
    )
    norms = [
        sum("BatchNorm" in type(m).__name__ for m in p.model.modules()) for p in (plain, folded)
    ]
    assert norms[0] > norms[1] == 0
    assert channels.placed[0].device.channel_dim == 0
    first = next(p for p in plain.placed if p.role == "activation")
    assert first.limit == float(digits.train.subset(512).inputs.abs().max())


def test_unknown_words_are_refused():
    with pytest.raises(ValidationError):
        MemorySpec(device="dram")
    with pytest.raises(ValidationError):
        MemorySpec(colour="red")
    with pytest.raises(TableError, match="profile is 'dram'"):
        MemorySpec(profile="dram").build()


@pytest.mark.parametrize(
    ("store", "roles"),
    [("weights", {"weight"}), ("activations", {"activation"}), ("both", {"weight", "activation"})],
)
def test_networks_are_placed_as_told(tmp_path, store, roles):
    digits = load_digits()
    path = tmp_path / "fine.safetensors"
    save_weights(build("cnn", digits.input_shape, 10, seed=5), path, {})
    spec = NetworkSpec(model="cnn", weights=path)
    contender = spec.place(digits, PlacementSpec(store=store, fold_batchnorm=store == "both"))
    assert contender.name == "fine"
    assert contender.training is None
    assert {placed.role for placed in contender.placement.placed} == roles
    assert contender.placement.traced


def test_each_memory_takes_the_settings_that_are_its_own():
    given = {"bits": 6, "sigma": 1e-6, "levels": 16, "per_channel": True}
    sram, crossbar, pcm = memory_specs(["sram", "crossbar", "pcm"], given)
    assert (sram.bits, sram.levels, sram.knobs) == (6, None, ("eta", "v_dd"))
    assert (crossbar.sigma, crossbar.levels, crossbar.knobs) == (1e-6, 16, ("g_max",))
    assert (pcm.sigma, pcm.levels, pcm.knobs) == (0.0, 16, ("seconds",))
    assert all(spec.per_channel for spec in (sram, crossbar, pcm))
    for spec in (sram, crossbar, pcm):
        spec.build()


def test_a_setting_that_no_memory_has_is_refused():
    with pytest.raises(InputError, match="sigma is 1e-06, and does nothing with sram or pcm"):
        memory_specs(["sram", "pcm"], {"sigma": 1e-6})
    for wrong in ([], ["sram", "sram"]):
        with pytest.raises(InputError, match="allowed: each device once"):
            memory_specs(wrong, {})
    # Alone, what a memory cannot use is refused when it is built, by the name of the reason.
    (sram,) = memory_specs(["sram"], {"sigma": 1e-6})
    with pytest.raises(InputError, match="sigma is 1e-06, and does nothing with device sram"):
        sram.build()


def test_a_training_record_that_is_none_is_refused(tmp_path):
    digits = load_digits()
    path = tmp_path / "mlp.safetensors"
    save_weights(build("mlp", (1, 8, 8), 10, seed=0), path, {"training": '{"epochs": 3}'})
    with pytest.raises(WeightsError, match="mlp.safetensors has a training record"):
        NetworkSpec(model="mlp", weights=path).place(digits, PlacementSpec())
