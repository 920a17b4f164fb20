"""First order: exact where it can be, unbiased where it draws, differentiable, never incomplete."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from joulewise.devices import SRAM, Chip, ExponentialLaw, Flip
from joulewise.errors import InputError, ModelError
from joulewise.models import build, seeded
from joulewise.placement import Plan, place
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.linearisation.op_interception import Interception
from joulewise.simulation import simulate

PLAIN = FirstOrder(accuracy=False, subsample_channels=False)
Z = 5.0  # two-sided 6e-7 for each of some tens of comparisons, on fixed seeds


def network(*layers, seed=0):
    with seeded(seed):
        return nn.Sequential(*[make() for make in layers]).double().eval()


def small_convolutional():
    return network(
        lambda: nn.Conv2d(2, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.Softplus(),
        lambda: nn.AvgPool2d(2),
        lambda: nn.Flatten(),
        lambda: nn.Linear(16, 3),
    )


@pytest.mark.parametrize("fault", ["mask", "flip"])
def test_one_layer_is_exact(cases, fault):
    """``MSE = |E w x - z|^2 + sum v x^2``, whatever the strength of the noise."""
    layer, x = network(lambda: nn.Linear(6, 4)), cases.normal(5, 6)
    memory = SRAM(bits=5) if fault == "mask" else SRAM(bits=5, fault=Flip())
    forecast = predict(place(layer, weights=memory), [(x, None)], at={"eta": 0.1}, method=PLAIN)
    moments = memory.moments(memory.store(layer[0].weight), 0.1)
    shift = ((moments.mean - layer[0].weight.detach()) @ x.T).square().mean()
    var = (moments.var @ x.T.square()).mean()
    torch.testing.assert_close(forecast.mean_shift, shift)
    torch.testing.assert_close(forecast.variance["0.weight"], var)
    torch.testing.assert_close(forecast.per_sample.mean(), shift + var)


def test_one_layer_with_a_convolution_is_exact(cases):
    layer = network(lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), lambda: nn.Flatten())
    x, memory = cases.normal(4, 2, 5, 5), SRAM(bits=5)
    forecast = predict(
        place(layer, weights=memory),
        [(x, torch.zeros(4, dtype=torch.int64))],
        at={"eta": 0.2},
        method=FirstOrder(classes=100),
    )
    moments = memory.moments(memory.store(layer[0].weight), 0.2)
    var = nn.functional.conv2d(x.square(), moments.var, stride=2, padding=1)
    mean = nn.functional.conv2d(x, moments.mean - layer[0].weight.detach(), stride=2, padding=1)
    exact = mean.square().flatten(1) + var.flatten(1)
    torch.testing.assert_close(forecast.per_output, exact.mean(0))
    torch.testing.assert_close(forecast.per_sample, exact.mean(1))


def test_no_noise_is_rounding_alone(cases):
    model, x = small_convolutional(), cases.normal(3, 2, 4, 4)
    memory = SRAM(bits=6, law=ExponentialLaw(a=1000.0))
    placement = place(model, weights=memory, activations=memory, example_inputs=x)
    forecast = predict(placement, [(x, None)], at={"eta": 1.0}, method=PLAIN)
    sim = simulate(placement, [(x, None)], at={"eta": 1.0}, chips=1)
    assert float(forecast.total_variance) == 0
    assert float(forecast.mean_shift) == pytest.approx(sim.ideal_mse, rel=1e-9)
    assert sim.ideal_mse > 0


def enumerated(model, x, memory, eta):
    """The exact error: over every combination of read words, with its probability."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    choices = []
    for layer in layers:
        stored = memory.store(layer.weight)
        rate = float(memory.bit_error_rate(eta))
        codes = torch.round(stored.values / stored.scale).to(torch.int32).reshape(-1)
        for code in codes:
            found = {}
            for faults in itertools.product((0, 1), repeat=memory.bits):
                pattern = torch.tensor(sum(bit << k for k, bit in enumerate(faults)))
                pattern = pattern.to(torch.int32)
                read = float(memory.fault.read(code, pattern, pattern, memory.bits))
                chance = math.prod(rate if bit else 1 - rate for bit in faults)
                found[read] = found.get(read, 0.0) + chance
            choices.append([(v * float(stored.scale), p) for v, p in found.items()])
    with torch.no_grad():
        ideal = model(x)
    reads = torch.tensor(list(itertools.product(*[[v for v, _ in c] for c in choices])))
    chances = torch.tensor(list(itertools.product(*[[p for _, p in c] for c in choices]))).prod(1)
    total, start = torch.zeros(()), 0
    tensors = {}
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            n = module.weight.numel()
            part = reads[:, start : start + n].reshape(-1, *module.weight.shape)
            tensors[f"{name}.weight"] = part.double()
            start += n
    outputs = torch.func.vmap(lambda w: torch.func.functional_call(model, w, (x,)))(tensors)
    errors = (outputs - ideal).square().mean((1, 2))
    total = (errors * chances.double()).sum()
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-5)
    return float(total)


