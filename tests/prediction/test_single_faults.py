"""Single large faults: what the tangent cannot see, and that it is left alone where it can."""

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Chip, ExponentialLaw, Flip
from joulewise.placement import place
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.single_faults import _drawn, single_fault_ratios
from joulewise.simulation import simulate

FAR = 0.75  # one fault at a time: a rate of 7e-5


def test_a_linear_network_has_ratio_one(cases):
    model, x = nn.Linear(6, 4).double(), cases.normal(5, 6)
    placement = place(model, weights=SRAM(bits=6, fault=Flip()), example_inputs=x)
    targets = torch.zeros(5, dtype=torch.int64)
    plain = predict(placement, [(x, targets)], at={"eta": FAR})
    tried = predict(placement, [(x, targets)], at={"eta": FAR}, method=FirstOrder(single_faults=20))
    assert float(tried.mse) == pytest.approx(float(plain.mse), rel=0.3)  # one +-1 probe in S


def test_a_fault_that_crosses_a_kink_is_seen(cases):
    """Outputs of |w x + b| whose tangent is far from the chord that a sign flip makes."""

    class Kink(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(2, 6)

        def forward(self, inputs):
            return (self.one(inputs) + 0.0).abs()

    model, x = Kink().double().eval(), cases.normal(60, 2)
    placement = place(model, weights=SRAM(bits=6, fault=Flip()), example_inputs=x)
    data = [(x, torch.zeros(60, dtype=torch.int64))]
    sim = simulate(placement, data, at={"eta": 0.5}, chips=8000)
    error = sim.mse_interval().half_width / 1.96
    plain = predict(placement, data, at={"eta": 0.5})
    tried = predict(placement, data, at={"eta": 0.5}, method=FirstOrder(single_faults=400))
    assert float(plain.mse) > sim.mean_mse + 5 * error
    assert abs(float(tried.mse) - sim.mean_mse) <= 4 * (error + tried.standard_error)
    assert tried.standard_error < 0.5 * (float(plain.mse) - sim.mean_mse)


def test_a_weight_that_is_used_twice_has_a_ratio_too(cases):
    """``w^2 x``: a fault of size d moves it by ``2 w d + d^2``, the tangent by ``2 w d``."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(1, 1, bias=False)

        def forward(self, inputs):
            return self.one(self.one(inputs))

    model, x = Twice().double().eval(), cases.normal(5, 1)
    memory = SRAM(bits=6, fault=Flip(), law=ExponentialLaw(a=6.0))
    with cases.problem(model, x, weights=memory, eta=FAR) as problem:
        network = Linearisation(problem, seed=0, memory_bytes=1 << 30)
        (piece,) = network.pieces(0)
        found = single_fault_ratios(network, piece, 40, seed=0)["one.weight"]
        mean = float(network.fixed["one.weight"])
        deviations = [float(network.noise("one.weight", Chip(seed=k))) for k in range(256)]
    true = sum((2 * mean * d + d * d) ** 2 for d in deviations)
    linear = sum((2 * mean * d) ** 2 for d in deviations)
    assert abs(found.mean - true / linear) <= 5 * found.standard_error


def test_entries_are_drawn_in_proportion():
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = [_drawn(weights, generator) for _ in range(4000)]
    assert set(drawn) == {1, 3}
    assert abs(drawn.count(3) / 4000 - 0.75) <= 5 * (0.75 * 0.25 / 4000) ** 0.5


def test_no_fault_no_ratio(cases):
    model, x = nn.Linear(6, 4).double(), cases.normal(5, 6)
    memory = SRAM(bits=6, law=ExponentialLaw(a=1000.0))
    forecast = predict(
        place(model, weights=memory, example_inputs=x),
        [(x, None)],
        at={"eta": 1.0},
        method=FirstOrder(single_faults=5, accuracy=False),
    )
    assert float(forecast.total_variance) == 0


def test_the_weights_are_put_back_and_the_seed_decides(cases):
    model, x = (
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double(),
        cases.normal(9, 6),
    )
    before = [p.clone() for p in model.parameters()]
    placement = place(model, weights=SRAM(bits=6), example_inputs=x)
    method = FirstOrder(single_faults=10, accuracy=False)
    a, b = (
        predict(placement, [(x, None)], at={"eta": 0.4}, method=method).to_dict() for _ in range(2)
    )
    assert a == b
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
