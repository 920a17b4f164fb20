"""Outputs that are computed again from the inputs of the last layer equal those that are kept."""

import copy

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Chip
from joulewise.models import seeded
from joulewise.placement import place, prepare, private_memory, reference_pass, score_pass
from joulewise.placement.given_outputs import GivenOutputs, output_layer

X = torch.linspace(-1, 1, 40).reshape(10, 4)


def wide():
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 50))


@pytest.mark.parametrize("kept_bytes", [0, 10**4, 2**30])
def test_the_same_outputs_and_errors(kept_bytes):
    model = wide()
    placement = place(model, weights=SRAM(bits=4))
    batches = prepare([X[:7], X[7:]], model)
    with private_memory(placement) as memory:
        reference = reference_pass(memory, batches, kept_bytes=kept_bytes)
        memory.read(placement.points({"eta": 0.2}), Chip(seed=0))
        # Weights of the memory now differ from those that gave the outputs.
        with torch.no_grad():
            for found, x in zip(reference.outputs, (X[:7], X[7:]), strict=True):
                assert torch.equal(found, model(x))
            expected = (memory.placement.model(X) - model(X)).square().mean()
        assert score_pass(memory, batches, reference)[1] == pytest.approx(float(expected))
    kept = sum(isinstance(one, torch.Tensor) for one in reference.outputs._each)
    assert kept == {0: 0, 10**4: 2, 2**30: 2}[kept_bytes]
    assert reference.outputs.shapes == [(7, 50), (3, 50)]


def test_some_are_kept():
    layer, outputs = nn.Linear(2, 100), GivenOutputs(kept_bytes=1000)
    with output_layer([layer]) as source, torch.no_grad():
        for rows in (1, 2, 1):
            found = layer(torch.ones(rows, 2))
            outputs.append(found, source(found))
    assert [isinstance(one, torch.Tensor) for one in outputs._each] == [True, False, True]
    assert [len(one) for one in outputs[:]] == [1, 2, 1]


class Uses(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.use, self.body, self.head = use, nn.Linear(4, 4), nn.Linear(4, 9)

    def forward(self, x):
        return self.use(self, self.body(x))


def in_place(model, h):
    return model.head(h).mul_(2)


def twice(model, h):
    model.head(h)
    return model.head(h + 1)


def inputs_written(model, h):
    found = model.head(h)
    h.add_(1)
    return found


def by_keyword(model, h):
    return model.head(input=h)


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (lambda model, h: model.head(h), True),
        (lambda model, h: model.head(h) * 2, False),
        (lambda model, h: model.head(h)[:1], False),
        (lambda model, h: (model.head(h), model.body(h))[0], False),
        (in_place, False),
        (twice, False),
        (inputs_written, False),
        (by_keyword, False),
        (lambda model, h: None, False),
        (lambda model, h: model.head(h[:9]).T, False),
    ],
)
def test_the_layer_that_gives_the_output(use, found):
    model = Uses(use)
    with output_layer([model.body, model.head]) as source, torch.no_grad():
        for _ in range(2):
            result = source(output := model(X))
            assert (result is not None) == found
    if result is not None:
        assert result.layer is model.head
        assert torch.equal(model.head(result.inputs), output)
    assert not model.head._forward_hooks


def test_layers_whose_output_is_not_their_own():
    """A hook of the user may change an output: it is kept, since the layer alone gives another."""
    model = wide()
    model[2].register_forward_hook(lambda module, args, output: output + 1)
    given = copy.deepcopy(model)
    with private_memory(place(model, weights=SRAM(bits=4))) as memory, torch.no_grad():
        reference = reference_pass(memory, prepare([X], model), kept_bytes=0)
        assert isinstance(reference.outputs._each[0], torch.Tensor)
        assert torch.equal(reference.outputs[0], given(X))


def test_precision():
    """Half-precision outputs are read as float32, doubles as they are."""
    for dtype, read in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = wide().to(dtype)
        with private_memory(place(model, weights=SRAM(bits=4))) as memory, torch.no_grad():
            batches = prepare([X.to(dtype)], model)
            outputs = reference_pass(memory, batches, kept_bytes=0).outputs
            assert outputs[0].dtype == read
            assert torch.equal(outputs[0].to(dtype), model(X.to(dtype)))


def test_autocast_in_the_model():
    """A layer computes in another type there than its weights have: its output is kept."""

    class Cast(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model = Cast(*wide())
    with private_memory(place(model, weights=SRAM(bits=4))) as memory, torch.no_grad():
        outputs = reference_pass(memory, prepare([X], model), kept_bytes=0).outputs
        assert torch.equal(outputs[0], model(X).float())
