"""A small convolutional network: three convolutions, pooling and a linear head."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from joulewise.models.shapes import check_classes, check_image

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch normalisation, each followed by a 2x2 max-pool.

    Args:
        input_shape: Shape of one input, ``(channels, height, width)``, from 8x8 up.
        classes: How many outputs.
        width: Channels of the first convolution; each next one has twice as many.

    Example:
        >>> import torch
        >>> SmallCNN((1, 8, 8), 10)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int = 32) -> None:
        super().__init__()
        check_classes(classes)
        channels = (check_image(input_shape), width, 2 * width, 4 * width)
        self.features = nn.Sequential(*(_stage(a, b) for a, b in pairwise(channels)))
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


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        # Batch normalisation has its own offset, so a bias here would be dead weight.
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
