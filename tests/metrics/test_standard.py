"""Metrics of common tasks: equal to torchmetrics, sure of what does not fit, and the default."""

import math
import re

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.text import perplexity

from joulewise.errors import DataError, InputError
from joulewise.metrics import (
    Accuracy,
    FunctionMetric,
    MeanSquaredError,
    NegativeLogLikelihood,
    NextToken,
    TokenAccuracy,
    as_metric,
    default_metric,
    resolve_metric,
)
from metric_passes import classes, rand

NAN, INF = math.nan, math.inf
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def passed(metric, *batches):
    accumulator = metric.new()
    for outputs, targets in batches:
        accumulator.update(outputs, targets)
    return accumulator.compute()


def refusal(metric, outputs, targets):
    """The sentence by which both check and update refuse a batch."""
    with pytest.raises(DataError) as at_check:
        metric.check(outputs, targets)
    with pytest.raises(DataError) as at_update:
        metric.new().update(outputs, targets)
    assert str(at_check.value) == str(at_update.value)
    return str(at_update.value)


# Equality with torchmetrics


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("top_k", [1, 2, 5, 10])
def test_accuracy_is_that_of_torchmetrics(top_k, dtype):
    outputs, targets = rand(500, 10).to(dtype), classes(500)
    if dtype in (torch.bfloat16, torch.float16):  # few digits: no ties, which nobody promises
        outputs = torch.rand(500, 10).argsort(1).to(dtype)
    expected = multiclass_accuracy(outputs, targets, 10, average="micro", top_k=top_k)
    metric = Accuracy(top_k=top_k)
    parts = zip(outputs.split(77), targets.split(77), strict=True)
    assert passed(metric, *parts) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("ignore_index", [None, 255, -100, 3])
def test_pixel_accuracy_is_that_of_torchmetrics(ignore_index):
    outputs, targets = rand(4, 6, 8, 9), classes(4, 8, 9, of=6)
    if ignore_index is not None:
        targets[:2, :5] = ignore_index
    expected = multiclass_accuracy(outputs, targets, 6, average="micro", ignore_index=ignore_index)
    metric = Accuracy(ignore_index=ignore_index)
    assert passed(metric, (outputs, targets)) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("ignore_index", [-100, 0, None])
def test_tokens_are_scored_as_by_torchmetrics(ignore_index):
    outputs, targets = rand(5, 9, 17), classes(5, 9, of=17)
    if ignore_index is not None:
        targets[2:, 4:] = ignore_index
    flat = outputs.flatten(0, 1), targets.flatten()
    accuracy = multiclass_accuracy(*flat, 17, average="micro", ignore_index=ignore_index)
    found = passed(TokenAccuracy(ignore_index), (outputs, targets))
    assert found == pytest.approx(float(accuracy), abs=1e-7)
    metric = NegativeLogLikelihood(ignore_index)
    found = metric.derived(passed(metric, (outputs, targets)))
    expected = perplexity(outputs, targets, ignore_index=ignore_index)
    assert found == {"perplexity": pytest.approx(float(expected), rel=1e-5)}


@pytest.mark.parametrize("shape", [(40,), (40, 3), (5, 2, 4, 4)])
def test_squared_error_is_that_of_torchmetrics(shape):
    outputs, targets = rand(*shape), rand(*shape, seed=1)
    expected = mean_squared_error(outputs.double(), targets.double())
    parts = zip(outputs.split(3), targets.split(3), strict=True)
    assert passed(MeanSquaredError(), *parts) == pytest.approx(float(expected), rel=1e-12)


# Accuracy


def test_accuracy_is_the_share_of_arg_maxima_without_nan():
    """The count that results have been stored with."""
    outputs, targets = rand(997, 10), classes(997)
    outputs[::5] = outputs[::5].round()  # ties
    outputs[::7, 2] = NAN
    outputs[3:9] = NAN
    outputs[11, 4] = INF
    largest = torch.nan_to_num(outputs, nan=-INF).argmax(1)
    count = int(((largest == targets) & ~outputs.isnan().all(1)).sum())
    parts = zip(outputs.split(64), targets.split(64), strict=True)
    assert passed(Accuracy(), *parts) == count / 997


