"""Arrays and converters: exact where they are exact, as coarse as they say, never passed by."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from joulewise.devices import (
    ISAAC,
    PCM,
    Array,
    Chip,
    Crossbar,
    Device,
    Knob,
    ReadMoments,
)
from joulewise.devices.array import rounded
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.placement import energy, place, private_memory
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.linearisation.self_check import cover
from joulewise.prediction.problem import loaded_problem
from joulewise.simulation import simulate

G = 25e-6


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(make):
    with seeded(0):
        return make().eval()


MODELS = {
    "linear": (lambda: nn.Linear(12, 4), (5, 12)),
    "tokens": (lambda: nn.Linear(12, 4, bias=False), (5, 3, 12)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (5, 3, 8, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 6, 6)),
    "1-d": (lambda: nn.Conv1d(4, 6, 3), (5, 4, 9)),
    "two layers": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
        (5, 2, 6, 6),
    ),
}


def ideal(model, inputs, **array):
    placement = place(model, weights=Crossbar(array=Array(**array)), example_inputs=inputs)
    with private_memory(placement) as memory:
        memory.ideal()
        return memory.placement.model(inputs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [None, 1, 5, 64])
def test_fine_converters_are_exact_however_a_matrix_is_cut(name, rows):
    make, shape = MODELS[name]
    model, x = made(make), rand(*shape)
    exact = model(x).detach()
    for array in ({}, {"input_bits": 16, "output_bits": 16, "headroom": 2.0}):
        found = ideal(model, x, rows=rows, **array)
        torch.testing.assert_close(found, exact, atol=1e-3, rtol=0)


def test_one_layer_by_hand():
    model, x = made(lambda: nn.Linear(6, 4)), rand(7, 6)
    weight = model.weight.detach()
    given = rounded(x, float(x.abs().max()), 4)
    sums = [x[:, piece] @ weight[:, piece].T for piece in (slice(0, 4), slice(4, 6))]
    limit = max(float(s.abs().max()) for s in sums)
    parts = [
        rounded(given[:, piece] @ weight[:, piece].T, limit, 5)
        for piece in (slice(0, 4), slice(4, 6))
    ]
    wanted = parts[0] + parts[1] + model.bias.detach()
    found = ideal(model, x, rows=4, input_bits=4, output_bits=5)
    torch.testing.assert_close(found, wanted)


def test_rounding_noise_is_uniform():
    """A step squared over 12, for a converter that is fine beside its input."""
    x = rand(400_000).clamp(-4, 4)
    for bits in (6, 8):
        step = 4 / (2 ** (bits - 1) - 1)
        noise = (rounded(x, 4.0, bits) - x).double()
        # Of a uniform variable, the square has a relative standard deviation of sqrt(4/5).
        slack = 5 * math.sqrt(0.8 / len(x))
        assert float(noise.square().mean()) == pytest.approx(step**2 / 12, rel=slack)


def test_the_model_as_given_has_no_converters():
    model, x = made(lambda: nn.Linear(6, 4)), rand(7, 6)
    array = Array(input_bits=3, output_bits=3)
    sim = simulate(
        place(model, weights=Crossbar(array=array), example_inputs=x),
        [(x, None)],
        at={"g_max": G},
        chips=1,
    )
    assert sim.ideal_mse > 0
    assert sim.mse == (sim.ideal_mse,)


def test_attention_is_converted():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x.flip(1), x.flip(1))[0]

    model, x = made(Crossed), rand(4, 5, 8)
    fine = ideal(model, x, input_bits=16, output_bits=16, headroom=2.0)
    coarse = ideal(model, x, input_bits=3, output_bits=3)
    torch.testing.assert_close(fine, model(x).detach(), atol=1e-3, rtol=0)
    assert float((coarse - fine).abs().max()) > 0.01


def test_a_product_of_another_kind_is_refused():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(rand(6, 4))

        def forward(self, x):
            return x @ self.weight

    x = rand(3, 6)
    placement = place(Turned(), weights=Crossbar(array=Array(input_bits=8)), example_inputs=x)
    with pytest.raises(ModelError, match="exclude 'weight'"):
        simulate(placement, [(x, None)], at={"g_max": G}, chips=1)


def test_fewer_uses_than_were_traced_are_no_mistake():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return torch.stack([self.layer(step) for step in x.unbind(1)]).mean(0)

    model = made(Steps)
    placement = place(
        model, weights=Crossbar(array=Array(input_bits=8)), example_inputs=rand(3, 8, 4)
    )
    assert simulate(placement, [(rand(3, 4, 4), None)], at={"g_max": G}, chips=1).mse[0] >= 0


def test_ranges_need_data():
    placement = place(nn.Linear(6, 4), weights=Crossbar(array=Array(input_bits=8)))
    with pytest.raises(InputError, match=r"converters of weight .* place\(\.\.\., example_inputs="):
        predict(placement, [(rand(3, 6), None)], at={"g_max": G})


@pytest.mark.parametrize("rows", [None, 20])
def test_prediction_with_converters_against_simulation(rows):
    model = made(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    )
    # At the mean read, the rounding of an output is one draw of it: of 1200, the mean square has
    # a relative standard deviation of 2.6 %.
    x = rand(400, 2, 6, 6, seed=3)
    array = Array(rows=rows, input_bits=6, output_bits=7)
    placement = place(model, weights=Crossbar(sigma=1e-6, array=array), example_inputs=x)
    sim = simulate(placement, [(x, None)], at={"g_max": 4 * G}, chips=400)
    forecast = predict(placement, [(x, None)], at={"g_max": 4 * G}, method=FirstOrder(probes=20))
    low, high = sim.mse_interval()
    slack = 2.6 * (high - low) / 2 / 1.96
    rounding = 3 * 0.026  # if it were all of the error
    assert float(forecast.mse) == pytest.approx(sim.mean_mse, abs=slack + rounding * sim.mean_mse)
    without = place(model, weights=Crossbar(sigma=1e-6), example_inputs=x)
    assert float(predict(without, [(x, None)], at={"g_max": 4 * G}).mse) < 0.9 * sim.mean_mse


@pytest.mark.parametrize(("bits", "sigma"), [(8, 1e-6), (6, 1e-6), (6, 3e-7)])
def test_strong_noise_and_rounding(bits, sigma):
    """Second order must not average rounding away, nor take its steps for a tangent."""
    model = made(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    )
    x = rand(400, 2, 6, 6, seed=3)
    array = Array(input_bits=bits, output_bits=bits)
    placement = place(model, weights=Crossbar(sigma=sigma, array=array), example_inputs=x)
    sim = simulate(placement, [(x, None)], at={"g_max": G}, chips=400)
    low, high = sim.mse_interval()
    forecast = predict(
        placement, [(x, None)], at={"g_max": G}, method=FirstOrder(probes=20, noise_pairs=8)
    )
    slack = 2.6 * (high - low) / 2 / 1.96
    assert float(forecast.mse) == pytest.approx(sim.mean_mse, abs=slack + 0.06 * sim.mean_mse)


def test_converters_leave_the_fast_path_alone():
    model, x = MODELS["two layers"][0], rand(5, 2, 6, 6)
    memory = Crossbar(sigma=1e-6, array=Array(rows=20, input_bits=8, output_bits=8))
    placement = place(made(model), weights=memory, example_inputs=x)
    with loaded_problem(placement, [(x, None)], placement.plan({"g_max": G})) as problem:
        means = {n: m.mean for n, m in problem.memory.moments(problem.points).items()}
        found = cover(problem, means)
    assert not found.one_by_one | found.repeated


def modes():
    return torch.overrides._get_current_function_mode_stack()


def test_ctrl_c_leaves_no_mode_behind():
    class Stopped(nn.Linear):
        def forward(self, x):
            super().forward(x)
            if len(x) == 3:
                raise KeyboardInterrupt
            return super().forward(x)

    model, x = made(lambda: Stopped(6, 4)), rand(7, 6)
    placement = place(model, weights=Crossbar(array=Array(output_bits=3)), example_inputs=x)
    for work in (simulate, predict):
        with pytest.raises(KeyboardInterrupt):
            work(placement, [(x, None), (x[:3], None)], at={"g_max": G})
        assert modes() == []


def test_a_model_that_calls_itself():
    class Again(nn.Linear):
        def forward(self, x, depth=2):
            return super().forward(x if depth == 0 else self(x, depth - 1))

    model, x = made(lambda: Again(6, 6)), rand(7, 6)
    placement = place(model, weights=Crossbar(array=Array(output_bits=3)), example_inputs=x)
    assert simulate(placement, [(x, None)], at={"g_max": G}, chips=1).ideal_mse > 0
    assert modes() == []


def test_a_pass_that_fails_leaves_nothing_behind():
    model, x = made(lambda: nn.Linear(6, 4)), rand(7, 6)
    placement = place(model, weights=Crossbar(array=Array(output_bits=3)), example_inputs=x)
    exact = model(x).detach()
    with private_memory(placement) as memory:
        memory.read(placement.points({"g_max": G}), Chip(seed=0))
        with pytest.raises(RuntimeError):
            memory.placement.model(rand(7, 5))
        torch.testing.assert_close(
            nn.functional.linear(x, memory.placement.model.weight, memory.placement.model.bias),
            exact,
        )
        assert not torch.equal(memory.placement.model(x), exact)
    assert torch.equal(model(x).detach(), exact)


def test_energy_of_pieces_and_bits():
    model, x = made(lambda: nn.Linear(12, 4)), rand(5, 12)

    def joules(**array):
        placement = place(model, weights=Crossbar(array=Array(**array)), example_inputs=x)
        return float(energy(placement, at=placement.plan({"g_max": 1e-7})).memory_total_j)

    whole = joules()
    assert joules(input_bits=8, output_bits=8) == pytest.approx(whole)
    assert joules(rows=4) - whole == pytest.approx(2 * 4 * 2e-3 / 1.2e9, rel=1e-3)
    assert joules(output_bits=10) - whole == pytest.approx(3 * 4 * 2e-3 / 1.2e9, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": 2.5}, "rows is 2.5; allowed: a whole number"),
        ({"input_bits": 1}, "input_bits is 1"),
        ({"output_bits": 17}, "output_bits is 17"),
        ({"headroom": 0.0}, "headroom is 0"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        Array(**options)


# A memory of one's own


ARRAY = Array(rows=16, input_bits=6, output_bits=6)


@dataclass(frozen=True)
class Analog(Device[torch.Tensor]):
    """Conductances of either sign with Gaussian noise, read out in arrays."""

    array: Array = ARRAY
    knob = Knob(name="g_max", least_reliable=1e-6, most_reliable=1e-3)

    def store(self, tensor, *, limit=None, name="tensor"):
        return tensor.detach().clone()

    def read(self, stored, point, chip):
        noise = torch.from_numpy(chip.generator("programming").standard_normal(stored.shape))
        return stored + 1e-6 / float(point) * stored.abs().max() * noise.to(stored)

    def energy(self, traffic, point):
        weight = traffic.matrix_inputs[0].weight.double()
        unit = torch.as_tensor(point, dtype=torch.float64) / weight.abs().max()
        plus, minus = (
            ReadMoments(mean=unit * side.clamp(min=0), var=0 * weight) for side in (weight, -weight)
        )
        return ISAAC.energy_j(traffic.matrix_inputs, plus, minus, self.array)


def test_arrays_and_converters_serve_a_memory_of_ones_own():
    """They round as those of a crossbar do; simulation and prediction agree with them."""
    model, inputs = made(MODELS["two layers"][0]), rand(40, 2, 6, 6)
    placement = place(model, weights=Analog(), example_inputs=inputs)
    assert placement.macs == 0  # all products are computed in memory
    with private_memory(placement) as memory:
        own = memory.call(inputs)
    expected = ideal(model, inputs, rows=16, input_bits=6, output_bits=6)
    assert torch.equal(own, expected) and not torch.equal(own, model(inputs))
    data = [(inputs, None)]
    result = simulate(placement, data, at={"g_max": 3e-5}, chips=200)
    forecast = predict(placement, data, at={"g_max": 3e-5})
    chance = float(torch.tensor(result.mse).std()) / 200**0.5
    error = 3 * math.hypot(chance, forecast.standard_error)
    assert abs(float(forecast.mse) - result.mean_mse) < error < 0.4 * result.mean_mse
    joules = energy(placement, at=placement.plan({"g_max": 3e-5})).memory_total_j
    crossbar = place(model, weights=Crossbar(array=ARRAY), example_inputs=inputs)
    assert joules == pytest.approx(
        energy(crossbar, at=crossbar.plan({"g_max": 3e-5})).memory_total_j
    )


def test_phase_change_memory_has_converters_too():
    model, inputs = made(MODELS["linear"][0]), rand(5, 12)
    quiet = {"programming": False, "drift": False, "read_noise": False}
    placement = place(
        model, weights=PCM(array=Array(rows=4, output_bits=4), **quiet), example_inputs=inputs
    )
    with private_memory(placement) as memory:
        assert torch.equal(memory.call(inputs), ideal(model, inputs, rows=4, output_bits=4))
    assert placement.placed[0].device.describe()["array_rows"] == 4
    assert "array_rows" not in PCM().describe()
