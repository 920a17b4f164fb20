"""The error as a function of the plan: exact where first order is, and its gradients."""

import math

import pytest
import torch
from torch import nn

from joulewise.devices import PCM, SRAM, Crossbar, Device, Flip, Mask, MeasuredMap, law
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.placement import Plan, place, private_memory
from joulewise.prediction import FirstOrder, error_model, predict, weight_error_model
from joulewise.simulation import simulate

# One output: a probe of +-1 squares to the square itself, so nothing is left to chance.
EXACT = FirstOrder(accuracy=False, subsample_channels=False)


def network(*layers):
    with seeded(0):
        return nn.Sequential(*[make() for make in layers]).double().eval()


def convolutional():
    return network(
        lambda: nn.Conv2d(2, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.Softplus(),
        lambda: nn.Flatten(),
        lambda: nn.Linear(64, 1),
    )


class Shared(nn.Module):
    """A weight that is used twice, and one that no operation is known for."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.odd = nn.Parameter(torch.randn(6, 6) / 3)
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = torch.tanh(self.layer(x))
        x = torch.tanh(self.layer(x))
        return self.head(x @ torch.linalg.matrix_exp(self.odd))


def images(samples=6):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(samples, 2, 4, 4, generator=generator, dtype=torch.float64), None)]


def vectors(samples=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(samples, 6, generator=generator, dtype=torch.float64), None)]


def plan_of(placement, points):
    """A plan from a point for each placed tensor, on its device's knob."""
    return Plan({p.name: {p.device.knob.name: points[p.name]} for p in placement.placed})


def check_at(placement, data, plan):
    """At the plan that it was made around, it says what the first order says."""
    errors = error_model(placement, data, at=plan)
    shift, variance = errors.shift_and_variance(placement.points(plan))
    first = predict(placement, data, at=plan, method=EXACT)
    assert math.isclose(float(shift), float(first.mean_shift), rel_tol=1e-6)
    for name, part in first.variance.items():
        assert math.isclose(float(variance[name]), float(part), rel_tol=1e-6), name
    return errors


@pytest.mark.parametrize("fault", [Mask(), Flip()])
def test_convolutions_and_linear_layers(fault):
    placement = place(convolutional(), weights=SRAM(bits=6, fault=fault))
    check_at(placement, images(), placement.plan({"eta": 0.3}))


def test_activations():
    model = convolutional()
    memory = SRAM(bits=6)
    placement = place(model, weights=memory, activations=memory, example_inputs=images()[0][0])
    assert len(placement.placed) == 4
    check_at(placement, images(), placement.plan({"eta": 0.35}))


def test_weights_used_twice_and_of_unknown_operations():
    with seeded(0):
        model = Shared().double().eval()
    placement = place(model, weights=SRAM(bits=6))
    check_at(placement, vectors(), placement.plan({"eta": 0.35}))


def test_points_for_each_bit_plane():
    placement = place(convolutional(), weights=SRAM(bits=6))
    planes = torch.linspace(0.2, 0.7, 6, dtype=torch.float64)
    check_at(placement, images(), placement.plan({"eta": planes}))


def test_a_range_for_each_channel():
    placement = place(convolutional(), weights=SRAM(bits=6, channel_dim=0))
    check_at(placement, images(), placement.plan({"eta": 0.3}))


def test_conductances():
    crossbar = Crossbar(sigma=2e-6, levels=512)
    placement = place(convolutional(), weights=crossbar)
    check_at(placement, images(), placement.plan({"g_max": 2e-5}))


@pytest.mark.parametrize("planes", [None, 6])
def test_a_linear_network_is_known_at_every_plan(planes):
    placement = place(network(lambda: nn.Linear(6, 1)), weights=SRAM(bits=6))
    first = torch.tensor(0.5) if planes is None else torch.full((planes,), 0.5)
    errors = error_model(placement, vectors(), at=Plan({"0.weight": {"eta": first}}))
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        elsewhere = torch.rand(first.shape, generator=generator, dtype=torch.float64)
        plan = Plan({"0.weight": {"eta": elsewhere}})
        expected = predict(placement, vectors(), at=plan, method=EXACT)
        assert math.isclose(float(errors.error(plan)), float(expected.mse), rel_tol=1e-5)


def channels_of(placement, seed=0, low=0.2, high=0.6):
    """A point for each output channel of each weight, all different."""
    generator = torch.Generator().manual_seed(seed)
    points = {}
    for placed in placement.placed:
        shape = () if placed.channels is None else (placed.channels, 1)
        shares = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        points[placed.name] = placed.device.knob.points(shares)
    return points


@pytest.mark.parametrize(
    "memory",
    [
        SRAM(bits=6),
        SRAM(bits=6, fault=Flip(), channel_dim=0),
        SRAM(bits=4, fault=Flip(), channel_dim=0, group_size=5),
        SRAM(bits=6, law=law("stutz2021-14nm")),
        Crossbar(sigma=2e-6, levels=512),
        Crossbar(variability=0.1, read_noise=1e-6, levels=512, channel_dim=0),
    ],
)
def test_points_for_each_channel(memory):
    placement = place(convolutional(), weights=memory)
    check_at(placement, images(), plan_of(placement, channels_of(placement)))


def test_points_for_each_channel_of_weights_used_twice_or_turned():
    class Turned(Shared):
        def forward(self, x):
            return super().forward(x) + self.head(x @ self.layer.weight)

    for kind in (Shared, Turned):
        with seeded(0):
            model = kind().double().eval()
        placement = place(model, weights=SRAM(bits=6))
        check_at(placement, vectors(), plan_of(placement, channels_of(placement)))


def test_points_for_each_channel_beside_activations():
    memory, model = SRAM(bits=6), convolutional()
    placement = place(model, weights=memory, activations=memory, example_inputs=images()[0][0])
    errors = check_at(placement, images(), plan_of(placement, channels_of(placement)))
    assert len(errors.groups) == 1  # of the same memory


def test_points_for_each_plane_of_each_channel():
    placement = place(convolutional(), weights=SRAM(bits=6))
    points = {
        name: point + torch.linspace(0, 0.2, 6, dtype=torch.float64)
        for name, point in channels_of(placement).items()
    }
    check_at(placement, images(), plan_of(placement, points))


@pytest.mark.parametrize("planes", [1, 6])
def test_a_lone_channel(planes):
    placement = place(network(lambda: nn.Linear(6, 1)), weights=SRAM(bits=6))
    check_at(placement, vectors(), placement.plan({"eta": torch.full((1, planes), 0.4).double()}))


def test_points_for_each_channel_of_a_map_that_has_steps():
    thresholds = 10 ** torch.linspace(-4, -0.5, 48).double()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    fault_map = MeasuredMap.from_thresholds(thresholds[order].reshape(-1, 12))
    placement = place(convolutional(), weights=SRAM(bits=6, fault_map=fault_map))
    check_at(placement, images(), plan_of(placement, channels_of(placement)))


def test_equal_channels_are_one_point():
    placement = place(convolutional(), weights=SRAM(bits=6))
    by_tensor = error_model(placement, images(), at=placement.plan({"eta": 0.4}))
    equal = {
        p.name: torch.full((p.channels, 1), 0.4, dtype=torch.float64) for p in placement.placed
    }
    by_channel = error_model(placement, images(), at=plan_of(placement, equal))
    for eta in (0.05, 0.3, 0.4, 0.77, 1.0):
        points = placement.points({"eta": eta})
        shift, variance = by_tensor.shift_and_variance(points)
        for same in (points, {name: torch.full_like(p, eta) for name, p in equal.items()}):
            found, parts = by_channel.shift_and_variance(same)
            assert math.isclose(float(found), float(shift), rel_tol=1e-6)
            for name, part in variance.items():
                assert math.isclose(float(parts[name]), float(part), rel_tol=1e-6, abs_tol=1e-15)


@pytest.mark.parametrize("memory", [SRAM(bits=6), Crossbar(sigma=2e-6, levels=512)])
def test_a_linear_network_is_known_at_every_plan_of_channels(memory):
    placement = place(network(lambda: nn.Linear(6, 3), Summed), weights=memory)
    errors = error_model(placement, vectors(), at=plan_of(placement, channels_of(placement)))
    for seed in range(1, 6):
        plan = plan_of(placement, channels_of(placement, seed, 0.0, 1.0))
        expected = predict(placement, vectors(), at=plan, method=EXACT)
        assert math.isclose(float(errors.error(plan)), float(expected.mse), rel_tol=2e-5)


class Summed(nn.Module):
    def forward(self, x):
        return (x * torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype)).sum(1, keepdim=True)


