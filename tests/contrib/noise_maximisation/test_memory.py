import json
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import nn

from gaussian_memory import GaussianMemory
from joulewise.contrib import NoiseMaximisation
from joulewise.data import load_digits
from joulewise.devices import SRAM, Alternatives, Crossbar, Flip, Knob, WriteVerify
from joulewise.errors import InputError, OperatingPointError
from joulewise.models import build, seeded
from joulewise.optim import SAM
from joulewise.placement import Plan, energy, place
from joulewise.training import TrainingMemory, TrainingSpec, train


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Parts(nn.Module):
    """One matrix for each factor; the loss is the sum of ``factor / 2 |W - W0|^2``."""

    def __init__(self, *factors, size=30):
        super().__init__()
        with seeded(3):
            self.parts = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in factors)
        self.double()
        self.factors = factors
        self.targets = [part.weight.detach().clone() for part in self.parts]

    def forward(self, x):
        return torch.stack([part(x) for part in self.parts])

    def loss(self):
        outputs = self(torch.eye(len(self.targets[0]), dtype=torch.float64))
        pairs = zip(self.factors, outputs, self.targets, strict=True)
        return sum(factor / 2 * (o - t.mT).square().sum() for factor, o, t in pairs)

    @property
    def names(self):
        return [f"parts.{k}.weight" for k in range(len(self.factors))]

    def placed(self, device):
        return place(self, weights=device, example_inputs=torch.eye(len(self.targets[0])).double())


def run(memory, model, blocks):
    for _ in range(blocks):
        model.zero_grad()
        with memory:
            model.loss().backward()
    return points_of(memory)


def points_of(memory):
    """The present operating points, by name."""
    return memory.placement.points(memory.plan_at(memory.steps))


# The points.


LISTED = Alternatives(memories=((SRAM(), (0.3, 0.6)), (SRAM(fault=Flip()), (0.9,))))
WRITTEN = WriteVerify(unverified=Crossbar(sigma=1e-6), verified=Crossbar(sigma=1e-7), g_max=2e-5)


@pytest.mark.parametrize("device", [LISTED, WRITTEN], ids=["alternatives", "write-verify"])
def test_memories_without_a_gradient_are_refused(device):
    placement = Parts(1.0).placed(device)
    message = "^the memory of parts.0.weight is one whose moments have no gradient"
    with pytest.raises(InputError, match=message):
        NoiseMaximisation(placement, price=0.1)


class Conductance(GaussianMemory):
    """Noise of a standard deviation ``std``, for an energy of ``1 / std``."""

    knob = Knob(name="std", least_reliable=10.0, most_reliable=0.01)

    def energy(self, traffic, point):
        return 1e-12 * traffic.reads / torch.as_tensor(point, dtype=torch.float64)


def test_at_a_price_the_points_are_the_optimum_in_closed_form():
    """``c s^2 / 2`` each, and ``price / (s R)``: the best is ``s^3 = price / (c R)``."""
    model = Parts(1.0, 8.0, 64.0)
    placement = model.placed(Conductance(keep=1.0))
    words, price, horizon = 900, 1e4, 50
    memory = NoiseMaximisation(
        placement, price=price, lr=0.02, horizon=horizon, start=placement.plan({"std": 0.3})
    )
    points = run(memory, model, 200)
    reliable = 3 * words / 0.01
    # |d|^2 of a block has a relative deviation of sqrt(2 / words), averages over the horizon one
    # of that over sqrt(2 horizon - 1); the third root has a third of it.
    deviation = (2 / words) ** 0.5 / (2 * horizon - 1) ** 0.5 / 3
    for factor, name in zip(model.factors, model.names, strict=True):
        best = (price / (factor * reliable)) ** (1 / 3)
        assert points[name] == pytest.approx(best, rel=4 * deviation)


