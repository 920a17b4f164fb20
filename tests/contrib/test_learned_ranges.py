import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from joulewise.contrib import LearnedRanges
from joulewise.data import load_digits
from joulewise.devices import PCM, SRAM, Chip, Crossbar, Flip
from joulewise.errors import InputError, WeightsError
from joulewise.models import build, seeded
from joulewise.optim import SAM
from joulewise.placement import place, private_memory
from joulewise.training import TrainingMemory, TrainingSpec, train
from joulewise.training.recipe import optimizer_for

BITS = 4


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(seed=0):
    targets = torch.randint(3, (16,), generator=torch.Generator().manual_seed(seed))
    return rand(16, 2, 6, 6, seed=seed), targets


def network():
    with seeded(1):
        layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))
    return model.double()


def slopes(model, data):
    loss = F.cross_entropy(model(data[0]), data[1])
    loss.backward()
    return loss.detach()


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def set_shares(ranges, share=0.6):
    """Ranges that clip some of every weight: a share of the largest magnitude."""
    weights = dict(ranges.placement.model.named_parameters())
    for name, alpha in ranges.by_name().items():
        alpha.data.copy_(share * weights[name].detach().abs().max())


def clipping(model, device=None, share=0.6):
    placement = place(model, weights=device or SRAM(bits=BITS), example_inputs=batch()[0])
    ranges = LearnedRanges(placement)
    set_shares(ranges, share)
    return placement, ranges


class WCAT(torch.autograd.Function):
    """The clip of the paper: to alpha the sign of what is clipped, to the weight everything."""

    @staticmethod
    def forward(ctx, weight, alpha):
        ctx.save_for_backward(weight, alpha)
        return weight.clamp(-alpha, alpha)

    @staticmethod
    def backward(ctx, slope):
        weight, alpha = ctx.saved_tensors
        outside = (weight > alpha).to(slope) - (weight < -alpha).to(slope)
        return slope, (slope * outside).sum() / weight.numel() ** 0.5


def fake_quantised(weight, alpha, bits=BITS):
    """Clip, then round to words of the largest magnitude that is left, straight through."""
    inside = WCAT.apply(weight, alpha)
    step = inside.detach().abs().max() / (2 ** (bits - 1) - 1)
    return inside + (torch.round(inside / step) * step - inside).detach()


def by_autograd(model, ranges, data, read=lambda name, *given: fake_quantised(*given)):
    """The loss, and its gradients by parameter and by range, of a plain graph."""
    leaves = {n: p.clone().requires_grad_() for n, p in copies(model).items()}
    alphas = {n: a.detach().clone().requires_grad_() for n, a in ranges.by_name().items()}
    tensors = {n: read(n, leaf, alphas[n]) if n in alphas else leaf for n, leaf in leaves.items()}
    twin = copy.deepcopy(model)  # for its own statistics
    loss = F.cross_entropy(functional_call(twin, tensors, (data[0],)), data[1])
    loss.backward()
    found = [{n: leaf.grad for n, leaf in given.items()} for given in (leaves, alphas)]
    return loss.detach(), *found


# The gradient.