def test_probes_are_right_on_average():
    """Several outputs: over many probes the mean is the first order's, within its error."""
    model = network(lambda: nn.Linear(6, 8), lambda: nn.Tanh(), lambda: nn.Linear(8, 5))
    placement = place(model, weights=SRAM(bits=6))
    plan = placement.plan({"eta": 0.3})
    found = torch.tensor(
        [
            float(error_model(placement, vectors(), at=plan, seed=seed).error(plan))
            for seed in range(60)
        ]
    )
    expected = float(predict(placement, vectors(), at=plan, method=EXACT).mse)
    exact = predict(placement, [(vectors()[0][0], torch.zeros(5).long())], at=plan)
    assert exact.per_output is not None  # every output was probed
    assert abs(float(found.mean()) - float(exact.mse)) < 5 * float(found.std()) / 60**0.5
    assert expected > 0


def test_simulation_agrees_where_noise_is_weak():
    model = convolutional()
    placement = place(model, weights=SRAM(bits=8, fault=Flip()), example_inputs=images()[0][0])
    plan = placement.plan({"eta": 0.85})  # the bit error rate is 2e-5
    errors = error_model(placement, images(), at=placement.plan({"eta": 0.7}))
    simulated = simulate(placement, images(), at=plan, chips=4000, seed=5)
    low, high = simulated.mse_interval(1 - 1e-6)
    assert low < float(errors.error(plan)) < high


