import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from contracts import check_device, traffic
from joulewise.devices import (
    ISAAC,
    RERAM,
    Array,
    Chip,
    ConductanceTable,
    Crossbar,
    MatrixInputs,
    Traffic,
    solved_conductances,
)
from joulewise.devices import (
    check_device as self_check,
)
from joulewise.devices.bit_slices import digits_of
from joulewise.errors import InputError, OperatingPointError, WeightsError

G = 25e-6
TABLE = ConductanceTable(
    targets=(0.0, 7e-6, 1e-4), means=(1e-8, 7e-6, 9.99e-5), stds=(5e-8, 2e-7, 4e-7), source=""
)
KINDS = {
    "additive": Crossbar(sigma=1e-6),
    "additive, unclipped": Crossbar(sigma=1e-6, clip=False),
    "variability": Crossbar(variability=0.005),
    "variability, unclipped": Crossbar(variability=0.005, clip=False),
    "all": Crossbar(sigma=5e-7, variability=0.004, read_noise=5e-7, levels=64),
    "all, unclipped": Crossbar(sigma=5e-7, variability=0.004, read_noise=5e-7, clip=False),
    "on/off": Crossbar(sigma=5e-7, on_off=10.0),
    "offset": Crossbar(sigma=4e-7, on_off=20.0, mapping="offset", read_noise=2e-7),
    "lowest": Crossbar(sigma=5e-7, g_min=2e-6),
    "lowest, offset": Crossbar(sigma=4e-7, g_min=1e-6, mapping="offset"),
    "slices": Crossbar(sigma=4e-7, levels=3, slices=3),
    "ReRAM": Crossbar(programming=TABLE, on_off=50.0),
    "by column, down": Crossbar(sigma=5e-7, levels=128, rounding="floor", channel_dim=0),
}


@pytest.mark.parametrize("device", [pytest.param(d, id=name) for name, d in KINDS.items()])
def test_contract(device):
    check_device(device, [1e-5, 5e-5])


def reads(device, weights, chips=1, g_max=G):
    stored = device.store(weights)
    return torch.stack([device.read(stored, g_max, Chip(seed=seed)) for seed in range(chips)])


# Each term against its law. Kolmogorov-Smirnov at 1e-4 on fixed seeds, 200,000 numbers each.


def noise_of(device, value, count=200_000, g_max=G):
    """Noise in siemens on equal weights, of which the first one sets the range."""
    weights = torch.full((count,), value, dtype=torch.float64)
    weights[0] = 1.0
    read = reads(device, weights, g_max=g_max)[0]
    return ((read - weights)[1:] * g_max).numpy()


def p_value(samples, law):
    return stats.kstest(samples, law).pvalue


@pytest.mark.parametrize("mapping", ["pair", "offset"])
def test_a_lowest_conductance_is_a_ratio_at_one_g_max(mapping):
    """And elsewhere the range is ``g_max - g_min``: the noise over it is ``sigma`` over that."""
    others = {"sigma": 1e-7, "clip": False, "stuck_on": 0.01, "mapping": mapping}
    fixed, ratio = Crossbar(g_min=2e-6, **others), Crossbar(on_off=10.0, **others)
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stored = fixed.store(weights)
    for g_max, equal in ((20e-6, True), (40e-6, False)):
        found = []
        for device in (fixed, ratio):
            moments = device.moments(stored, g_max)
            read = device.read(stored, g_max, Chip(seed=1))
            found.append((read, moments.var, device.energy(traffic(1), g_max)))
        for one, other in zip(*found, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=0) == equal
    plain = Crossbar(sigma=1e-7, clip=False, g_min=2e-6, mapping=mapping)
    std = plain.moments(stored, torch.tensor(40e-6)).var.sqrt() / stored.limit
    width = (40e-6 - 2e-6) * (1 if mapping == "pair" else 0.5)
    expected = 1e-7 / width * (2**0.5 if mapping == "pair" else 1)
    torch.testing.assert_close(std, torch.full_like(std, expected))


def test_the_lowest_target_of_a_table_is_the_lowest_conductance():
    device = Crossbar(programming=RERAM["milo2021"])
    assert device.lowest == 50e-6
    assert (device.knob.least_reliable, device.knob.most_reliable) == (100e-6, 225e-6)
    assert device == Crossbar(programming=RERAM["milo2021"], g_range=(1e-7, 1e-3))
    assert Crossbar(programming=TABLE).lowest == 0
    assert Crossbar(programming=RERAM["milo2021"], on_off=4.0).knob.least_reliable == 200e-6


