"""Compiled models: what happens within a pass happens there too, though a graph would skip it."""

import pytest
import torch
from torch import nn

from joulewise.allocation import OutputError, allocate
from joulewise.devices import PCM, SRAM, Array, Crossbar
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.prediction import predict
from joulewise.simulation import simulate
from joulewise.training import TrainingMemory

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Decorated(Network):
    forward = torch.compile(Network.forward, backend="eager")


class Wrapper(nn.Module):
    """Names its parameters as the module does that `torch.compile` makes."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, x):
        return self._orig_mod(x)


def in_place():
    model = Network()
    model.compile(backend="eager")
    return model


def inner():
    model = Network()
    model.first = torch.compile(model.first, backend="eager")
    return model


def inner_twin():
    model = Network()
    model.first = Wrapper(model.first)
    return model


KINDS = {
    "whole": (lambda: torch.compile(Network(), backend="eager"), lambda: Wrapper(Network())),
    "one layer": (inner, inner_twin),
    "in place": (in_place, Network),
    "a compiled method": (Decorated, Network),
}


def made(make):
    with seeded(0):
        return make()


@pytest.mark.parametrize("kind", KINDS)
def test_placed_activations_of_compiled_models(kind):
    found = []
    for model in map(made, KINDS[kind]):
        placement = place(model, weights=SRAM(bits=6), activations=SRAM(bits=6), example_inputs=X)
        sim = simulate(placement, [(X, Y)], at={"eta": 0.3}, chips=3)
        forecast = predict(placement, [(X, Y)], at={"eta": 0.3})
        plan = allocate(placement, [(X, Y)], goal=OutputError(1e-3), chips=20).plan.to_dict()
        found.append((placement.macs, sim.mse, float(forecast.mse), plan))
        model(X)  # still runs, compiled
    assert found[0] == found[1]


DEVICES = {
    "activations": (SRAM(bits=8), 0.3, SRAM(bits=4)),
    "converters": (Crossbar(array=Array(rows=4, input_bits=3, output_bits=4)), 1e-5, None),
    "read noise": (PCM(), 1.0, None),
}


@pytest.mark.parametrize("kind", DEVICES)
def test_training_blocks_of_compiled_models(kind):
    weights, point, activations = DEVICES[kind]
    losses = []
    for model in map(made, (lambda: torch.compile(Network(), backend="eager"), Network)):
        names = model if isinstance(model, Network) else model._orig_mod
        placement = place(names, weights=weights, activations=activations, example_inputs=X)
        knobs = {p.device.knob.name for p in placement.placed}
        with TrainingMemory(placement, at=dict.fromkeys(knobs, point)):
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
        losses.append(float(loss.detach()))
        if activations is not None:
            with TrainingMemory(place(names, weights=weights), at={"eta": point}):
                assert float(nn.functional.cross_entropy(model(X), Y).detach()) != losses[-1]
    assert losses[0] == losses[1]


def test_the_compiler_is_as_it_was():
    model = torch.compile(Network(), backend="eager")
    before = torch._dynamo.eval_frame._stance
    simulate(place(model, weights=SRAM()), [(X, Y)], at={"eta": 0.5}, chips=1)
    assert torch._dynamo.eval_frame._stance is before
