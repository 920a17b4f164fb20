import json

import pytest
import torch
from torch import nn

import joulewise.contrib  # noqa: F401  its methods are in METHODS, too
from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.errors import DataError, InputError, OperatingPointError
from joulewise.metrics import Accuracy, FunctionMetric, NegativeLogLikelihood
from joulewise.models import build
from joulewise.placement import Plan, call, place
from joulewise.prediction import METHODS, FirstOrder, predict

DIGITS = load_digits()


@pytest.fixture(scope="module")
def placement():
    model = build("mlp", DIGITS.input_shape, DIGITS.classes, seed=0)
    return place(model, weights=SRAM(bits=8), example_inputs=DIGITS.test.inputs[:4].float())


def test_a_plan_or_a_setting(placement):
    for wrong in (None, 0.5, "eta", [("eta", 0.5)]):
        with pytest.raises(InputError, match=r"at is .*allowed: knobs with values, such as"):
            predict(placement, DIGITS.test, at=wrong)
    for wrong in ({}, {"eta": 0.5, "v_dd": 0.7}):  # none, and several
        with pytest.raises(OperatingPointError, match="on a SRAM, is .*; allowed: one of eta"):
            predict(placement, DIGITS.test, at=wrong)
    with pytest.raises(OperatingPointError, match="eta is 1.5"):
        predict(placement, DIGITS.test, at={"eta": 1.5})
    first, second = placement.placed[:2]
    with pytest.raises(InputError, match=f"{second.name} is placed here, and the plan has no poi"):
        predict(placement, DIGITS.test, at=Plan({first.name: {"eta": 0.5}}))
    by_plan = predict(placement, DIGITS.test, at=placement.plan({"eta": 0.5}))
    assert by_plan.to_dict() == predict(placement, DIGITS.test, at={"eta": 0.5}).to_dict()
    assert by_plan.plan.to_dict() == {p.name: {"eta": 0.5} for p in placement.placed}


def test_arguments_of_the_wrong_kind_are_refused_by_name(placement):
    with pytest.raises(InputError, match=r"placement is of type Sequential; allowed: the result"):
        predict(nn.Sequential(), DIGITS.test, at={"eta": 0.5})
    with pytest.raises(InputError, match=r"progress is 'yes'.*allowed: True, False, or a function"):
        predict(placement, DIGITS.test, at={"eta": 0.5}, progress="yes")


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
        progress=lambda *told: seen.append(told),
    )
    assert len(seen) > 1
    assert seen[-1] == ("predicting", len(DIGITS.test), len(DIGITS.test))


def test_the_same_twice_and_the_model_as_before(placement):
    model = placement.model
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    a = predict(placement, DIGITS.test, at={"eta": 0.4}, method=FirstOrder(accuracy=False))
    b = predict(placement, DIGITS.test, at={"eta": 0.4}, method=FirstOrder(accuracy=False))
    assert a.to_dict() == b.to_dict()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_targets_that_are_not_classes(placement):
    inputs = DIGITS.test.inputs[:6].float()
    for targets in (torch.zeros(6, 10), torch.zeros(6, 1), torch.zeros(6)):
        assert predict(placement, [(inputs, targets)], at={"eta": 0.5}).accuracy is None
    with pytest.raises(
        DataError, match="a target is 10 beside outputs of 10 classes; allowed: 0 to 9"
    ):
        predict(placement, [(inputs, torch.full((6,), 10))], at={"eta": 0.5})
    small = predict(placement, [(inputs, torch.zeros(6, dtype=torch.uint8))], at={"eta": 0.5})
    assert small.accuracy is not None


def right(outputs, targets):
    """A score for each sample."""
    return (outputs.argmax(1) == targets).double()


OTHERS = [
    NegativeLogLikelihood(),
    Accuracy(top_k=2),
    Accuracy(ignore_index=3),
    FunctionMetric(right, "share of hits", True),
]


