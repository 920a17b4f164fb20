"""Interception and its rules against automatic differentiation, for any way to use a weight."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from joulewise.devices import SRAM
from joulewise.errors import ModelError
from joulewise.models import ZOO, build, seeded
from joulewise.placement import call, loaded, place, take
from joulewise.prediction.linearisation.op_interception import Interception
from joulewise.prediction.linearisation.reductions import LogitJacobians
from joulewise.prediction.linearisation.self_check import cover


class Functional(nn.Module):
    """Weights that no module but this one knows of."""

    def __init__(self, use, *shapes, bias=False):
        super().__init__()
        self.use = use
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(*s)) for s in shapes])

    def forward(self, inputs):
        return self.use(inputs, *self.weights)


class Tied(nn.Module):
    """One matrix used three times, once transposed."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6)

    def forward(self, inputs):
        hidden = torch.tanh(self.one(torch.tanh(self.one(inputs))))
        return hidden @ self.one.weight


class ClassToken(nn.Module):
    """A vision transformer's beginning: a token of its own, and positions."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(1, 5, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), inputs], dim=1)
        return self.head(torch.tanh(tokens + self.positions)).mean(1)


class Attention(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)

    def forward(self, inputs):
        if not self.batch_first:
            inputs = inputs.transpose(0, 1)
        mixed, _ = self.attention(inputs, inputs, inputs)
        return mixed.mean(1 if self.batch_first else 0)


class Windows(nn.Module):
    """Several rows of the first axis are one sample."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(2, 3, 2), nn.Linear(9, 4)

    def forward(self, inputs):
        parts = inputs.unfold(2, 4, 4).transpose(1, 2).flatten(0, 1)
        rows = torch.tanh(self.convolution(parts)).flatten(1)
        return self.linear(rows).reshape(len(inputs), -1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, inputs):
        return self.head(self.lstm(inputs)[0][:, -1])


def _added_in_place(hidden, weight):
    hidden.add_(weight)
    return torch.tanh(hidden)