def toy(activation=None):
    with seeded(3):
        first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    middle = [] if activation is None else [activation]
    return nn.Sequential(first, *middle, second).double().eval()


@pytest.mark.parametrize("fault", ["mask", "flip"])
def test_the_error_of_first_order_vanishes_with_the_fault_rate(cases, fault):
    """Two linear layers of 3-bit words, against every combination of faults."""
    model, x = toy(), cases.normal(3, 2)
    memory = SRAM(bits=3) if fault == "mask" else SRAM(bits=3, fault=Flip())
    for eta in (0.5, 0.7, 0.9):
        forecast = predict(place(model, weights=memory), [(x, None)], at={"eta": eta}, method=PLAIN)
        exact = enumerated(model, x, memory, eta)
        rate = math.exp(-12.8 * eta)
        # What is left out is a product of the noise of both layers: second order in the rate.
        assert float(forecast.mse) == pytest.approx(exact, rel=20 * rate, abs=1e-9)


def test_one_noisy_weight_of_a_deep_linear_network_is_exact(cases):
    """The output is linear in any one weight; the others are so finely rounded as to be still."""
    model, x = network(*[lambda: nn.Linear(3, 3)] * 3), cases.normal(4, 3)
    model[1].weight.data = torch.diag(torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64))
    memory = SRAM(bits=4)  # a stored zero reads zero under bit masking: one weight is noisy
    placement = place(model, weights=memory, include=["1.weight"])
    forecast = predict(placement, [(x, torch.zeros(4, dtype=torch.int64))], at={"eta": 0.2})
    moments = memory.moments(memory.store(model[1].weight), 0.2)
    with torch.no_grad():
        hidden = model[0](x)[:, :1]
        moved = hidden * model[2].weight[:, 0]
    shift = float(moments.mean[0, 0] - 0.8)
    exact = (moved.square() * (shift**2 + moments.var[0, 0])).mean()
    torch.testing.assert_close(forecast.mse, exact)


def test_random_probes_and_thinned_channels_are_unbiased(cases):
    model, x = small_convolutional(), cases.normal(6, 2, 4, 4)
    placement = place(model, weights=SRAM(bits=5), example_inputs=x)
    targets = torch.zeros(6, dtype=torch.int64)
    exact = predict(placement, [(x, targets)], at={"eta": 0.4})
    runs = [
        predict(
            placement,
            [(x, None)],
            at={"eta": 0.4},
            method=FirstOrder(accuracy=False, seed=k, probes=2),
        )
        for k in range(200)
    ]
    for name, part in exact.variance.items():
        values = torch.stack([run.variance[name] for run in runs])
        error = float(values.std()) / math.sqrt(len(runs))
        assert abs(float(values.mean() - part)) <= Z * error, name
        assert error < 0.05 * float(part)


