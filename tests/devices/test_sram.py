import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from contracts import check_device
from joulewise.devices import (
    SRAM,
    Chip,
    CorrelatedMap,
    ExponentialLaw,
    Flip,
    IndependentMap,
    Mask,
    MeasuredMap,
    Stuck,
    Traffic,
    VoltageTable,
)
from joulewise.devices.voltage_table import VoltageRow
from joulewise.errors import InputError, OperatingPointError, WeightsError
from joulewise.placement import place

LAW = settings(max_examples=40, derandomize=True, deadline=None)


def measured(words, columns, seed=3):
    generator = np.random.default_rng(seed)
    thresholds = 10 ** generator.uniform(-2.5, 0, words * 8)
    thresholds[generator.random(words * 8) < 0.5] = np.inf
    return MeasuredMap.from_thresholds(thresholds.reshape(-1, columns))


TABLE = VoltageTable(
    rows=(
        VoltageRow(0.5, 1e-14, 0.2),
        VoltageRow(0.6, 1.3e-14, 1e-2),
        VoltageRow(0.8, 2e-14, 1e-6),
    ),
    source="made up",
)
KINDS = {
    "mask": Mask(),
    "flip": Flip(),
    "asymmetric flip": Flip(zero_to_one=1.6, one_to_zero=0.4),
    "stuck": Stuck(),
    "asymmetric stuck": Stuck(at_one=0.2),
}
MAPS = {
    "independent": IndependentMap(),
    "correlated": CorrelatedMap(row=0.05, column=0.1, cluster=0.1, columns=64),
    "measured": measured(words=96, columns=32),
}
EVERY = pytest.mark.parametrize(
    ("kind", "fault_map"),
    [pytest.param(k, m, id=f"{kn}-{mn}") for kn, k in KINDS.items() for mn, m in MAPS.items()],
)


def eta_of(rate):
    return -math.log(rate) / 12.8


# The contract


@EVERY
def test_contract(kind, fault_map):
    check_device(SRAM(fault=kind, fault_map=fault_map), [eta_of(0.2), eta_of(0.021)])


@pytest.mark.parametrize(
    ("memory", "knob", "settings"),
    [
        (SRAM(law=TABLE), "v_dd", (0.52, 0.58)),
        (
            SRAM(bits=4, law=TABLE, fault=Flip(), fault_map=CorrelatedMap(row=0.2, columns=64)),
            "v_dd",
            (0.52, 0.58),
        ),
        (SRAM(bits=11, fault=Stuck(), channel_dim=0), "eta", (0.12, 0.3)),
        (SRAM(bits=2, fault=Flip(), channel_dim=1), "eta", (0.12, 0.3)),
        (SRAM(bits=5, limit=1.5), "eta", (0.12, 0.3)),
        (SRAM(bits=4, fault=Flip(), channel_dim=0, group_size=8), "eta", (0.12, 0.3)),
    ],
    ids=lambda value: f"{value.bits} bits" if isinstance(value, SRAM) else "",
)
def test_contract_of_other_formats(memory, knob, settings):
    check_device(memory, [memory.point(**{knob: setting}) for setting in settings])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_contract_with_a_point_for_each_bit_plane(kind):
    low = torch.linspace(0.4, 0.2, 8, dtype=torch.float64)
    check_device(SRAM(fault=kind), [low, low + 0.05])


# Faults are nested and belong to the chip


def upsets(memory, stored, eta, chip):
    right = torch.round(memory.ideal(stored) / stored.scale).int()
    read = torch.round(memory.read(stored, eta, chip) / stored.scale).int()
    return right, read


@EVERY
@pytest.mark.parametrize("bits", [8, 4])
def test_a_chip_at_lower_energy_has_a_superset_of_the_upsets(kind, fault_map, bits):
    memory = SRAM(bits=bits, fault=kind, fault_map=fault_map)
    stored = memory.store(torch.randn(400, generator=torch.Generator().manual_seed(0)))
    for seed in range(3):
        chip = Chip(seed=seed, part="w")
        upset = torch.zeros(400, dtype=torch.bool)
        flipped = torch.zeros(400, dtype=torch.int32)
        size = None
        for eta in (1.0, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.0):
            right, read = upsets(memory, stored, eta, chip)
            assert not (upset & (read == right)).any(), "a word recovered at lower energy"
            upset = read != right
            if isinstance(kind, Mask):
                assert size is None or bool((read.abs() <= size).all())
                size = read.abs()
            else:
                assert not (flipped & ~(read ^ right)).any(), "a bit recovered at lower energy"
                flipped = read ^ right
        assert upset.any()


