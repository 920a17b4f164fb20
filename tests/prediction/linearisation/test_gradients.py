"""Batch axes, blocks of samples, gradients that are at hand, and responses by channel."""

import pytest
import torch

from joulewise.prediction.linearisation import gradients as gradients_module
from joulewise.prediction.linearisation.convolution_gradients import ConvolutionGradients
from joulewise.prediction.linearisation.gradients import (
    BatchAxis,
    WholeGradients,
    sample_blocks,
    widen,
)
from joulewise.prediction.linearisation.linear_gradients import (
    ElementwiseGradients,
    EmbeddingGradients,
    LinearGradients,
)
from per_sample import check_gradients, jacobians, rand

SAMPLES, DRAWS = 3, 2


@pytest.mark.parametrize(
    ("layout", "axis", "tokens_first"),
    [
        (lambda x: x, 0, False),
        (lambda x: x.transpose(0, 1), 1, False),
        (lambda x: x.flatten(0, 1), 0, False),
        (lambda x: x.transpose(0, 1).flatten(0, 1), 0, True),
    ],
)
def test_every_layout_comes_back_sample_by_sample(layout, axis, tokens_first):
    x = rand(3, 4, 5)  # samples, tokens, features
    found = BatchAxis(axis=axis, samples=3, tokens_first=tokens_first).first(layout(x))
    torch.testing.assert_close(found.flatten(1, -2), x)


def test_an_axis_that_holds_tokens_too():
    axis = BatchAxis(axis=1, samples=3)
    assert axis.is_shared(torch.zeros(2, 6)) and not axis.is_shared(torch.zeros(6, 3))


@pytest.mark.parametrize(("samples", "each", "least"), [(1, 1, 1), (7, 1 << 19, 1), (9, 1, 4)])
def test_blocks_hold_every_sample_once(samples, each, least):
    blocks = list(sample_blocks(samples, each, least))
    assert [n for block in blocks for n in range(samples)[block]] == list(range(samples))
    assert max(block.stop - block.start for block in blocks) <= -(-samples // least)


def test_numbers_larger_than_the_cache_go_one_sample_at_a_time():
    assert [b.stop - b.start for b in sample_blocks(3, 1 << 40)] == [1, 1, 1]


def test_half_precision_is_widened_and_nothing_else():
    for dtype in (torch.float16, torch.bfloat16):
        assert widen(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        assert widen(torch.ones(2, dtype=dtype)).dtype == dtype


def test_gradients_that_are_at_hand():
    x, gs = rand(3, 5), [rand(3, 4, seed=k) for k in (1, 2)]
    exact = jacobians(torch.nn.functional.linear, rand(4, 5, seed=3), x, gs)
    check_gradients(WholeGradients(jacobian=exact), exact, gs)


def test_small_blocks_give_the_same(monkeypatch):
    monkeypatch.setattr(gradients_module, "_CACHED", 1)
    x, gs = rand(5, 7, 4), [rand(5, 7, 3, seed=k) for k in (1, 2)]
    exact = jacobians(torch.nn.functional.linear, rand(3, 4, seed=3), x, gs)
    check_gradients(LinearGradients(inputs=x, batch=BatchAxis(axis=0, samples=5)), exact, gs)


def channel_index(*shape):
    return torch.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)


def convolution(channels, outputs, groups=1):
    x = rand(SAMPLES, channels, 5, 4)
    return ConvolutionGradients(
        inputs=x,
        samples=SAMPLES,
        kernel=(outputs, channels // groups, 3, 3),
        stride=(1, 1),
        padding=((1, 1), (1, 1)),
        dilation=(1, 1),
        groups=groups,
        transposed=False,
    ), rand(SAMPLES, outputs, 5, 4, seed=1)


AXIS = BatchAxis(axis=0, samples=SAMPLES)
CASES = {
    "whole": ((WholeGradients(jacobian=rand(SAMPLES, 1, 4, 5)), rand(1)), (4, 5)),
    "one row": (
        (LinearGradients(inputs=rand(SAMPLES, 5), batch=AXIS), rand(SAMPLES, 4, seed=1)),
        (4, 5),
    ),
    "tokens": (
        (LinearGradients(inputs=rand(SAMPLES, 7, 5), batch=AXIS), rand(SAMPLES, 7, 4, seed=1)),
        (4, 5),
    ),
    "convolution": (convolution(2, 6), (6, 2, 3, 3)),
    "groups": (convolution(4, 6, 2), (6, 2, 3, 3)),
    "lookup": (
        (
            EmbeddingGradients(
                indices=torch.tensor([[0, 2], [3, 3], [1, 0]]), batch=AXIS, rows=4, padding=-1
            ),
            rand(SAMPLES, 2, 5, seed=1),
        ),
        (4, 5),
    ),
    "elementwise": (
        (
            ElementwiseGradients(
                factor=rand(SAMPLES, 4, 5), batch=AXIS, shape=(4, 5), weight=(4, 5)
            ),
            rand(SAMPLES, 4, 5, seed=1),
        ),
        (4, 5),
    ),
}


@pytest.mark.parametrize("where", ["first axis", "second axis", "anywhere", "a part of more"])
@pytest.mark.parametrize("case", CASES)
def test_channels_are_the_response_to_one_after_the_other(case, where):
    (gradients, g), shape = CASES[case]
    noise = rand(DRAWS, *shape, seed=2)
    index, channels = channel_index(*shape), shape[0]
    if where == "second axis":
        index, channels = channel_index(shape[1], shape[0], *shape[2:]).transpose(0, 1), shape[1]
    if where == "anywhere":
        generator = torch.Generator().manual_seed(3)
        index = index.flatten()[torch.randperm(index.numel(), generator=generator)].reshape(shape)
    if where == "a part of more":
        index, channels = index + 2, shape[0] + 3
    found = gradients.response_by_channel(g, noise, index, channels)
    assert found.shape == (SAMPLES, channels, DRAWS)
    for channel in range(channels):
        alone = gradients.response([g], noise * (index == channel))[:, 0]
        torch.testing.assert_close(found[:, channel], alone, rtol=1e-12, atol=1e-12)
