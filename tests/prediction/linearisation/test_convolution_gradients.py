"""Convolutions against autograd, sample by sample, over a table of settings."""

import pytest
import torch

from joulewise.prediction.linearisation import gradients as gradients_module
from joulewise.prediction.linearisation.gradients import BatchAxis
from per_sample import check_gradients, jacobians, rand, reader_gradients

CONVOLUTIONS = [torch.conv1d, torch.conv2d, torch.conv3d]
TRANSPOSED = [torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d]

# Channels, space, weight, and the settings of the call.
CASES = {
    "plain": (2, (6, 5), (4, 2, 3, 3), {}),
    "stride": (2, (7, 8), (4, 2, 3, 2), {"stride": (2, 3)}),
    "stride that leaves a rest": (2, (8, 8), (3, 2, 3, 3), {"stride": 3}),
    "padding": (2, (5, 4), (4, 2, 3, 3), {"padding": (2, 1)}),
    "valid": (2, (5, 4), (4, 2, 3, 3), {"padding": "valid"}),
    "same": (2, (5, 5), (4, 2, 3, 3), {"padding": "same"}),
    "same, even kernel": (2, (5, 6), (4, 2, 2, 4), {"padding": "same", "dilation": (1, 2)}),
    "dilation": (2, (9, 8), (4, 2, 3, 3), {"dilation": (2, 3), "padding": 1}),
    "groups": (4, (5, 5), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": (4, (5, 5), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "depthwise, two each": (4, (5, 5), (8, 1, 3, 3), {"groups": 4}),
    "all at once": (4, (9, 9), (6, 2, 3, 2),
                    {"groups": 2, "stride": (2, 1), "dilation": (2, 3), "padding": (1, 2)}),
    "pointwise": (4, (5, 5), (6, 4, 1, 1), {}),
    "kernel as large as the input": (2, (3, 3), (4, 2, 3, 3), {}),
    "one axis": (2, (9,), (3, 2, 4), {"stride": 2, "padding": 1, "dilation": 2}),
    "three axes": (2, (4, 5, 4), (3, 2, 2, 3, 2), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
    "three axes, groups": (4, (3, 4, 3), (4, 2, 2, 2, 2), {"groups": 2}),
}  # fmt: skip
TRANSPOSED_CASES = {
    "plain": (3, (4, 5), (3, 4, 3, 3), {}),
    "stride": (3, (4, 5), (3, 4, 3, 2), {"stride": (2, 3)}),
    "padding": (3, (4, 5), (3, 4, 3, 3), {"padding": (1, 2)}),
    "output padding": (3, (4, 5), (3, 4, 3, 3), {"stride": 2, "output_padding": 1}),
    "groups": (4, (4, 5), (4, 3, 3, 3), {"groups": 2, "stride": 2}),
    "dilation": (3, (4, 5), (3, 2, 3, 3), {"dilation": 2}),
    "one axis": (2, (5,), (2, 3, 3), {"stride": 2, "padding": 1}),
    "three axes": (2, (3, 2, 3), (2, 2, 2, 2, 2), {"stride": 2}),
}


def check(functions, case, samples, scalars):
    channels, space, shape, settings = case
    func = functions[len(space) - 1]
    x, weight = rand(samples, channels, *space), rand(*shape, seed=1)

    def function(some, kernel):
        return func(some, kernel, **settings)

    output = function(x, weight).shape
    gs = [rand(*output, seed=2 + k) for k in range(scalars)]
    batch = BatchAxis(axis=0, samples=samples)
    gradients = reader_gradients(func, x, weight, None, batch=batch, **settings)
    check_gradients(gradients, jacobians(function, weight, x, gs), gs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("samples", "scalars"), [(1, 1), (1, 3), (3, 1), (3, 2)])
@pytest.mark.parametrize("name", CASES)
def test_convolutions(name, samples, scalars):
    check(CONVOLUTIONS, CASES[name], samples, scalars)


@pytest.mark.parametrize(("samples", "scalars"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("name", TRANSPOSED_CASES)
def test_transposed_convolutions(name, samples, scalars):
    check(TRANSPOSED, TRANSPOSED_CASES[name], samples, scalars)


@pytest.mark.parametrize("name", ["all at once", "depthwise", "three axes"])
def test_one_sample_at_a_time_gives_the_same(name, monkeypatch):
    monkeypatch.setattr(gradients_module, "_CACHED", 1)
    check(CONVOLUTIONS, CASES[name], 4, 2)


def test_positional_settings_are_those_of_torch():
    """Dilation and groups change places in transposed convolutions."""
    x, weight, g = rand(3, 4, 6, 6), rand(4, 3, 3, 3, seed=1), rand(3, 6, 15, 15, seed=2)
    settings = (2, 0, 0, 2, 2)  # stride, padding, output padding, groups, dilation
    batch = BatchAxis(axis=0, samples=3)
    func = torch.conv_transpose2d
    gradients = reader_gradients(func, x, weight, None, *settings, batch=batch)
    exact = jacobians(lambda x, w: func(x, w, None, *settings), weight, x, [g])
    check_gradients(gradients, exact, [g])


def test_the_bias():
    x, bias, gs = rand(3, 2, 5, 5), rand(4, seed=1), [rand(3, 4, 3, 3, seed=2)]
    weight, batch = rand(4, 2, 3, 3, seed=3), BatchAxis(axis=0, samples=3)
    gradients = reader_gradients(torch.conv2d, x, weight, bias, batch=batch, weight=1)
    exact = jacobians(lambda x, b: torch.conv2d(x, weight, b), bias, x, gs)
    check_gradients(gradients, exact, gs)


def test_several_rows_of_one_sample():
    x, weight, g = rand(6, 2, 5, 5), rand(4, 2, 3, 3, seed=1), rand(6, 4, 3, 3, seed=2)
    batch = BatchAxis(axis=0, samples=3)
    gradients = reader_gradients(torch.conv2d, x, weight, batch=batch)
    rows = jacobians(torch.conv2d, weight, x, [g])
    exact = rows.reshape(3, 2, *rows.shape[1:]).sum(1)
    check_gradients(gradients, exact, [g])


def test_channels_last():
    x = rand(3, 8, 5, 5).to(memory_format=torch.channels_last)
    weight = rand(4, 8, 3, 3, seed=1).to(memory_format=torch.channels_last)
    gs, batch = [rand(3, 4, 3, 3, seed=2)], BatchAxis(axis=0, samples=3)
    gradients = reader_gradients(torch.conv2d, x, weight, batch=batch)
    check_gradients(gradients, jacobians(torch.conv2d, weight, x, gs), gs)


@pytest.mark.parametrize(("channels", "samples", "subsets"), [(16, 4, 2), (64, 16, 8), (8, 9, 1)])
def test_subsampled_channels_are_unbiased(channels, samples, subsets):
    """The first subset is drawn: the mean over the outcomes, all as likely, is the exact sum."""
    x, weight = rand(samples, channels, 4, 4), rand(3, channels, 2, 2, seed=1)
    gs = [rand(samples, 3, 3, 3, seed=2 + k) for k in range(2)]
    var = rand(3, channels, 2, 2, seed=5).square()
    batch = BatchAxis(axis=0, samples=samples)
    gradients = reader_gradients(torch.conv2d, x, weight, batch=batch)
    squared, products = {}, {}
    for seed in range(40 * subsets):
        found = gradients.squared(gs[0], var, torch.Generator().manual_seed(seed))
        squared[float(found[0])] = found
        found = gradients.products(gs, var, torch.Generator().manual_seed(seed))
        products[float(found[0, 0, 0])] = found
    assert len(squared) == len(products) == subsets
    close = torch.testing.assert_close
    close(torch.stack(list(squared.values())).mean(0), gradients.squared(gs[0], var, None))
    close(torch.stack(list(products.values())).mean(0), gradients.products(gs, var, None))


def test_groups_and_transposed_convolutions_are_not_subsampled():
    generator, batch = torch.Generator().manual_seed(0), BatchAxis(axis=0, samples=8)
    for func, shape, settings in (
        (torch.conv2d, (32, 16, 3, 3), {"groups": 2}),
        (torch.conv_transpose2d, (32, 3, 3, 3), {}),
    ):
        x, weight = rand(8, 32, 4, 4), rand(*shape, seed=1)
        g = rand(*func(x, weight, **settings).shape, seed=2)
        gradients = reader_gradients(func, x, weight, batch=batch, **settings)
        var = weight.square()
        exact = gradients.squared(g, var, None)
        torch.testing.assert_close(gradients.squared(g, var, generator), exact, rtol=0, atol=0)
