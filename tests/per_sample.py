"""Oracle: per-sample gradients by autograd, one sample at a time, and the sums made of them."""

import torch
from torch import nn

from joulewise.prediction.linearisation.op_readers import READERS


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def jacobians(function, weight, inputs, gs, axis=0):
    """``J [samples, scalars, *weight]`` of ``sum(g * function(inputs, weight))``, sample by sample.

    Args:
        function: Takes inputs and the weight; output with the samples on the same axis.
        weight: The weight.
        inputs: Samples along ``axis``.
        gs: For each scalar, the gradient at the output.
        axis: The axis that holds the samples.
    """
    leaf, rows = weight.detach().clone().requires_grad_(), []
    for sample in range(inputs.shape[axis]):
        output = function(inputs.narrow(axis, sample, 1), leaf)
        own = [g.narrow(axis, sample, 1) for g in gs]
        found = [torch.autograd.grad(output, leaf, g, retain_graph=True)[0] for g in own]
        rows.append(torch.stack(found))
    return torch.stack(rows)


def check_gradients(gradients, exact, gs, **tolerance):
    """Every answer of some `OperationGradients` against the Jacobians, entry by entry."""
    shape = exact.shape[2:]
    var, noise = rand(*shape, seed=8).square(), rand(3, *shape, seed=9)
    flat, v, first = exact.flatten(2), var.flatten(), gs[0]
    close = torch.testing.assert_close
    close(gradients.jacobians(gs), exact, **tolerance)
    close(gradients.squared(first, var, None), (flat[:, 0].square() * v).sum(1), **tolerance)
    products = torch.einsum("nkp,p,nlp->nkl", flat, v, flat)
    close(gradients.products(gs, var, None), products, **tolerance)
    close(gradients.summed(first), exact[:, 0].square().sum(0), **tolerance)
    response = torch.einsum("nkp,dp->nkd", flat, noise.flatten(1))
    close(gradients.response(gs, noise), response, **tolerance)


def reader_gradients(func, *args, batch, weight=0, **kwargs):
    """The gradients that the reader of a function makes of a call."""
    return READERS[func](*args, **kwargs)[weight].gradients(batch)


class Functional(nn.Module):
    """A function of the inputs and of weights that no other module holds."""

    def __init__(self, use, *shapes):
        super().__init__()
        self.use = use
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(*s)) for s in shapes])

    def forward(self, inputs):
        return self.use(inputs, *self.weights)
