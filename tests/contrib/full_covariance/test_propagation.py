"""The traversal: what it evaluates, what it hands on, and what it refuses by name."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gaussian_memory import GaussianMemory, output_moments
from joulewise.contrib.full_covariance import RULES, FullCovariance
from joulewise.contrib.full_covariance.network import trace_network
from joulewise.contrib.full_covariance.propagation import Propagation
from joulewise.contrib.full_covariance.rules import affine, scaling
from joulewise.errors import ModelError
from joulewise.placement import place
from joulewise.prediction import loaded_problem


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Written(nn.Module):
    """Modules by name, and a forward pass of one's own."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._written = forward

    def forward(self, x):
        return self._written(self, x)


def moments_of(model, x, std=0.1, include=(), keep=0.9, **options):
    model = model.double().eval()
    memory = GaussianMemory(keep=keep)
    placement = place(model, weights=memory, include=include)
    return output_moments(placement, x, placement.plan({"std": std}), **options)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.act = nn.GELU()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.max_pool2d(x + self.act(self.conv(x)), 2)
        return self.head(x.flatten(1))


def test_without_noise_it_is_the_plain_forward_pass():
    model, x = Block().double().eval(), random(3, 1, 4, 4)
    mean, cov = moments_of(model, x, std=0.0, keep=1.0)
    assert torch.equal(mean, model(x).detach())
    assert not cov.any()


def test_noise_that_vanishes_leaves_the_plain_forward_pass():
    model, x = Block().double().eval(), random(3, 1, 4, 4)
    mean, cov = moments_of(model, x, std=1e-9, keep=1.0)
    assert torch.allclose(mean, model(x).detach(), atol=1e-7)
    assert float(cov.abs().max()) < 1e-14


def test_what_comes_before_the_noise_needs_no_rule():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(-1), nn.Linear(4, 2))
    x = random(2, 4)
    mean, cov = moments_of(model, x, include=("3.weight",))
    before = model[:3].double()(x)
    assert torch.allclose(mean, before @ (0.9 * model[3].weight).T + model[3].bias)
    eye = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(cov, 0.01 * before.square().sum(1)[:, None, None] * eye)


def test_a_single_layer_is_a_model():
    x = random(2, 4)
    _, cov = moments_of(nn.Linear(4, 2), x)
    eye = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(cov, 0.01 * x.square().sum(1)[:, None, None] * eye)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, a, b, scale=2.0):
        return {"logits": self.fc(a) + scale * b}


def test_named_inputs_a_default_and_outputs_in_a_mapping():
    model, a, b = Named().double(), random(2, 3), random(2, 2)
    network = trace_network(place(model, weights=GaussianMemory()), RULES, torch.float64)
    with torch.no_grad():
        weights = {"fc.weight": GaussianMemory().moments(model.fc.weight.detach(), 0.1)}
        options = {"weights": weights, "plan": {}, "rules": RULES, "order": 4}
        options["converters"] = {}
        expected = a @ (0.9 * model.fc.weight).T + model.fc.bias + 2 * b
        for given in ((a, b), {"b": b, "a": a}):
            out = Propagation(network, **options).run(given)
            assert torch.allclose(out.mean, expected)


class Triple(nn.Module):
    def forward(self, x):
        for _ in range(int(torch.ones(3).sum())):  # no trace looks into this
            x = x + 0
        return 3 * x


def test_a_layer_of_ones_own_joins_by_a_rule():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), random(2, 3)
    with pytest.raises(
        ModelError, match=r"1 is a LayerNorm, which has no rule.*LayerNorm: my_rule"
    ):
        moments_of(model, x)
    model = nn.Sequential(nn.Linear(3, 2), Triple())
    _, cov = moments_of(model, x, rules=RULES | {Triple: scaling})
    _, single = moments_of(model[:1], x)
    assert torch.allclose(cov, 9 * single)


