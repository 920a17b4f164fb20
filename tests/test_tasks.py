"""Any task: each row of the table is a model, its data and its metric, through all four calls.

Targets come from the model itself, so that faults are all that makes it worse.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MultilabelF1Score
from transformers import GPT2Config, GPT2LMHeadModel

import joulewise as jw
from joulewise.models import seeded

CHIPS = 20


@dataclass
class Task:
    """One row of the table."""

    model: nn.Module
    data: Any
    example: Any
    drop: jw.MetricDrop
    metric: Any = None
    name: str = ""
    predicted: bool = False


def of_model(model, inputs, targets_of, batch=16):
    """Batches whose targets are made of the model's own outputs."""
    with torch.no_grad():
        return [(x, targets_of(model.eval()(x))) for x in inputs.split(batch)]


def image_classes():
    with seeded(0):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)
        )
        x = torch.randn(64, 1, 8, 8)
    ((_, targets),) = of_model(model, x, lambda y: y.argmax(1), batch=64)
    data = DataLoader(TensorDataset(x, targets), batch_size=32)
    return Task(model, data, x[:2], jw.MetricDrop(0.2), name="accuracy", predicted=True)


def tokens():
    with seeded(0):
        config = GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        model = GPT2LMHeadModel(config)
        ids = torch.randint(31, (24, 12))
    with torch.no_grad():  # each label is the likeliest token after those before it
        likeliest = model.eval()(input_ids=ids).logits.argmax(-1)
    labels = torch.cat([ids[:, :1], likeliest[:, :-1]], 1)
    masks = torch.ones_like(ids)
    data = [
        {"input_ids": some, "attention_mask": mask, "labels": label}
        for some, mask, label in zip(ids.split(8), masks.split(8), labels.split(8), strict=True)
    ]
    example = {"input_ids": ids[:2], "attention_mask": masks[:2]}
    name = "negative log-likelihood of the next token"
    return Task(model, data, example, jw.MetricDrop(0.02), name=name)


def regression():
    with seeded(0):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        x = torch.randn(64, 8)
        data = of_model(model, x, lambda y: y + 0.1 * torch.randn(y.shape))
    drop = jw.MetricDrop(0.5, relative=True)
    return Task(model, data, x[:2], drop, name="mean squared error")


def segmentation():
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        x = torch.randn(24, 3, 8, 6)
    data = of_model(model, x, lambda y: y.argmax(1), batch=8)
    return Task(model, data, x[:2], jw.MetricDrop(0.2), name="accuracy")


class Named(nn.Module):
    """Outputs as torchvision's segmentation models return them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return {"out": self.layer(x), "aux": x}


class DictAccuracy(torchmetrics.Metric):
    """Takes the whole dict."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("right", torch.tensor(0.0))
        self.add_state("seen", torch.tensor(0.0))

    def update(self, outputs, targets):
        self.right += (outputs["out"].argmax(1) == targets).sum()
        self.seen += len(targets)

    def compute(self):
        return self.right / self.seen


def dict_output():
    with seeded(0):
        model, x = Named(), torch.randn(64, 6)
    data = of_model(model, x, lambda y: y["out"].argmax(1))
    drop = jw.MetricDrop(0.2)
    return Task(model, data, x[:2], drop, metric=DictAccuracy(), name="DictAccuracy")


def multi_label():
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))
        x = torch.randn(64, 6)
    data = of_model(model, x, lambda y: (y > 0).long())
    metric = MultilabelF1Score(num_labels=5, average="micro")
    return Task(model, data, x[:2], jw.MetricDrop(0.2), metric=metric, name="MultilabelF1Score")