@LAW
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
    st.sampled_from([*KINDS.values()]),
    st.sampled_from([*MAPS.values()]),
)
def test_nested_between_any_two_points(a, b, seed, kind, fault_map):
    memory = SRAM(fault=kind, fault_map=fault_map)
    stored = memory.store(torch.linspace(-1, 1, 64))
    words = []
    for eta in (max(a, b), min(a, b)):
        right, read = upsets(memory, stored, eta, Chip(seed=seed))
        words.append(read != right)
    assert not (words[0] & ~words[1]).any()


@EVERY
def test_masks_shrink_and_every_word_is_in_range(kind, fault_map):
    memory = SRAM(fault=kind, fault_map=fault_map, limit=127.0)
    codes = torch.arange(-128.0, 128.0)
    stored = memory.store(codes)
    for seed, eta in itertools.product(range(4), (0.3, 0.1, 0.0)):
        read = memory.read(stored, eta, Chip(seed=seed))
        assert bool(((read >= -128) & (read <= 127) & (read == read.round())).all())
        if isinstance(kind, Mask):
            assert bool((read.abs() <= codes.abs()).all())
            assert bool((read * codes >= 0).all())


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_at_eta_zero_everything_fails(bits):
    half = 2.0 ** (bits - 1)
    codes = torch.arange(-half, half)

    def read(kind):
        memory = SRAM(bits=bits, fault=kind, limit=half - 1)
        return memory.read(memory.store(codes), 0.0, Chip(seed=0))

    assert not read(Mask()).any()
    assert torch.equal(read(Flip()), -codes - 1)
    assert bool((read(Flip(one_to_zero=0.0)) == -1).all())
    assert bool((read(Stuck(at_one=1.0)) == -1).all())
    assert not read(Stuck(at_one=0.0)).any()


def test_reading_changes_nothing():
    memory = SRAM(fault=Flip())
    stored = memory.store(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    before = memory.ideal(stored).clone()
    memory.read(stored, 0.1, Chip(seed=0))
    assert torch.equal(memory.ideal(stored), before)


# Moments


ALL_CODES = torch.arange(-128.0, 128.0)
REPEATS, CHIPS = 8, 600


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "fault_map",
    [IndependentMap(), CorrelatedMap(row=0.1, column=0.1, cluster=0.1), measured(2048, 256)],
    ids=MAPS,
)
def test_every_code_has_its_predicted_moments(kind, fault_map):
    """t statistics over chips of each code's mean and variance, averaged over its repeats."""
    memory = SRAM(fault=kind, fault_map=fault_map, limit=127.0)
    rate = 0.05
    stored = memory.store(ALL_CODES.repeat(REPEATS).double())
    reads = torch.stack(
        [memory.read(stored, eta_of(rate), Chip(seed=seed)) for seed in range(CHIPS)]
    ).view(CHIPS, REPEATS, 256)
    mean, var = memory.code_moments(eta_of(rate))
    away = reads - mean
    for samples, expected in ((away, torch.zeros(256)), (away**2, var)):
        per_chip = samples.mean(1)
        error = per_chip.std(0) / math.sqrt(CHIPS)
        z = (per_chip.mean(0) - expected) / error.clamp(min=1e-12)
        assert float(z.abs().max()) < 5
        if isinstance(fault_map, IndependentMap):
            # Codes are independent there: all of them at once.
            assert stats.chi2(256).sf(float((z**2).sum())) > 1e-6


def test_moments_are_code_moments_times_the_scale():
    memory = SRAM(bits=6, channel_dim=0, fault=Flip())
    tensor = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stored = memory.store(tensor * torch.tensor([[1e-3], [1.0], [1e3]]))
    moments = memory.moments(stored, 0.3)
    mean, var = memory.code_moments(0.3)
    index = torch.round(memory.ideal(stored) / stored.scale).long() + 32
    assert torch.allclose(moments.mean, mean[index] * stored.scale, rtol=1e-12)
    assert torch.allclose(moments.var, var[index] * stored.scale**2, rtol=1e-12)


def test_a_measured_map_has_moments_without_chance_where_no_cell_fails():
    memory = SRAM(fault_map=MeasuredMap.from_thresholds([[0.5] * 8, [math.inf] * 8]))
    _, var = memory.code_moments(0.1)
    assert not var.any()