def test_the_parts_add_up(cases):
    model, x = small_convolutional(), cases.normal(6, 2, 4, 4)
    placement = place(model, weights=SRAM(bits=5), activations=SRAM(bits=5), example_inputs=x)
    forecast = predict(placement, [(x, torch.tensor([0, 1, 2, 0, 1, 2]))], at={"eta": 0.4})
    assert list(forecast.variance) == [tensor.name for tensor in placement.placed]
    assert all(float(part) > 0 for part in forecast.variance.values())
    parts = forecast.mean_shift + sum(forecast.variance.values())
    torch.testing.assert_close(forecast.mse, parts)
    torch.testing.assert_close(forecast.per_sample.mean(), parts)
    torch.testing.assert_close(forecast.per_output.mean(), parts)
    rest = 1 - float(forecast.mean_shift / forecast.mse)
    assert sum(forecast.fractions.values()) == pytest.approx(rest)


def test_weights_against_simulation(cases):
    """A wide layer behind a smooth one: far from exact in theory, close in fact."""
    model = network(lambda: nn.Linear(20, 60), lambda: nn.Tanh(), lambda: nn.Linear(60, 5))
    x = cases.normal(50, 20)
    placement = place(model, weights=SRAM(bits=6, fault=Flip()), example_inputs=x)
    forecast = predict(
        placement, [(x, None)], at={"eta": 0.6}, method=FirstOrder(accuracy=False, probes=8)
    )
    sim = simulate(placement, [(x, None)], at={"eta": 0.6}, chips=1500)
    error = sim.mse_interval().half_width / 1.96
    assert abs(float(forecast.mse) - sim.mean_mse) <= 3 * error + 0.02 * sim.mean_mse


def test_activations_of_one_layer_are_exact(cases):
    layer, x = network(lambda: nn.Linear(8, 3)), cases.normal(20, 8)
    placement = place(layer, activations=SRAM(bits=5, fault=Flip()), example_inputs=x)
    targets = torch.zeros(20, dtype=torch.int64)
    forecast = predict(placement, [(x, targets)], at={"eta": 0.25})
    sim = simulate(placement, [(x, None)], at={"eta": 0.25}, chips=4000)
    error = sim.mse_interval().half_width / 1.96
    assert error < 0.03 * sim.mean_mse
    assert abs(float(forecast.mse) - sim.mean_mse) <= Z * error


def test_activations_behind_activations(cases):
    """Faults of an earlier feature map pass through the rounding of the next one."""
    model = network(lambda: nn.Linear(10, 40), lambda: nn.Sigmoid(), lambda: nn.Linear(40, 4))
    x = cases.normal(40, 10)
    placement = place(model, activations=SRAM(bits=8), example_inputs=x)
    forecast = predict(placement, [(x, torch.zeros(40, dtype=torch.int64))], at={"eta": 0.45})
    sim = simulate(placement, [(x, None)], at={"eta": 0.45}, chips=1500)
    error = sim.mse_interval().half_width / 1.96
    assert abs(float(forecast.mse) - sim.mean_mse) <= 3 * error + 0.03 * sim.mean_mse
    assert float(forecast.variance["0:input"]) > 0


def test_gradients_in_the_points(cases):
    model, x = small_convolutional(), cases.normal(4, 2, 4, 4)
    placement = place(model, weights=SRAM(bits=4), example_inputs=x)
    names = [tensor.name for tensor in placement.placed]

    def figures(*etas):
        plan = Plan({name: {"eta": eta} for name, eta in zip(names, etas, strict=True)})
        forecast = predict(placement, [(x, None)], at=plan, method=FirstOrder(accuracy=False))
        return forecast.mse, forecast.mean_shift, *forecast.variance.values()

    etas = [
        torch.tensor(0.3 + 0.1 * k, dtype=torch.float64, requires_grad=True)
        for k in range(len(names))
    ]
    assert torch.autograd.gradcheck(figures, etas)


def test_gradients_per_bit_plane(cases):
    layer, x = network(lambda: nn.Linear(5, 3)), cases.normal(4, 5)
    placement = place(layer, weights=SRAM(bits=4), example_inputs=x)

    def mse(eta):
        return predict(
            placement, [(x, None)], at=Plan({"0.weight": {"eta": eta}}), method=PLAIN
        ).mse

    eta = torch.linspace(0.3, 0.6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mse, [eta])


