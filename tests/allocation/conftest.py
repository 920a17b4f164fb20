"""A small trained network and its memory."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import ISAAC, SRAM, Crossbar
from joulewise.models import build, seeded
from joulewise.placement import place
from joulewise.training import TrainingSpec, train


@pytest.fixture(scope="session")
def digits():
    return load_digits()


@pytest.fixture(scope="session")
def network(digits):
    torch.set_num_threads(1)
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=10, lr=0.1, seed=0))
    return model


@pytest.fixture
def placement(network, digits):
    inputs = next(iter(digits.train.batches(4)))[0]
    return place(network, weights=SRAM(bits=8), example_inputs=inputs)


@pytest.fixture(scope="session")
def wired():
    """A placement on crossbars whose IR drop exceeds the noise at large conductances, and data."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
        inputs = torch.randn(64, 8)
    devices = replace(ISAAC, input_j=0.0, output_j=0.0)
    memory = Crossbar(sigma=1e-6, wire_ohm=100.0, g_range=(2e-6, 200e-6), readout=devices)
    return place(model, weights=memory, example_inputs=inputs), [(inputs, None)]