def image(net):
    return nn.Sequential(net, nn.Tanh(), nn.Flatten())


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def integers(high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


# Model, inputs of one sample, and the names that are differentiated sample by sample.
KNOWN = {
    "linear": (lambda: nn.Linear(5, 3), rand(5)),
    "linear on tokens": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten()), rand(4, 5)),
    "linear on a plane": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten()), rand(4, 2, 5)),
    "two layers": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), rand(5)),
    "in place": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        rand(5),
    ),
    "conv1d": (lambda: image(nn.Conv1d(2, 3, 3, stride=2, padding=1)), rand(2, 9)),
    "conv2d": (lambda: image(nn.Conv2d(2, 4, 3, padding=1)), rand(2, 5, 6)),
    "conv2d stride": (lambda: image(nn.Conv2d(2, 4, (3, 2), stride=(2, 3))), rand(2, 7, 8)),
    "conv2d dilation": (lambda: image(nn.Conv2d(2, 4, 3, dilation=2, padding=2)), rand(2, 6, 6)),
    "conv2d groups": (lambda: image(nn.Conv2d(4, 6, 3, groups=2, padding=1)), rand(4, 5, 5)),
    "depthwise": (lambda: image(nn.Conv2d(4, 4, 3, groups=4, padding=1)), rand(4, 5, 5)),
    "depthwise, two each": (lambda: image(nn.Conv2d(4, 8, 3, groups=4)), rand(4, 5, 5)),
    "conv2d same": (lambda: image(nn.Conv2d(2, 4, 3, padding="same", dilation=2)), rand(2, 5, 5)),
    "conv2d reflect": (
        lambda: image(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
        rand(2, 5, 5),
    ),
    "pointwise": (lambda: image(nn.Conv2d(4, 6, 1)), rand(4, 5, 5)),
    "pointwise stride": (lambda: image(nn.Conv2d(4, 6, 1, stride=2)), rand(4, 5, 5)),
    "conv3d": (lambda: image(nn.Conv3d(2, 3, 2, stride=(1, 2, 1))), rand(2, 4, 5, 4)),
    "transposed 1d": (lambda: image(nn.ConvTranspose1d(2, 3, 3, stride=2)), rand(2, 5)),
    "transposed 2d": (
        lambda: image(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)),
        rand(4, 4, 5),
    ),
    "channels last": (
        lambda: image(nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)),
        rand(4, 5, 5),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()),
        rand(2, 5, 5),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Flatten()),
        rand(3, 5),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()),
        rand(2, 5, 5),
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(20, 3)),
        integers(7, 5),
    ),
    "tied": (Tied, rand(6)),
    "class token": (ClassToken, rand(4, 6)),
    "attention": (lambda: Attention(True), rand(4, 6)),
    "attention, batch second": (lambda: Attention(False), rand(4, 6)),
    "windows": (Windows, rand(2, 12)),
    "matmul": (lambda: Functional(lambda x, w: (x @ w).flatten(1), (5, 3)), rand(2, 5)),
    "addmm": (lambda: Functional(lambda x, b, w: torch.addmm(b, x, w), (1, 3), (5, 3)), rand(5)),
    "product": (lambda: Functional(lambda x, w: torch.tanh(w * x), (1, 5)), rand(5)),
    "difference": (lambda: Functional(lambda x, w: torch.tanh(w - x), (1, 5)), rand(5)),
    "tokens first, flattened": (
        lambda: Functional(
            lambda x, w: (x.transpose(0, 1).flatten(0, 1) @ w).reshape(4, -1, 3).mean(0), (5, 3)
        ),
        rand(4, 5),
    ),
    "part of a weight": (
        lambda: Functional(lambda x, w: functional.linear(torch.tanh(x @ w[:5].T), w[5:]), (8, 5)),
        rand(5),
    ),
}
UNKNOWN = {
    "lstm": (Recurrent, rand(4, 3), {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}),
    "einsum": (
        lambda: Functional(lambda x, w: torch.einsum("ni,oi->no", x, w), (3, 5)),
        rand(5),
        {"weights.0"},
    ),
    "made from a weight": (
        lambda: Functional(lambda x, w: functional.linear(x, torch.tanh(w)), (3, 5)),
        rand(5),
        {"weights.0"},
    ),
    "added in place": (
        lambda: Functional(lambda x, w: _added_in_place(torch.tanh(x), w), (1, 5)),
        rand(5),
        {"weights.0"},
    ),
}
ALL = {name: (*case, set()) for name, case in KNOWN.items()} | UNKNOWN


def made(name):
    make, one, expected = ALL[name]
    with seeded(0):
        model = make().eval()
    model = model if not one.is_floating_point() else model.double()
    batch = torch.stack([one * (1 + 0.3 * k) + 0.1 * k for k in range(5)])
    batch = batch.double() if one.is_floating_point() else integers(7, 5, *one.shape)
    return model, batch, expected


