import pytest
import torch
from torch import nn

import joulewise.contrib  # noqa: F401  its methods are in METHODS, too
from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.errors import DataError, InputError, OperatingPointError
from joulewise.models import build
from joulewise.placement import call, place
from joulewise.prediction import METHODS, FirstOrder, ForecastRecord, predict

DIGITS = load_digits()


@pytest.fixture(scope="module")
def placement():
    model = build("mlp", DIGITS.input_shape, DIGITS.classes, seed=0)
    return place(model, weights=SRAM(bits=8), example_inputs=DIGITS.test.inputs[:4].float())


def test_a_plan_or_a_setting(placement):
    for wrong in ({}, {"plan": placement.plan({"eta": 0.5}), "eta": 0.5}):
        with pytest.raises(InputError, match="a plan or one setting"):
            predict(placement, DIGITS.test, **wrong)
    with pytest.raises(OperatingPointError, match="eta is 1.5"):
        predict(placement, DIGITS.test, at={"eta": 1.5})
    with pytest.raises(InputError, match="no operating point for"):
        predict(placement, DIGITS.test, at={placement.placed[0].name: 0.5})
    by_plan = predict(placement, DIGITS.test, at=placement.plan({"eta": 0.5}))
    assert by_plan.record() == predict(placement, DIGITS.test, at={"eta": 0.5}).record()


def test_an_unknown_method_is_refused_by_name(placement):
    with pytest.raises(InputError, match=r"method is 'memse'; allowed: one of first-order"):
        predict(placement, DIGITS.test, at={"eta": 0.5}, method="memse")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_name(placement, name):
    inputs, _ = next(DIGITS.test.subset(8, seed=0).batches(8))
    targets = call(placement.model.eval(), inputs).argmax(1)  # so that the model is right
    forecast = predict(placement, [(inputs, targets)], at={"eta": 0.5}, method=name)
    assert forecast.method == name
    assert set(forecast.variance) == {tensor.name for tensor in placement.placed}
    assert float(forecast.mse) > 0
    assert forecast.per_sample.shape == (8,)
    assert 0.5 < forecast.accuracy.mean <= 1


def test_no_data(placement):
    with pytest.raises(DataError, match="no batch"):
        predict(placement, [], at={"eta": 0.5})
    with pytest.raises(InputError, match="empty"):
        predict(placement, [torch.zeros(0, 1, 8, 8)], at={"eta": 0.5})


def test_data_without_targets_or_with_one_output(placement):
    forecast = predict(placement, [DIGITS.test.inputs[:5].float()], at={"eta": 0.5})
    assert forecast.accuracy is None
    model, x = nn.Linear(4, 1), torch.ones(3, 4)
    placed = place(model, weights=SRAM(bits=4), example_inputs=x)
    assert predict(placed, [(x, torch.zeros(3))], at={"eta": 0.5}).accuracy is None


def test_progress_reaches_the_end(placement):
    seen = []
    predict(
        placement,
        DIGITS.test,
        at={"eta": 0.5},
        method=FirstOrder(memory_bytes=1 << 22),
        progress=lambda done, expected: seen.append((done, expected)),
    )
    assert len(seen) > 1
    assert seen[-1] == (len(DIGITS.test), len(DIGITS.test))


def test_a_record_goes_through_json(placement):
    record = predict(placement, DIGITS.test, at={"eta": 0.5}).record()
    assert ForecastRecord.model_validate_json(record.model_dump_json()) == record


def test_the_same_twice_and_the_model_as_before(placement):
    model = placement.model
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    a = predict(placement, DIGITS.test, at={"eta": 0.4}, method=FirstOrder(accuracy=False))
    b = predict(placement, DIGITS.test, at={"eta": 0.4}, method=FirstOrder(accuracy=False))
    assert a.record() == b.record()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_targets_that_are_not_classes(placement):
    inputs = DIGITS.test.inputs[:6].float()
    for targets in (torch.zeros(6, 10), torch.zeros(6, 1), torch.zeros(6)):
        assert predict(placement, [(inputs, targets)], at={"eta": 0.5}).accuracy is None
    with pytest.raises(DataError, match="a target is 10; allowed: a class from 0 to 9"):
        predict(placement, [(inputs, torch.full((6,), 10))], at={"eta": 0.5})
    small = predict(placement, [(inputs, torch.zeros(6, dtype=torch.uint8))], at={"eta": 0.5})
    assert small.accuracy is not None


def test_a_method_that_is_a_class_is_refused(placement):
    with pytest.raises(InputError, match=r"method is .*allowed: a name, or a value"):
        predict(placement, DIGITS.test, at={"eta": 0.5}, method=FirstOrder)


def test_a_packed_sequence_is_refused():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(self.lstm(inputs)[1][0][-1])

    packed = nn.utils.rnn.pack_sequence([torch.ones(4, 3), torch.ones(2, 3)])
    placed = place(Sequences().eval(), weights=SRAM(bits=4))
    with pytest.raises(InputError, match="a packed sequence; allowed: a padded one"):
        predict(placed, [(packed, None)], at={"eta": 0.5})
