"""VGG: stacks of 3x3 convolutions with max-pooling between them."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from joulewise.models.shapes import check_classes, check_image

__all__ = ["VGG"]


class VGG(nn.Module):
    """Eight 3x3 convolutions in four stacks, the channels doubling from stack to stack.

    Differs from the paper in what small images ask for: two convolutions in each of four stacks,
    batch normalisation, and one linear layer on the average of the last map.

    Args:
        input_shape: Shape of one input, ``(channels, height, width)``, from 8x8 up.
        classes: How many outputs.
        width: Channels of the first stack (64 in the paper).

    Example:
        >>> import torch
        >>> VGG((1, 8, 8), 10, width=8)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", ICLR 2015, https://arxiv.org/abs/1409.1556, section 2.1 and table 1.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int = 32) -> None:
        super().__init__()
        check_classes(classes)
        channels = (check_image(input_shape), width, 2 * width, 4 * width, 8 * width)
        stacks = [_stack(a, b) for a, b in pairwise(channels)]
        layers = [layer for stack in stacks for layer in (stack, nn.MaxPool2d(2))]
        # The last max-pool would empty a map of 8x8; the average takes its place.
        self.features = nn.Sequential(*layers[:-1])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores.

        Args:
            inputs: Shape ``(batch, channels, height, width)``.

        Returns:
            Logits, shape ``(batch, classes)``.
        """
        logits: Tensor = self.head(self.pool(self.features(inputs)))
        return logits


def _stack(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels_in, channels_out), *_convolution(channels_out, channels_out)
    )


def _convolution(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
