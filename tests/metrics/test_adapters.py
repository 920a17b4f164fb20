"""Metrics of torchmetrics, of its protocol, and functions, as metrics of joulewise."""

import math
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torchmetrics import MeanSquaredError as TorchMeanSquaredError
from torchmetrics import MetricCollection, R2Score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelF1Score,
)
from torchmetrics.text import Perplexity

from joulewise.errors import DataError, InputError
from joulewise.metrics import Accuracy, FunctionMetric, as_metric
from metric_passes import classes, passed, rand

NAN, INF = math.nan, math.inf


class Protocol:
    """An object with the protocol of torchmetrics and nothing else; gives what it is told."""

    higher_is_better = True

    def __init__(self, result=1.0):
        self.result, self.seen, self.resets = result, [], 0

    def update(self, outputs, targets):
        self.seen.append(outputs)

    def compute(self):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def reset(self):
        self.seen, self.resets = [], self.resets + 1


# Objects with the protocol of torchmetrics


def test_torchmetrics_sees_all_batches_of_a_pass_and_none_of_another():
    f1 = MulticlassF1Score(10, average="macro")
    metric = as_metric(f1)
    batches = [(rand(n, 10, seed=n), classes(n, seed=n + 1)) for n in (64, 64, 7)]
    whole = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    for _ in range(2):
        assert passed(metric, *batches)[0] == pytest.approx(float(f1(*whole)), abs=1e-6)
    f1.reset()


def test_direction_name_and_bounds_come_from_the_object_and_may_be_given():
    metric = as_metric(MulticlassAccuracy(10))
    assert (metric.name, metric.higher_is_better) == ("MulticlassAccuracy", True)
    assert metric.bounds == (0.0, 1.0)
    assert as_metric(TorchMeanSquaredError()).bounds == (0.0, INF)
    assert as_metric(R2Score()).bounds == (-INF, 1.0)
    given = as_metric(Perplexity(), name="perplexity", bounds=(1.0, INF))
    assert (given.name, given.higher_is_better, given.bounds) == ("perplexity", False, (1.0, INF))


def test_the_users_object_is_neither_used_nor_changed():
    theirs = MulticlassAccuracy(2)
    theirs.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    metric = as_metric(theirs)
    right = (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert passed(metric, right) == (1.0, None)
    assert float(theirs.compute()) == 0.0 and theirs.update_count == 1
    theirs.update(*right)
    assert passed(metric, (right[0], 1 - right[1])) == (0.0, None)


def test_each_pass_resets_and_gets_raw_outputs():
    metric = as_metric(Protocol())
    accumulator = metric.new()
    outputs = [{"boxes": rand(3, 4)}, {"boxes": rand(0, 4)}]
    accumulator.update(outputs, [None, None])
    assert accumulator._state.resets == 1
    assert accumulator._state.seen[0] is outputs
    assert metric.template.seen == [] and metric.template.resets == 0


def test_states_follow_the_outputs_to_their_device():
    class Moved(Protocol):
        def to(self, device):
            self.device = device
            return self

    accumulator = as_metric(Moved()).new()
    accumulator.update([{"ids": (torch.ones(1),)}], None)
    assert accumulator._state.device == torch.device("cpu")


def test_a_result_that_is_a_dict_needs_a_key():
    both = MetricCollection({"top1": MulticlassAccuracy(10), "f1": MulticlassF1Score(10)})
    batch = (rand(64, 10), classes(64))
    metric = as_metric(both, key="f1", higher_is_better=True)
    assert metric.name == "MetricCollection f1"
    expected = float(MulticlassF1Score(10)(*batch))
    assert passed(metric, batch)[0] == pytest.approx(expected, abs=1e-6)
    assert passed(as_metric(both["f1"]), batch)[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="MetricCollection is None; allowed: one of 'f1', 'top1'"):
        passed(as_metric(both, higher_is_better=True), batch)
    with pytest.raises(InputError, match="key of MetricCollection other is 'other'; allowed: one"):
        passed(as_metric(both, key="other", higher_is_better=True), batch)
    with pytest.raises(InputError, match="'map'; allowed: None, since its result is no dict"):
        passed(as_metric(Protocol(), key="map"), batch)


def test_a_direction_of_none_needs_one_given():
    for value in (MulticlassConfusionMatrix(3), MetricCollection([MulticlassAccuracy(3)])):
        with pytest.raises(InputError, match="higher_is_better of .* is None; allowed: True or F"):
            as_metric(value)
    error = as_metric(1 - MulticlassAccuracy(10), higher_is_better=False, name="error")
    batch = (rand(64, 10), classes(64))
    expected = 1 - float(MulticlassAccuracy(10)(*batch))
    assert passed(error, batch)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_outputs_that_are_not_finite_fail_the_pass(bad):
    """torchmetrics alone scores NaN logits as right where the class is 0."""
    theirs, zeros = MulticlassAccuracy(3, average="micro"), torch.zeros(2, dtype=torch.int64)
    assert float(theirs(torch.full((2, 3), NAN), zeros)) == 1.0
    outputs = rand(2, 3)
    outputs[1, 2] = bad
    good = (rand(2, 3), zeros)
    metric = as_metric(theirs)
    assert passed(metric, (outputs, zeros), good) == (None, "an output is NaN or infinite")
    assert passed(metric, good, (outputs, zeros)) == (None, "an output is NaN or infinite")
    nested = [{"boxes": outputs, "labels": zeros}]
    accumulator = as_metric(Protocol()).new()
    accumulator.update(nested, None)
    accumulator.update(good[0], None)
    assert accumulator.compute() is None and accumulator._state.seen == []
    assert passed(metric, good)[1] is None


@pytest.mark.parametrize("result", [torch.tensor(NAN), torch.tensor([INF]), -INF, NAN])
def test_a_result_that_is_not_finite_fails_the_pass(result):
    value, failure = passed(as_metric(Protocol(result)), (rand(2, 3), None))
    assert value is None and failure.startswith("the metric is ")


@pytest.mark.parametrize("result", [torch.tensor([[2.0]]), 2, 2.0, torch.tensor(2)])
def test_one_number_of_any_kind_is_a_float(result):
    value, _ = passed(as_metric(Protocol(result)), (rand(2, 3), None))
    assert value == 2.0 and type(value) is float


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (torch.ones(3), r"of shape \(3,\)"),
        ("good", "'good'"),
        (None, "None"),
        ((), r"\(\)"),
        ((1.0, 2.0), r"\(1.0, 2.0\)"),
    ],
)
def test_results_that_are_not_one_number_are_refused(result, got):
    with pytest.raises(InputError, match=f"the result of Protocol is {got}; allowed: one number"):
        passed(as_metric(Protocol(result)), (rand(2, 3), None))


