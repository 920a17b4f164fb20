"""Passes over data: the metric and the error of raw outputs, whatever they are."""

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Chip
from joulewise.errors import DataError, ModelError
from joulewise.metrics import Accuracy, KLDivergence, MeanSquaredError, NegativeLogLikelihood
from joulewise.placement import place, prepare, private_memory, reference_pass, score_pass


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(4, 3), make

    def forward(self, x):
        return self.make(self.layer(x))


X = torch.linspace(-1, 1, 24).reshape(6, 4)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])


def passes(make, data, metric=None, **options):
    model = Returns(make)
    placement = place(model, weights=SRAM(bits=4))
    batches = prepare(data, model)
    with private_memory(placement) as memory:
        reference = reference_pass(memory, batches, metric, **options)
        memory.read(placement.points({"eta": 0.1}), Chip(seed=0))
        return reference, *score_pass(memory, batches, reference), model


@pytest.mark.parametrize("metric", [None, NegativeLogLikelihood(), KLDivergence()])
def test_hidden_states_are_no_logits(metric):
    """The outputs of a model without a head have classes enough for some targets."""
    tokens = [(X[:, None], CLASSES[:, None])]
    hidden = passes(lambda y: {"logits": y, "hidden": y}, tokens, metric)[0]
    assert hidden.metric is not None
    with pytest.raises(ModelError, match="without a head, whose outputs are hidden states; allow"):
        passes(lambda y: {"last_hidden_state": y}, tokens, metric)
    # Without a metric, output errors of hidden states are computed.
    assert passes(lambda y: {"last_hidden_state": y}, [X])[2] > 0


def test_by_hand():
    data = [(X[:4], CLASSES[:4]), (X[4:], CLASSES[4:])]
    reference, _, mse, model = passes(lambda y: y, data)
    with torch.no_grad():
        outputs = model(X)
    assert reference.metric == Accuracy()
    assert reference.value == float((outputs.argmax(1) == CLASSES).double().mean())
    assert torch.equal(torch.cat(list(reference.outputs)), outputs)
    assert mse > 0


@pytest.mark.parametrize(
    "make", [lambda y: {"out": y}, lambda y: (y, None), lambda y: {"a": y}, lambda y: [y, 2 * y]]
)
def test_the_error_is_that_of_the_main_tensor(make):
    torch.manual_seed(0)  # noqa: TID251
    reference, *score, _ = passes(make, [(X, CLASSES)])
    torch.manual_seed(0)  # noqa: TID251
    plain, *expected, _ = passes(lambda y: y, [(X, CLASSES)])
    assert (reference.value, score) == (plain.value, expected)


def test_outputs_of_no_fixed_shape_have_no_error_and_need_a_metric():
    class Lengths:
        higher_is_better = True

        def reset(self):
            self.seen = 0

        def update(self, outputs, targets):
            self.seen += sum(len(one) for one in outputs)

        def compute(self):
            return float(self.seen)

    def lists(y):
        return [{"boxes": row[row > 0]} for row in y]

    reference, value, mse, _ = passes(lists, [(X, CLASSES)], Lengths())
    assert list(reference.outputs) == [None]
    assert mse is None
    assert value is not None
    with pytest.raises(DataError, match="beside an output that is a NoneType"):
        passes(lists, [(X, CLASSES)])


def test_targets_without_a_default_metric_may_be_left_alone():
    targets = [(X, torch.ones(6, 2, dtype=torch.long))]
    assert passes(lambda y: y, targets, required=False)[0].metric is None
    with pytest.raises(DataError, match="of a run without a metric"):
        passes(lambda y: y, targets)


def test_a_metric_without_targets_is_refused():
    with pytest.raises(DataError, match="a metric is given, and the data has no targets"):
        passes(lambda y: y, [X], MeanSquaredError())


def test_outputs_that_are_not_finite_without_a_fault_are_refused():
    with pytest.raises(ModelError, match="NaN or infinite without any fault"):
        passes(lambda y: {"out": y, "more": y / 0}, [(X, CLASSES)])