def test_at_an_energy_the_points_are_the_best_of_that_energy():
    model, wanted, horizon = Parts(1.0, 30.0), 0.3, 50
    device = SRAM(bits=6, fault=Flip())
    memory = NoiseMaximisation(model.placed(device), energy=wanted, lr=0.02, horizon=horizon)
    assert points_of(memory) == pytest.approx(dict.fromkeys(model.names, wanted), abs=1e-8)
    points = run(memory, model, 200)
    stored = [device.store(part.weight.detach()) for part in model.parts]

    def harm(first):
        total = 0.0
        for factor, held, target, eta in zip(
            model.factors, stored, model.targets, (first, 2 * wanted - first), strict=True
        ):
            moments = device.moments(held, eta)
            total += factor / 2 * float((moments.var + (moments.mean - target).square()).sum())
        return total

    best = optimize.minimize_scalar(harm, bounds=(0.05, 0.55), method="bounded").x
    # A word of faults at a small rate p: the squared error is p sum 4^k on average, and varies by
    # p sum 16^k. So relative to its mean, that of 900 words varies by 0.6 / (900 p) in a block.
    rates = [math.exp(-12.8 * eta) for eta in (best, 2 * wanted - best)]
    variance = sum(0.6 / (900 * rate) for rate in rates) / (2 * horizon - 1)
    # The logarithm of a rate is -12.8 eta: both points move by half of what the ratio is off by.
    assert points[model.names[0]] == pytest.approx(best, abs=4 * variance**0.5 / 12.8 / 2)
    now = energy(memory.placement, at=memory.plan_at(memory.steps))
    assert now.normalised == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("device", "wanted"),
    [(SRAM(bits=8), 0.35), (SRAM(bits=4, fault=Flip()), 0.5), (Crossbar(sigma=1e-6), 0.8)],
)
def test_what_matters_more_is_more_reliable_and_the_energy_is_met(device, wanted):
    model = Parts(1.0, 10.0, 100.0, size=16)
    memory = NoiseMaximisation(model.placed(device), energy=wanted, lr=0.03, horizon=20)
    points = run(memory, model, 50)
    quiet, middle, loud = (points[name] for name in model.names)
    assert quiet < middle < loud
    now = energy(memory.placement, at=memory.plan_at(memory.steps))
    assert now.normalised == pytest.approx(wanted, rel=1e-3)


def test_from_any_start_the_energy_is_reached_no_faster_than_by_lr():
    model = Parts(1.0, 10.0, 100.0)
    placement = model.placed(SRAM(bits=8))
    start = placement.most_reliable()
    memory = NoiseMaximisation(placement, energy=0.4, start=start, lr=0.02)
    assert memory.plan_at(0).to_dict() == start.to_dict()
    before = 1.0
    for _ in range(60):
        run(memory, model, 1)
        now = energy(placement, at=memory.plan_at(0)).normalised
        assert now >= 0.4 - 1e-2 and abs(now - before) <= 0.02 + 1e-9
        before = now
    assert now == pytest.approx(0.4, abs=1e-3)


def test_at_a_price_noise_grows_from_the_most_reliable_point():
    model = Parts(1.0, 10.0)
    memory = NoiseMaximisation(model.placed(SRAM(bits=8)), price=1e3, lr=0.1)
    assert memory.plan_at(0).to_dict() == memory.placement.most_reliable().to_dict()
    assert max(run(memory, model, 9).values()) < 0.2
    assert min(run(memory, model, 30).values()) >= 0.05


# Blocks.


def network():
    with seeded(1):
        layers = [nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).double()


def made(model, **options):
    options = {"energy": 0.3, "lr": 0.05, "seed": 4} | options
    placement = place(model, weights=SRAM(bits=8), example_inputs=rand(16, 8))
    return NoiseMaximisation(placement, **options)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return rand(16, 8, seed=step), torch.randint(3, (16,), generator=generator)


def backward(model, step=0, factor=1.0):
    inputs, targets = batch(step)
    loss = factor * F.cross_entropy(model(inputs), targets)
    loss.backward()
    return loss


