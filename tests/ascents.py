"""SAM, ASAM and SAMSON as their formulas are written, in plain vectors: the oracle of the room."""

import math
from functools import partial

import torch
from torch import nn

from joulewise.optim import ASAM, SAM, SAMSON

RHO, ETA = 0.3, 0.01
SAMSON_2 = partial(SAMSON, p=2, eta=ETA)
SAMSON_INF = partial(SAMSON, p=math.inf, eta=ETA)

# Method -> T of one scaled tensor.
METHODS = {
    "sam": (SAM, lambda w: torch.ones_like(w)),
    "asam": (partial(ASAM, eta=ETA), lambda w: w.abs() + ETA),
    "samson_2": (SAMSON_2, lambda w: (w.abs() + ETA) / w.pow(2).sum().sqrt()),
    "samson_inf": (SAMSON_INF, lambda w: (w.abs() + ETA) / w.abs().max()),
}


def diagonals(rule, params, scaled=lambda w: w.ndim >= 2):
    """T for each tensor: the rule where it is scaled, 1 elsewhere."""
    return [rule(w) if scaled(w) else torch.ones_like(w) for w in map(torch.detach, params)]


def formula(rule, params, gradients, rho=RHO, scaled=lambda w: w.ndim >= 2):
    """``eps = rho T^2 g / ||T g||_2`` with all tensors in one vector."""
    t = torch.cat([d.flatten() for d in diagonals(rule, params, scaled)])
    g = torch.cat([gradient.flatten() for gradient in gradients])
    eps = rho * t**2 * g / torch.linalg.vector_norm(t * g)
    pieces = eps.split([w.numel() for w in params])
    return [piece.view_as(w) for piece, w in zip(pieces, params, strict=True)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, dtype=torch.float64):
    """A convolution, norms and two linear layers: tensors of one, two and four axes."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.GroupNorm(1, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64)
            parameter.copy_(drawn / 2)
    return model.to(dtype)


def batch(size=6, seed=1, dtype=torch.float64):
    inputs = torch.randn(size, 1, 4, 4, generator=generator(seed), dtype=torch.float64)
    targets = torch.randn(size, 2, generator=generator(seed + 1), dtype=torch.float64)
    return inputs.to(dtype), targets.to(dtype)


def loss_of(model, inputs, targets):
    return (model(inputs) - targets).square().mean()


def closure_for(model, optimizer, inputs, targets):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        return loss

    return closure


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def same_bits(first, second):
    """Every bit the same: 0.0 is not -0.0, and NaN is NaN."""
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(first, second, strict=True)]
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def moves(optimizer):
    """eps of the gradients that are there, one tensor for each parameter of each group."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in params]
    with optimizer.ascent():
        return [p.detach() - w for p, w in zip(params, before, strict=True)]