def test_what_a_metric_raises_is_refused_by_its_name():
    with pytest.raises(DataError, match="MultilabelF1Score failed with .*; allowed: outputs and"):
        passed(as_metric(MultilabelF1Score(4)), (rand(8, 3), classes(8, 3, of=2)))
    with pytest.raises(
        DataError, match="Protocol failed with ValueError: two lines; allowed"
    ) as at:
        passed(as_metric(Protocol(ValueError("two\n  lines"))), (rand(2, 3), None))
    assert isinstance(at.value.__cause__, ValueError)


def test_a_metric_that_cannot_be_copied_is_refused():
    class Locked(Protocol):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    class Single(Protocol):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(InputError, match=r"Locked is impossible to copy \(TypeError: cannot pick"):
        as_metric(Locked())
    with pytest.raises(InputError, match=r"Single is impossible to copy \(copies are the object i"):
        as_metric(Single())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("accuracy", "metric is 'accuracy'; allowed: a metric such as joulewise.metrics.Accuracy"),
        (None, "metric is None; allowed"),
        (0.5, "metric is 0.5; allowed"),
        (Accuracy, r"metric is the class Accuracy; allowed: an instance, Accuracy\(...\)"),
        (MulticlassF1Score, "metric is the class MulticlassF1Score; allowed: an instance"),
        (lambda o, t: o, "metric is a function; allowed: one with a name and a direction"),
    ],
)
def test_everything_else_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        as_metric(value)


def test_a_metric_stays_itself_and_takes_no_options():
    metric = Accuracy()
    assert as_metric(metric) is metric
    for option in ({"key": "map"}, {"higher_is_better": False}, {"name": "x"}, {"bounds": (0, 2)}):
        with pytest.raises(InputError, match="as_metric of the accuracy is given options"):
            as_metric(metric, **option)


# Functions


def half_right(outputs, targets):
    return (outputs.argmax(1) == targets) * 0.5