@pytest.mark.parametrize(
    ("row", "target", "expected"),
    [
        ([NAN, NAN, NAN], 0, (0, 0, 0)),
        ([NAN, 2.0, 1.0], 0, (0, 0, 0)),
        ([NAN, 2.0, 1.0], 1, (1, 1, 1)),
        ([NAN, 2.0, 1.0], 2, (0, 1, 1)),
        ([1.0, 1.0, 1.0], 0, (1, 1, 1)),
        ([1.0, 1.0, 1.0], 1, (0, 1, 1)),
        ([1.0, 1.0, 1.0], 2, (0, 0, 1)),
        ([-INF, -INF, NAN], 0, (1, 1, 1)),
        ([0.0, INF, 1.0], 1, (1, 1, 1)),
    ],
)
def test_nan_and_ties(row, target, expected):
    batch = (torch.tensor([row]), torch.tensor([target]))
    assert tuple(passed(Accuracy(top_k=k), batch) for k in (1, 2, 3)) == expected
    assert passed(TokenAccuracy(), batch) == expected[0]


def test_names_tell_top_k():
    assert (Accuracy().name, Accuracy(top_k=5).name) == ("accuracy", "top-5 accuracy")
    assert repr(Accuracy(top_k=5)) == "Accuracy(top_k=5, ignore_index=None)"


@pytest.mark.parametrize("top_k", [0, -1, 1.0, True, "1", None])
def test_top_k_is_a_whole_number(top_k):
    with pytest.raises(InputError, match="top_k is .*; allowed: a whole number, 1 or more"):
        Accuracy(top_k=top_k)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_whole_numbers_of_any_kind_are_classes(kind):
    batch = (rand(50, 10), classes(50))
    assert passed(Accuracy(), (batch[0], batch[1].to(kind))) == passed(Accuracy(), batch)
    metric = NegativeLogLikelihood()
    assert passed(metric, (batch[0], batch[1].to(kind))) == passed(metric, batch)


def test_bytes_do_not_wrap_around():
    outputs, targets = rand(1, 400), torch.tensor([156], dtype=torch.uint8)  # -100 modulo 256
    assert passed(NegativeLogLikelihood(), (outputs, targets)) is not None
    assert "a target is 156" in refusal(NegativeLogLikelihood(), rand(1, 100), targets)
    assert passed(Accuracy(), (outputs, targets)) is not None  # 400 is 144 modulo 256


# Likelihood and squared error


@pytest.mark.parametrize("dtype", DTYPES)
def test_likelihood_sums_in_more_digits_than_the_outputs_have(dtype):
    outputs, targets = (3 * rand(64, 5)).to(dtype), classes(64, of=5)
    exact = cross_entropy(outputs.double(), targets)
    expected = pytest.approx(float(exact), rel=1e-12 if dtype == torch.float64 else 1e-6)
    assert passed(NegativeLogLikelihood(), (outputs, targets)) == expected
    assert passed(MeanSquaredError(), (outputs, softmax(outputs.float(), 1))) == pytest.approx(
        float((outputs.double() - softmax(outputs.float(), 1)).square().mean()), rel=1e-12
    )


def test_likelihoods_of_many_tokens_sum_in_float64():
    outputs, targets = rand(2, 50_000, 3), classes(2, 50_000, of=3)
    rows = cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    expected = pytest.approx(float(rows.double().mean()), rel=1e-13)
    assert passed(NegativeLogLikelihood(), (outputs, targets)) == expected


@pytest.mark.parametrize("bad", [NAN, INF])
def test_outputs_that_are_not_finite_fail_a_mean_without_an_upper_bound(bad):
    outputs, targets = rand(2, 3, 5), classes(2, 3, of=5)
    outputs[0, 1, 2] = bad
    accumulator = NegativeLogLikelihood().new()
    accumulator.update(outputs, targets)
    assert accumulator.compute() is None and accumulator.failure == "the metric is nan"
    assert passed(MeanSquaredError(), (outputs, torch.zeros(2, 3, 5))) is None
    targets[0, 1] = -100
    assert passed(NegativeLogLikelihood(), (outputs, targets)) is not None
    assert passed(TokenAccuracy(), (outputs, targets)) is not None


