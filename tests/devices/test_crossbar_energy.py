"""Power against currents that are simulated, and the published mistakes, which must fail."""

import math

import pytest
import torch

from joulewise.devices import ISAAC, Array, Crossbar, MatrixInputs, ReadOut, Traffic
from joulewise.errors import InputError

ROWS, COLUMNS, G = 40, 24, 25e-6
PLAIN = ReadOut(v_read=0.3, t_read=1e-7, r_amplifier=5e3, input_j=0, output_j=0, source="made up")


def layer(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(COLUMNS, ROWS, generator=generator, dtype=torch.float64)
    inputs = torch.rand(200, 1, ROWS, generator=generator, dtype=torch.float64) * 2 - 0.7
    return weight, inputs / inputs.abs().max()


def traffic(weight, inputs, uses=7.0):
    load = MatrixInputs(inputs=inputs, largest=1.0, uses=uses, weight=weight)
    return Traffic(words=weight.numel(), reads=weight.numel(), writes=0, matrix_inputs=(load,))


def currents(device, weight, inputs, chips=1600):
    """Watts of the devices and of the amplifiers of each chip, from simulated conductances."""
    volts = PLAIN.v_read * inputs[:, 0]
    unit = float(weight.abs().max()) / G
    found = []
    for sign in (1, -1):
        target = (sign * weight).clamp(min=0)
        # An unclipped pair with the other device silent is this device alone.
        generator = torch.Generator().manual_seed(5 + sign)
        noise = torch.randn(chips, *weight.shape, generator=generator, dtype=torch.float64)
        g = target / unit + device.sigma * noise
        g = g.clamp(min=0) if device.clip else g
        devices = torch.einsum("cnk,sk->c", g, volts.square()) / len(volts)
        column = torch.einsum("cnk,sk->csn", g, volts)
        found.append((devices, PLAIN.r_amplifier * column.square().sum(2).mean(1)))
    return [sum(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("clip", [True, False])
def test_power_against_simulated_currents(clip):
    weight, inputs = layer()
    device = Crossbar(sigma=2e-6, clip=clip, readout=PLAIN)
    devices, amplifiers = currents(device, weight, inputs)
    watts = (devices + amplifiers).double()
    expected = float(device.energy(traffic(weight, inputs), G)) / 7.0 / PLAIN.t_read
    error = float(watts.std()) / math.sqrt(len(watts))
    assert expected == pytest.approx(float(watts.mean()), abs=4 * error)
    assert error < 0.002 * expected  # else the comparison would say little


def wrong_forms(weight, inputs, sigma):
    """Watts by the right formula, and by the formulas of public code, by their mistake."""
    volts, unit = PLAIN.v_read * inputs[:, 0], float(weight.abs().max()) / G
    g = weight.abs() / unit
    plus, minus = weight.clamp(min=0) / unit, (-weight).clamp(min=0) / unit
    square = volts.square().mean(0)
    mean_currents = sum((volts @ a.T).square().mean(0).sum() for a in (plus, minus))
    noise = 2 * COLUMNS * sigma**2 * square.sum()
    right = (g @ square).sum() + PLAIN.r_amplifier * (mean_currents + noise)
    unit_free = (plus * unit, minus * unit)
    weights_currents = sum((volts @ a.T).square().mean(0).sum() for a in unit_free)
    return float(right), {
        "the mean of the input instead of its square": (g @ volts.mean(0)).sum()
        + PLAIN.r_amplifier * (mean_currents + noise),
        "amplifier terms in weights instead of conductances": (g @ square).sum()
        + PLAIN.r_amplifier * (weights_currents + noise * unit**2),
        "no noise in the currents": (g @ square).sum() + PLAIN.r_amplifier * mean_currents,
        "noise of a pair in each column": (g @ square).sum()
        + PLAIN.r_amplifier * (mean_currents + 2 * noise),
    }


def test_published_mistakes_fail():
    weight, inputs = layer()
    device = Crossbar(sigma=2e-6, clip=False, readout=PLAIN)
    devices, amplifiers = currents(device, weight, inputs)
    watts = devices + amplifiers
    error = float(watts.std()) / math.sqrt(len(watts))
    right, wrong = wrong_forms(weight, inputs, device.sigma)
    assert right == pytest.approx(float(watts.mean()), abs=4 * error)
    for name, value in wrong.items():
        assert abs(float(value) - float(watts.mean())) > 8 * error, name


def test_converters_are_counted_for_each_use():
    weight, inputs = layer()
    device = Crossbar(readout=ISAAC)
    without = Crossbar(readout=ReadOut(**{**fields(ISAAC), "input_j": 0.0, "output_j": 0.0}))
    both = [float(d.energy(traffic(weight, inputs), G)) for d in (device, without)]
    converters = 7 * (ROWS * ISAAC.input_j + COLUMNS * ISAAC.output_j)
    assert both[0] - both[1] == pytest.approx(converters)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"array": Array(rows=16, columns=10, input_bits=4, output_bits=6)},
        {"levels": 3, "slices": 2},
        {"mapping": "offset", "array": Array(rows=16, columns=10)},
    ],
)
def test_energy_of_converters_is_what_they_add(options):
    once = traffic(*layer())
    free = ReadOut(**{**fields(ISAAC), "input_j": 0.0, "output_j": 0.0})
    device = Crossbar(readout=ISAAC, **options)
    rest = Crossbar(readout=free, **options)
    added = float(device.energy(once, G)) - float(rest.energy(once, G))
    assert device.converter_energy(once) == pytest.approx(added, rel=1e-9)
    assert rest.converter_energy(once) == 0


