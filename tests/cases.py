"""Models of every kind, as plain data with ids, and checks that they were left alone."""

import warnings
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from joulewise.devices import SRAM, Chip
from joulewise.errors import ModelError
from joulewise.models import build, seeded
from joulewise.placement import place

W, A = SRAM(bits=8), SRAM(bits=6)
CHIP = Chip(seed=3)
# A cell in four fails: every tensor of a few words is struck.
ETA = 0.1


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape):
    return torch.randint(10, shape, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    """A model from parts and a function of them and the inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *inputs, **named):
        return self.function(self, *inputs, **named)


def parameter(*shape):
    return nn.Parameter(rand(*shape))


def tied():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    return model


def shared_storage():
    data = rand(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight, model[1].weight = nn.Parameter(data), nn.Parameter(data)
    return model


def aliased():
    model = Function(lambda m, x: x @ m.held[0], w=parameter(6, 4))
    model.held = [model.w]
    return model


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(6, 4))


def containers():
    return Function(
        lambda m, x: F.linear(x, m.w) @ m.rest[0] @ m.named["k"],
        w=parameter(4, 6),
        rest=nn.ParameterList([parameter(4, 4)]),
        named=nn.ParameterDict({"k": parameter(4, 4)}),
    )


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4)))


MODELS = {
    "linear": (lambda: nn.Linear(6, 4, bias=False), rand(3, 6)),
    "one sample": (lambda: nn.Linear(6, 4), rand(1, 6)),
    "1-d": (lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2), rand(2, 4, 12)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, stride=2, groups=4), rand(2, 4, 8, 8)),
    "3-d": (lambda: nn.Conv3d(2, 3, 2), rand(2, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), rand(2, 4, 5, 5)),
    "channels last": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(
            memory_format=torch.channels_last
        ),
        rand(2, 4, 8, 8).to(memory_format=torch.channels_last),
    ),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).bfloat16(),
        rand(3, 8).bfloat16(),
    ),
    "float16": (lambda: nn.Linear(8, 8).half(), rand(3, 8).half()),
    "float64": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).double(),
        rand(3, 8).double(),
    ),
    "lstm": (
        lambda: nn.LSTM(6, 5, batch_first=True, num_layers=2, bidirectional=True),
        rand(3, 7, 6),
    ),
    "gru": (lambda: nn.GRU(6, 5, batch_first=True), rand(3, 7, 6)),
    "gru cell": (lambda: nn.GRUCell(6, 5), (rand(3, 6), rand(3, 5))),
    "attention": (
        lambda: Function(
            lambda m, x: m.attend(x, x, x, need_weights=False)[0],
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        rand(3, 5, 8),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        ),
        rand(3, 5, 8),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
        (rand(3, 5, 8), rand(3, 4, 8)),
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3)),
        tokens(2, 3),
    ),
    "embedding that writes": (lambda: nn.Embedding(10, 4, max_norm=0.5), tokens(2, 3)),
    "tied": (tied, tokens(2, 3)),
    "shared storage": (shared_storage, rand(3, 4)),
    "called twice": (lambda: Function(lambda m, x: m.f(m.f(x)), f=nn.Linear(4, 4)), rand(3, 4)),
    "keywords": (lambda: Function(lambda m, x: m.f(input=x), f=nn.Linear(4, 4)), rand(3, 4)),
    "mapping": (
        lambda: Function(lambda m, a, b: m.f(a) - m.f(b), f=nn.Linear(4, 4)),
        {"b": rand(3, 4), "a": 2 * rand(3, 4)},
    ),
    "logits": (
        lambda: Function(lambda m, x: SimpleNamespace(logits=m.f(x), loss=None), f=nn.Linear(4, 4)),
        rand(3, 4),
    ),
    "bilinear": (lambda: nn.Bilinear(4, 5, 3), (rand(3, 4), rand(3, 5))),
    "functional": (containers, rand(3, 6)),
    "held in a list": (aliased, rand(3, 6)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 4)), rand(3, 6)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 4)), rand(3, 6)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 4)), rand(3, 6)),
    "old weight norm": (old_weight_norm, rand(3, 6)),
    "scripted": (scripted, rand(3, 6)),
    "checkpointed": (
        lambda: Function(
            lambda m, x: torch.utils.checkpoint.checkpoint(m.f, x, use_reentrant=False),
            f=nn.Linear(4, 4),
        ),
        rand(3, 4),
    ),
    "resnet8": (lambda: build("resnet8", (3, 8, 8), 4, seed=0), rand(2, 3, 8, 8)),
    "mobilenetv2": (lambda: build("mobilenetv2", (3, 8, 8), 4, seed=0), rand(2, 3, 8, 8)),
}


def make(kind):
    model, inputs = MODELS[kind]
    with seeded(0):
        return model(), inputs


def placed(model, inputs, activations=False):
    """A placement; refusals say what to leave out."""
    both = {"weights": W, "example_inputs": inputs}
    if not activations:
        return place(model, **both)
    patterns = []
    while True:
        try:
            return place(model, **both, activations=A, exclude=patterns)
        except ModelError as error:
            assert "is not called on its own" in str(error)
            patterns.append(str(error).split("exclude '")[1][:-1])


def snapshot(model):
    """Everything about a model that has to be there again, and a check that it is."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    objects = [id(p) for p in model.parameters()]
    storages = [p.data_ptr() for p in model.parameters()]
    grads = [p.requires_grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()

    def check():
        now = model.state_dict()
        assert list(now) == list(state)
        assert all(torch.equal(now[name], tensor) for name, tensor in state.items())
        now = dict(model.named_buffers())
        assert list(now) == list(buffers)
        assert all(torch.equal(now[name], tensor) for name, tensor in buffers.items())
        assert [id(p) for p in model.parameters()] == objects
        assert [p.data_ptr() for p in model.parameters()] == storages
        assert [p.requires_grad for p in model.parameters()] == grads
        assert [module.training for module in model.modules()] == modes
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                assert not module._forward_pre_hooks_with_kwargs
                assert not module._forward_hooks and not module._forward_hooks_always_called
        assert torch.backends.mha.get_fastpath_enabled() is fast_path
        assert torch.is_grad_enabled()

    return check
