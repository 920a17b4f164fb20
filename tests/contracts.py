"""Checks that every public kind has to pass. Import with ``from contracts import ...``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from joulewise.devices import Chip, Device, Knob, MatrixInputs, Point, Traffic
from joulewise.errors import InputError, OperatingPointError, WeightsError
from joulewise.placement import place, private_memory

CHIPS = 300
SHAPE = (48, 16)
Z = 5.0  # two-sided 6e-7 for each of a few tens of comparisons, on fixed seeds


def traffic(times: float) -> Traffic:
    """Traffic of ``times`` matrices that are read, written and multiplied with."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(20), dtype=torch.float64)
    inputs = torch.rand(64, 1, SHAPE[1], generator=torch.Generator().manual_seed(21))
    return Traffic(
        words=int(768 * times),
        reads=768.0 * times,
        writes=32.0 * times,
        matrix_inputs=(MatrixInputs(inputs=inputs, largest=1.0, uses=3.0 * times, weight=weight),),
    )


def check_device(device: Device[Any], points: Sequence[Point]) -> None:
    """The contract of `Device`.

    Args:
        device: Any device.
        points: Operating points, numbers or one for each bit plane, ascending on the knob, away
            from kinks of the device's law, and each with enough faults to be measured.
    """
    tensor = torch.randn(SHAPE, generator=torch.Generator().manual_seed(20), dtype=torch.float64)
    stored = device.store(tensor, name="w")
    check_description(device)
    check_refusals(device)
    check_store_and_ideal(device, tensor)
    check_most_reliable(device, tensor)
    check_energy(device, points)
    check_channels(device, stored, [p for p in points if torch.as_tensor(p).ndim == 0])
    for point in points:
        check_same_chip(device, stored, point)
        check_moments(device, stored, point)
        check_word_classes(device, stored, point)
        check_gradient(lambda at: device.moments(stored, at).mean.sum(), point)
        check_gradient(lambda at: device.moments(stored, at).var.sum(), point)


def check_word_classes(device: Device[Any], stored: Any, point: Point) -> None:
    """Moments by class agree with `moments`: for words nearly, for sums within 1 %.

    A class may combine targets within 0.1 % of the largest word.
    """
    at = torch.as_tensor(point, dtype=torch.float64)
    if (
        at.ndim and device.knob.bit_planes is None
    ):  # one point for each column: classes are of one column
        at = at[0]
    moments, classes = device.moments(stored, at), device.word_classes(stored)
    mean, var = classes.moments(at)
    assert mean.shape == var.shape == (classes.count,)
    largest = float(device.ideal(stored).abs().max())
    assert (classes.spread(mean) - moments.mean).abs().max() <= 1e-3 * largest
    spread = var[classes.index.long()] * classes.scale.double() ** 2
    assert (spread - moments.var).abs().max() <= 0.05 * moments.var.max()
    weights = torch.linspace(0, 1, classes.index.numel()).double().reshape(classes.index.shape)
    summed = float(classes.summed(weights) @ var)
    assert math.isclose(summed, float((weights * spread).sum()), rel_tol=1e-9, abs_tol=1e-300)
    assert math.isclose(summed, float((weights * moments.var).sum()), rel_tol=0.01, abs_tol=1e-300)
    check_gradient(lambda p: classes.moments(p)[1].sum(), at)


def check_description(device: Device[Any]) -> None:
    """Descriptions are plain data, equal after a round trip through JSON."""
    described = device.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert isinstance(device.knob, Knob)


def check_refusals(device: Device[Any]) -> None:
    """NaN is refused by the name of the tensor, a value out of range by the name of the knob."""
    layer = torch.nn.Linear(4, 3)
    layer.weight.data[0, 0] = math.nan
    with (
        pytest.raises(WeightsError, match="weight is NaN or infinite in 1 of"),
        private_memory(place(layer, weights=device)),
    ):
        pass
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(OperatingPointError, match=device.knob.name):
            device.point(**{device.knob.name: bad})
    with pytest.raises(OperatingPointError, match="allowed"):
        device.point(no_such_knob=0.5)
    best = device.knob.most_reliable
    assert float(device.point(**{device.knob.name: best})) == best