def test_additive_noise_is_gaussian_on_both_devices():
    noise = noise_of(Crossbar(sigma=1e-6, clip=False), 0.5)
    assert p_value(noise, stats.norm(0, math.sqrt(2) * 1e-6).cdf) > 1e-4


def test_variability_is_proportional():
    noise = noise_of(Crossbar(variability=0.1, clip=False), 0.5)
    assert p_value(noise, stats.norm(0, 0.1 * 0.5 * G).cdf) > 1e-4
    assert not noise_of(Crossbar(variability=0.1), 0.0).any()


def test_read_noise_is_gaussian_on_both_devices():
    noise = noise_of(Crossbar(read_noise=2e-6), 0.5)
    assert p_value(noise, stats.norm(0, math.sqrt(2) * 2e-6).cdf) > 1e-4


def test_a_clipped_idle_pair_is_a_difference_of_half_normals():
    noise = noise_of(Crossbar(sigma=1e-6), 0.0)
    assert np.mean(noise == 0) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 200_000))
    ranked = np.random.default_rng(1).normal(0, 1e-6, (2, 400_000)).clip(0)
    assert stats.ks_2samp(noise[noise != 0], (ranked[0] - ranked[1])[ranked.any(0)]).pvalue > 1e-4


def test_the_clamp_settled():
    """Variance and shift of a pair far from 0: 1.3408 and -0.3989 clipped, 2 and 0 unclipped."""
    sigma, count = 1e-7, 200_000
    for clip, variance, shift in ((True, 1.5 - 1 / (2 * math.pi), -0.3989423), (False, 2.0, 0.0)):
        device = Crossbar(sigma=sigma, clip=clip)
        noise = noise_of(device, 0.5, count) / sigma
        assert noise.mean() == pytest.approx(shift, abs=5 * math.sqrt(variance / count))
        kurtosis = stats.kurtosis(noise) + 2
        assert noise.var() == pytest.approx(variance, rel=5 * math.sqrt(kurtosis / count))
        stored = device.store(torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64))
        moments = device.moments(stored, G)
        assert (moments.var * (G / sigma) ** 2).tolist() == pytest.approx([variance] * 3, rel=1e-6)
        moved = (moments.mean - stored.weights) * G / sigma
        assert moved.tolist() == pytest.approx([shift, shift, -shift], rel=1e-6, abs=1e-9)


def test_unclipped_formula_is_wrong_for_clipped_devices():
    """Public closed forms assume 2 sigma^2 for every pair, 1.5 to 2.9 times too much."""
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    device = Crossbar(sigma=1e-6)
    var = device.moments(device.store(weights), G).var
    published = 2 * (1e-6 / G * float(weights.abs().max())) ** 2
    found = reads(device, weights, chips=400).var(0).mean()
    assert float(var.mean()) == pytest.approx(float(found), rel=0.01)  # 1.6 million numbers
    assert published / float(found) > 1.4


def test_variability_does_not_depend_on_g_max():
    device = Crossbar(variability=0.05)
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        reads(device, weights, g_max=1e-6), reads(device, weights, g_max=1e-4)
    )


def test_a_point_for_each_column():
    device = Crossbar(sigma=1e-6)
    stored = device.store(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)))
    points = torch.tensor([1e-5, 2e-5, 4e-5], dtype=torch.float64)
    together = device.moments(stored, device.point(g_max=points))
    read = device.read(stored, points, Chip(seed=0))
    for column, point in enumerate(points):
        alone = device.moments(stored, point)
        torch.testing.assert_close(together.var[column], alone.var[column])
        torch.testing.assert_close(read[column], device.read(stored, point, Chip(seed=0))[column])
    with pytest.raises(WeightsError, match="g_max is 2 numbers; allowed: one, or 3"):
        device.read(stored, points[:2], Chip(seed=0))