_NORM = nn.BatchNorm1d(2, track_running_stats=False)
REFUSED = {
    "function without a rule": (
        Written(lambda self, x: torch.cumsum(self.fc(x), 1), fc=nn.Linear(4, 4)),
        r"cumsum .* has no rule for its moments.*first-order",
    ),
    "method without a rule": (
        Written(lambda self, x: self.fc(x).cumprod(1), fc=nn.Linear(4, 4)),
        r"cumprod .* has no rule",
    ),
    "layer used twice": (
        Written(lambda self, x: self.fc(self.fc(x)), fc=nn.Linear(4, 4)),
        r"fc\.weight is placed and used more than once",
    ),
    "layer not used": (
        Written(lambda self, x: self.fc(x), fc=nn.Linear(4, 4), idle=nn.Linear(4, 4)),
        r"idle\.weight is placed and not used",
    ),
    "weight used by a function": (
        Written(lambda self, x: F.linear(x, self.fc.weight), fc=nn.Linear(4, 4)),
        r"fc\.weight is placed and used by a function.*exclude 'fc\.weight'",
    ),
    "a layer without a rule": (
        nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.RNN(2, 2, batch_first=True)),
        r"2 is a RNN, which has no rule",
    ),
    "control flow": (
        Written(lambda self, x: self.fc(x) if x.sum() > 0 else x, fc=nn.Linear(4, 4)),
        r"cannot be traced by torch\.fx: TraceError",
    ),
    "in place and used again": (
        Written(
            lambda self, x: (lambda y: F.relu(y, inplace=True) + y)(self.fc(x)), fc=nn.Linear(4, 4)
        ),
        r"relu .* works in place on a value that is used again",
    ),
    "product of two that vary": (
        Written(lambda self, x: (lambda y: y * torch.tanh(y))(self.fc(x)), fc=nn.Linear(4, 4)),
        r"mul .* several inputs that vary",
    ),
    "batch mixed": (
        Written(lambda self, x: self.fc(x).mean(0, keepdim=True), fc=nn.Linear(4, 4)),
        r"output .*is \(1, 4\); allowed: the batch, 3",
    ),
    "batch norm without statistics": (
        nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), _NORM, nn.Flatten()),
        r"2 has no running statistics",
    ),
    "dropout that is always on": (
        Written(lambda self, x: F.dropout(self.fc(x), 0.5, True), fc=nn.Linear(4, 4)),
        r"dropout .* drops values in evaluation mode",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_covered_is_refused_by_name(name):
    model, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        moments_of(model, random(3, 4))


def test_a_rule_that_passes_a_placed_weight_by_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ModelError, match=r"1 has a rule that does not read 1\.weight"):
        moments_of(model, random(3, 4), rules=RULES | {nn.Linear: _first_layer_only(affine)})


def _first_layer_only(other):
    linear = RULES[nn.Linear]
    return lambda op: linear(op) if op.name == "0" else other(op)


def test_nan_is_refused_by_the_name_of_the_first_layer():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), random(3, 4)
    placement = place(model.double(), weights=GaussianMemory(keep=math.nan))
    nan = loaded_problem(placement, [x], {"std": 0.1})
    with nan as problem, pytest.raises(ModelError, match=r"the output of 0 is NaN or infinite"):
        list(FullCovariance().pieces(problem))


def test_a_network_too_large_is_refused_before_it_takes_memory():
    model = nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)
    )
    with pytest.raises(ModelError, match=r"65536 numbers, take .* GB; allowed: memory_bytes"):
        moments_of(model, random(1, 1, 32, 32))


def test_hooks_of_the_model_do_not_see_moments():
    model, seen = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), []
    model[1].register_forward_hook(lambda *args: seen.append(1))
    model.double()
    placement = place(model, weights=GaussianMemory())
    with loaded_problem(placement, [random(2, 4)], {"std": 0.1}) as problem:
        seen.clear()
        list(FullCovariance(dtype=torch.float64).pieces(problem))
    assert len(seen) <= 2  # the tracer, and the pass that sizes the covariances