def test_gradients_against_simulation_with_common_chips(cases):
    """Faults are nested over eta, so differences on the same chips are quiet."""
    model = network(lambda: nn.Linear(20, 60), lambda: nn.Tanh(), lambda: nn.Linear(60, 5))
    x, step = cases.normal(30, 20), 0.02
    placement = place(model, weights=SRAM(bits=6, fault=Flip()), example_inputs=x)
    names = [tensor.name for tensor in placement.placed]
    plain = placement.plan({"eta": 0.6})
    for name in names:
        etas = {n: torch.tensor(0.6, dtype=torch.float64, requires_grad=True) for n in names}
        plan = Plan({n: {"eta": eta} for n, eta in etas.items()})
        forecast = predict(placement, [(x, None)], at=plan, method=FirstOrder(probes=8))
        (slope,) = torch.autograd.grad(forecast.mse, etas[name])
        ends = [
            simulate(placement, [(x, None)], at=Plan({**plain, name: {"eta": eta}}), chips=800)
            for eta in (0.6 - step, 0.6 + step)
        ]
        slopes = [(b - a) / (2 * step) for a, b in zip(ends[0].mse, ends[1].mse, strict=True)]
        mean = sum(slopes) / len(slopes)
        spread = (sum((s - mean) ** 2 for s in slopes) / len(slopes)) ** 0.5 / len(slopes) ** 0.5
        # A central difference of exp(-12.8 eta) over this step is 1.1 % too steep.
        assert abs(float(slope) - mean) <= 4 * spread + 0.03 * abs(mean)


def test_without_interception_the_answer_is_the_same(cases, monkeypatch):
    model, x = small_convolutional(), cases.normal(5, 2, 4, 4)
    targets = torch.tensor([0, 1, 2, 0, 1])
    placement = place(model, weights=SRAM(bits=5), example_inputs=x)
    method = FirstOrder(subsample_channels=False, chips=3)
    with_it = predict(placement, [(x, targets)], at={"eta": 0.4}, method=method)
    probed = predict(placement, [(x, None)], at={"eta": 0.4}, method=method)
    monkeypatch.setattr(Interception, "_uses_of", lambda self, *call: [])
    without = predict(placement, [(x, targets)], at={"eta": 0.4}, method=method)
    probed_without = predict(placement, [(x, None)], at={"eta": 0.4}, method=method)
    for name, part in with_it.variance.items():
        torch.testing.assert_close(without.variance[name].float(), part.float())
        again = probed_without.variance[name]
        torch.testing.assert_close(again.float(), probed.variance[name].float())
    assert without.accuracy.mean == pytest.approx(with_it.accuracy.mean, abs=1e-6)
    assert without.accuracy.chip_std == with_it.accuracy.chip_std


def test_small_pieces_give_the_same_answer(cases):
    model, x = small_convolutional(), cases.normal(9, 2, 4, 4)
    targets = torch.arange(9) % 3
    placement = place(model, weights=SRAM(bits=5), example_inputs=x)
    whole = predict(placement, [(x, targets)], at={"eta": 0.4}, method=FirstOrder(chips=4))
    pieces = predict(
        placement, [(x, targets)], at={"eta": 0.4}, method=FirstOrder(memory_bytes=20_000, chips=4)
    )
    batches = predict(placement, [(x[:4], targets[:4]), (x[4:], targets[4:])], at={"eta": 0.4})
    torch.testing.assert_close(whole.per_sample, pieces.per_sample)
    torch.testing.assert_close(whole.per_sample, batches.per_sample)
    assert whole.accuracy.quantiles == pieces.accuracy.quantiles


def test_more_classes_than_are_probed(cases):
    model, x = network(lambda: nn.Linear(6, 30)), cases.normal(40, 6)
    with torch.no_grad():
        targets = model(x).argmax(1)
    placement = place(model, weights=SRAM(bits=6), example_inputs=x)
    few = predict(
        placement, [(x, targets)], at={"eta": 0.4}, method=FirstOrder(classes=8, probes=500)
    )
    every = predict(placement, [(x, targets)], at={"eta": 0.4}, method=FirstOrder(classes=30))
    assert few.accuracy.mean == pytest.approx(every.accuracy.mean, abs=0.01)
    assert few.per_output is None
    assert float(few.mse) == pytest.approx(float(every.mse), rel=0.1)