def test_programming_noise_stays_and_read_noise_does_not():
    static, fresh = Crossbar(sigma=1e-6), Crossbar(read_noise=1e-6)
    assert fresh.fresh
    assert not static.fresh
    for device, same in ((static, True), (fresh, False)):
        stored = device.store(torch.randn(20, generator=torch.Generator().manual_seed(0)))
        chip = Chip(seed=1)
        first, second = (device.read(stored, G, c) for c in (chip, chip.next_use()))
        assert torch.equal(first, second) is same
        assert torch.equal(second, device.read(stored, G, chip.next_use()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": -1e-6}, "sigma is -1e-06"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"variability": 1.5}, "variability is 1.5"),
        ({"read_noise": -1.0}, "read_noise is -1"),
        ({"g_range": (1e-3, 1e-6)}, "g_range is"),
        ({"g_range": (0.0, 1e-6)}, "g_range is 0"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        Crossbar(**options)


def test_points_of_another_device_are_refused():
    with pytest.raises(OperatingPointError, match="given eta; allowed: g_max"):
        Crossbar().point(eta=0.5)
    with pytest.raises(OperatingPointError, match="g_max is 1; allowed"):
        Crossbar().point(g_max=1.0)
    with pytest.raises(OperatingPointError, match="one for each output channel"):
        Crossbar().point(g_max=torch.ones(2, 2))


# Finite on/off ratio, mappings, slices, stuck devices, wires


def test_a_finite_ratio_leaves_the_mean_and_unclips_the_idle_device():
    weights = torch.tensor([1.0, -0.5, 0.25, 0.0], dtype=torch.float64)
    device = Crossbar(sigma=1e-7, on_off=10.0)
    found = device.moments(device.store(weights), G)
    assert found.mean.tolist() == pytest.approx(weights.tolist(), abs=1e-9)
    # Both devices are 25 deviations above 0: neither is clipped, and 0.9 g_max spans the weights.
    assert found.var.tolist() == pytest.approx([2 * (1e-7 / (0.9 * G)) ** 2] * 4, rel=1e-6)


def test_an_offset_has_one_device_and_twice_the_range():
    """4 s^2 in place of 2 s^2, s the deviation over g_max."""
    weights = torch.linspace(-0.9, 1.0, 20, dtype=torch.float64)
    device = Crossbar(sigma=1e-7, mapping="offset", clip=False)
    found = device.moments(device.store(weights), G)
    assert found.mean.tolist() == pytest.approx(weights.tolist(), abs=1e-12)
    assert found.var.tolist() == pytest.approx([4 * (1e-7 / G) ** 2] * 20, rel=1e-12)
    assert torch.equal(
        Crossbar(mapping="offset").read(device.store(weights), G, Chip(seed=0)) > 0, weights > 0
    )


def test_slices_are_digits():
    """Weights of 3 digits of 4 levels: 63 levels, each restored from digits without noise."""
    device = Crossbar(levels=3, slices=3)
    weights = torch.linspace(-1, 1, 127, dtype=torch.float64)
    stored = device.store(weights)
    assert torch.allclose(stored.weights, (weights * 63).round() / 63)
    assert torch.allclose(device.read(stored, G, Chip(seed=0)), stored.weights)
    digits = digits_of(stored, device.levels, device.slices)
    assert [factor for _, factor in digits] == pytest.approx([3 * 16 / 63, 3 * 4 / 63, 3 / 63])
    assert all((d.weights.abs() * 3 % 1).min() < 1e-9 for d, _ in digits)
    assert torch.allclose(sum(factor * d.weights for d, factor in digits), stored.weights)


def test_slices_take_as_many_arrays():

    one = Crossbar(sigma=1e-7, levels=63)
    three = Crossbar(sigma=1e-7, levels=3, slices=3)
    converters = [float(d.energy(traffic(1), 1e-12 + d.g_range[0])) for d in (one, three)]
    assert converters[1] / converters[0] == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize(
    "device",
    [
        Crossbar(sigma=5e-7, stuck_off=0.05, stuck_on=0.02),
        Crossbar(variability=0.1, stuck_on=0.1, on_off=5.0),
        Crossbar(sigma=5e-7, stuck_off=0.1, mapping="offset", on_off=10.0),
        Crossbar(sigma=2e-7, stuck_off=0.02, stuck_on=0.01, levels=3, slices=2),
        Crossbar(programming=RERAM["wan2022-1day"], on_off=20.0),
        Crossbar(sigma=1e-6, wire_ohm=2.0, g_range=(1e-6, 1e-4)),
        Crossbar(variability=0.1, read_noise=1e-6, wire_ohm=10.0, g_range=(1e-6, 1e-4)),
        Crossbar(sigma=1e-6, wire_ohm=5.0, array=Array(rows=16, columns=8), g_range=(1e-6, 1e-4)),
        Crossbar(programming=RERAM["milo2021"], on_off=4.0),
    ],
    ids=["stuck", "on/off", "offset", "slices", "Wan", "wires", "noises", "arrays", "Milo"],
)
def test_moments_of_cells_are_those_of_chips(device):
    found = self_check(device, seed=8, chips=200)
    assert found.largest < 5


def test_stuck_devices_are_the_same_in_every_use_and_at_every_point():
    device = Crossbar(stuck_on=0.1)
    stored = device.store(torch.zeros(2000) + torch.eye(2000)[0])
    one, other = (device.read(stored, g, Chip(seed=5)) for g in (1e-5, 1e-4))
    assert torch.equal(one, other)
    assert torch.equal(one, device.read(stored, 1e-5, Chip(seed=5).next_use()))
    wrong = float((one[1:] != 0).double().mean())
    assert abs(wrong - 2 * 0.1 * 0.9) < 5 * math.sqrt(0.18 * 0.82 / 2000)


def test_wires_lower_the_read_as_the_nodal_equations_say():
    """Arrays of 32 by 16 devices of either sign; weights of 24 columns and 40 rows."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(24, 40, generator=generator, dtype=torch.float64)
    device = Crossbar(wire_ohm=5.0, array=Array(rows=32, columns=16), g_range=(1e-6, 2e-4))
    stored = device.store(weights)
    read = device.read(stored, 1e-4, Chip(seed=0))
    limit = float(weights.abs().max())
    exact = torch.zeros_like(weights)
    for rows in (slice(0, 32), slice(32, 40)):
        for columns in (slice(0, 16), slice(16, 24)):
            part = weights[columns, rows].T.numpy() / limit * 1e-4
            sides = [solved_conductances(np.maximum(side, 1e-15), 5.0) for side in (part, -part)]
            exact[columns, rows] = torch.from_numpy((sides[0] - sides[1]).T) / 1e-4 * limit
    dropped = float((exact - weights).norm())
    assert float((read - exact).norm()) < 0.1 * dropped
    assert dropped > 0.02 * float(weights.norm())
    moments = device.moments(stored, 1e-4)
    assert torch.allclose(moments.mean, read) and not moments.var.any()


def test_noise_through_wires():
    device = Crossbar(sigma=1e-6, wire_ohm=2.0, array=Array(rows=32), g_range=(1e-6, 1e-4))
    stored = device.store(torch.randn(16, 32, generator=torch.Generator().manual_seed(2)))
    reads = torch.stack([device.read(stored, 5e-5, Chip(seed=s)) for s in range(600)]).double()
    moments = device.moments(stored, 5e-5)
    error = reads.std(0) / 600**0.5
    assert float(((reads.mean(0) - moments.mean) / error).square().mean()) < 1.3
    assert float(reads.var(0).mean()) == pytest.approx(float(moments.var.mean()), rel=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_off": 1.0}, "^on_off is 1; allowed: above 1"),
        ({"on_off": math.nan}, "^on_off is nan"),
        ({"stuck_on": 0.6, "stuck_off": 0.6}, r"^stuck_off \+ stuck_on is 1.2; allowed: 0 to 1"),
        ({"mapping": "single"}, "^mapping is 'single'; allowed: 'pair' or 'offset'"),
        ({"slices": 2}, "^levels is None; allowed: the steps of a slice"),
        ({"slices": 0}, "^slices is 0; allowed: a whole number, 1 to 8"),
        ({"wire_ohm": 1.0}, r"^g_range is \(1e-07, 0.001\), the default; allowed: beside wire_ohm"),
        ({"wire_ohm": 1.0, "g_range": [1e-7, 1e-3]}, r"^g_range is \(1e-07, 0.001\), the default"),
        (
            {"wire_ohm": 1.0, "mapping": "offset", "g_range": (1e-6, 1e-4)},
            "^mapping is 'offset' beside wire_ohm; allowed: 'pair'",
        ),
        ({"slices": 8, "levels": 64}, "^levels is 64; allowed: fewer, for at most 16777216 steps"),
        ({"g_min": 1e-6, "on_off": 9.0}, "^g_min is 1e-06 beside on_off; allowed: one of the two"),
        (
            {"g_min": 1e-6, "programming": RERAM["milo2021"]},
            "^g_min is 1e-06; allowed: 5e-05 to below 0.000225 S, the targets of programming",
        ),
        ({"g_min": 0.5}, "^g_min is 0.5 S; allowed: below 0.5 S, half of the highest g_max"),
        (
            {"g_min": 3e-5, "programming": RERAM["wan2022-1s"]},
            "^g_min is 3e-05 S; allowed: below 2e-05 S, half of the highest g_max; or on_off",
        ),
        (
            {"g_min": 1e-3},
            "^g_range is .1e-07, 0.001.; allowed: a range of g_max within 0.002 to 1",
        ),
        (
            {"programming": replace(TABLE, targets=(1e-3, 4e-3, 1e-2))},
            "^g_range is .1e-07, 0.001.; allowed: a range of g_max within 0.002 to 0.01 S",
        ),
        ({"g_min": 2e-6, "g_range": (3e-6, 4e-5)}, "^g_range is .*; allowed: within 4e-06 to 1 S"),
        (
            {"programming": RERAM["milo2021"], "on_off": 10.0},
            "^on_off is 10.0; allowed: above 1",
        ),
        ({"wire_ohm": -1.0}, "^wire_ohm is -1; allowed: 0 to 1000"),
        ({"programming": TABLE, "sigma": 1e-6}, "^programming is given beside sigma or variab"),
        (
            {"programming": TABLE, "g_range": (1e-3, 1e-2)},
            "^g_range is .*; allowed: within 0 to 0.0001 S, by the lowest conductance and progr",
        ),
        ({"programming": "wan"}, "^programming is 'wan' .str.; allowed: one of joulewise.devi"),
    ],
)
def test_refusals_of_cells(fields, message):
    with pytest.raises(InputError, match=message):
        Crossbar(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"variability": 0.05}, {"read_noise": 1e-6}, {"sigma": 1e-6, "clip": False}],
    ids=["variability", "read noise", "unclipped"],
)
def test_gradients_with_wires_are_finite(fields):
    device = Crossbar(**fields, wire_ohm=2.0, g_range=(1e-6, 1e-4))
    stored = device.store(torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).double())
    at = torch.tensor(3e-5, dtype=torch.float64, requires_grad=True)

    def figures(at):
        moments = device.moments(stored, at * 1e-5)
        return moments.mean.sum() + 1e3 * moments.var.sum()

    assert torch.autograd.gradcheck(figures, torch.tensor(3.0).double().requires_grad_())
    assert at.grad is None


def test_a_column_of_middle_conductances_is_paid_by_each_array():
    """65 equal columns cost as much as 64 and their reference, but for the converters."""
    inputs = torch.rand(16, 1, 24, generator=torch.Generator().manual_seed(0)).double()

    def spent(columns, wide, weights):
        use = MatrixInputs(inputs=inputs, largest=1.0, uses=1.0, weight=weights)
        load = Traffic(words=24 * columns, reads=0.0, writes=0.0, matrix_inputs=(use,))
        readout = replace(ISAAC, input_j=0.0, output_j=0.0)
        fields = {"mapping": "offset", "readout": readout, "array": Array(columns=wide)}
        device = Crossbar(on_off=10.0, limit=1.0, **fields)
        total = device.energy(load, 25e-6)
        assert float(device.energy_by_channel(load, 25e-6, columns).sum()) == pytest.approx(
            float(total)
        )
        return float(total)

    middle = torch.zeros(64, 24, dtype=torch.float64)
    one = spent(64, None, middle) / 65  # a weight of 0 has the middle conductance
    assert spent(64, 16, middle) == pytest.approx(68 * one, rel=1e-9)
    assert spent(64, 1, middle) == pytest.approx(128 * one, rel=1e-9)


def test_a_single_weight():
    for device in (
        Crossbar(stuck_on=0.5),
        Crossbar(sigma=1e-6, wire_ohm=1.0, g_range=(1e-6, 1e-4)),
        Crossbar(levels=3, slices=2),
    ):
        stored = device.store(torch.tensor(0.5))
        assert device.read(stored, 1e-5, Chip(seed=0)).shape == ()
        assert device.moments(stored, 1e-5).var.shape == ()


def test_a_range_given_as_a_list_is_kept_as_a_tuple():
    given = Crossbar(g_range=[1e-6, 4e-5])
    assert given == Crossbar(g_range=(1e-6, 4e-5))
    assert hash(given) == hash(Crossbar(g_range=(1e-6, 4e-5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip": False}, {"variability": 0.1}, {"sigma": 0.0, "variability": 0.1}],
    ids=["additive", "unclipped", "variable", "variable alone"],
)
def test_moments_of_many_words_are_those_of_few(options, dtype):
    crossbar = Crossbar(**{"sigma": 1e-6, "read_noise": 2e-7, "limit": 3.0} | options)
    weights = torch.randn(80, 100, dtype=dtype, generator=torch.Generator().manual_seed(0))
    weights[0, :50] = 0
    many = crossbar.moments(crossbar.store(weights), 5e-5)
    few = [crossbar.moments(crossbar.store(row), 5e-5) for row in weights]  # the general form
    for name in ("mean", "var"):
        found, expected = getattr(many, name), torch.stack([getattr(one, name) for one in few])
        scale = float(few[0].var.max()) ** (0.5 if name == "mean" else 1)
        torch.testing.assert_close(
            found,
            expected,
            rtol=4 * torch.finfo(dtype).eps,
            atol=4 * scale * torch.finfo(dtype).eps,
        )
