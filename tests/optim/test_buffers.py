import pytest
import torch
from torch import nn
from torch.nn.modules.module import _global_forward_pre_hooks
from torch.nn.utils.parametrizations import spectral_norm

from ascents import generator
from joulewise.models import seeded
from joulewise.optim.buffers import kept_buffers


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