@pytest.mark.parametrize("name", ALL)
def test_jacobians_are_those_of_autograd(cases, name):
    model, inputs, expected = made(name)
    # Everything is placed, vectors too.
    with cases.problem(model, inputs, include=["*"]) as problem:
        means = {n: m.mean.detach() for n, m in problem.memory.moments(problem.plan).items()}
        coverage = cover(problem, means)
        recurrent = {n for n in means if "lstm" in n}
        assert coverage.one_by_one == expected | recurrent
        collector = LogitJacobians(samples=5, means=means, coverage=coverage)
        problem.memory.expect(problem.plan, means)
        interception = Interception(means, collector.receive)
        with torch.enable_grad(), interception:
            output = call(model, inputs)
        probe = cases.normal(*output.shape, seed=3)
        if output.requires_grad:
            torch.autograd.grad(output, interception.root, probe, allow_unused=True)
        leaves = {n: m.clone().requires_grad_() for n, m in means.items()}
        problem.memory.expect(problem.plan, leaves)
        with torch.enable_grad():
            weighted = (call(model, inputs) * probe).reshape(5, -1).sum(1).unbind()
        exact = [torch.autograd.grad(w, list(leaves.values()), retain_graph=True) for w in weighted]
    assert set(collector.names()) == set(means) - coverage.one_by_one
    for position, weight in enumerate(means):
        if weight in coverage.one_by_one:
            continue
        wanted = torch.stack([row[position] for row in exact])
        torch.testing.assert_close(collector.jacobian(weight)[:, 0], wanted)
        var = cases.normal(*wanted.shape[1:], seed=4).square()
        var = torch.empty_like(means[weight]).copy_(var)
        products = (wanted.square() * var).flatten(1).sum(1)
        torch.testing.assert_close(collector.products(weight, var)[:, 0, 0], products)
        noise = torch.stack([torch.empty_like(var).copy_(var * k) for k in (1, -2)])
        moved = collector.response(weight, noise)[:, 0]
        torch.testing.assert_close(moved, wanted.flatten(1) @ noise.flatten(1).T)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_needs_no_sample_by_sample_pass(cases, name):
    model = build(name, (3, 8, 8), 5, seed=0).eval()
    with cases.problem(model, cases.normal(4, 3, 8, 8, dtype=torch.float32)) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.plan).items()}
        assert not cover(problem, means).one_by_one


def test_a_scripted_module_is_differentiated_sample_by_sample(cases):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.scripted = torch.jit.script(nn.Linear(5, 4))
            self.plain = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.plain(torch.tanh(self.scripted(inputs)))

    with cases.problem(Half().double().eval(), cases.normal(4, 5)) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.plan).items()}
        assert "scripted.weight" in means
        assert cover(problem, means).one_by_one == {"scripted.weight"}


def test_an_output_that_cannot_be_differentiated_is_refused(cases):
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, inputs):
            return self.linear(inputs).argmax(1, keepdim=True).double()

    with cases.problem(Hard().double().eval(), cases.normal(4, 5)) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.plan).items()}
        with pytest.raises(ModelError, match=r"shape \(3, 1\).*does not depend differentiably"):
            cover(problem, means)


def check_refused(cases, model, inputs, match):
    with cases.problem(model.double().eval(), inputs) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.plan).items()}
        with pytest.raises(ModelError, match=match):
            cover(problem, means)


def test_samples_that_depend_on_each_other_are_refused(cases):
    mixed = Functional(lambda x, w: functional.linear(x, w) + x.mean(0) @ w.T, (3, 5))
    check_refused(cases, mixed, cases.normal(4, 5), "changes with the other samples of its batch")
    drawn = Functional(lambda x, w: functional.dropout(x @ w.T, 0.5, True), (3, 5))
    with seeded(0):
        check_refused(cases, drawn, cases.normal(4, 5), "draws no random numbers")


def test_an_output_with_tokens_first_is_refused(cases):
    last = Functional(lambda x, w: (x @ w.T).transpose(0, 1), (3, 5))
    check_refused(cases, last, cases.normal(4, 6, 5), "the shape of the output is")


def test_an_embedding_that_rescales_itself_is_refused(cases):
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Flatten())
    check_refused(cases, model, integers(7, 5, 2), "max_norm")


def test_take_cuts_what_belongs_to_the_batch():
    nested = {"x": torch.arange(4), "y": (torch.arange(8).reshape(4, 2), torch.arange(3)), "z": 1}
    some = take(nested, 4, slice(1, 3))
    assert some["x"].tolist() == [1, 2]
    assert some["y"][0].tolist() == [[2, 3], [4, 5]]
    assert some["y"][1].tolist() == [0, 1, 2]
    assert some["z"] == 1


def test_the_model_is_left_as_it_was(cases):
    model, inputs, _ = made("tied")
    before = {name: p.clone() for name, p in model.named_parameters()}
    objects = [id(p) for p in model.parameters()]
    with cases.problem(model, inputs) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.plan).items()}
        cover(problem, means)
    assert [id(p) for p in model.parameters()] == objects
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    with loaded(place(model, weights=SRAM(), inputs=inputs)):
        pass
