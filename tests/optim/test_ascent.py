import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import _global_forward_pre_hooks
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import SGD

from ascents import (
    METHODS,
    RHO,
    batch,
    diagonals,
    formula,
    generator,
    loss_of,
    moves,
    network,
    same_bits,
    values,
)
from joulewise.errors import InputError
from joulewise.models import seeded
from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.optim.ascent import kept_buffers

# The perturbation.


def at_a_gradient(method, **options):
    """A network with gradients, its optimizer and the rule of T."""
    make, rule = METHODS[method]
    model = network()
    optimizer = make(model.named_parameters(), SGD, lr=0.1, **{"rho": RHO} | options)
    loss_of(model, *batch()).backward()
    return model, optimizer, rule


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_the_norm_in_the_methods_own_metric_is_rho(method):
    model, optimizer, rule = at_a_gradient(method)
    ts = diagonals(rule, model.parameters())
    ratios = [(eps / t).flatten() for eps, t in zip(moves(optimizer), ts, strict=True)]
    assert torch.linalg.vector_norm(torch.cat(ratios)).item() == pytest.approx(RHO, rel=1e-13)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_point_within_the_radius_is_higher(method, seed):
    """To first order: g eps is at least g d for every d with ``||T^-1 d|| = rho``."""
    model, optimizer, rule = at_a_gradient(method)
    params, gs = list(model.parameters()), gradients(model)
    eps = moves(optimizer)
    source = generator(seed)
    # Near eps, where a wrong maximum would show, as well as far from it.
    nearness = 10.0 ** -torch.randint(0, 7, (), generator=source).item()
    ts = diagonals(rule, params)
    units = [
        e / t / RHO + nearness * torch.randn(t.shape, generator=source, dtype=t.dtype)
        for e, t in zip(eps, ts, strict=True)
    ]
    length = torch.linalg.vector_norm(torch.cat([u.flatten() for u in units]))
    rivals = [RHO * t * u / length for t, u in zip(ts, units, strict=True)]
    gain = sum((g * e).sum() for g, e in zip(gs, eps, strict=True))
    rival = sum((g * d).sum() for g, d in zip(gs, rivals, strict=True))
    assert gain >= rival * (1 - 1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_by_name_the_scales_of_norms_are_scaled_and_biases_are_not(method):
    extra = {} if method == "sam" else {"scaled": "name"}
    model, optimizer, rule = at_a_gradient(method, **extra)
    params = list(model.parameters())
    scaled = [name.endswith("weight") for name, _ in model.named_parameters()]
    assert any(s and p.ndim == 1 for s, p in zip(scaled, params, strict=True))
    weights = {p.data_ptr() for s, p in zip(scaled, params, strict=True) if s}
    wanted = formula(rule, params, gradients(model), scaled=lambda w: w.data_ptr() in weights)
    by_shape = formula(rule, params, gradients(model))
    found = moves(optimizer)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    if method != "sam":
        assert not torch.allclose(found[2], by_shape[2], rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(exponent=st.integers(-60, 60))
def test_a_factor_in_the_gradient_changes_nothing(method, exponent):
    """So a GradScaler's needs no undoing; exact, since its scales are powers of two."""
    model, optimizer, _ = at_a_gradient(method)
    plain = moves(optimizer)
    (loss_of(model, *batch()) * 2.0**exponent).backward()
    assert same_bits(moves(optimizer), plain)


def two_groups(rhos, method="samson_inf"):
    make, rule = METHODS[method]
    model = network()
    first, second = list(model.parameters())[:3], list(model.parameters())[3:]
    groups = [{"params": first, "rho": rhos[0]}, {"params": second, "rho": rhos[1]}]
    optimizer = make(groups, SGD, lr=0.1)
    loss_of(model, *batch()).backward()
    return model, optimizer, rule


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_different_rho_share_one_ellipsoid(method):
    """A group's rho scales its T: ``eps = S^2 g / ||S g||`` with ``S = rho T``."""
    model, optimizer, rule = two_groups((2.0, 0.4), method)
    ts, gs = diagonals(rule, model.parameters()), gradients(model)
    scales = [rho * t for rho, t in zip([2.0] * 3 + [0.4] * (len(ts) - 3), ts, strict=True)]
    length = sum((s * g).square().sum() for s, g in zip(scales, gs, strict=True)).sqrt()
    found = moves(optimizer)
    for eps, s, g in zip(found, scales, gs, strict=True):
        torch.testing.assert_close(eps, s**2 * g / length, rtol=1e-12, atol=1e-15)
    ratios = torch.cat([(eps / s).flatten() for eps, s in zip(found, scales, strict=True)])
    assert torch.linalg.vector_norm(ratios).item() == pytest.approx(1.0, rel=1e-13)


def test_a_group_with_rho_zero_stays_and_leaves_all_to_the_other():
    model, optimizer, rule = two_groups((0.0, 0.4))
    rest = list(model.parameters())[3:]
    wanted = formula(rule, rest, [p.grad for p in rest], rho=0.4)
    found = moves(optimizer)
    assert not any(eps.any() for eps in found[:3])
    for a, b in zip(found[3:], wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_where_base_maximises_the_worst_case_is_a_low_one():
    _, up, _ = at_a_gradient("asam")
    _, down, _ = at_a_gradient("asam", maximize=True)
    opposite = [-eps for eps in moves(down)]
    for a, b in zip(moves(up), opposite, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)  # w + eps - w is read, and rounds
        assert a.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [0.0, math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_zero_or_not_finite_moves_nothing(method, wrong):
    model, optimizer, _ = at_a_gradient(method)
    for parameter in model.parameters():
        if wrong == 0:
            parameter.grad.zero_()
    model[4].weight.grad[2, 3] = wrong
    before = values(model)
    with optimizer.ascent():
        assert same_bits(values(model), before)


def test_parameters_without_a_gradient_stay_and_count_for_nothing():
    model, optimizer, rule = at_a_gradient("asam")
    model[0].weight.grad = None
    rest = list(model.parameters())[1:]
    wanted = formula(rule, rest, [p.grad for p in rest])
    found = moves(optimizer)
    assert not found[0].any()
    for a, b in zip(found[1:], wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_without_entries_is_passed_over(method):
    model, optimizer, _ = at_a_gradient(method)
    wanted = moves(optimizer)
    loss_of(model, *batch()).backward()
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    optimizer.add_param_group({"params": [("empty.weight", empty)]})
    empty.sum().backward()
    *found, none = moves(optimizer)
    assert same_bits(found, wanted) and none.shape == (0, 3)


@pytest.mark.parametrize("named", [True, False])
def test_a_sparse_gradient_is_refused_by_name(named):
    table = nn.Embedding(5, 3, sparse=True)
    params = table.named_parameters() if named else table.parameters()
    optimizer = SAM(params, SGD, lr=0.1)
    before = values(table)
    table(torch.tensor([1, 2])).sum().backward()
    name = "weight" if named else "parameter 0 of group 0"
    with pytest.raises(InputError, match=f"gradient of {name} is torch.sparse_coo; allowed: a den"):
        moves(optimizer)
    assert same_bits(values(table), before)


def test_precisions_mix_under_one_norm():
    double = nn.Parameter(torch.tensor([[3.0]], dtype=torch.float64))
    single = nn.Parameter(torch.tensor([[4.0]], dtype=torch.float32))
    double.grad, single.grad = torch.full_like(double, 3.0), torch.full_like(single, 4.0)
    found = moves(SAM([double, single], SGD, lr=0.1, rho=0.5))
    assert [eps.item() for eps in found] == pytest.approx([0.3, 0.4], rel=2**-21)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_rounds_the_perturbation_and_no_more(method):
    make, rule = METHODS[method]
    model = network(dtype=torch.bfloat16)
    optimizer = make(model.parameters(), SGD, lr=0.1, rho=3.0)
    loss_of(model, *batch(dtype=torch.bfloat16)).backward()
    exact = [p.detach().double() for p in model.parameters()]
    wanted = formula(rule, exact, [p.grad.double() for p in model.parameters()], rho=3.0)
    before = values(model)
    half_ulp = 2.0**-8  # bfloat16 keeps 8 bits: each rounding is off by at most this share
    with optimizer.ascent():
        for now, w, eps in zip(model.parameters(), exact, wanted, strict=True):
            # T, range, T g, factor times it, T times that: at most 9 roundings reach eps.
            allowed = half_ulp * (w + eps).abs() + 9.5 * half_ulp * eps.abs()
            assert ((now.double() - w - eps).abs() <= allowed).all()
            assert not torch.equal(now, w.bfloat16())
    assert same_bits(values(model), before)


def test_no_number_is_read_back_in_a_step():
    """On the meta device there is none to be read: ``.item()`` and branches on values raise."""
    for make in (SAM, ASAM, SAMSON):
        weight = nn.Parameter(torch.empty(3, 4, device="meta"))
        bias = nn.Parameter(torch.empty(4, device="meta"))
        optimizer = make([weight, bias], SGD, lr=0.1, momentum=0.9)
        for parameter in (weight, bias):
            parameter.grad = torch.empty_like(parameter)
        with optimizer.ascent():
            for parameter in (weight, bias):
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    with pytest.raises((RuntimeError, NotImplementedError)):
        weight.sum().item()


# Buffers.


def inputs(*shape):
    return torch.randn(*shape, generator=generator())


class Averaged(nn.Module):
    """Statistics by assignment, not in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("unset", None)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x - self.mean


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


MOVING = {
    "batch norm": lambda: nn.BatchNorm1d(3),
    "cumulative batch norm": lambda: nn.BatchNorm1d(3, momentum=None),
    "below": lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3))),
    "spectral norm": lambda: nn.Sequential(nn.Linear(3, 30), spectral_norm(nn.Linear(30, 30))),
    "assigned": Averaged,
}


def buffers(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def unchanged(module, before):
    now = buffers(module)
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in now)


@pytest.mark.parametrize("kind", MOVING)
def test_what_a_pass_moves_is_put_back(kind):
    with seeded(0):  # a power iteration that has converged would move nothing
        module = MOVING[kind]()
    module(inputs(8, 3))
    before = buffers(module)
    objects = dict(module.named_buffers())
    with kept_buffers():
        module(inputs(8, 3) + 1)
        module(inputs(8, 3) + 2)
        assert not unchanged(module, before)
    assert unchanged(module, before)
    assert all(buffer is objects[name] for name, buffer in module.named_buffers())


def test_an_instance_norm_of_feature_maps():
    module = nn.InstanceNorm2d(2, track_running_stats=True)
    before = buffers(module)
    with kept_buffers():
        module(inputs(4, 2, 5, 5))
    assert unchanged(module, before)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, lambda size: Averaged()])
@pytest.mark.parametrize("inside", [False, True])
def test_scripted_modules(kind, inside):
    scripted = torch.jit.script(kind(3))
    module = nn.Sequential(nn.Linear(3, 3), scripted) if inside else scripted
    module(inputs(8, 3))
    before = buffers(module)
    with kept_buffers():
        module(inputs(8, 3) + 1)
        assert not unchanged(module, before)
    assert unchanged(module, before)


# Compiling a module as a whole warns of any hook on all modules; the hook fires all the same.
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_place])
def test_compiled_modules(compiled):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model = compiled(module)
    for offset in (0, 1, 2):
        model(inputs(8, 3) + offset)
        before = buffers(module)
        with kept_buffers():
            model(inputs(8, 3) + 5)
            assert not unchanged(module, before)
        assert unchanged(module, before)
    assert module[1].num_batches_tracked == 3


def test_after_an_exception_too_and_no_hook_is_left():
    module = nn.BatchNorm1d(3)
    before = buffers(module)
    hooks = len(_global_forward_pre_hooks)
    with pytest.raises(KeyboardInterrupt), kept_buffers():
        module(inputs(8, 3))
        raise KeyboardInterrupt
    assert unchanged(module, before)
    assert len(_global_forward_pre_hooks) == hooks
    module(inputs(8, 3))
    assert not unchanged(module, before)


def test_one_value_shown_at_many_places_is_left_alone():
    """It cannot be written, so it need not be put back; torch refuses to."""
    module = nn.Module()
    module.register_buffer("mask", torch.ones(1).expand(4))
    module.forward = lambda x: x * module.mask
    with kept_buffers():
        assert torch.equal(module(torch.ones(4)), torch.ones(4))
    assert torch.equal(module.mask, torch.ones(4))


def test_modules_that_do_not_run_are_not_touched():
    module = nn.BatchNorm1d(3)
    with kept_buffers():
        nn.Linear(3, 3)(inputs(8, 3))
        module.running_mean.fill_(7.0)
    assert torch.equal(module.running_mean, torch.full((3,), 7.0))
