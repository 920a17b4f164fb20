import pytest
import torch
from torch import nn

from cases import CHIP, ETA, MODELS, A, W, make, rand, snapshot
from joulewise.devices import Chip
from joulewise.placement import call, place
from joulewise.training import TrainingMemory


@pytest.mark.parametrize("kind", MODELS)
def test_a_block_read_by_a_chip_is_a_twin_with_those_weights_gradients_too(kind):
    (model, inputs), (twin, _) = make(kind), make(kind)
    placement = place(model, weights=W)
    own, others = (dict(m.named_parameters()) for m in (model, twin))
    with torch.no_grad():
        for name in placement.points({"eta": ETA}):
            read = W.read(W.store(own[name].detach()), ETA, Chip(seed=3, part=name))
            others[name].copy_(read)
    for either in (model, twin):
        either.eval()  # dropout would draw
    check = snapshot(model)
    expected = call(twin, inputs)
    expected.float().square().sum().backward()
    with TrainingMemory(placement, at={"eta": ETA}, chip=CHIP):
        actual = call(model, inputs)
        actual.float().square().sum().backward()
    check()
    assert torch.equal(actual, expected)
    grads = [{n: p.grad for n, p in m.named_parameters()} for m in (model, twin)]
    assert grads[0].keys() == grads[1].keys()
    for name, found in grads[0].items():
        assert found is grads[1][name] is None or torch.equal(found, grads[1][name]), name


@pytest.mark.parametrize("grads", [True, False])
def test_a_block_within_inference_mode_or_without_gradients(grads):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    placement = place(model, weights=W, activations=A, example_inputs=rand(3, 6))
    check = snapshot(model)
    with torch.no_grad() if grads else torch.inference_mode():
        ideal = call(model, rand(3, 6))
        with TrainingMemory(placement, at={"eta": ETA}, chip=CHIP):
            assert not torch.equal(call(model, rand(3, 6)), ideal)
    check()
    model(rand(3, 6)).sum().backward()