def test_gradients_are_those_of_finite_differences():
    placement = place(convolutional(), weights=SRAM(bits=6))
    errors = error_model(placement, images(), at=placement.plan({"eta": 0.4}))
    at = torch.tensor([0.35, 0.45], dtype=torch.float64, requires_grad=True)

    def error(points):
        names = ("0.weight", "4.weight")
        return errors.error(plan_of(placement, dict(zip(names, points, strict=True))))

    (slope,) = torch.autograd.grad(error(at), at)
    for number in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[number] = 1e-5
        difference = float(error(at.detach() + step) - error(at.detach() - step)) / 2e-5
        assert math.isclose(float(slope[number]), difference, rel_tol=1e-5)


def test_single_changes_are_differences_of_whole_errors():
    placement = place(convolutional(), weights=SRAM(bits=6))
    errors = error_model(placement, images(), at=placement.plan({"eta": 0.4}))
    points = placement.points({"eta": 0.35})
    tried = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    others = [[{**points, "4.weight": point}] for point in tried]
    assert_single_changes(errors, points, "4.weight", tried[:, None], others)


def assert_single_changes(errors, points, name, tried, others):
    off, _ = errors.output_errors(points)
    moved, variance = errors.single_changes(points, name, tried)
    shift = (off + moved).square().mean(-1) - off.square().mean()
    changes = shift / errors.outputs + variance
    for row, own in zip(others, changes, strict=True):
        for other, change in zip(row, own, strict=True):
            expected = errors.error_at(other) - errors.error_at(points)
            assert math.isclose(float(change), float(expected), rel_tol=1e-9, abs_tol=1e-15)


