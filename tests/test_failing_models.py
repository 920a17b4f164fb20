"""Users' code that fails in any pass: one sentence, the cause chained, the model as it was."""

import sys

import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.data import Dataset, Split
from joulewise.errors import ModelError
from joulewise.models import seeded
from joulewise.training import TrainingSpec

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 4
BATCHES = [(X[k : k + 8], Y[k : k + 8]) for k in range(0, 40, 8)]
DATA = Dataset(
    name="data",
    train=Split(inputs=X, targets=Y),
    test=Split(inputs=X, targets=Y),
    classes=4,
    flips=False,
)


class Passes:
    """Forward passes of a model and all of its copies, together."""

    def __init__(self):
        self.seen = 0

    def __deepcopy__(self, memo):
        return self


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(4)
        self.passes = Passes()

    def forward(self, x):
        return self.norm(self.last(self.hidden(self.first(x))))

    def hidden(self, x):
        return x.relu()


class Exits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        sys.exit(0)


class Raises(Exits):
    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("no such gradient")


class WritesInPlace(Network):
    def forward(self, x):
        hidden = self.first(x).exp()
        out = self.last(hidden)
        hidden.add_(1)
        return out


class WithoutGradients(Network):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


def failing(raise_, at):
    def hidden(self, x):
        self.passes.seen += 1
        if self.passes.seen >= at:
            raise_()
        return x.relu()

    return type("Failing", (Network,), {"hidden": hidden})


def backward(function):
    return type("Backward", (Network,), {"hidden": lambda self, x: function.apply(x)})


def key_error():
    raise KeyError("a bug of the user's")


CALLS = {
    "simulate": lambda m: jw.simulate(
        jw.place(m, weights=jw.SRAM()), BATCHES, at={"eta": 0.4}, chips=3
    ),
    "first-order": lambda m: jw.predict(jw.place(m, weights=jw.SRAM()), BATCHES, at={"eta": 0.4}),
    "second-order": lambda m: jw.predict(
        jw.place(m, weights=jw.SRAM()), BATCHES, at={"eta": 0.4}, method="second-order"
    ),
    "corrected": lambda m: jw.predict(
        jw.place(m, weights=jw.SRAM()), BATCHES, at={"eta": 0.4}, method="corrected"
    ),
    "error_model": lambda m: jw.error_model(
        p := jw.place(m, weights=jw.SRAM()), BATCHES, at=p.plan({"eta": 0.4})
    ),
    "allocate": lambda m: jw.allocate(
        jw.place(m, weights=jw.SRAM(), example_inputs=X[:8]),
        BATCHES,
        goal=jw.OutputError(0.1),
        chips=20,
    ),
    "train": lambda m: jw.train(m, DATA, TrainingSpec(epochs=2, batch_size=8)),
    "train with sam": lambda m: jw.train(
        m, DATA, TrainingSpec(epochs=2, batch_size=8, method="sam")
    ),
    "train through a memory": lambda m: jw.train(
        m,
        DATA,
        TrainingSpec(epochs=2, batch_size=8),
        memory=jw.TrainingMemory(jw.place(m, weights=jw.SRAM()), at={"eta": 0.5}),
    ),
    "reestimate": lambda m: jw.reestimate_batchnorm(
        jw.TrainingMemory(jw.place(m, weights=jw.SRAM()), at={"eta": 0.5}), BATCHES
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("raise_", [key_error, sys.exit])
def test_a_forward_pass_that_fails(call, at, raise_):
    with seeded(0):
        model = failing(raise_, at)()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ModelError, match="the model fails on inputs of shape .* with ") as caught:
        CALLS[call](model)
    assert isinstance(caught.value.__cause__, (KeyError, SystemExit))
    assert torch.is_grad_enabled()
    if not call.startswith("train"):
        assert [module.training for module in model.modules()] == modes


DIFFERENTIATING = set(CALLS) - {"simulate", "reestimate"}


@pytest.mark.parametrize("call", sorted(DIFFERENTIATING))
@pytest.mark.parametrize("make", [WritesInPlace, backward(Exits), backward(Raises)])
def test_a_backward_pass_that_fails(call, make):
    with seeded(0):
        model = make()
    with pytest.raises(ModelError, match="the model cannot be differentiated: ") as caught:
        CALLS[call](model)
    assert isinstance(caught.value.__cause__, (RuntimeError, SystemExit, KeyError))


@pytest.mark.parametrize("call", sorted(DIFFERENTIATING))
def test_a_model_without_gradients(call):
    with pytest.raises(ModelError, match="cannot be differentiated|not depend differentiably"):
        CALLS[call](WithoutGradients())
