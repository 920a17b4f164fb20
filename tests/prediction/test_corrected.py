import math

import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import SRAM, CorrelatedMap, Flip
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
        mean, error = control(3 + beside + 0.3 * noise, beside, 0.0)
        means.append(mean)
        errors.append(error)
    spread = torch.tensor(means).std()
    assert abs(sum(means) / 400 - 3) <= 5 * float(spread) / 20
    assert sum(errors) / 400 == pytest.approx(float(spread), rel=0.2)
    assert float(spread) < 0.1  # a plain mean of 20 would have 1 / sqrt(20) = 0.22


def test_a_linear_network_needs_no_correction_at_any_point():
    """Where no chip drawn has a fault, too."""
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


def test_words_that_fail_together_are_refused():
    model, x = nn.Linear(8, 4), torch.ones(2, 8)
    memory = SRAM(bits=8, fault_map=CorrelatedMap(row=0.3))
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
        placement, data, at={"eta": eta}, method=FirstOrder(accuracy=False, thinned=False)
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