def check_store_and_ideal(device: Device[Any], tensor: Tensor) -> None:
    """Fault-free reads keep shape and dtype, and storing them again changes nothing."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        typed = tensor.to(dtype)
        before = typed.clone()
        stored = device.store(typed)
        assert torch.equal(typed, before), "store changed its argument"
        for out in (
            device.ideal(stored),
            device.read(stored, device.knob.most_reliable, Chip(seed=0)),
        ):
            assert out.shape == typed.shape
            assert out.dtype == dtype
    ideal = device.ideal(device.store(tensor))
    again = device.ideal(device.store(ideal))
    assert torch.allclose(again, ideal, rtol=1e-12, atol=1e-12)


def check_most_reliable(device: Device[Any], tensor: Tensor) -> None:
    """At its most reliable point a device is within 1 % (root mean square) of a fault-free one."""
    stored = device.store(tensor)
    ideal = device.ideal(stored)
    moments = device.moments(stored, device.knob.most_reliable)
    error = ((moments.mean - ideal) ** 2 + moments.var).mean()
    assert float(error) <= 1e-4 * float((ideal**2).mean())


def check_energy(device: Device[Any], points: Sequence[Point]) -> None:
    """Energy is a scalar, monotone in the knob, proportional to traffic, differentiable."""
    once = traffic(1)
    joules = [device.energy(once, point) for point in points]
    assert all(j.shape == () and j.dtype == torch.float64 for j in joules)
    values = [float(j) for j in joules]
    rising = all(a < b for a, b in zip(values, values[1:], strict=False))
    falling = all(a > b for a, b in zip(values, values[1:], strict=False))
    assert rising or falling
    assert min(values) > 0
    assert float(device.energy(traffic(2), points[0])) == pytest.approx(2 * values[0], rel=1e-12)
    assert 0 <= device.converter_energy(once) < min(values)
    for point in points:
        check_gradient(lambda at: device.energy(once, at), point)


def check_channels(device: Device[Any], stored: Any, points: Sequence[Point]) -> None:
    """Operating points by output channel; a device without them has no energies by channel.

    Equal points are one point for reads, moments and energies. Unequal points give each channel the
    moments, reads and energies of its point. Another number of points than channels is refused.
    """
    if len(points) < 2:
        return
    ends = torch.tensor([float(points[0]), float(points[-1])], dtype=torch.float64)
    if not device.knob.channels:
        with pytest.raises(NotImplementedError, match="no points for channels"):
            device.energy_by_channel(traffic(1), float(ends[0]), SHAPE[0])
        return
    chip, once = Chip(seed=3, part="a"), traffic(1)
    for end in ends:
        equal = device.point(**{device.knob.name: end.repeat(SHAPE[0], 1)})
        assert torch.equal(device.read(stored, equal, chip), device.read(stored, end, chip))
        together, alone = device.moments(stored, equal), device.moments(stored, end)
        assert torch.equal(together.mean, alone.mean) and torch.equal(together.var, alone.var)
        joules = device.energy_by_channel(once, equal, SHAPE[0])
        assert joules.shape == (SHAPE[0],) and float(joules.min()) > 0
        torch.testing.assert_close(joules.sum(), device.energy(once, end), rtol=1e-12, atol=0)
        one = device.energy_by_channel(once, end, SHAPE[0])
        torch.testing.assert_close(joules, one, rtol=1e-12, atol=0)
        with pytest.raises(InputError, match=device.knob.name):
            device.read(stored, equal[1:], chip)
        with pytest.raises(InputError, match=device.knob.name):
            device.moments(stored, equal[1:])
    # Every other channel at the other end, compared with all channels at one end.
    odd = torch.arange(SHAPE[0]) % 2
    mixed = ends[odd][:, None]
    moments, read = device.moments(stored, mixed), device.read(stored, mixed, chip)
    joules = device.energy_by_channel(once, mixed, SHAPE[0])
    torch.testing.assert_close(joules.sum(), device.energy(once, mixed), rtol=1e-12, atol=0)
    for number, end in enumerate(ends):
        alone = device.moments(stored, end)
        own = slice(number, None, 2)
        assert torch.equal(moments.mean[own], alone.mean[own])
        assert torch.equal(moments.var[own], alone.var[own])
        assert torch.equal(read[own], device.read(stored, end, chip)[own])
        torch.testing.assert_close(
            joules[own], device.energy_by_channel(once, end, SHAPE[0])[own], rtol=1e-12, atol=0
        )
    check_moments(device, stored, mixed)
    check_gradient(lambda at: device.moments(stored, at[odd][:, None]).var.sum(), ends)
    check_gradient(lambda at: device.moments(stored, at[odd][:, None]).mean.sum(), ends)
    check_gradient(lambda at: device.energy(once, at[odd][:, None]), ends)


def check_same_chip(device: Device[Any], stored: Any, point: Point) -> None:
    """The same chip reads the same; another chip, or another part of it, does not."""
    read = device.read(stored, point, Chip(seed=3, part="a"))
    assert torch.equal(read, device.read(stored, point, Chip(seed=3).region("a")))
    for others in (
        [Chip(seed=seed, part="a") for seed in range(4, 9)],
        [Chip(seed=3, part=part) for part in "bcdef"],
    ):
        assert not all(torch.equal(read, device.read(stored, point, chip)) for chip in others)


def check_moments(device: Device[Any], stored: Any, point: Point) -> None:
    """Chips agree with `moments`, by t statistics over chips: words may be correlated.

    For the mean: a plain sum over the words and three with random signs. For the variance: the sum
    of squared distances from the predicted mean.
    """
    moments = device.moments(stored, point)
    assert moments.mean.shape == moments.var.shape == device.ideal(stored).shape
    assert float(moments.var.min()) >= 0
    reads = torch.stack([device.read(stored, point, Chip(seed=seed)) for seed in range(CHIPS)])
    away = (reads - moments.mean).double().flatten(1)
    signs = torch.randint(0, 2, (3, away.shape[1]), generator=torch.Generator().manual_seed(7))
    weights = torch.cat([torch.ones(1, away.shape[1]), 2.0 * signs - 1]).double()
    for column in (away @ weights.T).T:
        assert abs(z_of(column)) < Z
    assert abs(z_of((away**2 - moments.var.double().flatten()).sum(1))) < Z


def z_of(samples: Tensor) -> float:
    """Mean of independent samples over its standard error; 0 if all samples are 0."""
    spread = float(samples.std()) / math.sqrt(len(samples))
    mean = float(samples.mean())
    if spread == 0:
        return 0.0 if abs(mean) < 1e-12 else math.inf
    return mean / spread


def check_gradient(function: Any, point: Point) -> None:
    """The gradient in the operating point equals a central difference."""
    at = torch.as_tensor(point, dtype=torch.float64).clone().requires_grad_()
    value = function(at)
    gradient = torch.zeros_like(at)
    if value.requires_grad:  # some figures do not depend on the point
        (gradient,) = torch.autograd.grad(value, at)
    step = 1e-6 * float(at.detach().abs().max())
    with torch.no_grad():
        flat = at.detach().reshape(-1)
        for index in range(len(flat)):
            shift = torch.zeros_like(flat)
            shift[index] = step
            up, down = (function((flat + s * shift).view_as(at)) for s in (1, -1))
            numeric = float((up - down) / (2 * step))
            got = float(gradient.reshape(-1)[index])
            scale = float(gradient.abs().max())
            rounding = 1e-15 * abs(float(value)) / step
            assert got == pytest.approx(numeric, rel=1e-4, abs=1e-6 * scale + rounding)