def fields(readout):
    names = ("v_read", "t_read", "r_amplifier", "input_j", "output_j", "source")
    return {name: getattr(readout, name) for name in names}


def test_every_array_beside_converts_the_inputs_anew():
    weight, inputs = layer()
    readout = ReadOut(
        v_read=0.3, t_read=1e-7, r_amplifier=5e3, input_j=1e-12, output_j=1e-12, source="made up"
    )
    whole, halves = (
        float(Crossbar(readout=readout, array=a).energy(traffic(weight, inputs), G))
        for a in (Array(rows=ROWS), Array(rows=ROWS, columns=COLUMNS // 2))
    )
    assert halves - whole == pytest.approx(7 * ROWS * 1e-12)
    with pytest.raises(InputError, match="columns is 0"):
        Array(columns=0)


def test_groups_and_rows_first_are_the_same_matrix():
    weight, inputs = layer()
    device = Crossbar(sigma=1e-6)
    straight = float(device.energy(traffic(weight, inputs), G))
    turned = MatrixInputs(
        inputs=inputs, largest=1.0, uses=7.0, weight=weight.T.contiguous(), rows_first=True
    )
    flipped = Traffic(words=960, reads=960, writes=0, matrix_inputs=(turned,))
    assert float(device.energy(flipped, G)) == pytest.approx(straight)
    halves = MatrixInputs(
        inputs=inputs.expand(-1, 2, -1), largest=1.0, uses=7.0, weight=torch.cat([weight, weight])
    )
    doubled = Traffic(words=1920, reads=1920, writes=0, matrix_inputs=(halves,))
    assert float(device.energy(doubled, G)) == pytest.approx(2 * straight)


def test_a_tensor_of_unknown_use_is_refused():
    with pytest.raises(InputError, match="depends on its inputs"):
        Crossbar().energy(Traffic(words=1, reads=1, writes=0), G)


@pytest.mark.parametrize("field", ["v_read", "t_read", "r_amplifier", "input_j", "output_j"])
def test_refusals(field):
    with pytest.raises(InputError, match=f"{field} is -1"):
        ReadOut(**{**fields(ISAAC), field: -1.0})