@pytest.mark.parametrize(
    ("law", "fault_map"),
    [
        (ExponentialLaw(), IndependentMap()),
        (TABLE, IndependentMap()),
        (ExponentialLaw(), CorrelatedMap(row=0.2, cluster=0.1, columns=30, cluster_columns=15)),
    ],
    ids=["exponential", "table", "correlated"],
)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_code_moments_are_differentiable(kind, law, fault_map):
    memory = SRAM(bits=3, law=law, fault=kind, fault_map=fault_map)
    for point in (0.6, [0.55, 0.6, 0.8]):
        at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(memory.code_moments, (at,))


@pytest.mark.parametrize("law", [ExponentialLaw(), TABLE], ids=["exponential", "table"])
def test_energy_is_differentiable(law):
    memory = SRAM(bits=3, law=law)
    traffic = Traffic(words=5, reads=1e13, writes=1e13)  # to be of the size of gradcheck's steps
    for point in (0.7, [0.6, 0.7, 0.8]):
        at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda eta: memory.energy(traffic, eta), (at,))


# Energy


def test_energy_by_hand():
    traffic = Traffic(words=1000, reads=2000.0, writes=500.0)
    joules = 2500 * 8 * 0.5 * 20e-12 / 64
    assert float(SRAM().energy(traffic, 0.5)) == pytest.approx(joules, rel=1e-12)
    point = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    joules = 2500 * (0.1 + 0.2 + 0.3 + 0.4) * 20e-12 / 64
    assert float(SRAM(bits=4).energy(traffic, point)) == pytest.approx(joules, rel=1e-12)
    table = SRAM(law=TABLE)
    joules = 2500 * 8 * (1.3e-14 + 2e-14) / 2  # half way from 0.6 V to 0.8 V
    assert float(table.energy(traffic, table.point(v_dd=0.7))) == pytest.approx(joules, rel=1e-12)


@LAW
@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([SRAM(), SRAM(law=TABLE)]))
def test_energy_is_monotone(a, b, memory):
    low = memory.law.eta_range[0]
    traffic = Traffic(words=10, reads=10.0, writes=0.0)
    less, more = (float(memory.energy(traffic, low + (1 - low) * x)) for x in sorted((a, b)))
    assert less <= more


# A point for each bit plane


def test_only_planes_at_low_energy_fail():
    memory = SRAM(bits=8, fault=Flip(), limit=127.0)
    point = torch.full((8,), 1.0, dtype=torch.float64)
    point[2] = point[5] = eta_of(0.3)
    stored = memory.store(ALL_CODES.repeat(4))
    seen = 0
    for seed in range(3):
        right, read = upsets(memory, stored, point, Chip(seed=seed))
        seen |= int(np.bitwise_or.reduce((right ^ read).numpy()))
    assert seen == (1 << 2) | (1 << 5)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_equal_planes_are_one_point(kind):
    memory = SRAM(fault=kind)
    stored = memory.store(torch.randn(500, generator=torch.Generator().manual_seed(0)))
    point = torch.full((8,), 0.2, dtype=torch.float64)
    chip = Chip(seed=5)
    assert torch.equal(memory.read(stored, point, chip), memory.read(stored, 0.2, chip))


# A point for each output channel


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_channel_that_is_lowered_keeps_its_faults_and_leaves_others_alone(kind):
    """Words that fail at a high point fail at lower ones; other channels are not affected."""
    memory = SRAM(fault=kind)
    stored = memory.store(torch.randn(6, 400, generator=torch.Generator().manual_seed(0)))
    right = memory.ideal(stored)
    for seed in range(3):
        chip = Chip(seed=seed)
        before = torch.zeros(6, 400, dtype=torch.bool)
        point = torch.tensor([[0.6], [0.5], [0.4], [0.3], [0.2], [0.0]], dtype=torch.float64)
        first = memory.read(stored, point, chip)
        for eta in (0.7, 0.5, 0.3, 0.15):
            point[1] = eta
            read = memory.read(stored, point, chip)
            wrong = hit_cells(memory, stored, point, chip)
            assert torch.equal(read[[0, 2, 3, 4, 5]], first[[0, 2, 3, 4, 5]])
            assert not bool((before & ~wrong)[1].any())
            before = wrong
        assert bool(before[1].any()) and bool((first != right)[5].any())