def test_gradients_are_those_of_a_clip_and_fake_quantisation():
    model, data = network(), batch()
    placement, ranges = clipping(model)
    loss, weights, alphas = by_autograd(model, ranges, data)
    with TrainingMemory(placement, perfect=True, ranges=ranges):
        found = slopes(model, data)
    torch.testing.assert_close(found, loss, rtol=1e-12, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name], rtol=1e-9, atol=1e-13)
    for name, alpha in ranges.by_name().items():
        assert alpha.grad != 0
        torch.testing.assert_close(alpha.grad, alphas[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("device", "setting"),
    [
        (SRAM(bits=8, fault=Flip()), {"eta": 0.2}),
        (Crossbar(variability=0.3), {"g_max": 25e-6}),
        (PCM(), {"seconds": 1e5}),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_with_faults_they_are_those_at_what_the_chip_reads_of_clipped_weights(
    device, setting, scaled
):
    model, data = network(), batch()
    placement, ranges = clipping(model, device)
    memory = TrainingMemory(placement, at=setting, ranges=ranges, scale_gradients=scaled)
    points, chip = placement.points(memory.plan_at(0)), memory.chip_at(0)

    def read(name, weight, alpha):
        inside = WCAT.apply(weight, alpha)
        stored = device.store(inside.detach())
        out, ideal = device.read(stored, points[name], chip.region(name)), device.ideal(stored)
        ratio = torch.where(ideal == 0, 1.0, out / ideal) if scaled else 1.0
        return ratio * inside + (out - ratio * inside).detach()

    _, weights, alphas = by_autograd(model, ranges, data, read)
    with memory:
        slopes(model, data)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name], rtol=1e-9, atol=1e-12)
    for name, alpha in ranges.by_name().items():
        torch.testing.assert_close(alpha.grad, alphas[name], rtol=1e-9, atol=1e-12)


def test_a_range_that_clips_nothing_changes_nothing_and_has_a_gradient_of_zero():
    models, data = [network(), network()], batch()
    for model, learned in zip(models, (False, True), strict=True):
        placement = place(model, weights=SRAM(bits=BITS))
        ranges = LearnedRanges(placement, init="max") if learned else None
        with TrainingMemory(placement, at={"eta": 0.3}, ranges=ranges):
            slopes(model, data)
    assert same(*({n: p.grad for n, p in m.named_parameters()} for m in models))
    assert [alpha.grad.item() for alpha in ranges.parameters()] == [0.0] * 3


def test_backward_passes_accumulate_and_gradients_from_before_do_not_count():
    model, halves = network().eval(), [batch(seed=k) for k in range(2)]
    placement, ranges = clipping(model)
    memory = TrainingMemory(placement, perfect=True, ranges=ranges)
    found = []
    for blocks in ([halves], [[half] for half in halves]):
        ranges.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
        for block in blocks:
            with memory:
                for half in block:
                    slopes(model, half)
        found.append([alpha.grad.clone() for alpha in ranges.parameters()])
    parts = [by_autograd(model, ranges, half)[2] for half in halves]
    expected = [sum(part[name] for part in parts) for name in ranges.by_name()]
    for accumulated in found:
        for one, other in zip(accumulated, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)
    slopes(model, halves[0])  # outside a block nothing reaches them
    assert all(map(torch.equal, found[1], [alpha.grad for alpha in ranges.parameters()]))


@pytest.mark.parametrize("same_object", [False, True])
def test_shared_weights_have_one_range_with_the_gradient_of_both_uses(same_object):
    x, own = rand(5, 4), rand(4, 4, seed=1)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[0].weight = nn.Parameter(own)
    model[2].weight = model[0].weight if same_object else nn.Parameter(own)
    ranges = LearnedRanges(place(model, weights=SRAM(bits=BITS)))
    set_shares(ranges)
    (alpha,) = ranges.parameters()
    weight = own.clone().requires_grad_()
    leaf = alpha.detach().clone().requires_grad_()
    read = fake_quantised(weight, leaf)
    hidden = torch.tanh(F.linear(x, read, model[0].bias.detach()))
    F.linear(hidden, read, model[2].bias.detach()).square().sum().backward()
    with TrainingMemory(ranges.placement, perfect=True, ranges=ranges):
        model(x).square().sum().backward()
    torch.testing.assert_close(alpha.grad, leaf.grad, rtol=1e-9, atol=0)
    ranges.clip()
    assert torch.equal(model[0].weight, own) and torch.equal(model[2].weight, own)
    assert own.abs().max() == alpha


def test_frozen_and_unused_weights_keep_their_range():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(4, 4)
            self.unused = nn.Linear(4, 4)
            self.out = nn.Linear(4, 4)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.out(self.frozen(x))

    model = Net().double()
    ranges = LearnedRanges(place(model, weights=SRAM(bits=BITS)))
    set_shares(ranges)
    before = ranges.describe()
    optimizer = torch.optim.SGD(ranges.parameters(), lr=0.1, weight_decay=0.01)
    with TrainingMemory(ranges.placement, perfect=True, ranges=ranges):
        model(rand(3, 4)).square().sum().backward()
    optimizer.step()
    after = ranges.describe()
    assert {name for name in before if before[name] != after[name]} == {"out.weight"}


def test_the_climb_of_sam_is_in_the_second_gradient_and_ranges_do_not_climb():
    model, data = network().eval(), batch()
    placement, ranges = clipping(model)
    spec = TrainingSpec(method="sam", rho=0.05, lr=0.1, momentum=0.0)
    optimizer = optimizer_for(model, spec, ranges)
    assert isinstance(optimizer, SAM)
    before, weights = ranges.describe(), copies(model)
    with TrainingMemory(placement, perfect=True, ranges=ranges):
        read = copies(model)
        slopes(model, data)
        own = {n: p.grad.clone() for n, p in model.named_parameters()}
        norm = math.sqrt(sum(float(g.square().sum()) for g in own.values()))
        with optimizer.ascent():
            assert ranges.describe() == before
            for name, parameter in model.named_parameters():  # the norm is that of weights alone
                climbed = read[name] + 0.05 * own[name] / norm
                torch.testing.assert_close(parameter.detach(), climbed)
            slopes(model, data)
    for name, alpha in ranges.by_name().items():
        weight, second = weights[name], model.get_parameter(name).grad
        assert not torch.equal(second, own[name])
        outside = weight.sign() * (weight.abs() > before[name])
        expected = (outside * second).sum() / weight.numel() ** 0.5
        torch.testing.assert_close(alpha.grad, expected, rtol=1e-12, atol=0)
    expected = {
        name: before[name] - 0.1 * (alpha.grad.item() + spec.range_decay * before[name])
        for name, alpha in ranges.by_name().items()
    }
    optimizer.step()
    assert ranges.describe() == pytest.approx(expected, rel=1e-12)


# The block, and what comes after it.


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_weights_are_back_unclipped_bit_for_bit(error):
    model, data = network(), batch()
    placement, ranges = clipping(model, share=0.2)
    before = {n: (p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()}
    memory = TrainingMemory(placement, at={"eta": 0.3}, ranges=ranges)
    try:
        with memory:
            slopes(model, data)
            largest = model[4].weight.abs().max()
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    for name, parameter in model.named_parameters():
        address, own = before[name]
        assert parameter.data_ptr() == address and torch.equal(parameter, own)
    assert largest < before["4.weight"][1].abs().max() / 2
    ranges.zero_grad()
    slopes(model, data)
    assert all(alpha.grad is None for alpha in ranges.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "device", [SRAM(bits=4), SRAM(bits=8), Crossbar(levels=7)], ids=["4", "8", "crossbar"]
)
def test_training_reads_what_a_placement_of_the_clipped_network_reads(dtype, device):
    model = network().to(dtype)
    x = batch()[0].to(dtype)
    placement = place(model, weights=device, example_inputs=x)
    ranges = LearnedRanges(placement)
    set_shares(ranges, 0.37)
    with TrainingMemory(placement, perfect=True, ranges=ranges):
        trained = copies(model)
    ranges.clip()
    with private_memory(place(model, weights=device, example_inputs=x)) as memory:
        deployed = copies(memory.placement.model)
    assert same(trained, deployed)
    assert not same(trained, copies(model))


def test_with_faults_too_on_the_same_chip():
    model = network()
    placement, ranges = clipping(model, SRAM(bits=8, fault=Flip()))
    with TrainingMemory(placement, at={"eta": 0.2}, chip=Chip(seed=3), ranges=ranges):
        trained = copies(model)
    ranges.clip()
    placement = place(model, weights=SRAM(bits=8, fault=Flip()))
    with private_memory(placement) as memory:
        memory.read(placement.points({"eta": 0.2}), Chip(seed=3))
        deployed = copies(memory.placement.model)
    assert same(trained, deployed)


def test_ranges_that_no_weight_reaches_leave_the_words_as_they_are():
    model = network()
    placement, ranges = clipping(model, share=3.0)
    with TrainingMemory(placement, perfect=True, ranges=ranges):
        wide = copies(model)
    with private_memory(placement) as memory:
        assert same(wide, copies(memory.placement.model))
    before = copies(model)
    ranges.clip()
    assert same(copies(model), before)


def test_decay_shrinks_ranges_and_they_stay_positive():
    model, data = network(), batch()
    placement, ranges = clipping(model, share=1.0)
    memory = TrainingMemory(placement, perfect=True, ranges=ranges)
    start = ranges.describe()
    optimizer = torch.optim.SGD(ranges.parameters(), lr=0.5, weight_decay=0.1)
    with memory:
        slopes(model, data)
    optimizer.step()  # nothing is clipped yet, so decay is all
    decayed = ranges.describe()
    assert decayed == pytest.approx({name: 0.95 * alpha for name, alpha in start.items()})
    for alpha in ranges.parameters():
        alpha.data.fill_(-1.0)
    with memory:
        assert all(0 < alpha < 1e-9 for alpha in ranges.describe().values())
        assert model[4].weight.abs().max() < 1e-9
    next(ranges.parameters()).data.fill_(-1.0)
    ranges.clip()
    assert model[0].weight.abs().max() == 1e-12


# How they begin.


def test_the_largest_magnitude_clips_nothing():
    model = network()
    ranges = LearnedRanges(place(model, weights=SRAM(bits=BITS)), init="max")
    weights = dict(model.named_parameters())
    assert ranges.describe() == {n: weights[n].abs().max().item() for n in ranges.by_name()}


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_least_error_is_as_low_as_that_of_a_fine_scan(bits):
    """The grid is at most 0.3 % from the best range, whose words, stretched by that, it may use."""
    weight = rand(40, 50, seed=bits) ** 3  # heavy tails
    model = nn.Linear(50, 40, bias=False).double()
    model.weight.data = weight
    (alpha,) = LearnedRanges(place(model, weights=SRAM(bits=bits))).describe().values()

    def error(alpha):
        step = alpha / (2 ** (bits - 1) - 1)
        return (torch.round(weight.clamp(-alpha, alpha) / step) * step - weight).norm().item()

    largest = weight.abs().max().item()
    scan = min(error(largest * k / 2000) for k in range(20, 2001))
    assert error(alpha) <= scan + 0.003 * weight.norm().item()
    assert error(alpha) < error(largest)
    assert alpha < largest


def test_without_rounding_the_least_error_is_at_the_largest():
    model = nn.Linear(6, 5)
    ranges = LearnedRanges(
        place(model, weights=Crossbar(sigma=1e-6), example_inputs=torch.ones(1, 6))
    )
    assert ranges.describe()["weight"] == model.weight.abs().max().item()


def test_weights_of_zeros_begin_above_zero():
    model = nn.Linear(3, 3)
    nn.init.zeros_(model.weight)
    for init in ("mse", "max"):
        ranges = LearnedRanges(place(model, weights=SRAM(bits=8)), init=init)
        assert ranges.by_name()["weight"] > 0
        with TrainingMemory(ranges.placement, perfect=True, ranges=ranges):
            assert not model.weight.any()


# State, records and refusals.


def test_a_state_dict_goes_round():
    model = network()
    placement, ranges = clipping(model)
    state = copy.deepcopy(ranges.state_dict())
    assert list(state) == ["alpha/0/weight", "alpha/4/weight", "alpha/6/weight"]
    other = LearnedRanges(placement, init="max")
    assert other.describe() != ranges.describe()
    other.load_state_dict(state)
    assert other.describe() == ranges.describe()
    small = LearnedRanges(place(model, weights=SRAM(bits=8), include=["0.weight"]))
    with pytest.raises(RuntimeError, match="alpha/4/weight"):
        small.load_state_dict(state)


def test_half_precision_weights_have_ranges_of_single_precision():
    model = network().bfloat16()
    ranges = LearnedRanges(place(model, weights=SRAM(bits=8)))
    assert {alpha.dtype for alpha in ranges.parameters()} == {torch.float32}
    set_shares(ranges)
    with TrainingMemory(ranges.placement, at={"eta": 0.4}, ranges=ranges):
        F.cross_entropy(model(batch()[0].bfloat16()).float(), batch()[1]).backward()
    assert all(alpha.grad.isfinite() and alpha.grad for alpha in ranges.parameters())


def test_a_record_states_the_ranges():
    model = network()
    placement, ranges = clipping(model)
    memory = TrainingMemory(placement, perfect=True, ranges=ranges)
    assert memory.describe()["ranges"] == ranges.describe()
    assert TrainingMemory(placement, at={"eta": 0.5}).describe()["ranges"] is None


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (SRAM(bits=8, limit=1.0), "limit of the memory of 0.weight is 1.0; allowed: None"),
        (SRAM(bits=8, channel_dim=0), "channel_dim of the memory of 0.weight is 0"),
        (Crossbar(limit=1.0), "limit of the memory of 0.weight is 1.0"),
        (PCM(channel_dim=0), "channel_dim of the memory of 0.weight is 0"),
    ],
)
def test_devices_with_a_range_of_their_own_are_refused(device, said):
    placement = place(network(), weights=device, example_inputs=batch()[0])
    with pytest.raises(InputError, match=said):
        LearnedRanges(placement)
    model = placement.model
    ranges = LearnedRanges(place(model, weights=SRAM(bits=8)))
    (knob,) = {p.device.knob.name for p in placement.placed}
    setting = {knob: placement.placed[0].device.knob.most_reliable}
    with pytest.raises(InputError, match=said):
        TrainingMemory(placement, at=setting, ranges=ranges)


