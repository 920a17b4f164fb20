"""Each rule against an oracle that shares nothing with it: Jacobians, enumeration, sampling."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gaussian_memory import GaussianMemory, TiedMemory, covariance_of, output_moments
from joulewise.contrib.full_covariance import RULES
from joulewise.contrib.full_covariance.gaussian import RELU, PiecewiseLinear, quadrature
from joulewise.contrib.full_covariance.joint import Joint
from joulewise.devices import SRAM
from joulewise.placement import place

STD = 0.3
SAMPLES = 40_000
Z = 5.0  # two-sided 6e-7 for each of a few thousand comparisons, on fixed seeds


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def filled(model, seed=1):
    """A model in float64 with parameters and statistics that are all different."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in (*model.parameters(), *model.buffers()):
            if p.is_floating_point():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        for m in model.modules():
            if hasattr(m, "running_var") and m.running_var is not None:
                m.running_var.abs_().add_(0.5)
    return model


# Words on their own, and words that share a factor.
MEMORIES = {"apart": GaussianMemory(), "tied": TiedMemory()}


def placed(model, *names, memory=MEMORIES["apart"]):
    placement = place(model, weights=memory, include=names)
    return placement, placement.plan({"std": STD})


def means_of(model, placement):
    """Parameters with the placed ones at the mean of what is read."""
    names = {p.name for p in placement.placed}
    return {n: (0.9 * p if n in names else p).detach() for n, p in model.named_parameters()}


def responses(model, parameters, name, x):
    """Derivatives of the output in the weights of one tensor, ``[batch, outputs, weights]``."""

    def run(weight):
        return torch.func.functional_call(model, {**parameters, name: weight}, (x,)).flatten(1)

    return torch.autograd.functional.jacobian(run, parameters[name]).flatten(2)


# --- Layers with weights -------------------------------------------------------------------------

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear on tokens": (lambda: nn.Linear(3, 4), (5, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    "conv1d stride, dilation": (
        lambda: nn.Conv1d(2, 4, 3, stride=2, dilation=2, groups=2),
        (2, 11),
    ),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 5)),
    "conv2d stride": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 5, 4)),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, dilation=2), (4, 5, 4)),
    "conv2d depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding="same"), (3, 4, 4)),
    "conv2d same, even": (
        lambda: nn.Conv2d(1, 2, (2, 4), padding="same", dilation=2),
        (1, 4, 5),
    ),
    "conv2d circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "conv2d reflect": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("noisy_bias", [False, True])
