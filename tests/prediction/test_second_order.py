"""Beyond the tangent: exact for squares and cubes, and what strong noise needs."""

import pytest
import torch
from torch import nn

from joulewise.data import load_digits
from joulewise.devices import SRAM, Crossbar, Flip
from joulewise.errors import InputError
from joulewise.models import build, seeded
from joulewise.placement import Plan, place
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.problem import loaded_problem
from joulewise.prediction.second_order import second_order_correction
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, train


class Square(nn.Module):
    def forward(self, inputs):
        return inputs.square()


def test_the_mean_of_a_square(cases):
    """``E (w x)^2 = (E w x)^2 + sum v x^2``, for any law of the noise."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(12, 5), Square()).double().eval()
    x, memory = cases.normal(300, 12), SRAM(bits=5, fault=Flip())
    placement = place(model, weights=memory)
    forecast = predict(
        placement, [(x, None)], at={"eta": 0.3}, method=FirstOrder(accuracy=False, noise_pairs=200)
    )
    moments = memory.moments(memory.store(model[0].weight), 0.3)
    with torch.no_grad():
        centre = nn.functional.linear(x, moments.mean, model[0].bias)
        exact = (centre.square() + x.square() @ moments.var.T - model(x)).square().mean()
    # Noise is shared by the samples: 60 weights of 200 pairs, each known to sqrt(2 / 200).
    assert float(forecast.mean_shift) == pytest.approx(float(exact), rel=0.1)
    assert forecast.method == "second-order"


class Cube(nn.Module):
    def forward(self, inputs):
        return inputs**3


@pytest.mark.parametrize("bent", [Square, Cube])
def test_the_variance_of_a_power(cases, bent):
    """``4 c^2 s^2 + 2 s^4`` for ``(c + s n)^2``; ``9 c^4 s^2 + 36 c^2 s^4 + 15 s^6`` for the cube.

    The tangent has the first term; of a square the rest is even in ``n``, of a cube half of the
    second term is, and the remainder is odd.
    """
    with seeded(0):
        model = nn.Sequential(nn.Linear(12, 5), bent()).double().eval()
    x = cases.normal(300, 12)
    memory = Crossbar(sigma=8e-6, clip=False)
    placement = place(model, weights=memory)
    method = FirstOrder(accuracy=False, probes=100, noise_pairs=1500)
    forecast = predict(placement, [(x, None)], at={"g_max": 25e-6}, method=method)
    with torch.no_grad():
        c = model[0](x)
        var = memory.moments(memory.store(model[0].weight), 25e-6).var
        s = x.square() @ var.T
    terms = {
        Square: [4 * c**2 * s, 2 * s**2],
        Cube: [9 * c**4 * s, 36 * c**2 * s**2, 15 * s**3],
    }[bent]
    linear, exact = float(terms[0].mean()), float(sum(terms).mean())
    assert exact > 1.25 * linear
    # Noise is shared by the samples: 60 weights of 1500 pairs; fourth and sixth moments of it.
    assert float(forecast.total_variance) == pytest.approx(exact, rel=0.1)


def test_half_precision_has_no_digits_for_a_nudge(cases):
    with seeded(0):
        model = nn.Sequential(nn.Linear(12, 5), Square()).eval().bfloat16()
    x = cases.normal(20, 12).bfloat16()
    placement = place(model, weights=Crossbar(sigma=1e-6))
    with loaded_problem(placement, [(x, None)], placement.plan({"g_max": 25e-6})) as problem:
        network = Linearisation(problem, seed=0, memory_bytes=1 << 30, subsample_channels=True)
        correction = second_order_correction(network, next(network.pieces(0)), 2, seed=0)
    assert float(correction.odd_gain) == 1.0


def test_words_of_activations_are_no_tangent(cases):
    """With little noise the network is its tangent: a nudge must not see the steps of words."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    x, memory = cases.normal(200, 12).float(), SRAM(bits=8)
    placement = place(model, weights=memory, activations=memory, example_inputs=x)
    with loaded_problem(placement, [(x, None)], placement.plan({"eta": 0.7})) as problem:
        network = Linearisation(problem, seed=0, memory_bytes=1 << 30, subsample_channels=True)
        correction = second_order_correction(network, next(network.pieces(0)), 8, seed=0)
    assert float(correction.odd_gain) == pytest.approx(1.0, abs=0.05)


def test_a_linear_network_does_not_bend(cases):
    with seeded(0):
        model = nn.Linear(6, 4).double().eval()
    x = cases.normal(7, 6)
    placement = place(model, weights=SRAM(bits=5))
    targets = torch.zeros(7, dtype=torch.int64)
    first, second = (
        predict(placement, [(x, targets)], at={"eta": 0.2}, method=name)
        for name in ("first-order", "second-order")
    )
    assert float(second.mse) == pytest.approx(float(first.mse), rel=1e-9)
    assert second.accuracy.mean == pytest.approx(first.accuracy.mean, abs=1e-9)


def test_gradients_in_the_points(cases):
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x = cases.normal(4, 4)
    placement = place(model, weights=SRAM(bits=4))
    names = [tensor.name for tensor in placement.placed]

    def shift(*etas):
        plan = Plan({name: {"eta": eta} for name, eta in zip(names, etas, strict=True)})
        method = FirstOrder(accuracy=False, noise_pairs=2)
        return predict(placement, [(x, None)], at=plan, method=method).mean_shift

    etas = [torch.tensor(e, dtype=torch.float64, requires_grad=True) for e in (0.3, 0.4)]
    assert torch.autograd.gradcheck(shift, etas)


def test_strong_noise_is_right_where_first_order_is_not():
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=3, lr=0.1))
    inputs, targets = next(digits.test.batches(100))
    placement, data = place(model, weights=SRAM(bits=8)), [(inputs, targets)]
    sim = simulate(placement, data, at={"eta": 0.22}, chips=400)
    first, second = (
        predict(placement, data, at={"eta": 0.22}, method=name)
        for name in ("first-order", "second-order")
    )
    error = sim.mse_interval().half_width / 1.96
    assert abs(float(second.mse) - sim.mean_mse) <= 3 * error + 0.03 * sim.mean_mse
    assert abs(float(first.mse) - sim.mean_mse) > 3 * error + 0.03 * sim.mean_mse
    off = [abs(f.accuracy.mean - sim.mean) for f in (first, second)]
    assert off[1] < off[0]


def test_one_pair_is_refused():
    with pytest.raises(InputError, match="pairs is 1"):
        FirstOrder(noise_pairs=1)
