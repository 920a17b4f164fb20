"""Linear, embedding and element-wise operations against autograd, sample by sample."""

import pytest
import torch
from torch.nn import functional

from joulewise.prediction.linearisation.gradients import BatchAxis
from joulewise.prediction.linearisation.linear_gradients import LinearGradients
from joulewise.prediction.linearisation.op_readers import READERS
from per_sample import check_gradients, jacobians, rand, reader_gradients


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("tokens", [(), (1,), (6,), (3, 2)])
def test_linear(samples, tokens):
    x, weight = rand(samples, *tokens, 5), rand(3, 5, seed=1)
    gs = [rand(samples, *tokens, 3, seed=2 + k) for k in range(3)]
    gradients = LinearGradients(inputs=x, batch=BatchAxis(axis=0, samples=samples))
    check_gradients(gradients, jacobians(functional.linear, weight, x, gs), gs)


@pytest.mark.parametrize("samples", [1, 4])
def test_samples_on_the_second_axis(samples):
    x, weight = rand(6, samples, 5), rand(3, 5, seed=1)
    gs = [rand(6, samples, 3, seed=2)]
    exact = jacobians(functional.linear, weight, x, gs, axis=1)
    check_gradients(LinearGradients(inputs=x, batch=BatchAxis(axis=1, samples=samples)), exact, gs)


@pytest.mark.parametrize("tokens_first", [False, True])
def test_tokens_and_samples_in_one_axis(tokens_first):
    x, weight, gs = rand(4, 6, 5), rand(3, 5, seed=1), [rand(4, 6, 3, seed=2)]
    exact = jacobians(functional.linear, weight, x, gs)

    def flattened(tensor):
        return (tensor.transpose(0, 1) if tokens_first else tensor).flatten(0, 1)

    axis = BatchAxis(axis=0, samples=4, tokens_first=tokens_first)
    gradients = LinearGradients(inputs=flattened(x), batch=axis)
    found = gradients.jacobians([flattened(g) for g in gs])
    torch.testing.assert_close(found, exact)


def test_half_precision_does_not_underflow():
    """1e-5 squared is 0 in float16: squares are taken in float32."""
    x, g = torch.full((2, 3), 1e-4).half(), torch.full((2, 2), 1e-2).half()
    gradients = LinearGradients(inputs=x, batch=BatchAxis(axis=0, samples=2))
    found = gradients.squared(g, torch.ones(2, 3), None)
    torch.testing.assert_close(found, torch.full((2,), 6e-12), rtol=5e-2, atol=0)


@pytest.mark.parametrize("padding", [-1, 0])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_embedding(padding, shape):
    """Rows that occur several times in a sample add up; the padding row gets no gradient."""
    indices = torch.randint(4, (3, *shape), generator=torch.Generator().manual_seed(0))
    table, gs = rand(4, 5), [rand(3, *shape, 5, seed=1 + k) for k in range(2)]

    def function(some, weight):
        return functional.embedding(some, weight, padding_idx=None if padding < 0 else padding)

    batch = BatchAxis(axis=0, samples=3)
    gradients = reader_gradients(torch.embedding, table, indices, padding, batch=batch)
    check_gradients(gradients, jacobians(function, table, indices, gs), gs)


def _cat(x, weight):
    return torch.cat([weight.expand(len(x), -1, -1), x], 1)


# A torch function, the shapes of inputs and weight, the weight's place among the arguments, and the
# same as a function for autograd.
ELEMENTWISE = {
    "bias": (torch.add, (4, 3, 5), (5,), 1, lambda x, w: x + w),
    "bias first": (torch.add, (4, 3, 5), (5,), 0, lambda x, w: w + x),
    "positions": (torch.add, (4, 3, 5), (1, 3, 5), 1, lambda x, w: x + w),
    "less": (torch.sub, (4, 3, 5), (3, 1), 1, lambda x, w: x - w),
    "from": (torch.sub, (4, 3, 5), (3, 5), 0, lambda x, w: w - x),
    "scale": (torch.mul, (4, 3, 5), (5,), 1, lambda x, w: x * w),
    "scale first": (torch.mul, (4, 3, 5), (1, 1, 5), 0, lambda x, w: w * x),
    "scalar": (torch.mul, (4, 3), (1,), 1, lambda x, w: x * w),
}


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name, samples):
    func, shape, own, position, function = ELEMENTWISE[name]
    x, weight = rand(samples, *shape[1:]), rand(*own, seed=1)
    gs = [rand(*function(x, weight).shape, seed=2 + k) for k in range(2)]
    args = (weight, x) if position == 0 else (x, weight)
    (read,) = (read for read in READERS[func](*args) if read.weight is weight)
    gradients = read.gradients(BatchAxis(axis=0, samples=samples))
    check_gradients(gradients, jacobians(function, weight, x, gs), gs)


@pytest.mark.parametrize("alpha", [1, 2.5])
def test_a_scaled_addend(alpha):
    x, weight, gs = rand(4, 5), rand(5, seed=1), [rand(4, 5, seed=2)]
    batch = BatchAxis(axis=0, samples=4)
    gradients = reader_gradients(torch.sub, x, weight, alpha=alpha, batch=batch)
    exact = jacobians(lambda x, w: torch.sub(x, w, alpha=alpha), weight, x, gs)
    check_gradients(gradients, exact, gs)


def test_a_token_that_is_concatenated():
    x, weight, gs = rand(4, 3, 5), rand(1, 1, 5, seed=1), [rand(4, 4, 5, seed=2)]
    batch = BatchAxis(axis=0, samples=4)
    tensors = [weight.expand(4, -1, -1), x]
    gradients = reader_gradients(torch.cat, tensors, dim=1, batch=batch)
    check_gradients(gradients, jacobians(_cat, weight, x, gs), gs)


NORMALISATIONS = {
    "batch": (torch.batch_norm, functional.batch_norm, (4, 6, 3), (6,)),
    "layer": (torch.layer_norm, functional.layer_norm, (4, 3, 6), (6,)),
    "layer on a plane": (torch.layer_norm, functional.layer_norm, (4, 3, 6), (3, 6)),
    "group": (torch.group_norm, functional.group_norm, (4, 6, 3), (6,)),
}


@pytest.mark.parametrize("part", ["scale", "offset", "offset without scale"])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisations(name, part):
    func, function, shape, own = NORMALISATIONS[name]
    x, gs = rand(*shape), [rand(*shape, seed=2)]
    weight, bias = rand(*own, seed=1), rand(*own, seed=3)
    mean, var = rand(6, seed=4), rand(6, seed=5).square() + 0.1
    scale = None if part == "offset without scale" else weight
    setting = 2 if name == "group" else own

    def normalised(x, *both):
        if name == "batch":
            return function(x, mean, var, *both)
        return function(x, setting, *both)

    def applied(x, w):
        if part == "scale":
            return normalised(x, w, bias)
        if scale is not None:
            return normalised(x, scale, w)
        # torch.group_norm has no gradient of an offset without a scale.
        return normalised(x) + w.reshape(*own, *[1] * (0 if "layer" in name else x.ndim - 2))

    if name == "batch":
        args = (x, scale, bias, mean, var, False, 0.1, 1e-5, True)
    else:
        args = (x, setting, scale, bias, 1e-5, True)
    index = 1 if part == "offset" else 0
    gradients = reader_gradients(func, *args, batch=BatchAxis(axis=0, samples=4), weight=index)
    exact = jacobians(applied, weight if part == "scale" else bias, x, gs)
    check_gradients(gradients, exact, gs)