@pytest.mark.parametrize("words", MEMORIES)
def test_one_layer_is_exact(name, noisy_bias, words):
    """The output is linear in the weights, so its covariance is J C J^T, C that of the words."""
    make, shape = LAYERS[name]
    model = filled(nn.Sequential(make()))
    names = ("0.weight", "0.bias")[: 1 + noisy_bias]
    memory = MEMORIES[words]
    placement, plan = placed(model, *names, memory=memory)
    x, parameters = random(2, *shape), means_of(model, placement)
    mean, cov = output_moments(placement, x, plan)
    expected = torch.func.functional_call(model, parameters, (x,)).flatten(1)
    stored = dict(model.named_parameters())
    spread = sum(
        j @ covariance_of(memory, stored[n].detach(), STD) @ j.mT
        for n in names
        for j in (responses(model, parameters, n, x),)
    )
    assert torch.allclose(mean, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(cov, spread, rtol=1e-11, atol=1e-12)


PAIRS = {
    "linear": (lambda: (nn.Linear(4, 3), nn.Linear(3, 4)), (4,)),
    "tokens": (lambda: (nn.Linear(2, 3), nn.Linear(3, 2)), (3, 2)),
    "conv2d": (lambda: (nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, stride=2)), (1, 5, 4)),
    "groups": (
        lambda: (nn.Conv1d(2, 4, 3, groups=2), nn.Conv1d(4, 2, 2, groups=2, dilation=2)),
        (2, 6),
    ),
    "depthwise": (
        lambda: (nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 3, groups=2, padding=1, bias=False)),
        (1, 6),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("words", MEMORIES)
def test_two_layers_are_exact(name, words):
    """Law of total covariance: what the first layer's noise does to the second's is quadratic."""
    make, shape = PAIRS[name]
    first, second = make()
    model = filled(nn.Sequential(first, second))
    memory = MEMORIES[words]
    placement, plan = placed(model, "0.weight", "1.weight", memory=memory)
    x, parameters = random(1, *shape), means_of(model, placement)
    _, cov = output_moments(placement, x, plan)
    first_cov, second_cov = (
        covariance_of(memory, layer.weight.detach(), STD) for layer in (first, second)
    )
    head = {n[2:]: p for n, p in parameters.items() if n.startswith("1.")}
    hidden = torch.func.functional_call(
        first, {n[2:]: p for n, p in parameters.items() if n.startswith("0.")}, (x,)
    )
    own = {n: p for n, p in parameters.items() if n.startswith("0.")}
    moves = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(first, {"weight": w, "bias": own["0.bias"]}, (x,)),
        parameters["0.weight"],
    ).flatten(hidden.ndim) @ torch.linalg.cholesky(first_cov)
    silent = {n: p if n == "weight" else torch.zeros_like(p) for n, p in head.items()}
    expected = responses(model, parameters, "0.weight", x)
    expected = expected @ first_cov @ expected.mT
    at_mean = responses(second, head, "weight", hidden)
    expected = expected + at_mean @ second_cov @ at_mean.mT
    for k in range(moves.shape[-1]):
        j = responses(second, silent, "weight", moves[..., k])
        expected = expected + j @ second_cov @ j.mT
    assert torch.allclose(cov, expected, rtol=1e-11, atol=1e-12)


def test_two_layers_of_three_bits_against_every_fault_pattern():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -0.7]]))
        model[0].bias.fill_(0.3)
        model[1].weight.copy_(torch.tensor([[-0.4], [0.9]]))
    memory = SRAM(bits=3)
    placement = place(model, weights=memory)
    plan = placement.plan({"eta": 0.15})
    rate = float(memory.bit_error_rate(0.15))
    x = torch.tensor([[0.8, 1.5]], dtype=torch.float64)
    mean, cov = output_moments(placement, x, plan)
    reads = []  # what each of the four weights reads under each of the 8 patterns
    for parameter in (model[0].weight, model[1].weight):
        stored = memory.store(parameter)
        codes = torch.round(stored.values / stored.scale).to(torch.int32).flatten()
        for code in codes:
            patterns = torch.arange(8, dtype=torch.int32)
            reads.append(memory.fault.read(code.expand(8), patterns, patterns, 3) * stored.scale)
    hits = torch.tensor([bin(k).count("1") for k in range(8)], dtype=torch.float64)
    chance = rate**hits * (1 - rate) ** (3 - hits)
    outputs, weights = [], []
    for pattern in itertools.product(range(8), repeat=4):
        a, b, c, d = (reads[i][k] for i, k in enumerate(pattern))
        hidden = a * x[0, 0] + b * x[0, 1] + 0.3
        outputs.append(torch.stack([c * hidden, d * hidden]))
        weights.append(math.prod(float(chance[k]) for k in pattern))
    outputs, weights = torch.stack(outputs), torch.tensor(weights, dtype=torch.float64)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    expected = weights @ outputs
    away = outputs - expected
    assert torch.allclose(mean[0], expected, rtol=1e-12)
    assert torch.allclose(cov[0], (weights[:, None] * away).T @ away, rtol=1e-10, atol=1e-14)


# --- Operations that are linear in what arrives -------------------------------------------------