def hit_cells(memory, stored, point, chip):
    """Mask of the words with a cell that fails while it holds 0 or 1."""
    hit = torch.zeros(stored.values.numel(), dtype=torch.bool)
    rates = memory.fault.rates(memory.bit_error_rate(point).expand(-1, memory.bits)).numpy()
    for cells in memory.fault_map.failing(hit.numel(), rates, chip):
        hit[cells // memory.bits] = True
    return hit.reshape(stored.values.shape)


def test_points_for_planes_of_channels_are_those_of_each_channel():
    memory = SRAM(bits=6, fault=Flip(), channel_dim=0)
    stored = memory.store(torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0)))
    point = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert memory.point(eta=point) is point
    moments, read = memory.moments(stored, point), memory.read(stored, point, Chip(seed=4))
    for channel, planes in enumerate(point):
        alone = memory.moments(stored, planes)
        assert torch.equal(moments.mean[channel], alone.mean[channel])
        assert torch.equal(moments.var[channel], alone.var[channel])
        assert torch.equal(read[channel], memory.read(stored, planes, Chip(seed=4))[channel])


def test_channels_may_have_volts():
    table = SRAM(law=TABLE)
    volts = torch.tensor([[0.5], [0.6], [0.8]], dtype=torch.float64)
    expected = [[float(table.point(v_dd=float(v)))] for v in volts]
    assert table.point(v_dd=volts).tolist() == expected


def test_activations_have_no_channels():
    point = torch.full((4, 1), 0.4, dtype=torch.float64)
    with pytest.raises(OperatingPointError, match="eta is for 4 channels; allowed: .* each of 3"):
        SRAM().round_trip(torch.ones(4, 3), point, Chip(seed=0), None)
    with pytest.raises(OperatingPointError, match="eta is of shape"):
        SRAM().point(eta=torch.full((4, 2), 0.4))


# Layouts, shapes and dtypes: cells belong to logical words


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "reversed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "first two swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "slice": lambda x: torch.cat([x, x], 2)[:, :, : x.shape[2]],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("channel_dim", "group"), [(None, None), (0, None), (1, None), (1, 7)])
@pytest.mark.parametrize("kind", [Mask(), Stuck()], ids=["mask", "stuck"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 1, 5, 6), (1, 3, 1, 6)])
def test_the_layout_in_memory_does_not_matter(layout, channel_dim, group, kind, shape):
    memory = SRAM(fault=kind, channel_dim=channel_dim, group_size=group)
    tensor = images(*shape)
    other = layout(tensor)
    assert torch.equal(tensor, other)
    chip = Chip(seed=2)
    expected = memory.read(memory.store(tensor), 0.15, chip)
    assert torch.equal(memory.read(memory.store(other), 0.15, chip), expected)
    trip = memory.round_trip(tensor, 0.15, chip, 2.0)
    assert torch.equal(memory.round_trip(other, 0.15, chip, 2.0), trip)


def test_an_expanded_tensor_is_stored_word_by_word():
    memory = SRAM(fault=Flip())
    tensor = images(1, 7).expand(5, 7)
    read = memory.read(memory.store(tensor), 0.15, Chip(seed=0))
    copied = memory.read(memory.store(tensor.contiguous()), 0.15, Chip(seed=0))
    assert torch.equal(read, copied)


def test_a_scalar_and_a_vector():
    memory = SRAM(fault=Flip())
    for tensor in (torch.tensor(0.7), images(3)):
        assert memory.read(memory.store(tensor), 0.0, Chip(seed=0)).shape == tensor.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 12])
def test_dtypes_are_kept_and_codes_do_not_depend_on_them(dtype, bits):
    memory = SRAM(bits=bits, fault=Flip())
    tensor = images(40, 50).to(dtype)
    chip = Chip(seed=0)
    stored = memory.store(tensor, limit=3.0)
    read = memory.read(stored, 0.2, chip)
    assert read.dtype == memory.ideal(stored).dtype == dtype
    wide = memory.store(tensor.to(torch.float64), limit=float(stored.scale) * (2 ** (bits - 1) - 1))
    expected = memory.read(wide, 0.2, chip)
    assert torch.allclose(read.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
    trip = memory.round_trip(tensor, 0.2, chip, 3.0)
    assert trip.dtype == dtype


def test_parameters_are_read_without_their_graph():
    parameter = torch.nn.Parameter(images(4, 5))
    memory = SRAM(fault=Flip())
    assert not memory.read(memory.store(parameter), 0.2, Chip(seed=0)).requires_grad
    assert not memory.round_trip(parameter, 0.2, Chip(seed=0), None).requires_grad


# Activations


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_sample_is_stored_in_the_same_cells(kind, fault_map, dtype):
    memory = SRAM(fault=kind, fault_map=fault_map)
    batch = images(6, 3, 8).to(dtype)
    chip = Chip(seed=1, part="act")
    trip = memory.round_trip(batch, 0.2, chip, 2.5)
    assert trip.dtype == dtype
    for sample, got in zip(batch, trip, strict=True):
        assert torch.equal(memory.read(memory.store(sample, limit=2.5), 0.2, chip), got)
    same = memory.round_trip(batch[:1].expand(4, 3, 8), 0.2, chip, 2.5)
    assert all(torch.equal(sample, same[0]) for sample in same)


@pytest.mark.parametrize("channel_dim", [None, 0, 1])
@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 4), (1, 3, 4, 4)])
def test_without_a_limit_the_batch_has_one_scale(channel_dim, shape):
    memory = SRAM(fault=Flip(), channel_dim=channel_dim)
    batch = images(*shape)
    largest = float(batch.abs().max())
    chip = Chip(seed=1)
    expected = memory.round_trip(batch, 0.2, chip, largest)
    assert torch.allclose(memory.round_trip(batch, 0.2, chip, None), expected, rtol=1e-6)