def test_logits_of_minus_infinity_are_classes_that_cannot_be():
    outputs = torch.tensor([[0.0, -INF, 0.0]])
    likelihood = passed(NegativeLogLikelihood(), (outputs, torch.tensor([0])))
    assert likelihood == pytest.approx(math.log(2))
    assert passed(NegativeLogLikelihood(), (outputs, torch.tensor([1]))) is None


def test_perplexity_overflows_to_infinity():
    derived = NegativeLogLikelihood().derived
    assert derived(math.log(7.0))["perplexity"] == pytest.approx(7.0)
    assert derived(1e4)["perplexity"] == INF
    assert Accuracy().derived(0.5) == {}


# Targets that do not fit

OUTPUTS = rand(8, 3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (classes(8, of=3).clamp(max=2).index_fill(0, torch.tensor(3), 9), "a target is 9 beside"),
        (torch.arange(8), "a target is 3 beside outputs of 3 classes; allowed: 0 to 2"),
        (torch.full((8,), -1), "a target is -1 beside outputs of 3 classes; allowed: 0 to 2"),
        (torch.ones(8), r"float32 \[8\] beside .* float32 \[8, 3\]; allowed: whole numbers"),
        (torch.ones(8, dtype=torch.bool), r"bool \[8\] .*; allowed: whole numbers"),
        (torch.ones(8, dtype=torch.complex64), r"complex64 \[8\] .*; allowed: whole numbers"),
        (classes(8, 3, of=2), r"int64 \[8, 3\] .* \[8, 3\]; allowed: outputs .batch"),
        (classes(7, of=3), r"int64 \[7\] beside .*; allowed: outputs"),
        (classes(8, 1, of=3), r"int64 \[8, 1\] beside .*; allowed: outputs"),
        ([0] * 8, "a list beside .*; allowed: tensors"),
    ],
)
def test_targets_that_are_not_classes(targets, message):
    for metric in (Accuracy(), TokenAccuracy(None), NegativeLogLikelihood(None)):
        sentence = refusal(metric, OUTPUTS, targets)
        assert re.search(message, sentence), sentence


def test_a_target_to_ignore_is_offered_where_there_is_one():
    sentence = refusal(TokenAccuracy(), rand(2, 3, 5), torch.full((2, 3), -1))
    assert sentence.endswith("allowed: 0 to 4, or -100 for targets that do not count")
    assert "count" not in refusal(TokenAccuracy(None), rand(2, 3, 5), torch.full((2, 3), -100))


def test_outputs_that_do_not_fit():
    sentence = refusal(Accuracy(), rand(8, 4, 3), classes(8))
    assert sentence == (
        "the target of accuracy is int64 [8] beside an output that is float32 [8, 4, 3]; allowed: "
        "outputs [batch, classes, ...] and targets [batch, ...]"
    )
    assert "[batch, ..., classes]" in refusal(TokenAccuracy(), rand(2, 5, 3), classes(2, 3, of=3))
    assert "float32 [8]" in refusal(Accuracy(), rand(8), classes(8))
    assert "a dict" in refusal(MeanSquaredError(), {"x": 1}, rand(8))
    for shape in ((8, 1), (1, 8), (8, 8)):
        sentence = refusal(MeanSquaredError(), rand(8), rand(*shape))
        assert sentence.endswith("allowed: targets of the outputs' shape")


def test_top_k_is_at_most_the_classes():
    assert passed(Accuracy(top_k=3), (OUTPUTS, classes(8, of=3))) == 1.0
    assert "top_k is 4; allowed: 1 to 3" in refusal(Accuracy(top_k=4), OUTPUTS, classes(8, of=3))