class Residual(nn.Module):
    """A noisy layer, and then branches that share its output."""

    def __init__(self, join):
        super().__init__()
        self.noisy = nn.Conv2d(1, 2, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.join = join

    def forward(self, x):
        y = self.noisy(x)
        return self.join(y, self.branch(y), x)


AFFINE = {
    "batch norm": lambda y, b, x: b,
    "add": lambda y, b, x: y + b,
    "torch.add": lambda y, b, x: torch.add(b, y, alpha=-0.5),
    "subtract": lambda y, b, x: y - b,
    "add the input": lambda y, b, x: b + x.expand(-1, 2, -1, -1),
    "twice": lambda y, b, x: b + b,
    "times a constant": lambda y, b, x: 2 * b / 3,
    "times the input": lambda y, b, x: b * x.expand(-1, 2, -1, -1),
    "plus a constant": lambda y, b, x: 1 - b,
    "cat": lambda y, b, x: torch.cat([y, x, b], 1),
    "cat of one with itself": lambda y, b, x: torch.cat((b, b), dim=-1),
    "average pool": lambda y, b, x: F.avg_pool2d(b, 2),
    "average pool, overlapping": lambda y, b, x: F.avg_pool2d(b, 3, stride=1, padding=1),
    "adaptive": lambda y, b, x: F.adaptive_avg_pool2d(b, (2, 1)),
    "global mean": lambda y, b, x: b.mean((2, 3)),
    "torch.mean": lambda y, b, x: torch.mean(b, dim=1, keepdim=True),
    "flatten": lambda y, b, x: torch.flatten(b, 1) + y.flatten(1),
    "view": lambda y, b, x: b.view(b.size(0), -1) - y.reshape(y.shape[0], -1),
    "permute": lambda y, b, x: b.permute(0, 2, 3, 1),
    "pad": lambda y, b, x: F.pad(b, (1, 0, 0, 2)),
    "slice": lambda y, b, x: b[:, :, 1:3] + y[:, :, :2],
    "dropout": lambda y, b, x: F.dropout(b, training=False),
    "three branches": lambda y, b, x: (y + b) * 0.5 + (b - y) + y,
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_operations_are_exact(name):
    model = filled(Residual(AFFINE[name]))
    placement, plan = placed(model, "noisy.weight")
    x, parameters = random(2, 1, 4, 4), means_of(model, placement)
    mean, cov = output_moments(placement, x, plan)
    jacobian = responses(model, parameters, "noisy.weight", x)
    buffers = dict(model.named_buffers())
    expected = torch.func.functional_call(model, {**parameters, **buffers}, (x,))
    assert torch.allclose(mean, expected.flatten(1), rtol=1e-11, atol=1e-11)
    assert torch.allclose(cov, jacobian @ jacobian.mT * STD**2, rtol=1e-10, atol=1e-11)


def test_a_residual_sum_needs_its_cross_terms(monkeypatch):
    """Against samples of the weights, with and without the covariance between the branches."""
    model = filled(Residual(AFFINE["add"]))
    placement, plan = placed(model, "noisy.weight")
    x, parameters = random(1, 1, 4, 4), means_of(model, placement)
    generator = torch.Generator().manual_seed(5)
    shape = (SAMPLES // 10, *model.noisy.weight.shape)
    noise = STD * torch.randn(shape, generator=generator, dtype=torch.float64)

    def run(w):
        own = {**parameters, **dict(model.named_buffers()), "noisy.weight": w}
        return torch.func.functional_call(model, own, (x,)).flatten()

    outputs = torch.vmap(run)(parameters["noisy.weight"] + noise)
    mean, cov = output_moments(placement, x, plan)
    assert worst_z(outputs, mean[0], cov[0]) < Z
    both = Joint.cov
    monkeypatch.setattr(Joint, "cov", lambda self, a, b: both(self, a, b) if a is b else None)
    mean, cov = output_moments(placement, x, plan)
    assert worst_z(outputs, mean[0], cov[0]) > 3 * Z


def worst_z(outputs, mean, cov):
    """The largest distance of sample moments from predicted ones, in standard errors."""
    count = len(outputs)
    away = outputs - mean
    worst = (away.mean(0).abs() / (away.std(0) / count**0.5 + 1e-12)).max()
    products = away[:, :, None] * away[:, None]
    off = (products.mean(0) - cov).abs() / (products.std(0) / count**0.5 + 1e-12)
    return float(torch.maximum(worst, off.max()))


# --- Functions of each entry ---------------------------------------------------------------------

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky relu": nn.LeakyReLU(0.2),
    "hardtanh": nn.Hardtanh(-0.5, 0.8),
    "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(),
    "hardswish": nn.Hardswish(),
    "elu": nn.ELU(),
    "mish": nn.Mish(),
}


def gaussian_outputs(model, x, plan, placement, function):
    """Samples of a function of a first layer's output, which is exactly Gaussian."""
    mean, cov = output_moments(placement, x, plan)
    factor = torch.linalg.cholesky(cov[0] + 1e-14 * torch.eye(len(cov[0]), dtype=torch.float64))
    generator = torch.Generator().manual_seed(9)
    draws = torch.randn(SAMPLES, len(factor), generator=generator, dtype=torch.float64)
    hidden = mean[0] + draws @ factor.T
    return function(hidden.view(SAMPLES, *model(x).shape[1:])).flatten(1)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.2, 0.5])