@pytest.mark.parametrize("limit", [2.0, None])
def test_without_a_chip_activations_are_only_rounded(limit):
    memory = SRAM()
    batch = images(6, 30)
    trip = memory.round_trip(batch, 0.0, None, limit)
    assert torch.equal(trip, memory.ideal(memory.store(batch, limit=limit)))
    clipped = batch.clamp(-2, 2) if limit else batch
    step = (limit or float(batch.abs().max())) / 127
    assert float((trip - clipped).abs().max()) <= 1.01 * step


def test_activations_are_not_changed_in_place():
    batch = images(4, 5)
    before = batch.clone()
    SRAM(fault=Flip()).round_trip(batch, 0.1, Chip(seed=0), 2.0)
    assert torch.equal(batch, before)


# Points and refusals


def test_scales_of_groups_are_counted():
    memory = SRAM(bits=4, channel_dim=1, group_size=32)
    assert memory.scale_bits((70, 8)) == 16 * 8 * 3
    assert SRAM(channel_dim=1).scale_bits((70, 8)) == 0
    layer = torch.nn.Linear(70, 8, bias=False)
    placed = [
        place(layer, weights=SRAM(bits=4, channel_dim=0, group_size=size)).reliable_bits
        for size in (32, None)
    ]
    assert placed == [16 * 8 * 3, 0]


def test_points():
    memory = SRAM()
    assert memory.knob.name == "eta"
    assert memory.point(eta=0.5) == 0.5
    assert memory.knob.most_reliable == 1.0
    table = SRAM(law=TABLE)
    assert table.point(v_dd=0.6) == pytest.approx(0.65, rel=1e-12)
    planes = table.point(v_dd=torch.linspace(0.5, 0.8, 8, dtype=torch.float64))
    assert planes.shape == (8,)
    assert float(planes[-1]) == 1.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eta": 1.5}, "^eta is 1.5; allowed: 0 to 1$"),
        ({"eta": -0.1}, "^eta is -0.1; allowed: 0 to 1$"),
        ({"eta": math.nan}, "^eta is nan; allowed: 0 to 1$"),
        ({"eta": torch.tensor([0.5] * 7 + [1.5])}, "^eta is 1.5; allowed: 0 to 1$"),
        (
            {"eta": torch.tensor([0.5] * 7)},
            r"^eta is of shape \(7,\); allowed: one number, or 8, one for each bit plane; or",
        ),
        ({}, "^SRAM was given no setting; allowed: one of eta, v_dd, bit_error_rate$"),
        (
            {"eta": 0.5, "v_dd": 0.6},
            "^SRAM was given eta, v_dd; allowed: one of eta, v_dd, bit_error_rate$",
        ),
        ({"g_max": 0.5}, "^SRAM was given g_max; allowed: one of eta, v_dd, bit_error_rate$"),
    ],
)
def test_points_that_are_refused(setting, message):
    with pytest.raises(OperatingPointError, match=message) as refusal:
        SRAM().point(**setting)
    assert "\n" not in str(refusal.value)


def test_a_table_refuses_energies_below_its_rows():
    with pytest.raises(OperatingPointError, match="^eta is 0.4; allowed: 0.5 to 1$"):
        SRAM(law=TABLE).point(eta=0.4)