class Detector(nn.Module):
    """As many boxes as have a score above a half, for each image: no fixed shape."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 24), nn.Linear(24, 5 * 6)

    def forward(self, x):
        found = self.head(self.body(x).relu()).unflatten(1, (6, 5)).sigmoid()
        return [
            {"boxes": one[one[:, 4] > 0.5, :4], "scores": one[one[:, 4] > 0.5, 4]} for one in found
        ]


class BoxesFound(torchmetrics.Metric):
    """Recall: share of target boxes that a detected box is close to."""

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self):
        super().__init__()
        self.add_state("found", torch.tensor(0.0))
        self.add_state("boxes", torch.tensor(0.0))

    def update(self, outputs, targets):
        for output, target in zip(outputs, targets, strict=True):
            self.boxes += len(target["boxes"])
            if len(output["boxes"]):
                apart = torch.cdist(target["boxes"], output["boxes"])
                self.found += (apart.amin(1) < 0.05).sum()

    def compute(self):
        return self.found / self.boxes


def detection():
    with seeded(0):
        model, x = Detector(), torch.randn(48, 12)
    data = of_model(model, x, lambda y: y)
    return Task(model, data, x[:2], jw.MetricDrop(0.2), metric=BoxesFound(), name="BoxesFound")


TASKS = {
    "image classes": image_classes,
    "tokens": tokens,
    "regression": regression,
    "segmentation": segmentation,
    "dict output": dict_output,
    "multi-label": multi_label,
    "detection": detection,
}
SHAPELESS = "detection"


@pytest.fixture(params=TASKS)
def row(request):
    task = TASKS[request.param]()
    placement = jw.place(task.model, weights=jw.SRAM(bits=8), example_inputs=task.example)
    return request.param, task, placement


def test_simulate(row):
    kind, task, placement = row
    result = jw.simulate(placement, task.data, at={"eta": 0.2}, chips=CHIPS, metric=task.metric)
    assert result.metric.name == task.name
    better = (
        result.ideal > result.mean if result.metric.higher_is_better else result.ideal < result.mean
    )
    assert better
    assert (len(result.mse) == 0) == (kind == SHAPELESS)
    assert task.name in repr(result)
    low, high = result.interval()
    assert low < result.mean < high


def test_predict(row):
    kind, task, placement = row
    if kind == SHAPELESS:
        with pytest.raises(jw.ModelError, match="lists of detections; allowed: simulate, with a"):
            jw.predict(placement, task.data, at={"eta": 0.4}, metric=task.metric)
        return
    forecast = jw.predict(placement, task.data, at={"eta": 0.4}, metric=task.metric)
    result = jw.simulate(placement, task.data, at={"eta": 0.4}, chips=100, metric=task.metric)
    # First order is within 30 % here; five standard errors of the chips come on top.
    reach = 5 * result.mse_interval(0.68).half_width
    assert abs(float(forecast.mse) - result.mean_mse) < 0.3 * result.mean_mse + reach
    assert (forecast.accuracy is not None) == task.predicted
    assert (forecast.refusal is None) == task.predicted
    if not task.predicted:
        assert task.name in forecast.refusal


def test_allocate_to_a_goal_of_the_metric(row):
    _, task, placement = row
    found = jw.allocate(
        placement, task.data, goal=task.drop, chips=CHIPS, samples=32, metric=task.metric
    )
    assert found.holds
    assert found.metric.name == task.name
    assert found.energy.normalised < 0.9
    assert (found.of == "weights") == (task.name == "BoxesFound")


def test_allocate_to_an_output_error(row):
    kind, task, placement = row
    goal = jw.OutputError(1e-2)
    if kind == SHAPELESS:
        with pytest.raises(jw.InputError, match="an OutputError is given for outputs of no fixed"):
            jw.allocate(placement, task.data, goal=goal, chips=CHIPS, metric=task.metric)
        return
    # No metric is given, and none is needed: targets that fit no metric are left alone.
    found = jw.allocate(placement, task.data, goal=goal, chips=CHIPS, samples=32)
    assert found.holds
    assert found.simulation.mean_mse < 1e-2


class Tokens(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, ids):
        return self.form(self.head(self.embedding(ids)))


def token_batches(*lengths):
    with seeded(1):
        return [{"ids": ids, "labels": ids} for ids in (torch.randint(11, (4, n)) for n in lengths)]


def test_batches_of_several_lengths():
    data = token_batches(5, 7)
    placement = jw.place(Tokens(lambda y: y), weights=jw.SRAM(), example_inputs=data[0]["ids"])
    assert jw.simulate(placement, data, at={"eta": 0.3}, chips=3).mse
    found = jw.allocate(placement, data, goal=jw.MetricDrop(0.1), chips=20)
    assert found.holds and found.of == "divergence"
    with pytest.raises(jw.ModelError, match="shape of the outputs is another one in some batches"):
        jw.predict(placement, data, at={"eta": 0.3})
    with pytest.raises(jw.ModelError, match="outputs differ in shape from batch to batch"):
        jw.pareto(placement, data, plans=2, chips=2)


@pytest.mark.parametrize("form", [lambda y: y, lambda y: (y, None), lambda y: {"logits": y}])
def test_labels_are_shifted_whatever_the_output_is(form):
    metric = torchmetrics.text.Perplexity()
    data = token_batches(6)
    with seeded(0):
        placement = jw.place(Tokens(form), weights=jw.SRAM(), example_inputs=data[0]["ids"])
    result = jw.simulate(placement, data, at={"eta": 1.0}, chips=2, metric=metric)
    assert result.metric.name == "Perplexity of the next token"


def test_targets_in_parts_and_a_batch_of_one():
    class Both:
        higher_is_better = False

        def reset(self):
            self.seen = 0.0

        def update(self, outputs, targets):
            first, second = targets
            self.seen += float((outputs[:, 0] - first).square().sum() + second.sum())

        def compute(self):
            return self.seen

    x, y = torch.randn(21, 6), torch.rand(21)
    data = [(x[i : i + 10], (y[i : i + 10], y[i : i + 10])) for i in (0, 10, 20)]
    placement = jw.place(nn.Linear(6, 2), weights=jw.SRAM(), example_inputs=x)
    assert jw.simulate(placement, data, at={"eta": 0.5}, chips=2, metric=Both()).values