def test_activations_of_gaussian_values_against_samples(name, scale):
    """Means, variances and all covariances, some entries nearly one and some nearly independent.

    The noise does not reach far beyond where the function bends: twelve terms are then as good as
    all, as far as these samples can tell.
    """
    # Noise as large as the weights, so that each entry is on both sides of each kink often enough
    # for its sample moments to be normal.
    layer, x = filled(nn.Sequential(nn.Conv1d(1, 2, 3, padding=1))), scale * random(1, 1, 5)
    plan, memory = {"std": 1.0}, GaussianMemory()
    activation = ACTIVATIONS[name]
    outputs = gaussian_outputs(layer, x, plan, place(layer, weights=memory), activation)
    model = nn.Sequential(*layer, activation)
    mean, cov = output_moments(place(model, weights=memory), x, plan, order=12)
    assert worst_z(outputs, mean[0], cov[0]) < Z


def test_four_terms_of_the_series_are_within_two_percent():
    """Relative to the product of standard deviations, for ReLU at its worst: a mean of zero."""
    layer = filled(nn.Sequential(nn.Conv1d(1, 2, 3, padding=1, bias=False), nn.ReLU()))
    with torch.no_grad():
        layer[0].weight.zero_()
    placement, x = place(layer, weights=GaussianMemory()), random(1, 1, 8)
    _, exact = output_moments(placement, x, {"std": STD}, order=12)
    _, cut = output_moments(placement, x, {"std": STD}, order=4)
    std = exact[0].diagonal().sqrt()
    relative = (exact - cut)[0].abs() / (std[:, None] * std)
    assert float(relative.max()) < 0.02
    assert torch.equal(exact[0].diagonal(), cut[0].diagonal())
    assert float(torch.linalg.eigvalsh(cut[0]).min()) > -1e-12


@pytest.mark.parametrize(
    "function",
    [
        RELU,
        PiecewiseLinear(slope=-1.0, knots=((0.0, 2.0),)),
        PiecewiseLinear(knots=((0.0, 1.0), (6.0, -1.0)), intercept=-2.0),
        PiecewiseLinear(slope=0.5, knots=((-1.0, 1.0), (0.5, -2.0), (0.7, 1.0))),
    ],
)
def test_closed_forms_of_piecewise_linear_functions_against_fine_sums(function):
    mean = torch.tensor([[-7.0, -1.0, -0.9, 0.0, 0.6, 2.0, 6.0, 9.0]], dtype=torch.float64)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z**2, 0)
    for std in (0.01, 0.5, 3.0):
        got = function.expand(mean, torch.full_like(mean, std**2), order=4)
        values = function(mean[0, :, None] + std * z)
        expected = values @ weight
        centred = values - expected[:, None]
        assert torch.allclose(got.mean[0], expected, rtol=1e-8, atol=1e-9 * std)
        assert torch.allclose(got.var[0], centred**2 @ weight, rtol=1e-7, atol=1e-9 * std**2)
        hermite = [z, z**2 - 1, z**3 - 3 * z, z**4 - 6 * z**2 + 3]
        for a, polynomial in zip(got.coefficients, hermite, strict=True):
            assert torch.allclose(a[0], centred @ (weight * polynomial), atol=1e-7 * std)


