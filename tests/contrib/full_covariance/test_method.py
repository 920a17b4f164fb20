"""The method as a whole: against simulation, its parts, its gradients, its options."""

import math

import pytest
import torch
from torch import nn

import joulewise as jw
from gaussian_memory import GaussianMemory, output_moments
from joulewise.contrib.full_covariance import FullCovariance
from joulewise.devices import SRAM, Chip
from joulewise.errors import InputError
from joulewise.placement import Plan, place, private_memory
from joulewise.prediction import loaded_problem, predict

Z = 5.0


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(model):
    """Parameters that depend on nothing but the model."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


class Residual(nn.Module):
    """All that matters in one small network."""

    def __init__(self, channels=2):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * channels, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(x + torch.tanh(self.conv(x)))
        return self.head(x.flatten(1))


def forecast(placement, x, plan, **options):
    options = {"dtype": torch.float64} | options
    with loaded_problem(placement, [x], plan) as problem:
        return FullCovariance(**options).forecast(problem)


def errors_of_chips(placement, x, plan, chips):
    """The output error of each chip, mean over samples and outputs."""
    with private_memory(placement, frozen=True) as memory:
        memory.original()
        reference, points = memory.call(x), placement.points(plan)
        errors = []
        for seed in range(chips):
            memory.read(points, Chip(seed=seed))
            errors.append((memory.call(x) - reference).square().mean())
    return torch.stack(errors)


def z_score(errors, predicted):
    return float((errors.mean() - predicted) / (errors.std() / len(errors) ** 0.5))


@pytest.mark.parametrize("std", [0.01, 0.05])
def test_a_residual_network_with_gaussian_noise_against_chips(std):
    model, x = seeded(Residual()), random(4, 1, 4, 4)
    placement = place(model, weights=GaussianMemory(keep=1.0))
    plan = placement.plan({"std": std})
    errors = errors_of_chips(placement, x, plan, 2000)
    assert abs(z_score(errors, float(forecast(placement, x, plan).mse))) < Z


@pytest.mark.parametrize("eta", [0.2, 0.5])
def test_a_linear_network_on_sram_against_chips(eta):
    """Exact for any noise: weights and layer inputs placed, faults rare and large."""
    model, x = seeded(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))), random(3, 6)
    placement = place(model, weights=SRAM(bits=6), activations=SRAM(bits=12), example_inputs=x)
    plan = placement.plan({"eta": eta})
    errors = errors_of_chips(placement, x, plan, 1500)
    assert abs(z_score(errors, float(forecast(placement, x, plan).mse))) < Z


def test_stored_activations_with_gaussian_noise_against_chips():
    model, x = seeded(Residual()), random(4, 1, 4, 4)
    memory = GaussianMemory(keep=1.0)
    placement = place(model, weights=memory, activations=memory, example_inputs=x)
    plan = placement.plan({"std": 0.02})
    result = forecast(placement, x, plan)
    assert set(result.variance) == {p.name for p in placement.placed}
    assert all(float(part) > 0 for part in result.variance.values())
    errors = errors_of_chips(placement, x, plan, 2000)
    assert abs(z_score(errors, float(result.mse))) < Z


def test_the_mean_of_a_biased_memory_is_in_the_shift():
    model, x = seeded(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))), random(3, 6)
    placement = place(model, weights=GaussianMemory(keep=0.8))
    result = forecast(placement, x, placement.plan({"std": 1e-6}))
    reduced = model(x)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(0.8)
    assert float(result.mean_shift) == pytest.approx(
        float((model(x) - reduced).square().mean().detach()), rel=1e-6
    )


class OneWeight(GaussianMemory):
    """Only the first weight of a tensor is noisy."""

    __slots__ = ()

    def moments(self, stored, point):
        moments = GaussianMemory.moments(self, stored, point)
        first = torch.zeros(stored.numel(), dtype=stored.dtype)
        first[0] = 1.0
        return type(moments)(mean=moments.mean, var=moments.var * first.view(stored.shape))


def test_one_noisy_weight_is_a_sum_over_one_gaussian():
    """ReLU and a linear layer behind it: mean exact, variance to what the series leaves out."""
    model, x = seeded(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))), random(1, 3)
    placement = place(model, weights=OneWeight(keep=1.0), include=["0.weight"])
    mean, cov = output_moments(placement, x, {"std": 0.7}, order=12)
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z**2, 0)
    with torch.no_grad():
        hidden = (model[0](x) + 0.7 * z[:, None] * torch.stack([x[0, 0], x[0, 0] * 0])).clamp_min(0)
        outputs = model[2](hidden)
    expected = weight @ outputs
    away = outputs - expected
    assert torch.allclose(mean[0], expected, atol=1e-7)
    assert torch.allclose(cov[0], away.T @ (weight[:, None] * away), rtol=1e-6)


def test_shares_of_a_linear_network_are_the_variance_that_each_layer_adds():
    """Var f = E Var(f | first layer) + Var E(f | first layer), and the second is J v J^T."""
    model, x = seeded(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))), random(3, 6)
    placement = place(model, weights=GaussianMemory())
    result = forecast(placement, x, placement.plan({"std": 0.3}))
    head = 0.9 * model[1].weight.detach()
    first = 0.09 * x.square().sum(1).mean() * head.square().sum(1).mean()
    assert float(result.variance["0.weight"]) == pytest.approx(float(first), rel=1e-10)
    _, cov = output_moments(placement, x, placement.plan({"std": 0.3}))
    whole = float(cov.diagonal(dim1=1, dim2=2).mean())
    assert float(result.total_variance) == pytest.approx(whole, rel=1e-10)


def test_parts_fit_together_whatever_the_pieces():
    model, x = seeded(Residual()), random(5, 1, 4, 4)
    placement = place(model, weights=SRAM(bits=8))
    plan = placement.plan({"eta": 0.4})
    whole = forecast(placement, x, plan)
    one_by_one = forecast(placement, x, plan, memory_bytes=8 * 5000)
    for result in (whole, one_by_one):
        assert float(result.mse) == pytest.approx(float(whole.mse), rel=1e-10)
        assert torch.allclose(result.per_sample, whole.per_sample, rtol=1e-10)
        assert result.per_output.shape == (3,)
        assert float(result.per_output.mean()) == pytest.approx(float(whole.mse), rel=1e-10)
        assert float(result.per_sample.mean()) == pytest.approx(float(whole.mse), rel=1e-10)
        assert sum(result.fractions.values()) < 1
    assert list(whole.variance) == [p.name for p in placement.placed]
    assert whole.standard_error > 0
    assert forecast(placement, x[:1], plan).standard_error is None
    single = forecast(placement, x, plan, dtype=torch.float32)
    assert float(single.mse) == pytest.approx(float(whole.mse), rel=1e-4)


def test_progress_is_told_piece_by_piece():
    model, x, seen = seeded(Residual()), random(5, 1, 4, 4), []
    placement = place(model, weights=SRAM(bits=8))
    method = FullCovariance(dtype=torch.float64, memory_bytes=8 * 5000)

    def note(step, done, expected):
        assert step == "predicting"
        seen.append((done, expected))

    predict(placement, [x], at={"eta": 0.4}, method=method, progress=note)
    assert seen[-1] == (5, 5)
    assert len(seen) > 1


def test_gradients_in_the_points_are_those_of_differences():
    model, x = seeded(Residual(1)), random(2, 1, 4, 4)
    placement = place(model, weights=SRAM(bits=4))
    names = [p.name for p in placement.placed]

    def function(*points):
        plan = Plan({n: {"eta": point} for n, point in zip(names, points, strict=True)})
        result = forecast(placement, x, plan)
        return (result.mean_shift, *result.variance.values())

    points = [torch.tensor(0.3 + 0.05 * i, dtype=torch.float64) for i in range(len(names))]
    assert torch.autograd.gradcheck(function, [p.requires_grad_() for p in points])


def test_gradients_reach_the_point_of_stored_activations():
    model, x = seeded(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))), random(2, 3)
    memory = GaussianMemory()
    placement = place(model, weights=memory, activations=memory, example_inputs=x)
    names = [p.name for p in placement.placed]

    def function(*points):
        plan = Plan({n: {"std": point} for n, point in zip(names, points, strict=True)})
        result = forecast(placement, x, plan)
        return (result.mse, *result.variance.values())

    points = [torch.tensor(0.1 + 0.05 * i, dtype=torch.float64) for i in range(len(names))]
    assert torch.autograd.gradcheck(function, [p.requires_grad_() for p in points])


def test_no_graph_is_kept_where_no_point_asks_for_it():
    model, x = seeded(Residual()), random(2, 1, 4, 4)
    placement = place(model, weights=SRAM(bits=8))
    result = forecast(placement, x, placement.plan({"eta": 0.4}))
    assert not result.mse.requires_grad


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_networks_of_the_zoo_are_covered(name):
    model = jw.load_model(name, (1, 8, 8), 10, seed=0)
    x = random(2, 1, 8, 8).float()
    placement = place(model, weights=SRAM(bits=8))
    result = forecast(placement, x, placement.plan({"eta": 0.5}), dtype=torch.float32)
    assert math.isfinite(float(result.mse))
    assert float(result.mse) > 0


@pytest.mark.parametrize(
    "options", [{"dtype": torch.bfloat16}, {"order": 0}, {"order": 13}, {"memory_bytes": 0}]
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(InputError, match=next(iter(options))):
        FullCovariance(**options)
