"""The interface of metrics: passes that share nothing, shifted tokens, margins."""

import copy
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchmetrics import R2Score
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.text import Perplexity

from joulewise.errors import DataError, InputError
from joulewise.metrics import (
    Accuracy,
    FunctionMetric,
    MeanSquaredError,
    NegativeLogLikelihood,
    NextToken,
    TokenAccuracy,
    as_metric,
    margin,
)
from metric_passes import classes, passed, rand

NAN, INF = math.nan, math.inf


def half_right(outputs, targets):
    return (outputs.argmax(1) == targets) * 0.5


# Tokens that are shifted by one


@pytest.mark.parametrize("inner", [NegativeLogLikelihood(), TokenAccuracy()])
def test_outputs_are_compared_with_the_next_token(inner):
    outputs, labels = rand(4, 7, 11), classes(4, 7, of=11)
    labels[1, 3:] = -100
    metric = NextToken(inner)
    assert metric.name == f"{inner.name} of the next token"
    assert (metric.higher_is_better, metric.bounds) == (inner.higher_is_better, inner.bounds)
    assert metric.derived(1.0) == inner.derived(1.0)
    expected = passed(inner, (outputs[:, :-1], labels[:, 1:]))
    assert passed(metric, (outputs, labels)) == expected != passed(inner, (outputs, labels))
    labels[0, 0] = 99  # never a target, since no output comes before it
    assert passed(metric, (outputs, labels)) == expected
    metric.check(outputs, labels)
    labels[0, 1] = 99
    with pytest.raises(DataError, match="a target is 99"):
        metric.check(outputs, labels)


def test_a_failed_pass_of_shifted_tokens_says_why():
    metric = NextToken(as_metric(Perplexity(ignore_index=-100)))
    outputs, labels = rand(2, 4, 5), classes(2, 4, of=5)
    expected = math.exp(passed(NextToken(NegativeLogLikelihood()), (outputs, labels))[0])
    assert passed(metric, (outputs, labels))[0] == pytest.approx(expected, rel=1e-6)
    outputs[0, 0, 0] = NAN
    assert passed(metric, (outputs, labels)) == (None, "an output is NaN or infinite")


# All metrics


def test_passes_in_threads_do_not_disturb_each_other():
    data = [(rand(32, 10, seed=s), classes(32, seed=s + 100)) for s in range(40)]

    for metric in (Accuracy(), as_metric(MulticlassAccuracy(10))):
        subsets = [data[:20], data[20:]]
        alone = [passed(metric, *subset)[0] for subset in subsets]
        barrier = threading.Barrier(2)

        def score(subset, metric=metric, barrier=barrier):
            accumulator = metric.new()
            for batch in subset:
                barrier.wait(timeout=60)
                accumulator.update(*batch)
            barrier.wait(timeout=60)
            return accumulator.compute()

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(score, subsets)) == alone


@pytest.mark.parametrize(
    "metric",
    [
        Accuracy(top_k=5),
        TokenAccuracy(),
        NegativeLogLikelihood(ignore_index=0),
        MeanSquaredError(),
        NextToken(TokenAccuracy()),
    ],
)
def test_standard_metrics_are_values(metric):
    again = pickle.loads(pickle.dumps(metric))  # noqa: TID251
    assert metric == again == copy.deepcopy(metric) and hash(metric) == hash(again)
    assert again.name == metric.name and again.bounds == metric.bounds
    with pytest.raises(AttributeError):
        metric.name = "other"


def test_a_pass_without_a_target_that_counts_is_refused():
    with pytest.raises(DataError, match="that count for accuracy is 0; allowed: 1 or more"):
        Accuracy().new().compute()
    with pytest.raises(DataError, match="that count for token accuracy is 0"):
        passed(TokenAccuracy(), (rand(1, 2, 3), torch.full((1, 2), -100)))


def test_no_pass_keeps_a_graph_of_gradients():
    outputs = rand(4, 3).requires_grad_()
    accumulator = NegativeLogLikelihood().new()
    accumulator.update(outputs, classes(4, of=3))
    assert not accumulator._sum.requires_grad


# Margins


@pytest.mark.parametrize(
    ("metric", "value", "limit", "expected"),
    [
        (Accuracy(), 0.95, 0.9, 0.05),
        (Accuracy(), 0.85, 0.9, -0.05),
        (Accuracy(), 0.85, 0.0, 0.85),
        (NegativeLogLikelihood(), 2.0, 3.0, math.log(1.5)),
        (NegativeLogLikelihood(), 3.0, 2.0, -math.log(1.5)),
        (MeanSquaredError(), 0.0, 2.0, INF),
        (as_metric(PeakSignalNoiseRatio(data_range=1.0)), 40.0, 20.0, math.log(2)),
        (as_metric(PeakSignalNoiseRatio(data_range=1.0)), 0.0, 20.0, -INF),
        (as_metric(R2Score()), -1.0, 0.5, -1.5),
        (FunctionMetric(half_right, "half", False), -1.0, 1.0, 2.0),
        (FunctionMetric(half_right, "half", False, (0.0, 1.0)), 0.25, 0.5, 0.25),
        (as_metric(Perplexity(), bounds=(1.0, INF)), 20.0, 10.0, -math.log(2)),
        (Accuracy(), None, 0.9, -INF),
        (MeanSquaredError(), None, 0.9, -INF),
    ],
)
def test_margins(metric, value, limit, expected):
    assert margin(metric, value, limit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "limit", "message"),
    [
        (MeanSquaredError(), 0.0, "the limit of mean squared error is 0; .* number above 0"),
        (MeanSquaredError(), -1.0, "is -1; allowed"),
        (Accuracy(), NAN, "the limit of accuracy is nan; allowed: a finite number$"),
        (Accuracy(), INF, "is inf; allowed"),
    ],
)
def test_limits_that_are_refused(metric, limit, message):
    for value in (0.5, None):
        with pytest.raises(InputError, match=message):
            margin(metric, value, limit)