def steps(model, memory, count, factor=1.0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(count):
        optimizer.zero_grad()
        with memory:
            backward(model, memory.steps, factor)
        for parameter in model.parameters():
            parameter.grad.div_(factor)
        optimizer.step()
        found.append(points_of(memory))
    return found


def test_the_gradients_and_chips_are_those_of_a_training_memory():
    found = []
    for kind in (NoiseMaximisation, TrainingMemory):
        model = network()
        placement = place(model, weights=SRAM(bits=8), example_inputs=rand(16, 8))
        options = {"energy": 0.3} if kind is NoiseMaximisation else {"at": {"eta": 0.3}}
        memory = kind(placement, seed=4, **options)
        with memory as chip:
            points = points_of(memory)
            backward(model)
        found.append((chip, [p.grad for p in model.parameters()], points))
    (one, grads, points), (other, same, expected) = found
    assert one == other and points == pytest.approx(expected, abs=1e-8)
    assert all(map(torch.equal, grads, same))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_weights_are_back_bit_for_bit_and_an_exception_moves_nothing(error):
    model = network()
    memory = made(model)
    own = [(p, p.data_ptr(), p.detach().clone()) for p in model.parameters()]
    first = points_of(memory)

    def block():
        with memory:
            backward(model)
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(error):
            block()
    for parameter, (same, address, copy) in zip(model.parameters(), own, strict=True):
        assert parameter is same and parameter.data_ptr() == address
        assert torch.equal(parameter, copy)
    assert (points_of(memory) == first) is (error is not None)


def test_the_same_seed_gives_the_same_points_and_a_run_can_go_on():
    model, twin = network(), network()
    points = steps(model, made(model), 8)
    memory = made(twin)
    again = steps(twin, memory, 4)
    resumed = made(twin)
    state = json.loads(json.dumps(memory.state_dict()))
    resumed.load_state_dict(state)
    assert resumed.steps == 4 and resumed.describe() == memory.describe()
    again += steps(twin, resumed, 4)
    assert again == points
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    model = network()
    assert steps(model, made(model, seed=5), 8) != points


def test_a_state_of_other_tensors_or_another_seed_is_refused():
    memory, model = made(network()), Parts(1.0)
    other = NoiseMaximisation(model.placed(SRAM(bits=8)), energy=0.3, seed=4)
    with pytest.raises(InputError, match="the tensors of the state"):
        memory.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="the seed of the state is 5; allowed: 4"):
        memory.load_state_dict(made(network(), seed=5).state_dict())


@pytest.mark.parametrize("cleared", [None, "before", "within", "zeros", "between"])
def test_gradients_from_before_the_block_do_not_count(cleared):
    plain, model = network(), network()
    expected, memory = made(plain), made(model)
    with expected:
        backward(plain)
    backward(model, 7)
    if cleared == "before":
        model.zero_grad(set_to_none=False)
    with memory:
        if cleared == "between":
            backward(model, 8)
        if cleared in ("within", "zeros", "between"):
            model.zero_grad(set_to_none=cleared == "within")
        backward(model)
    assert not any(p._backward_hooks for p in model.parameters())
    assert points_of(memory) == pytest.approx(points_of(expected), rel=1e-9)
    found, wanted = (m.state_dict()["averages"] for m in (memory, expected))
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], rel=1e-9)
    if cleared is not None:
        assert all(map(torch.equal, [p.grad for p in model.parameters()],
                       [p.grad for p in plain.parameters()]))  # fmt: skip


@pytest.mark.parametrize("left", [None, "gradients", "gradients, then zeros"])
def test_a_block_without_a_backward_pass_moves_nothing(left):
    model = network()
    memory = made(model)
    first = points_of(memory)
    if left is not None:
        backward(model)
    with memory, torch.no_grad():
        model(batch(0)[0])
        if left == "gradients, then zeros":
            model.zero_grad(set_to_none=False)
    assert points_of(memory) == first and memory.steps == 1
    assert memory.state_dict()["averages"] == {}


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_gradients_that_are_not_finite_move_nothing(factor):
    model = network()
    memory = made(model)
    with memory:
        backward(model, factor=factor)
    assert memory.state_dict()["averages"] == {}
    assert points_of(memory) == memory.describe()["first_plan"]


def test_a_loss_scale_cancels():
    plain, model = network(), network()
    expected = steps(plain, made(plain, energy=None, price=0.1), 5)
    scaled = made(model, energy=None, price=0.1, loss_scale=lambda: 1024.0)
    assert steps(model, scaled, 5, factor=1024.0) == expected
    with pytest.raises(InputError, match="loss_scale is 0"), made(model, loss_scale=lambda: 0.0):
        backward(model)


def test_within_one_chip_points_move_once_at_the_end():
    model = network()
    memory = made(model)
    first = points_of(memory)
    with memory.same_chip():
        for _ in range(2):
            model.zero_grad()
            with memory:
                backward(model)
            assert points_of(memory) == first
    assert points_of(memory) != first and memory.steps == 1


def test_points_move_every_few_blocks():
    model = network()
    memory = made(model, every=3)
    first, points = points_of(memory), steps(model, memory, 6)
    assert points[0] != first
    assert points[0] == points[1] == points[2] != points[3] == points[4] == points[5]


