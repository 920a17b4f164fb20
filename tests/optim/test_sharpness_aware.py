import copy
import io
import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adadelta, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import joulewise
from ascents import (
    METHODS,
    RHO,
    batch,
    closure_for,
    formula,
    loss_of,
    network,
    same_bits,
    values,
)
from joulewise.errors import InputError
from joulewise.optim import ASAM, SAM, SAMSON, SharpnessAware

BASES = {
    "sgd": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": 0.01}),
    "adamw": (AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


def groups_of(model):
    """Two groups with options of their own: the matrices decay, the vectors learn faster."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in params if p.ndim < 2], "lr": 0.08},
    ]


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        optimizer.step(closure_for(model, optimizer, *batch(seed=10 + step)))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_are_those_of_the_formula(method, base):
    make, rule = METHODS[method]
    base_class, options = BASES[base]
    model, plain = network(), network()
    optimizer = make(groups_of(model), base_class, rho=RHO, **options)
    reference = base_class(groups_of(plain), **options)
    start = values(model)
    params = list(plain.parameters())
    for step in range(20):
        inputs, targets = batch(seed=10 + step)
        optimizer.step(closure_for(model, optimizer, inputs, targets))
        gradients = torch.autograd.grad(loss_of(plain, inputs, targets), params)
        here = values(plain)
        for w, eps in zip(params, formula(rule, params, gradients), strict=True):
            w.data = w.data + eps
        above = torch.autograd.grad(loss_of(plain, inputs, targets), params)
        for w, own, gradient in zip(params, here, above, strict=True):
            w.data, w.grad = own, gradient
        reference.step()
    for found, wanted, first in zip(values(model), values(plain), start, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
        assert (found - first).abs().max() > 1e-3


def normed(dtype=torch.float32):
    """Single precision, where rounding shows; with statistics to keep."""
    model = network(dtype=dtype)
    model[1] = nn.BatchNorm2d(3).to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_with_rho_zero_it_is_base_bit_for_bit_statistics_too(method, base, dtype):
    base_class, options = BASES[base]
    model, plain = normed(dtype), normed(dtype)
    optimizer = METHODS[method][0](model.parameters(), base_class, rho=0.0, **options)
    reference = base_class(plain.parameters(), **options)
    for step in range(5):
        inputs, targets = batch(seed=10 + step, dtype=dtype)
        loss = optimizer.step(closure_for(model, optimizer, inputs, targets))
        assert torch.equal(loss, reference.step(closure_for(plain, reference, inputs, targets)))
    assert same_bits(model.state_dict().values(), plain.state_dict().values())


@pytest.mark.parametrize("method", METHODS)
def test_statistics_of_batch_norm_are_those_of_the_first_pass(method):
    model, seen = normed(), normed()
    optimizer = METHODS[method][0](model.parameters(), SGD, lr=0.1, rho=2.0)
    for step in range(3):
        inputs, targets = batch(seed=10 + step, dtype=torch.float32)
        seen.load_state_dict(model.state_dict())
        seen(inputs)
        optimizer.step(closure_for(model, optimizer, inputs, targets))
        assert same_bits(model[1].buffers(), seen[1].buffers())
    assert model[1].num_batches_tracked == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_block_is_a_closure_in_the_open(method):
    first, second = normed(), normed()
    make = METHODS[method][0]
    closed = make(first.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    opened = make(second.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    for step in range(3):
        inputs, targets = batch(seed=10 + step, dtype=torch.float32)
        loss = closed.step(closure_for(first, closed, inputs, targets))
        at_w = loss_of(second, inputs, targets)
        at_w.backward()
        with opened.ascent():
            above = loss_of(second, inputs, targets)
            above.backward()
        assert opened.step() is None
        opened.zero_grad()
        assert torch.equal(loss, at_w)
        assert above > at_w
    assert same_bits(first.state_dict().values(), second.state_dict().values())


class Wrapped:
    """A wrapper as Lightning makes one: of the optimizer's class, with attributes of its own."""

    def __init__(self, optimizer):
        self.inner = optimizer
        self.__class__ = type("Wrapped", (Wrapped, type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def step(self):
        return self.inner.step(lambda: None)


@pytest.mark.parametrize("method", METHODS)
def test_a_block_of_a_wrapper_steps_by_a_closure_that_does_nothing(method):
    make, _ = METHODS[method]
    first, second = normed(), normed()
    plain, inner = (make(m.parameters(), SGD, rho=RHO, lr=0.1) for m in (first, second))
    wrapped, inputs_targets = Wrapped(inner), batch(dtype=torch.float32)
    for _ in range(3):
        for model, optimizer in ((first, plain), (second, wrapped)):
            optimizer.zero_grad()
            loss_of(model, *inputs_targets).backward()
            with optimizer.ascent():
                loss_of(model, *inputs_targets).backward()
            optimizer.step()
    assert same_bits(values(first), values(second))
    assert not same_bits(values(first), values(normed()))
    with pytest.raises(InputError, match="the closure is one that does not clear the gradients"):
        wrapped.step()  # without a block


def zeros_by_data(model):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


CLEARING = {
    "optimizer": lambda model, optimizer: optimizer.zero_grad(),
    "zeros": lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
    "model": lambda model, optimizer: model.zero_grad(),
    "zeros by the model": lambda model, optimizer: model.zero_grad(set_to_none=False),
    "zeros by data": lambda model, optimizer: zeros_by_data(model),
}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("clear", CLEARING)
def test_a_closure_that_adds_to_earlier_gradients_is_refused(clear, passes):
    """Above, it would see the last batch alone."""
    model = network()
    optimizer = SAM(model.parameters(), SGD, rho=RHO, lr=0.1)

    def adding():
        for _ in range(passes):
            loss = loss_of(model, *batch())
            loss.backward()
        return loss

    def clearing():
        CLEARING[clear](model, optimizer)
        return adding()

    optimizer.step(adding)  # there is nothing to clear yet
    before = values(model)
    with pytest.raises(InputError, match="the closure is one that does not clear the gradients"):
        optimizer.step(adding)
    assert same_bits(values(model), before)
    optimizer.step(clearing)
    assert not same_bits(values(model), before)
    assert not any(p._backward_hooks for p in model.parameters())


def test_the_closure_runs_twice_with_gradients_on_though_the_caller_has_them_off():
    model = network()
    optimizer = SAM(model.parameters(), SGD, lr=0.1)
    closure = closure_for(model, optimizer, *batch())
    calls = []
    with torch.no_grad():
        optimizer.step(lambda: calls.append(values(model)) or closure())
    assert len(calls) == 2
    assert not same_bits(*calls)


def ready():
    """A network with gradients and its optimizer, about to ascend."""
    model = network(dtype=torch.float32)
    optimizer = SAM(model.parameters(), SGD, lr=0.1, rho=RHO)
    inputs, targets = batch(dtype=torch.float32)
    loss_of(model, inputs, targets).backward()
    return model, optimizer


def test_weights_come_back_bit_for_bit():
    model, optimizer = ready()
    params, before = list(model.parameters()), values(model)
    eps = formula(torch.ones_like, params, [p.grad for p in params])
    with optimizer.ascent():
        above = values(model)
    assert same_bits(values(model), before)
    assert not same_bits([a - e for a, e in zip(above, eps, strict=True)], before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_weights_and_statistics_are_as_they_were(error):
    model = normed()
    optimizer = SAM(model.parameters(), SGD, lr=0.1, rho=2.0)
    inputs, targets = batch(dtype=torch.float32)
    before, calls = values(model), []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        calls.append((values(model), [b.clone() for b in model.buffers()]))
        if len(calls) == 2:
            raise error
        return loss

    with pytest.raises(error):
        optimizer.step(closure)
    (_, statistics), (above, _) = calls
    assert not same_bits(above, before)
    assert same_bits(values(model), before)
    assert same_bits(model.buffers(), statistics)
    with pytest.raises(InputError, match="without an ascent"):
        optimizer.step()


def test_an_exception_at_w_leaves_all_as_it_was():
    model, optimizer = ready()
    before = values(model)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert same_bits(values(model), before)


def test_a_step_without_an_ascent_is_refused():
    model, optimizer = ready()
    before = values(model)
    with pytest.raises(InputError, match=r"step\(\) is without an ascent.*allowed: step\(\) after"):
        optimizer.step()
    assert same_bits(values(model), before)
    train(model.double(), optimizer, 1)
    with pytest.raises(InputError, match="without an ascent"):
        optimizer.step()


def test_a_step_or_an_ascent_within_an_ascent_is_refused():
    model, optimizer = ready()
    before = values(model)
    with pytest.raises(InputError, match="within an ascent"), optimizer.ascent():
        optimizer.step()
    assert same_bits(values(model), before)
    model, optimizer = ready()
    second = optimizer.ascent()
    with pytest.raises(InputError, match="within another one"), optimizer.ascent(), second:
        pass
    assert same_bits(values(model), before)


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_a_block_without_a_first_backward_pass_is_refused(rho):
    model, optimizer = ready()
    optimizer.param_groups[0]["rho"] = rho
    before = values(model)
    optimizer.zero_grad()
    message = r"ascent\(\) is without any gradient; allowed: one after a first backward pass, at w"
    with pytest.raises(InputError, match=message), optimizer.ascent():
        pytest.fail("the block ran")
    with pytest.raises(InputError, match="without an ascent"):
        optimizer.step()
    assert same_bits(values(model), before)
    model[0].bias.grad = torch.ones(3)  # frozen and unused ones need none
    with optimizer.ascent():
        assert same_bits(values(model), before) is (rho == 0)


def test_a_closure_that_skips_a_batch_moves_nothing():
    """As that of Lightning does, where ``training_step`` returns None."""
    model, optimizer = ready()
    before = values(model)
    assert optimizer.step(optimizer.zero_grad) is None
    assert same_bits(values(model), before)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_base_gets_a_gradient_that_is_not_finite_as_it_would_alone(wrong):
    def poisoned(model):
        loss_of(model, *batch()).backward()
        model[4].weight.grad[1, 1] = wrong

    model, plain = network(), network()
    optimizer = SAMSON(model.parameters(), SGD, lr=0.1)
    reference = SGD(plain.parameters(), lr=0.1)
    poisoned(model)
    with optimizer.ascent():
        poisoned(model)
    optimizer.step()
    poisoned(plain)
    reference.step()
    assert not torch.isfinite(model[4].weight[1, 1])
    assert same_bits(values(model), values(plain))


def test_dropout_draws_a_new_mask_in_the_second_pass():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1))
    optimizer = SAM(model.parameters(), SGD, lr=0.1)
    masks = []
    model[0].register_forward_hook(lambda *call: masks.append(call[-1] > 0))

    def closure():
        loss = model(torch.ones(1, 64)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(masks) == 2  # equal by chance once in 2**64
    assert not torch.equal(*masks)


@pytest.mark.parametrize("base", ["momentum", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_from_a_state_dict_as_without_a_stop(method, base):
    make, (base_class, options) = METHODS[method][0], BASES[base]
    model = normed(torch.float64)
    optimizer = make(groups_of(model), base_class, rho=RHO, **options)
    train(model, optimizer, 3)
    stored = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=True)
    other = normed(torch.float64)
    other.load_state_dict(loaded["model"])
    resumed = make(groups_of(other), base_class, rho=9.0, **options | {"lr": 7.0})
    resumed.load_state_dict(loaded["optimizer"])
    assert [g["rho"] for g in resumed.param_groups] == [RHO, RHO]
    train(model, optimizer, 3, start=3)
    train(other, resumed, 3, start=3)
    assert same_bits(model.state_dict().values(), other.state_dict().values())


def test_the_state_dict_of_a_plain_base_goes_on_with_an_ascent():
    model = network()
    plain = SGD(groups_of(model), lr=0.1, momentum=0.9)
    train(model, plain, 2)
    optimizer = ASAM(groups_of(model), SGD, lr=5.0, momentum=0.9, rho=0.7)
    optimizer.load_state_dict(plain.state_dict())
    assert [(g["lr"], g["rho"]) for g in optimizer.param_groups] == [(0.1, 0.7), (0.08, 0.7)]
    weight = model[0].weight
    assert torch.equal(
        optimizer.state[weight]["momentum_buffer"], plain.state[weight]["momentum_buffer"]
    )
    train(model, optimizer, 1)


def test_a_deep_copy_of_model_and_optimizer_trains_the_copy():
    model = network()
    optimizer = SAMSON(model.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    train(model, optimizer, 2)
    twin, twins = copy.deepcopy((model, optimizer))
    frozen = values(model)
    train(twin, twins, 2, start=2)
    assert same_bits(values(model), frozen)
    train(model, optimizer, 2, start=2)
    assert same_bits(values(model), values(twin))


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_schedules_reach_base(base):
    """Every warning is an error here, that of a schedule which misses the optimizer's step too."""
    base_class, options = BASES[base]
    model, plain = normed(torch.float64), normed(torch.float64)
    optimizer = SAM(model.parameters(), base_class, rho=0.0, **options)
    reference = base_class(plain.parameters(), **options)
    schedules = [CosineAnnealingLR(optimizer, 8), CosineAnnealingLR(reference, 8)]
    for step in range(6):
        train(model, optimizer, 1, start=step)
        train(plain, reference, 1, start=step)
        for schedule in schedules:
            schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == reference.param_groups[0]["lr"]
    assert reference.param_groups[0]["lr"] < options["lr"] / 4
    assert same_bits(model.state_dict().values(), plain.state_dict().values())


def test_schedules_of_momentum_reach_base():
    optimizer = SAM(network().parameters(), SGD, lr=0.1, momentum=0.9)
    OneCycleLR(optimizer, max_lr=1.0, total_steps=10, base_momentum=0.5, max_momentum=0.8)
    assert optimizer.base.param_groups[0]["momentum"] == 0.8


HALF = partial(torch.autocast, "cpu", torch.bfloat16)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_autocast_around_all_steps_is_autocast_around_each_forward_pass(method, closed):
    """It keeps weights that it has cast until it ends; those at w are not those at w + eps."""
    found = []
    for around, within in ((HALF, nullcontext), (nullcontext, HALF)):
        model = network(dtype=torch.float32)
        optimizer = METHODS[method][0](model.parameters(), SGD, lr=0.1, rho=2.0)
        seen = []

        def closure(model=model, optimizer=optimizer, within=within, seen=seen):
            optimizer.zero_grad()
            with within():
                outputs = model(batch(dtype=torch.float32)[0])
            loss = (outputs.float() - batch(dtype=torch.float32)[1]).square().mean()
            loss.backward()
            seen.extend(p.grad.clone() for p in model.parameters())
            return loss

        with around():
            for _ in range(2):
                if closed:
                    optimizer.step(closure)
                    continue
                closure()
                with optimizer.ascent():
                    closure()
                optimizer.step()
        found.append([*seen, *values(model)])
    assert same_bits(*found)
    count = len(list(model.parameters()))
    passes = [found[0][k : k + count] for k in range(0, 4 * count, count)]
    assert not any(map(same_bits, passes, passes[1:]))


def scaled_step(model, optimizer, scaler, data, spoil=None):
    scaler.scale(loss_of(model, *data)).backward()
    with optimizer.ascent():
        scaler.scale(loss_of(model, *data)).backward()
        if spoil is not None:
            spoil()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_scaler_changes_nothing(method):
    make = METHODS[method][0]
    model, plain = normed(), normed()
    optimizer = make(model.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    reference = make(plain.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for step in range(5):
        data = batch(seed=10 + step, dtype=torch.float32)
        scaled_step(model, optimizer, scaler, data)
        reference.step(closure_for(plain, reference, *data))
    assert scaler.get_scale() == 2.0**14
    # Scales are powers of two, so this is exact.
    assert same_bits(model.state_dict().values(), plain.state_dict().values())


def test_where_the_scaler_finds_infinity_at_w_plus_eps_it_skips_the_step_and_weights_are_back():
    model = normed()
    optimizer = SAM(model.parameters(), SGD, lr=0.1, rho=2.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    data = batch(dtype=torch.float32)
    before, above = values(model), []

    def spoil():
        above.extend(values(model))
        model[4].weight.grad[0, 0] = math.inf

    scaled_step(model, optimizer, scaler, data, spoil)
    assert not same_bits(above, before)
    assert same_bits(values(model), before)
    assert scaler.get_scale() == 2.0**11
    scaled_step(model, optimizer, scaler, data)
    assert not same_bits(values(model), before)


def test_where_the_scale_itself_overflows_the_step_is_skipped():
    model = normed()
    optimizer = SAM(model.parameters(), SGD, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    before = values(model)
    data = (1e6 * batch()[0].float(), 1e6 * batch()[1].float())
    scaled_step(model, optimizer, scaler, data)
    assert same_bits(values(model), before)
    scaled_step(model, optimizer, scaler, data)
    assert not same_bits(values(model), before)


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_gradients_are_those_of_the_whole_batch(method):
    make = METHODS[method][0]
    model, plain = network(), network()
    optimizer = make(model.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    reference = make(plain.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)

    def accumulate(inputs, targets):
        for half in (slice(None, 3), slice(3, None)):
            (loss_of(model, inputs[half], targets[half]) / 2).backward()

    for step in range(3):
        inputs, targets = batch(size=6, seed=10 + step)
        accumulate(inputs, targets)
        with optimizer.ascent():
            accumulate(inputs, targets)
        optimizer.step()
        optimizer.zero_grad()
        reference.step(closure_for(plain, reference, inputs, targets))
    for found, wanted in zip(values(model), values(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_a_clipped_gradient_is_what_base_steps_by():
    model, plain = network(), network()
    optimizer = SAMSON(model.parameters(), SGD, lr=1.0, rho=RHO)
    whole = SAMSON(plain.parameters(), SGD, lr=1.0, rho=RHO)
    before = values(model)
    loss_of(model, *batch()).backward()
    with optimizer.ascent():
        loss_of(model, *batch()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    whole.step(closure_for(plain, whole, *batch()))

    def step_of(network):
        parts = zip(values(network), before, strict=True)
        return torch.cat([(now - then).flatten() for now, then in parts])

    clipped, full = step_of(model), step_of(plain)
    assert torch.linalg.vector_norm(clipped).item() == pytest.approx(1e-3, rel=1e-2)
    assert torch.cosine_similarity(clipped, full, dim=0).item() == pytest.approx(1.0, abs=1e-12)
    assert torch.linalg.vector_norm(full) > 1e-2


def test_an_added_group_trains_with_options_of_base_and_its_own():
    model, late = network(), nn.Linear(2, 2).double()
    optimizer = ASAM(model.parameters(), SGD, lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": late.parameters(), "rho": 0.1})
    added = optimizer.base.param_groups[1]
    assert (added["lr"], added["momentum"], added["rho"], added["eta"]) == (0.1, 0.9, 0.1, 0.01)
    before = values(late)
    whole = nn.Sequential(model, late)
    train(whole, optimizer, 2)
    assert not any(map(torch.equal, values(late), before))
    assert "momentum_buffer" in optimizer.state[late.weight]


def test_a_refused_group_is_not_added():
    optimizer = SAM(network().parameters(), SGD, lr=0.1)
    with pytest.raises(InputError, match="rho is -1; allowed: a finite number, 0 or more"):
        optimizer.add_param_group({"params": nn.Linear(2, 2).parameters(), "rho": -1})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 1


def test_groups_and_state_are_shared_with_base_before_and_after_loading():
    model = network()
    optimizer = SAM(model.parameters(), Adam, lr=0.1)
    for _ in range(2):
        assert optimizer.param_groups is optimizer.base.param_groups
        assert optimizer.state is optimizer.base.state
        optimizer.load_state_dict(optimizer.state_dict())


def test_frozen_and_unused_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = ASAM(model.parameters(), SGD, lr=0.1, momentum=0.9)
    before = values(model)
    train(model, optimizer, 2)
    assert torch.equal(model[0].weight, before[0])
    assert not any(map(torch.equal, values(model)[1:], before[1:]))


class Stepless(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, loss):
        raise NotImplementedError


REFUSED = {
    "rho": (SAM, SGD, {"rho": -0.1}, "rho is -0.1; allowed: a finite number, 0 or more"),
    "infinite rho": (SAM, SGD, {"rho": math.inf}, "rho is inf"),
    "rho not a number": (SAMSON, SGD, {"rho": math.nan}, "rho is nan"),
    "eta": (ASAM, SGD, {"eta": -1e-9}, "eta is -1e-09; allowed: a finite number, 0 or more"),
    "p": (SAMSON, SGD, {"p": 1}, "p is 1; allowed: 2 or math.inf"),
    "scaled": (ASAM, SGD, {"scaled": "all"}, "scaled is 'all'; allowed: 'shape' or 'name'"),
    "no names": (SAMSON, SGD, {"scaled": "name"}, r"without names; allowed: model.named_param"),
    "closure": (SAM, LBFGS, {}, r"base is LBFGS; allowed: one whose step\(\) needs no closure"),
    "arguments": (SAM, Stepless, {}, "base is Stepless; allowed: one whose step"),
    "same name": (SAM, Adadelta, {}, "base is Adadelta; allowed: .* without an option named rho"),
    "no class": (SAM, nn.Linear, {}, "base is .*Linear.*; allowed: a class of optimizers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_allowed_is_refused_in_one_sentence(case):
    make, base, options, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        make(network().parameters(), base, lr=0.1, **options)


def test_an_optimizer_in_place_of_a_class_is_refused():
    params = list(network().parameters())
    with pytest.raises(InputError, match="allowed: a class of optimizers"):
        SAM(params, SGD(params, lr=0.1), lr=0.1)


def test_they_are_reached_as_a_room_of_joulewise_and_are_torch_optimizers():
    optimizer = joulewise.optim.SAMSON(network().parameters(), SGD, lr=0.1, rho=0.2)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, SharpnessAware)
    assert repr(optimizer).startswith("SAMSON")


def test_hooks_on_steps_fire_once():
    model = network()
    optimizer = SAM(model.parameters(), SGD, lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, 1)
    assert calls == ["before", "after"]
