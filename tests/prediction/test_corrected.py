import math

import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import SECDED, SRAM, CorrelatedMap, Flip
from joulewise.errors import InputError
from joulewise.models import build, seeded
from joulewise.placement import place
from joulewise.prediction import Corrected, FirstOrder, predict
from joulewise.prediction.corrected import control
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, train


@pytest.fixture(scope="module")
def mlp():
    """A trained network whose mean shift is far from first order at strong noise."""
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=3, lr=0.1))
    inputs, targets = next(digits.test.batches(100))
    return place(model, weights=SRAM(bits=8), example_inputs=inputs), [(inputs, targets)]


def test_control_is_unbiased_and_knows_its_error():
    generator = torch.Generator().manual_seed(0)
    means, errors = [], []
    for _ in range(400):
        beside = torch.randn(20, generator=generator, dtype=torch.float64)
        noise = torch.randn(20, generator=generator, dtype=torch.float64)
        mean, error, controlled = control(9 + beside + 0.3 * noise, beside, 0.0)
        assert controlled
        means.append(mean)
        errors.append(error)
    spread = torch.tensor(means).std()
    assert abs(sum(means) / 400 - 9) <= 5 * float(spread) / 20
    assert sum(errors) / 400 == pytest.approx(float(spread), rel=0.2)
    assert float(spread) < 0.1  # a plain mean of 20 would have 1 / sqrt(20) = 0.22


def test_a_variate_that_adds_noise_is_left_out():
    """Errors that saturate, beside those of first order, which do not."""
    generator = torch.Generator().manual_seed(0)
    trials, chips = 2000, 30
    linear = 10 * torch.randn(trials, chips, generator=generator, dtype=torch.float64).square()
    found = linear.clamp(max=1.0)
    estimates = [control(*pair, 10.0) for pair in zip(found, linear, strict=True)]
    means = torch.tensor([mean for mean, _, _ in estimates], dtype=torch.float64)
    assert not any(controlled for _, _, controlled in estimates)
    assert means.min() >= 0
    error = found.std() / (trials * chips) ** 0.5
    assert abs(means.mean() - found.mean()) <= 1e-12 and means.std() <= 1.1 * error * trials**0.5


def test_no_mean_is_outside_the_range():
    found = torch.zeros(30, dtype=torch.float64)
    found[0] = 1.0
    assert control(found, 1.9 * found, 0.01)[0] == pytest.approx(1 / 30)  # else 0.01 - 0.9 / 30
    right = 1 - found / 30
    assert control(right, right - 0.01, 1.0, high=1.0)[0] == pytest.approx(1 - 1 / 900)