def test_a_tied_weight_counts_all_its_uses():
    """Two parameters of one storage, against one of twice the gradient."""
    found = []
    for tied in (True, False):
        with seeded(1):
            model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)).double()
        if tied:
            model[1].weight = nn.Parameter(model[0].weight.detach())
        x = rand(4, 5)
        placement = place(model, weights=SRAM(bits=8), include=["0.weight"], example_inputs=x)
        memory = NoiseMaximisation(placement, price=1.0, start={"eta": 0.2}, horizon=1)
        with memory:
            both = model[0](x).square().sum() + (model[1 if tied else 0](x)).square().sum()
            both.backward()
        found.append(memory.state_dict()["averages"]["0.weight"]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_activations_keep_their_point_and_their_energy_counts():
    model, x = network(), rand(16, 8)
    placement = place(model, weights=SRAM(bits=8), activations=SRAM(bits=8), example_inputs=x)
    memory = NoiseMaximisation(placement, energy=0.3, lr=0.05)
    first, points = points_of(memory), steps(model, memory, 20)[-1]
    for placed in placement.placed:
        assert (points[placed.name] == first[placed.name]) is (placed.role == "activation")
    now = energy(placement, at=memory.plan_at(memory.steps))
    assert now.normalised == pytest.approx(0.3, abs=0.01)


def test_with_an_ascent_the_second_gradient_counts():
    model, twin = network(), network()
    memory, expected = made(model), made(twin)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=1e-12)
    with memory:
        backward(model)
        with optimizer.ascent():
            backward(model)
    with expected:
        backward(twin)
    assert points_of(memory) == pytest.approx(points_of(expected), rel=1e-6)


def test_it_trains_in_the_loop_of_joulewise_and_leaves_a_record():
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    inputs = next(digits.train.batches(8))[0]
    placement = place(model, weights=SRAM(bits=8), example_inputs=inputs)
    memory = NoiseMaximisation(placement, energy=0.25, lr=0.03)
    record = train(model, digits, TrainingSpec(epochs=3, lr=0.1), memory=memory)
    described = record.memory
    points = points_of(memory)
    assert described["last_plan"] == points != described["first_plan"]
    assert described["first_plan"] == pytest.approx(dict.fromkeys(points, 0.25), abs=1e-8)
    assert described["last_energy"] == pytest.approx(0.25, abs=2e-3)
    assert described["price"] == memory.price > 0
    json.dumps(described)


# Refusals.


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"energy": None}, InputError, "needs either energy= or price="),
        ({"price": 1.0}, InputError, "needs either energy= or price="),
        (
            {"energy": 0.05},
            InputError,
            "energy is 0.05; allowed: above 0.05, the energy of",
        ),
        ({"energy": 1.1}, InputError, "energy is 1.1; allowed: above 0.05"),
        ({"energy": math.nan}, InputError, "energy is nan"),
        ({"energy": None, "price": 0.0}, InputError, "price is 0"),
        ({"lr": 0.0}, InputError, "lr is 0; allowed: above 0 to 0.5"),
        ({"lr": 0.6}, InputError, "lr is 0.6"),
        ({"horizon": 0.5}, InputError, "horizon is 0.5"),
        ({"every": 0}, InputError, "every is 0"),
        ({"every": 1.5}, InputError, "every is 1.5; allowed: a whole number"),
        ({"seed": -1}, InputError, "seed is -1"),
        ({"start": 0.5}, InputError, "at is 0.5 .*; allowed: knobs with values"),
        (
            {"start": Plan({"0.weight": {"eta": 0.5}})},
            InputError,
            "3.weight is placed here, and the plan has no point for it",
        ),
        (
            {"start": Plan({"0.weight": {"eta": 0.5}, "3.weight": {"eta": 2.0}})},
            OperatingPointError,
            "eta is 2",
        ),
        (
            {"start": Plan({"0.weight": {"eta": 0.5}, "3.weight": {"eta": torch.full((8,), 0.5)}})},
            InputError,
            "the point of 3.weight is 8 numbers; allowed: one number",
        ),
    ],
)
def test_options_that_cannot_be(options, error, match):
    with pytest.raises(error, match=match):
        made(network(), **options)


def test_placements_that_nothing_could_be_learned_of():
    model, x = network(), rand(16, 8)
    with pytest.raises(InputError, match="placement is without access counts"):
        NoiseMaximisation(place(model, weights=SRAM(bits=8)), energy=0.3)
    with pytest.raises(InputError, match="placement is without access counts"):
        NoiseMaximisation(place(model, weights=SRAM(bits=8)), price=0.3)
    with pytest.raises(InputError, match="placement is of activations alone"):
        NoiseMaximisation(place(model, activations=SRAM(bits=8), example_inputs=x), energy=0.3)
    model[3].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"requires_grad of 3.weight is False; allowed: True"):
        NoiseMaximisation(place(model, weights=SRAM(bits=8), example_inputs=x), energy=0.3)