def test_small_noise_far_from_zero_does_not_cancel():
    got = RELU.expand(torch.full((1, 1), 1e3), torch.full((1, 1), 1e-12), order=1)
    assert float(got.var) == pytest.approx(1e-12, rel=1e-6)  # float32 inputs


def test_quadrature_of_a_smooth_function_is_exact_and_its_gradient_too():
    mean = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    var = torch.tensor([[0.25]], dtype=torch.float64, requires_grad=True)
    got, _ = quadrature(lambda x: (torch.exp(x), torch.zeros(())), mean, var, 3)
    expected = torch.exp(mean + var / 2)  # log-normal
    assert torch.allclose(got.mean, expected, rtol=1e-12)
    assert torch.allclose(got.var, (torch.exp(var) - 1) * expected**2, rtol=1e-10)
    for own, other in zip(
        torch.autograd.grad(got.mean.sum(), (mean, var)),
        torch.autograd.grad(expected.sum(), (mean, var)),
        strict=True,
    ):
        assert torch.allclose(own, other, rtol=1e-9)


# --- Maxima --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_the_maximum_of_pairs_against_samples(stride):
    layer, x = filled(nn.Sequential(nn.Conv1d(1, 2, 3, padding=1))), random(1, 1, 6)
    pool = nn.MaxPool1d(2, stride=stride)
    outputs = gaussian_outputs(layer, x, {"std": STD}, place(layer, weights=GaussianMemory()), pool)
    model = nn.Sequential(*layer, pool)
    mean, cov = output_moments(place(model, weights=GaussianMemory()), x, {"std": STD}, order=12)
    assert worst_z(outputs, mean[0], cov[0]) < Z


def test_torch_maximum_of_two_branches_against_samples():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(1, 2, 3, padding=1)

        def forward(self, x):
            y = self.layer(x)
            return torch.maximum(y, 0.5 * y + 0.2)

    model, x = filled(Two()), random(1, 1, 5)
    layer = nn.Sequential(model.layer)
    plan = {"std": STD}
    outputs = gaussian_outputs(
        layer,
        x,
        plan,
        place(layer, weights=GaussianMemory()),
        lambda y: torch.maximum(y, 0.5 * y + 0.2),
    )
    placement = place(model, weights=GaussianMemory())
    mean, cov = output_moments(placement, x, {"std": STD}, order=12)
    assert worst_z(outputs, mean[0], cov[0]) < Z


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((1, 3), stride=1, dilation=(1, 2)),
    ],
)
def test_larger_windows_take_the_running_maximum_for_gaussian(pool):
    """As far off as the rule says, and three standard errors of the samples (1.5 %) more."""
    layer, x = filled(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))), random(1, 1, 5, 5)
    outputs = gaussian_outputs(layer, x, {"std": STD}, place(layer, weights=GaussianMemory()), pool)
    model = nn.Sequential(*layer, pool)
    mean, cov = output_moments(place(model, weights=GaussianMemory()), x, {"std": STD})
    std = outputs.std(0)
    assert float(((outputs.mean(0) - mean[0]).abs() / std).max()) < 0.03 + 0.015
    assert float(((outputs.T.cov() - cov[0]).abs() / (std[:, None] * std)).max()) < 0.2 + 0.015


# --- The table -----------------------------------------------------------------------------------


def test_the_table_cannot_be_changed_and_is_extended_by_a_new_one():
    with pytest.raises(TypeError):
        RULES[nn.LayerNorm] = None
    mine = RULES | {nn.LayerNorm: None}
    assert nn.LayerNorm in mine and nn.LayerNorm not in RULES