def test_many_plans_at_once():
    placement = place(convolutional(), weights=SRAM(bits=6))
    errors = error_model(placement, images(), at=placement.plan({"eta": [0.4] * 6}))
    points = torch.rand(5, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plans = [Plan({"0.weight": {"eta": one}, "4.weight": {"eta": other}}) for one, other in points]
    at_once = torch.func.vmap(lambda p: errors.error_at({"0.weight": p[0], "4.weight": p[1]}))(
        points
    )
    expected = torch.stack([errors.error(plan) for plan in plans])
    torch.testing.assert_close(at_once, expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("planes", [1, 6])
def test_gradients_and_changes_of_channels(planes):
    placement = place(convolutional(), weights=SRAM(bits=6))

    def drawn(seed):
        return {n: p.expand(-1, planes) for n, p in channels_of(placement, seed).items()}

    errors, points = error_model(placement, images(), at=plan_of(placement, drawn(0))), drawn(1)

    def error(first):
        return errors.error(plan_of(placement, {**points, "0.weight": first}))

    at = points["0.weight"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(error(at), at)
    for channel in range(len(at)):
        step = torch.zeros_like(at)
        step[channel, -1] = 1e-5
        ends = [float(error(at.detach() + s * step)) for s in (1, -1)]
        difference = (ends[0] - ends[1]) / 2e-5
        assert math.isclose(float(slope[channel, -1]), difference, rel_tol=1e-4)
    tried = torch.stack([drawn(seed)["0.weight"] for seed in (2, 3, 4)])

    def with_one(rows, channel):
        own = points["0.weight"].clone()
        own[channel] = rows[channel]
        return {**points, "0.weight": own}

    others = [[with_one(rows, channel) for channel in range(len(rows))] for rows in tried]
    assert_single_changes(errors, points, "0.weight", tried.squeeze(-1), others)


def test_a_plan_that_does_not_fit_is_refused():
    placement = place(convolutional(), weights=SRAM(bits=6))
    with pytest.raises(InputError, match="4.weight is placed here, and the plan has no point"):
        error_model(placement, images(), at=Plan({"0.weight": {"eta": 0.5}}))
    few = torch.full((3, 1), 0.5, dtype=torch.float64)
    plan = Plan({"0.weight": {"eta": few}, "4.weight": {"eta": 0.5}})
    with pytest.raises(InputError, match="the points of 0.weight is 3; allowed: 4, one for each"):
        error_model(placement, images(), at=plan)
    errors = error_model(placement, images(), at={"eta": 0.5})
    with pytest.raises(InputError, match="4.weight is placed here, and the plan has no point"):
        errors.error(Plan({"0.weight": {"eta": 0.5}}))


def test_targets_are_ignored_whatever_they_are():
    (inputs, _), *_ = images()
    placement = place(convolutional(), weights=SRAM(bits=6))
    plain = error_model(placement, [(inputs, None)], at={"eta": 0.4})
    for targets in (torch.full((6,), 99), torch.rand(6, 3), ["cat", "dog"] * 3):
        errors = error_model(placement, [(inputs, targets)], at={"eta": 0.4})
        assert torch.equal(errors.error({"eta": 0.3}), plain.error({"eta": 0.3}))


def test_activations_on_a_memory_without_classes_are_refused_by_name():
    class Plain(SRAM):
        word_classes = Device.word_classes

    model = convolutional()
    placement = place(model, activations=Plain(bits=6), example_inputs=images()[0][0])
    with pytest.raises(InputError, match="the memory of 0:input is Plain, which knows no classes"):
        error_model(placement, images(), at=placement.plan({"eta": 0.4}))


def test_the_age_of_a_memory_is_refused():
    placement = place(nn.Linear(6, 1).double(), weights=PCM())
    with pytest.raises(InputError, match="the knob of weight is seconds, which cannot be chosen; "):
        error_model(placement, vectors(), at={"seconds": 60.0})


@pytest.mark.parametrize(
    ("memory", "points"),
    [
        (SRAM(bits=4, channel_dim=0), [{"eta": 1.0}, {"eta": 0.5}]),
        (Crossbar(sigma=1e-6, levels=16), [{"g_max": 2e-5}, {"g_max": 2e-6}]),
        # With IR drop, the largest conductance has an error, too.
        (
            Crossbar(sigma=1e-6, wire_ohm=100.0, g_range=(2e-6, 2e-4)),
            [{"g_max": 2e-4}, {"g_max": 2e-5}],
        ),
    ],
    ids=["sram", "levels", "wires"],
)
def test_relative_errors_of_weights_are_those_of_the_moments(memory, points):
    net = network(lambda: nn.Linear(8, 12), lambda: nn.ReLU(), lambda: nn.Linear(12, 3))
    placement = place(net, weights=memory, example_inputs=torch.ones(2, 8).double())
    model = weight_error_model(placement, at=points[0])
    for at in points:
        shift = variance = 0.0
        with private_memory(placement) as loaded:
            moments = loaded.moments(placement.points(at))
            for placed in placement.placed:
                ideal = placed.device.ideal(loaded.stored[placed.name])
                energy = ideal.square().sum()
                shift += float((moments[placed.name].mean - ideal).square().sum() / energy)
                variance += float(moments[placed.name].var.sum() / energy)
        # The squared shift is estimated by 64 probes, each with a relative variance of 2.
        reach = 4 * (2 / 64) ** 0.5 * shift
        assert float(model.error(at)) == pytest.approx(shift + variance, rel=2e-3, abs=reach)