def test_a_function_with_a_name_and_a_direction():
    metric = as_metric(half_right, name="half", higher_is_better=True, bounds=(0, 1))
    assert (metric.name, metric.higher_is_better, metric.bounds) == ("half", True, (0, 1))
    outputs, targets = rand(64, 10), classes(64)
    accuracy, _ = passed(Accuracy(), (outputs, targets))
    parts = list(zip(outputs.split(30), targets.split(30), strict=True))
    assert passed(metric, *parts) == (accuracy / 2, None)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "half"},
        {"higher_is_better": True},
        {"name": "half", "higher_is_better": True, "key": "x"},
    ],
)
def test_a_function_without_a_name_or_a_direction_or_with_a_key(options):
    with pytest.raises(InputError, match="metric is a function; allowed"):
        as_metric(half_right, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("half_right", "half", True), "function is 'half_right'; allowed: a function"),
        ((half_right, "", True), "the name of a metric is ''"),
        ((half_right, "half", None), "higher_is_better of half is None"),
        ((half_right, "half", 1), "higher_is_better of half is 1"),
        ((half_right, "half", True, (1.0, 0.0)), r"bounds of half is \(1.0, 0.0\)"),
        ((half_right, "half", True, (0.0, NAN)), r"bounds of half is \(0.0, nan\)"),
    ],
)
def test_arguments_of_a_function_metric(arguments, message):
    with pytest.raises(InputError, match=message):
        FunctionMetric(*arguments)


@pytest.mark.parametrize(
    ("result", "got"),
    [(torch.ones(()), r"of shape \(\)"), (torch.ones(8, 10), r"of shape \(8, 10\)"), (1.0, "1.0")],
)
def test_a_function_gives_one_score_for_each_sample(result, got):
    metric = FunctionMetric(lambda outputs, targets: result, "mine", True)
    with pytest.raises(DataError, match=f"mine is {got}; allowed: .* each of the 8 samples"):
        passed(metric, (rand(8, 10), classes(8)))


@pytest.mark.parametrize("score", [-0.1, 1.1, 4.6, INF])
def test_scores_outside_the_bounds_are_refused(score):
    metric = FunctionMetric(lambda o, t: torch.full((len(t),), score), "mine", True, (0.0, 1.0))
    with pytest.raises(DataError, match=f"a score of mine is {score:g}; allowed: 0 to 1, its bou"):
        passed(metric, (rand(8, 10), classes(8)))


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize(("higher", "expected"), [(True, 0.75), (False, 1.0)])
def test_a_sample_that_is_not_finite_has_the_worst_score(bad, higher, expected):
    outputs = rand(4, 3, 2)
    outputs[2, 1, 1] = bad
    metric = FunctionMetric(lambda o, t: torch.ones(4), "mine", higher, (0.0, 1.0))
    assert passed(metric, (outputs, classes(4))) == (expected, None)
    unbounded = FunctionMetric(lambda o, t: torch.ones(4), "mine", higher)
    assert passed(unbounded, (outputs, classes(4)))[0] is None


def test_functions_of_outputs_that_are_no_tensor():
    metric = FunctionMetric(lambda o, t: torch.ones(len(t)), "mine", True, (0.0, 1.0))
    assert passed(metric, ([{"boxes": rand(3, 4)}] * 2, [None] * 2)) == (1.0, None)
    assert passed(metric, ([{"boxes": rand(3, 4) / 0}] * 2, [None] * 2))[0] is None


def test_functions_of_outputs_whose_first_axis_is_not_the_batch():
    metric = FunctionMetric(lambda o, t: torch.ones(len(t)), "mine", True, (0.0, 1.0))
    outputs = rand(3, 4, 5)
    assert passed(metric, (outputs, classes(4))) == (1.0, None)
    outputs[0, 0, 0] = NAN
    assert passed(metric, (outputs, classes(4)))[0] is None


def test_a_score_that_is_nan_fails_the_pass_and_an_exception_is_refused():
    metric = FunctionMetric(lambda o, t: torch.full((4,), NAN), "mine", True, (0.0, 1.0))
    assert passed(metric, (rand(4, 3), classes(4))) == (None, "the metric is nan")
    metric = FunctionMetric(lambda o, t: o[9], "mine", True)
    with pytest.raises(DataError, match="mine failed with IndexError: .*; allowed"):
        passed(metric, (rand(4, 3), classes(4)))


# Workers


def test_adapted_metrics_go_to_workers():
    metric = pickle.loads(pickle.dumps(as_metric(MulticlassAccuracy(3))))  # noqa: TID251
    assert passed(metric, (torch.eye(3), torch.arange(3))) == (1.0, None)


def test_torchmetrics_is_not_imported():
    code = "import joulewise.metrics, sys; assert 'torchmetrics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