@pytest.mark.parametrize("metric", OTHERS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("name", METHODS)
def test_a_metric_that_is_not_predicted_is_named_and_the_error_is_predicted(
    placement, name, metric
):
    data = DIGITS.test.subset(8, seed=0)
    forecast = predict(placement, data, at={"eta": 0.5}, method=name, metric=metric)
    assert forecast.accuracy is None
    assert forecast.refusal.startswith(f"{metric.name} is not predicted: only top-1 accuracy")
    assert forecast.refusal in repr(forecast)
    assert forecast.to_dict()["refusal"] == forecast.refusal
    alone = [inputs for inputs, _ in data.batches(8)]
    plain = predict(placement, alone, at={"eta": 0.5}, method=name)
    assert float(forecast.mse) == pytest.approx(float(plain.mse), rel=1e-9)
    assert plain.refusal is None


def test_top_1_accuracy_is_predicted_whether_it_is_given_or_not(placement):
    given = predict(placement, DIGITS.test, at={"eta": 0.5}, metric=Accuracy())
    default = predict(placement, DIGITS.test, at={"eta": 0.5})
    assert given.refusal is None and given.accuracy is not None
    assert given.to_dict() == default.to_dict()


def test_a_metric_without_targets_or_that_does_not_fit_them_is_refused(placement):
    inputs = DIGITS.test.inputs[:5].float()
    with pytest.raises(DataError, match="a metric is given, and the data has no targets"):
        predict(placement, [inputs], at={"eta": 0.5}, metric=Accuracy())
    with pytest.raises(DataError, match=r"the target of accuracy is float32 \[5, 2\] beside"):
        predict(placement, [(inputs, torch.rand(5, 2))], at={"eta": 0.5}, metric=Accuracy())
    with pytest.raises(InputError, match="metric is a function; allowed: one with a name"):
        predict(placement, DIGITS.test, at={"eta": 0.5}, metric=right)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("differentiable", [False, True])
def test_plain_data_is_what_json_can_hold(placement, name, differentiable):
    eta = torch.tensor(0.5, dtype=torch.float64, requires_grad=differentiable)
    for data in (DIGITS.test.subset(8, seed=0), [DIGITS.test.inputs[:1].float()]):
        forecast = predict(placement, data, at={"eta": eta}, method=name)
        plain = forecast.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)).keys() == plain.keys()
        assert repr(forecast) and repr(forecast.plan) and forecast.fractions
        assert plain["plan"] == {p.name: {"eta": 0.5} for p in placement.placed}
        whole = plain["mean_shift"] + sum(plain["variance"].values())
        assert plain["mse"] == pytest.approx(whole, rel=1e-12)
        assert (plain["accuracy"] is None) is (forecast.accuracy is None)


def test_a_forecast_is_shown_in_a_few_lines(placement):
    forecast = predict(placement, DIGITS.test.subset(8, seed=0), at={"eta": 0.5})
    title, *lines = repr(forecast).splitlines()
    assert title == "first-order, 8 samples"
    labels = ["output error", "accuracy", "shift of the mean", "variance from"]
    assert [line.split("  ")[1].strip() for line in lines] == labels
    assert f"{float(forecast.mse):.4g}, standard error" in lines[0]
    assert f"{100 * forecast.accuracy.mean:.2f} %" in lines[1]
    largest = max(forecast.fractions, key=forecast.fractions.get)
    assert lines[3].split()[2] == largest
    assert "<table>" in forecast._repr_html_() and largest in forecast._repr_html_()


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


def test_an_exception_of_progress_is_the_callers_own():
    def stop(step, done, expected):
        raise RuntimeError("cancelled")

    placement = place(nn.Linear(4, 3), weights=SRAM())
    with pytest.raises(RuntimeError, match="^cancelled$"):
        predict(placement, [torch.ones(2, 4)], at={"eta": 0.5}, progress=stop)