@pytest.mark.parametrize("bits", [1, 17])
def test_a_width_out_of_range_is_refused(bits):
    with pytest.raises(InputError, match=f"^bits is {bits}; allowed: a whole number, 2 to 16$"):
        SRAM(bits=bits)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_out_of_range_is_refused(limit):
    with pytest.raises(InputError, match="^limit is .*; allowed: above 0 to "):
        SRAM(limit=limit)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.tensor([1.0, math.nan]),
            "^fc1.weight is NaN or infinite in 1 of 2; allowed: finite",
        ),
        (
            torch.tensor([math.inf, 1.0]),
            "^fc1.weight is NaN or infinite in 1 of 2; allowed: finite",
        ),
        (torch.zeros(0), "^fc1.weight is empty; allowed: at least one entry$"),
        (
            torch.ones(2, dtype=torch.int64),
            "^the dtype of fc1.weight is torch.int64; allowed: a fl",
        ),
    ],
    ids=["NaN", "infinite", "empty", "integer"],
)
def test_tensors_that_are_refused_are_named(tensor, message):
    with pytest.raises(WeightsError, match=message):
        SRAM().store(tensor, name="fc1.weight")


def test_description():
    assert SRAM(bits=6, channel_dim=0, limit=2.0, fault=Stuck(at_one=0.2)).describe() == {
        "device": "sram",
        "bits": 6,
        "channel_dim": 0,
        "limit": 2.0,
        "fault": "stuck",
        "at_one": 0.2,
        "fault_map": "independent",
        "law": "exponential",
        "a": 12.8,
        "nominal_energy_per_bit_j": 20e-12 / 64,
    }


def test_words_are_independent_unless_the_fault_map_ties_them():
    assert SRAM(bits=8).independent_words
    assert not SRAM(bits=8, fault_map=CorrelatedMap(row=0.3)).independent_words


# Knobs


KNOBS = [("eta", TABLE), ("v_dd", TABLE), ("bit_error_rate", TABLE)]
KNOBS += [("bit_error_rate", ExponentialLaw())]


@pytest.mark.parametrize(("knob", "law"), KNOBS[1:], ids=lambda value: str(value)[:14])
def test_contract_on_other_knobs(knob, law):
    memory = SRAM(bits=4, law=law, knob=knob)
    levels = torch.tensor([0.05, 0.15, 0.25], dtype=torch.float64)
    check_device(memory, sorted(memory.knob.points(levels).tolist()))


@pytest.mark.parametrize(("knob", "law"), KNOBS, ids=lambda value: str(value)[:14])
def test_the_same_point_in_any_quantity_reads_the_same(knob, law):
    reference, memory = SRAM(law=law), SRAM(law=law, knob=knob)
    assert memory.knob.name == knob
    stored = memory.store(images(40, 50))
    for eta in torch.linspace(*law.eta_range, 7, dtype=torch.float64).tolist():
        rate = float(reference.bit_error_rate(eta))
        settings = {"eta": eta, "bit_error_rate": rate}
        if law is TABLE:
            settings["v_dd"] = float(law.v_dd(torch.tensor(eta, dtype=torch.float64)))
        low, high = sorted(memory.knob.range[1:])
        for name, value in settings.items():
            low_given, high_given = sorted(law.ends(name))
            point = memory.point(**{name: min(max(value, low_given), high_given)})
            assert low <= point <= high
            assert float(memory.bit_error_rate(point)) == pytest.approx(rate, rel=1e-9)
            assert memory.point(**{knob: point}) == point  # a plan read again is the same plan
            joules = float(memory.energy(Traffic(words=1, reads=1e15, writes=0), point))
            expected = float(reference.energy(Traffic(words=1, reads=1e15, writes=0), eta))
            assert joules == pytest.approx(expected, rel=1e-9, abs=1e-12)
            faulty = memory.read(stored, point, Chip(seed=1))
            if 1e-6 < eta < 1:  # at an end rounding may move a threshold
                assert torch.equal(faulty, reference.read(stored, eta, Chip(seed=1)))


def test_a_memory_with_other_fields_keeps_its_knob():
    memory = replace(SRAM(law=TABLE, knob="v_dd"), bits=4)
    assert memory.knob.name == "v_dd"
    assert memory.knob.bit_planes == 4
    assert memory != SRAM(bits=4, law=TABLE)
    assert memory == SRAM(bits=4, law=TABLE, knob="v_dd")
    assert copy.deepcopy(memory).point(eta=1.0) == 0.8


def test_an_unknown_knob_is_refused():
    with pytest.raises(InputError, match="^knob is 'volts'; allowed: one of eta, v_dd, bit_error"):
        SRAM(knob="volts")