class Clamped(nn.Module):
    """Reads few of the weights' large faults: an outlier sets the range of the words."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)
        self.first.weight.data[0, 0] = 4.0

    def forward(self, x):
        weight = self.first.weight.clamp(-0.3, 0.3)
        return self.last(nn.functional.linear(x, weight, self.first.bias).relu())


def orthogonal():
    """Its parametrisation truncates entries of 1 to whole numbers, and the mean read is below 1."""
    return nn.Sequential(
        nn.utils.parametrizations.orthogonal(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4)
    )


@pytest.mark.filterwarnings("ignore:.*move no output to first order:UserWarning")
@pytest.mark.parametrize("make", [Clamped, orthogonal])
@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_where_first_order_is_far_off(make, seed):
    with seeded(0):
        model = make().eval()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.arange(64) % 4)]
    weights = SRAM(bits=8, fault=Flip())
    # One tensor, in which first order sees none of the orthogonal network's variance.
    placement = place(
        model,
        weights=weights,
        example_inputs=x,
        exclude=["2.*" if make is orthogonal else "last.*"],
    )
    sim = simulate(placement, data, at={"eta": 0.4}, chips=1000)
    found = predict(placement, data, at={"eta": 0.4}, method=Corrected(chips=30, seed=seed))
    deviation = sim.mse_interval().half_width / 1.96 * 1000**0.5
    assert abs(float(found.mse) - sim.mean_mse) <= 4 * deviation * (1 / 30 + 1 / 1000) ** 0.5
    assert found.standard_error <= 2 * deviation / 30**0.5
    assert float(found.per_sample.mean()) == pytest.approx(float(found.mse), rel=1e-6)
    assert float(found.mean_shift) >= 0 and min(map(float, found.variance.values())) >= 0
    assert abs(found.accuracy.mean - sim.mean) <= 4 * found.accuracy.chip_std / 30**0.5


def test_a_linear_network_needs_no_correction_at_any_point():
    """Also if no chip that is drawn has a fault."""
    with seeded(0):
        model = nn.Linear(8, 4).double()
    x = torch.randn(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    placement = place(model, weights=SRAM(bits=8), example_inputs=x)
    targets = torch.zeros(9, dtype=torch.int64)
    for eta in (1.0, 0.9, 0.7, 0.3):
        linear = predict(placement, [(x, targets)], at={"eta": eta})
        corrected = predict(placement, [(x, None)], at={"eta": eta}, method="corrected")
        assert float(corrected.mse) == pytest.approx(float(linear.mse), rel=1e-6)
        assert corrected.standard_error < 1e-6 * float(linear.mse)


@pytest.mark.parametrize(
    "fields",
    [{"fault_map": CorrelatedMap(row=0.3)}, {"fault": Flip(), "protection": SECDED()}],
    ids=["weak rows", "codewords"],
)
def test_words_that_fail_together_are_refused(fields):
    model, x = nn.Linear(8, 4), torch.ones(2, 8)
    memory = SRAM(bits=8, **fields)
    with pytest.raises(InputError, match="the words of weight do not fail independently"):
        predict(place(model, weights=memory), [(x, None)], at={"eta": 0.5}, method="corrected")


def test_strong_noise_is_right_where_first_order_is_not(mlp):
    placement, data = mlp
    sim = simulate(placement, data, at={"eta": 0.25}, chips=600)
    linear = predict(placement, data, at={"eta": 0.25})
    corrected = predict(placement, data, at={"eta": 0.25}, method=Corrected(chips=40))
    error = math.hypot(sim.mse_interval().half_width / 1.96, corrected.standard_error)
    assert abs(float(corrected.mse) - sim.mean_mse) <= 4 * error
    assert abs(float(linear.mse) - sim.mean_mse) > 4 * error
    assert error < 0.02 * sim.mean_mse
    assert corrected.standard_error < 0.4 * sim.mse_interval().half_width
    assert corrected.accuracy.mean == pytest.approx(sim.mean, abs=0.01)
    torch.testing.assert_close(corrected.per_sample.mean(), corrected.mse, rtol=0.1, atol=0)


def test_the_seed_decides(mlp):
    placement, data = mlp
    a, b, c = (
        predict(placement, data, at={"eta": 0.3}, method=Corrected(chips=4, seed=seed))
        for seed in (1, 1, 2)
    )
    assert a.to_dict() == b.to_dict()
    assert a.to_dict() != c.to_dict()


def test_gradients_are_those_of_first_order_scaled(mlp):
    placement, data = mlp
    eta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    forecast = predict(placement, data, at={"eta": eta}, method=Corrected(chips=4))
    (slope,) = torch.autograd.grad(forecast.mse, eta)
    linear = predict(
        placement,
        data,
        at={"eta": eta},
        method=FirstOrder(accuracy=False, subsample_channels=False),
    )
    (other,) = torch.autograd.grad(linear.mse, eta)
    assert float(slope) == pytest.approx(float(other), rel=0.3)


def test_outputs_that_are_not_classes():
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()).double().eval()
    x = torch.randn(5, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    placement = place(model, weights=SRAM(bits=5, fault=Flip()), example_inputs=x)
    forecast = predict(placement, [(x, None)], at={"eta": 0.5}, method=Corrected(chips=30))
    sim = simulate(placement, [(x, None)], at={"eta": 0.5}, chips=3000)
    error = math.hypot(sim.mse_interval().half_width / 1.96, forecast.standard_error)
    assert abs(float(forecast.mse) - sim.mean_mse) <= 5 * error
    assert forecast.accuracy is None


def test_too_many_outputs_are_refused():
    model, x = nn.Linear(3, 100), torch.ones(2, 3)
    with pytest.raises(InputError, match=r"the model has 100 outputs.*Corrected\(outputs=100\)"):
        predict(
            place(model, weights=SRAM(), example_inputs=x),
            [(x, None)],
            at={"eta": 0.5},
            method="corrected",
        )


def test_options_are_checked():
    with pytest.raises(InputError, match="chips is 3"):
        Corrected(chips=3)