def test_what_is_not_allowed_is_refused():
    model, x = network(), batch()[0]
    placement, ranges = clipping(model)
    part = place(model, weights=SRAM(bits=BITS), exclude=["0.weight"])
    for other in (place(network(), weights=SRAM(bits=BITS)), part):
        with pytest.raises(InputError, match="ranges is those of another placement"):
            TrainingMemory(other, at={"eta": 0.5}, ranges=ranges)
    TrainingMemory(place(model, weights=SRAM(bits=8)), at={"eta": 0.5}, ranges=ranges)
    with pytest.raises(InputError, match="init is 'best'; allowed: 'mse' or 'max'"):
        LearnedRanges(placement, init="best")
    with pytest.raises(InputError, match="the placement has no weights; allowed: one or more"):
        LearnedRanges(place(model, activations=SRAM(bits=8), example_inputs=x))
    model[4].weight.data[0, 0] = torch.nan
    with pytest.raises(WeightsError, match=r"4.weight is NaN or infinite"):
        LearnedRanges(placement)


# The loop.


def test_train_steps_the_ranges_with_their_decay_and_clips_in_the_end():
    digits = load_digits()
    found = {}
    for decay in (0.0, 0.01, 0.1):
        own = build("mlp", digits.input_shape, digits.classes, seed=0)
        ranges = LearnedRanges(place(own, weights=SRAM(bits=BITS)))
        memory = TrainingMemory(ranges.placement, perfect=True, ranges=ranges)
        spec = TrainingSpec(epochs=3, lr=0.05, augment=False, range_decay=decay)
        record = train(own, digits, spec, memory=memory)
        assert record.memory["ranges"] == ranges.describe()
        assert record.spec.range_decay == decay and record.memory["chips"] == "perfect"
        weights = dict(own.named_parameters())
        for name, alpha in ranges.describe().items():
            assert weights[name].abs().max() <= alpha
        found[decay] = sum(ranges.describe().values())
    assert found[0.1] < found[0.01] < found[0.0]


@pytest.mark.parametrize("method", ["sam", "asam", "samson2", "samsoninf"])
def test_every_method_trains_them(method):
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    ranges = LearnedRanges(place(model, weights=SRAM(bits=BITS)))
    before = ranges.describe()
    memory = TrainingMemory(ranges.placement, at={"eta": 0.5}, ranges=ranges)
    spec = TrainingSpec(epochs=3, lr=0.05, augment=False, method=method)
    record = train(model, digits, spec, memory=memory)
    assert record.test_accuracy > 0.8
    assert all(ranges.describe()[name] != before[name] for name in before)