def test_a_batch_of_one_and_a_model_in_half_precision():
    model = build("cnn", (1, 8, 8), 4, seed=0).bfloat16()
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    placement = place(model, weights=SRAM(bits=6), example_inputs=x)
    forecast = predict(placement, [(x, torch.tensor([1]))], at={"eta": 0.5})
    wide = build("cnn", (1, 8, 8), 4, seed=0)
    exact = predict(
        place(wide, weights=SRAM(bits=6)), [(x.float(), torch.tensor([1]))], at={"eta": 0.5}
    )
    assert forecast.standard_error is None
    assert forecast.samples == 1
    assert float(forecast.total_variance) == pytest.approx(float(exact.total_variance), rel=0.1)


def test_a_static_spread_between_chips(cases):
    """Linearised chips of one layer are chips: same reads, same accuracies on average."""
    model, x = network(lambda: nn.Linear(8, 4)), cases.normal(200, 8)
    with torch.no_grad():
        targets = model(x).argmax(1)
    placement = place(model, weights=SRAM(bits=5, fault=Flip()), example_inputs=x)
    forecast = predict(placement, [(x, targets)], at={"eta": 0.35}, method=FirstOrder(chips=400))
    sim = simulate(placement, [(x, targets)], at={"eta": 0.35}, chips=400)
    assert sim.mean < 0.97
    spread = torch.tensor(sim.values).std()
    assert forecast.accuracy.chips == 400
    # The standard deviation of 400 draws is known to about 1 / sqrt(800) for light tails.
    assert forecast.accuracy.chip_std == pytest.approx(float(spread), rel=0.25)
    assert forecast.accuracy.quantiles[0] == pytest.approx(sim.quantile(0.05), abs=0.05)


def test_a_model_that_computes_twice_is_told_of(cases):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            hidden = checkpoint(lambda v: self.first(v).relu(), x, use_reentrant=False)
            return self.second(hidden)

    placement = place(Twice(), weights=SRAM(bits=8))
    with pytest.raises(ModelError, match=r"torch\.utils\.checkpoint.* checkpoints off"):
        predict(placement, [(torch.ones(2, 4), None)], at={"eta": 0.4})


def test_nan_is_blamed_on_the_first_layer(cases):
    class Root(nn.Module):
        def forward(self, inputs):
            return inputs.sqrt()

    model = nn.Sequential(nn.Linear(4, 4), Root(), nn.Linear(4, 2)).double().eval()
    placement = place(model, weights=SRAM(bits=5))
    with pytest.raises(ModelError, match=r"the output of 1 is NaN or infinite without any fault"):
        predict(placement, [(cases.normal(5, 4), None)], at={"eta": 0.5})


def test_options_are_checked():
    for field in ("probes", "classes", "memory_bytes"):
        with pytest.raises(InputError, match=field):
            FirstOrder(**{field: 0})
    with pytest.raises(InputError, match="chips"):
        FirstOrder(chips=-1)


def test_the_noise_of_a_chip_is_what_the_device_reads(cases):
    layer, x = network(lambda: nn.Linear(5, 3)), cases.normal(4, 5)
    with cases.problem(layer, x, bits=5) as problem:
        network_ = Linearisation(problem, seed=0, memory_bytes=1 << 20)
        (piece,) = network_.pieces(3)
        logits = network_.logits(piece, 3, [Chip(seed=7)])
        problem.memory.read(problem.points, Chip(seed=7))
        with torch.no_grad():
            read = problem.memory.call(x).gather(1, logits.classes)
    torch.testing.assert_close(logits.mean + logits.chips[:, :, 0], read)


