"""Gaussian weight noise in training: its size, its schedule, and networks that tolerate more."""

import numpy as np
import pytest
import torch

from joulewise.contrib import weight_noise
from joulewise.contrib.weight_noise import NoiseSchedule, RelativeNoise
from joulewise.data import load_digits
from joulewise.devices import Chip, check_device
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.placement import place
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, train


def test_noise_is_a_fraction_of_the_largest_magnitude():
    """The standard deviation of 90,000 numbers is known to 0.24 % (1 sigma)."""
    device, weight = RelativeNoise(), torch.linspace(-2, 1, 90_000).reshape(300, 300)
    read = device.read(device.store(weight), 0.1, Chip(seed=3))
    assert float((read - weight).std()) == pytest.approx(0.2, rel=0.012)
    moments = device.moments(weight, 0.1)
    assert float(moments.var[0, 0]) == pytest.approx(0.04)


def test_moments_are_those_of_reads():
    assert check_device(RelativeNoise()).largest < 5.0  # standard errors, of 80 comparisons


def test_strength_varies_between_steps_and_not_between_calls():
    schedule = NoiseSchedule(strength=0.1, spread=0.5, seed=1)
    drawn = np.array([schedule(step) for step in range(2000)])
    assert schedule(7) == drawn[7]
    # |1 + 0.5 n| has mean 1.0085 and standard deviation 0.483: 5 standard errors of 2,000.
    assert drawn.mean() == pytest.approx(0.10085, abs=5 * 0.0483 / 2000**0.5)
    assert drawn.std() > 0.03


@pytest.mark.parametrize(
    "fields",
    [{"strength": 0.0}, {"strength": float("nan")}, {"strength": 0.1, "ramp": -1}],
)
def test_refusals(fields):
    with pytest.raises(InputError, match="strength|ramp"):
        NoiseSchedule(**fields)


def test_networks_tolerate_what_they_were_trained_with():
    digits = load_digits()
    found = {}
    for strength in (None, 0.2):
        model = build("mlp", digits.input_shape, digits.classes, seed=0)
        memory = None if strength is None else weight_noise(model, strength=strength, ramp=50)
        train(model, digits, TrainingSpec(epochs=10, lr=0.1, augment=False), memory=memory)
        placement = place(model, weights=RelativeNoise(), example_inputs=digits.test.inputs[:1])
        found[strength] = simulate(placement, digits.test, at={"strength": 0.2}, chips=20)
    plain, noisy = found[None], found[0.2]
    assert noisy.interval().low > plain.interval().high