# The default


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        ((8, 3), classes(8, of=3), Accuracy()),
        ((8, 3), classes(8, of=3).to(torch.uint8), Accuracy()),
        ((2, 7, 5), classes(2, 7, of=5), NegativeLogLikelihood()),
        ((2, 5, 5), classes(2, 5, of=5), NegativeLogLikelihood()),
        ((2, 4, 6, 5), classes(2, 6, 5, of=4), Accuracy(ignore_index=-100)),
        ((8, 3), rand(8, 3), MeanSquaredError()),
        ((8,), rand(8), MeanSquaredError()),
        ((2, 4, 6, 5), rand(2, 4, 6, 5).bfloat16(), MeanSquaredError()),
    ],
)
def test_the_default_by_targets(outputs, targets, expected):
    assert default_metric(rand(*outputs), targets) == expected
    assert resolve_metric(None, rand(*outputs), targets) == expected


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (rand(8, 3), rand(8)),
        (rand(8, 3), classes(8, 3, of=2)),
        (rand(8, 3), classes(8, 3, of=2).float()),
        (rand(8, 1), classes(8, of=2)),
        (rand(8), classes(8, of=2)),
        (rand(8, 1), rand(8)),
        (rand(2, 4, 6, 5), classes(2, 6, 4, of=4)),
        ([{"boxes": rand(3, 4)}], [{"boxes": rand(3, 4)}]),
        (rand(8, 3), {"labels": classes(8)}),
    ],
)
def test_targets_without_a_default_are_refused(outputs, targets):
    with pytest.raises(
        DataError, match=r"of a run without a metric is .*; for others give a metric"
    ):
        resolve_metric(None, outputs, targets)
    assert default_metric(outputs, targets) is None
    assert resolve_metric(None, outputs, targets, required=False) is None


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [(rand(8, 3), torch.arange(8)), (rand(2, 7, 5), torch.full((2, 7), -1))],
)
def test_the_default_checks_the_batch(outputs, targets):
    for required in (True, False):
        with pytest.raises(DataError, match="a target is"):
            resolve_metric(None, outputs, targets, required=required)


def test_labels_of_tokens_are_compared_shifted_and_tuples_are_not():
    outputs, labels = rand(2, 7, 5), classes(2, 7, of=5)
    metric = resolve_metric(None, outputs, labels, labels=True)
    assert metric == NextToken(NegativeLogLikelihood())
    assert metric.name == "negative log-likelihood of the next token"
    assert resolve_metric(TokenAccuracy(), outputs, labels, labels=True) == NextToken(
        TokenAccuracy()
    )
    assert resolve_metric(metric, outputs, labels, labels=True) == metric
    assert resolve_metric(TokenAccuracy(), outputs, labels) == TokenAccuracy()
    assert resolve_metric(None, rand(8, 3), classes(8, of=3), labels=True) == Accuracy()
    boxes = FunctionMetric(lambda o, t: torch.ones(len(t)), "mine", True)
    assert resolve_metric(boxes, [rand(3, 4)], [None], labels=True) is boxes


def test_a_metric_that_is_given_is_checked():
    adapted = resolve_metric(MulticlassAccuracy(3), rand(8, 3), classes(8, of=3))
    assert adapted.name == "MulticlassAccuracy"
    with pytest.raises(DataError, match="a target is 3 beside"):
        resolve_metric(Accuracy(), rand(8, 3), torch.arange(8))
    with pytest.raises(DataError, match="a target is 99 beside"):
        resolve_metric(TokenAccuracy(), rand(2, 3, 5), torch.full((2, 3), 99), labels=True)
    with pytest.raises(InputError, match="metric is 'top1'"):
        resolve_metric("top1", rand(8, 3), classes(8, of=3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_as_on_a_cpu():
    outputs, targets = rand(64, 10), classes(64)
    cases = [(m, outputs, targets) for m in (Accuracy(2), NegativeLogLikelihood())]
    cases += [(MeanSquaredError(), outputs, outputs + 1)]
    cases += [(as_metric(MulticlassAccuracy(10)), outputs, targets)]
    for metric, *batch in cases:
        there = passed(metric, [tensor.cuda() for tensor in batch])
        assert there == pytest.approx(passed(metric, batch), rel=1e-6)
