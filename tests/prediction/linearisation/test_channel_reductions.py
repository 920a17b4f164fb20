"""The response of each channel is that to the noise of this channel alone."""

import pytest
import torch

from joulewise.prediction.linearisation.channel_reductions import (
    channel_index,
    response_by_channel,
    sums_by_channel,
)
from joulewise.prediction.linearisation.convolution_gradients import ConvolutionGradients
from joulewise.prediction.linearisation.gradients import BatchAxis, WholeGradients
from joulewise.prediction.linearisation.linear_gradients import (
    ElementwiseGradients,
    EmbeddingGradients,
    linear_gradients,
)

SAMPLES, DRAWS = 3, 2


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    "one row": ((linear_gradients(rand(SAMPLES, 5), AXIS), rand(SAMPLES, 4, seed=1)), (4, 5)),
    "tokens": ((linear_gradients(rand(SAMPLES, 7, 5), AXIS), rand(SAMPLES, 7, 4, seed=1)), (4, 5)),
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
def test_it_is_the_response_to_one_channel_after_the_other(case, where):
    (gradients, g), shape = CASES[case]
    noise = rand(DRAWS, *shape, seed=2)
    index, channels = channel_index(noise[0]), shape[0]
    if where == "second axis":
        index, channels = channel_index(noise[0].transpose(0, 1)).transpose(0, 1), shape[1]
    if where == "anywhere":
        generator = torch.Generator().manual_seed(3)
        index = index.flatten()[torch.randperm(index.numel(), generator=generator)].reshape(shape)
    if where == "a part of more":
        index, channels = index + 2, shape[0] + 3
    found = response_by_channel(gradients, g, noise, index, channels)
    assert found.shape == (SAMPLES, channels, DRAWS)
    for channel in range(channels):
        alone = gradients.response([g], noise * (index == channel))[:, 0]
        torch.testing.assert_close(found[:, channel], alone, rtol=1e-12, atol=1e-12)


def test_sums_of_gradients_that_are_there():
    gradients, noise = rand(SAMPLES, 4, 2, 3), rand(DRAWS, 4, 2, 3, seed=1)
    expected = (gradients[:, None] * noise).sum((3, 4)).transpose(1, 2)
    torch.testing.assert_close(sums_by_channel(gradients, noise), expected)
