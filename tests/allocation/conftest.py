"""A small trained network and its memory."""

import pytest
import torch

from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.models import build
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