class Steps(nn.Module):
    """As many steps as the batch is long: a use that the samples tried first did not have."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, inputs):
        hidden = inputs[:, 0]
        for step in range(inputs.shape[1]):
            hidden = torch.tanh(self.cell(hidden) + inputs[:, step])
        return self.head(hidden)


def test_a_use_that_comes_later_is_not_lost(cases):
    with seeded(0):
        model = Steps().double().eval()
    short, long = cases.normal(4, 1, 3), cases.normal(4, 5, 3)
    placement = place(model, weights=SRAM(bits=5), example_inputs=short)
    both = predict(placement, [(short, None), (long, None)], at={"eta": 0.4}, method=PLAIN)
    alone = [predict(placement, [(x, None)], at={"eta": 0.4}, method=PLAIN) for x in (short, long)]
    for name, part in both.variance.items():
        mean = (alone[0].variance[name] + alone[1].variance[name]) / 2
        assert float(part) == pytest.approx(float(mean), rel=0.5)  # other random probes
        assert float(part) > 0


def test_a_model_that_works_in_place_on_its_input(cases):
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, inputs):
            inputs -= 1.0
            return self.linear(inputs)

    with seeded(0):
        model = Greedy().double().eval()
    x = cases.normal(5, 4)
    forecast = predict(place(model, weights=SRAM(bits=6)), [(x.clone(), None)], at={"eta": 0.5})
    plain = nn.Sequential(model.linear)
    other = predict(
        place(plain, weights=SRAM(bits=6)), [(x - 2.0, None)], at={"eta": 0.5}, method=PLAIN
    )
    assert forecast.samples == other.samples


def test_faults_that_no_gradient_sees_are_told_of(cases):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            with torch.no_grad():
                hidden = torch.tanh(self.body(inputs))
            return self.head(hidden)

    with seeded(0):
        model = Cut().double().eval()
    placement = place(model, weights=SRAM(bits=5))
    with pytest.warns(UserWarning, match=r"faults in body\.weight move no output to first order"):
        predict(placement, [(cases.normal(5, 4), None)], at={"eta": 0.4}, method=PLAIN)


def test_gradients_in_the_points_of_activations(cases):
    """Their slope is a function of their point too: it scales what comes from before."""
    model = network(lambda: nn.Linear(5, 4), lambda: nn.Tanh(), lambda: nn.Linear(4, 3))
    x = cases.normal(6, 5)
    placement = place(
        model, weights=SRAM(bits=4), activations=SRAM(bits=4), include=["0.weight", "2:input"],
        example_inputs=x,
    )  # fmt: skip

    def variance(eta):
        plan = Plan({"0.weight": {"eta": 0.4}, "2:input": {"eta": eta}})
        return predict(placement, [(x, None)], at=plan, method=PLAIN).variance["0.weight"]

    eta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(variance, [eta])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_predicts_the_same():
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 4
    memory = SRAM(bits=6)
    forecasts = []
    for device in ("cpu", "cuda"):
        model = build("cnn", (1, 8, 8), 4, seed=0).to(device)
        placement = place(model, weights=memory, activations=memory, example_inputs=x.to(device))
        data = [(x.to(device), targets.to(device))]
        method = FirstOrder(chips=5)
        forecasts.append(predict(placement, data, at={"eta": 0.4}, method=method))
    here, there = forecasts
    assert float(there.mse) == pytest.approx(float(here.mse), rel=1e-3)
    assert there.accuracy.mean == pytest.approx(here.accuracy.mean, abs=1e-3)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(8, 24), nn.Linear(8, 1)

    def forward(self, x):
        q, k, v = (part[:, None] for part in self.project(x).chunk(3, -1))
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mean(1))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("make", [Attention, SelfAttention])
def test_gradients_in_points_through_attention(make):
    """The CPU's fused attention has no second derivative."""
    with seeded(0):
        model = make().double().eval()
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    placement, step = place(model, weights=SRAM(bits=8), example_inputs=x), 1e-5

    def error(eta):
        return predict(placement, [(x, None)], at={"eta": eta}).mse

    eta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(error(eta), eta)
    expected = (float(error(0.5 + step)) - float(error(0.5 - step))) / (2 * step)
    assert float(slope) == pytest.approx(expected, rel=1e-4)
    assert torch.backends.cuda.flash_sdp_enabled()
