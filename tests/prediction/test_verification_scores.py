import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.devices import SRAM, Crossbar, WriteVerify
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.prediction import verification_scores

UNVERIFIED, VERIFIED = Crossbar(sigma=3e-6), Crossbar(sigma=3e-7)
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def device(**fields):
    fields = {"pulse_j": 1e-9, "inferences": 1.0, **fields}
    return WriteVerify(unverified=UNVERIFIED, verified=VERIFIED, g_max=25e-6, **fields)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 16, generator=generator) * torch.logspace(-2, 0, 16)
    return jw.Split(inputs=inputs, targets=(inputs[:, -1] > 0).long())


@pytest.fixture(scope="module")
def model():
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model


def placed(model, data, **fields):
    return jw.place(model, weights=device(**fields), example_inputs=data.inputs[:8])


def test_scores_by_error_are_squared_gradients_times_the_variance_saved(data):
    """Each output of one layer depends on its own row: dz/dw is the input."""
    with seeded(0):
        layer = nn.Linear(16, 3)
    placement = placed(layer, data)
    scores = verification_scores(placement, data, by="error")
    squares = data.inputs.double().square().sum(0)
    saved = 2 * (1 - 0.01) * (3e-6 / 25e-6 * float(layer.weight.detach().abs().max())) ** 2
    # The idle device of a pair is clipped, 0.34 of a whole variance; both are, of small weights.
    ratio = scores["weight"] / (squares * saved)
    assert ratio.min() > 0.33 and ratio.max() < 0.68


def test_scores_of_a_misspelt_name_are_refused(model, data):
    scores = verification_scores(placed(model, data), by="magnitude")
    assert placed(model, data, scores={"0.weight": scores["0.weight"]}).placed  # a part of them
    message = "^a WriteVerify is made for '0.weigth', which is no tensor of the model; .*0.weight"
    with pytest.raises(InputError, match=message):
        placed(model, data, scores={"0.weigth": scores["0.weight"]})


@pytest.mark.parametrize(
    ("placement", "fields", "message"),
    [
        (False, {}, "^placement is None .NoneType.; allowed: the result of joulewise.place"),
        (True, {"memory_bytes": -1}, "^memory_bytes is -1; allowed: 1 to"),
        (True, {"memory_bytes": "x"}, "^memory_bytes is 'x' .str.; allowed: a number"),
    ],
)
def test_arguments_of_other_kinds(model, data, placement, fields, message):
    with pytest.raises(InputError, match=message):
        verification_scores(placed(model, data) if placement else None, data, **fields)


def test_simple_scores(model, data):
    placement = placed(model, data)
    size = verification_scores(placement, by="magnitude")["0.weight"]
    assert torch.allclose(
        size, model[0].weight.abs().double() / model[0].weight.abs().max(), atol=1e-6
    )
    one, same, other = (
        verification_scores(placement, by="random", seed=s)["0.weight"] for s in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_an_allocation_verifies_fewer_weights_by_error_than_at_random(model, data):
    spent = {}
    for by in ("error", "magnitude", "random"):
        scores = verification_scores(placed(model, data), data, by=by)
        placement = placed(model, data, scores=scores)
        found = jw.allocate(
            placement,
            data,
            goal=jw.OutputError(0.02),
            granularity=jw.Granularity(levels=LEVELS),
            chips=40,
        )
        assert found.holds
        spent[by] = sum(
            p.traffic.words * p.device.pulses_per_weight(found.plan[p.name]["verified_fraction"])
            for p in placement.placed
        )
    words = sum(p.traffic.words for p in placement.placed)
    assert spent["error"] < 0.8 * spent["random"]
    assert spent["error"] <= spent["magnitude"]
    assert spent["random"] <= 10 * words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "hessian"}, "^by is 'hessian'; allowed: error, magnitude, random"),
        ({"by": "error"}, "^data is None; allowed: samples, for scores by error"),
        ({"by": "random", "seed": -1}, "^seed is -1; allowed"),
    ],
)
def test_refusals(model, data, arguments, message):
    with pytest.raises(InputError, match=message):
        verification_scores(placed(model, data), **arguments)


def test_other_memories_are_refused(model):
    with pytest.raises(InputError, match="^the memory of 0.weight is of type SRAM; allowed: a Wri"):
        verification_scores(jw.place(model, weights=SRAM()), by="random")
