"""Energy curves: points around the drops, also where the most reliable end loses most."""

import numpy as np
import pytest

from joulewise.data import load_digits
from joulewise.devices import SRAM, Crossbar
from joulewise.models import build
from joulewise.placement import place
from joulewise.study.energy_curve import energy_curve, losses
from joulewise.study.least_energy import least_energy
from joulewise.training import TrainingSpec, train

DROP = 0.15


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def network(digits):
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=3, lr=0.1, seed=0))
    return model


@pytest.mark.parametrize(
    "memory", [SRAM(), Crossbar(sigma=1e-6, wire_ohm=5.0, g_range=(2e-6, 2e-4))]
)
def test_points_lie_on_both_sides_of_the_drop(network, digits, memory):
    placement = place(network, weights=memory, example_inputs=digits.train.inputs[:32])
    found = energy_curve(placement, digits.test.subset(100), drops=[DROP], chips=10)
    lost = np.stack([losses(one) for one in found], axis=1)
    energies = [one.energy.normalised for one in found]
    least = least_energy(energies, lost, DROP)
    assert least.energy is not None and not least.at_edge
    means = lost.mean(0)
    # The most reliable points lose more on the crossbar, and less on the SRAM.
    assert (means[0] > DROP) == isinstance(memory, Crossbar)
    near = [mean for mean, e in zip(means, energies, strict=True) if 0.5 < e / least.energy < 2]
    assert len(near) >= 5 and min(near) < DROP < max(near)
