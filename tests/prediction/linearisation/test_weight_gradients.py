"""Gradients of placed weights in whole models against autograd, sample by sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from joulewise.models import seeded
from joulewise.prediction.linearisation.op_interception import intercepted_pass
from joulewise.prediction.linearisation.self_check import cover
from joulewise.prediction.linearisation.weight_gradients import caught_gradients
from per_sample import Functional


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


def _twice(x, weight):
    return functional.conv2d(functional.conv2d(x, weight).tanh(), weight, dilation=2)


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
    **{
        f"conv2d {mode}": (
            lambda mode=mode: image(nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode)),
            rand(2, 5, 5),
        )
        for mode in ("reflect", "replicate", "circular")
    },
    "conv2d without bias": (lambda: image(nn.Conv2d(2, 4, 3, bias=False)), rand(2, 5, 5)),
    "conv2d used twice": (
        lambda: Functional(lambda x, w: _twice(x, w).flatten(1), (2, 2, 3, 3)),
        rand(2, 7, 7),
    ),
    "conv2d in transposed use": (
        lambda: Functional(
            lambda x, w: functional.conv_transpose2d(functional.conv2d(x, w).tanh(), w).flatten(1),
            (3, 2, 3, 3),
        ),
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
    "embedding tied to the head": (
        lambda: Functional(
            lambda x, w: functional.linear(functional.embedding(x, w).tanh(), w).flatten(1), (7, 4)
        ),
        integers(7, 5),
    ),
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


def made(name, samples=5):
    make, one, expected = ALL[name]
    with seeded(0):
        model = make().eval()
    model = model if not one.is_floating_point() else model.double()
    batch = torch.stack([one * (1 + 0.3 * k) + 0.1 * k for k in range(samples)])
    batch = batch.double() if one.is_floating_point() else integers(7, samples, *one.shape)
    return model, batch, expected


@pytest.mark.parametrize(
    ("name", "samples"),
    [(name, 5) for name in ALL] + [(name, 1) for name in ("linear", "conv2d groups", "tied")],
)
def test_jacobians_are_those_of_autograd(cases, name, samples):
    model, inputs, expected = made(name, samples)
    # Everything is placed, vectors too.
    with cases.problem(model, inputs, include=["*"]) as problem:
        means = {n: m.mean.detach() for n, m in problem.memory.moments(problem.points).items()}
        coverage = cover(problem, means)
        recurrent = {n for n in means if "lstm" in n}
        assert coverage.one_by_one == expected | recurrent
        with torch.enable_grad():
            output, interception = intercepted_pass(problem, means, inputs)
        probe = cases.normal(*output.shape, seed=3)
        interception.backward(output, probe)
        leaves = {n: m.clone().requires_grad_() for n, m in means.items()}
        problem.memory.expect(problem.points, leaves)
        with torch.enable_grad():
            weighted = (problem.memory.call(inputs) * probe).reshape(samples, -1).sum(1).unbind()
        exact = [torch.autograd.grad(w, list(leaves.values()), retain_graph=True) for w in weighted]
    caught, unseen = caught_gradients(interception.uses, means, coverage, samples)
    assert set(caught) == set(means) - coverage.one_by_one and not unseen
    for position, weight in enumerate(means):
        if weight in coverage.one_by_one:
            continue
        wanted = torch.stack([row[position] for row in exact])
        var = cases.normal(*wanted.shape[1:], seed=4).square()
        var = torch.empty_like(means[weight]).copy_(var)
        products = (wanted.square() * var).flatten(1).sum(1)
        one = caught[weight]
        torch.testing.assert_close(one.squared(var, None), products)
        torch.testing.assert_close(one.products(var, None)[:, 0, 0], products)
        torch.testing.assert_close(one.summed(), wanted.square().sum(0))
        noise = [var, -2 * var, torch.empty_like(var).copy_(cases.normal(*var.shape, seed=5))]
        moved = torch.stack([(wanted * n).flatten(1).sum(1) for n in noise], 1)
        torch.testing.assert_close(one.response(noise)[:, 0], moved)
        by_channel = [(wanted * n).reshape(samples, len(n), -1).sum(2) for n in noise]
        torch.testing.assert_close(one.response_by_channel(noise), torch.stack(by_channel, 2))
