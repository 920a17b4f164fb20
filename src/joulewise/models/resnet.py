"""ResNet for small images: three stages of residual blocks, depth 6n + 2."""

from __future__ import annotations

from torch import Tensor, nn

from joulewise.errors import ModelError, refuse
from joulewise.models.shapes import check_classes, check_image

__all__ = ["ResNet"]


class ResNet(nn.Module):
    """A residual network in the layout of the paper's CIFAR-10 experiments.

    One 3x3 convolution, then three stages of n blocks with ``width``, ``2 width`` and ``4 width``
    channels on a full, halved and quartered map, then the average over the map and a linear layer.
    Where a block changes the shape, its shortcut is a 1x1 convolution (the paper's option B).

    Args:
        input_shape: Shape of one input, ``(channels, height, width)``, from 8x8 up.
        classes: How many outputs.
        depth: Layers with weights, 6n + 2: 8, 14, 20, ...
        width: Channels of the first stage (16 in the paper).

    Raises:
        ModelError: if ``depth`` is not of the form 6n + 2.

    Example:
        >>> import torch
        >>> ResNet((1, 8, 8), 10, depth=8)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
        CVPR 2016, https://arxiv.org/abs/1512.03385, section 4.2; option B: section 4.1.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, depth: int = 20, width: int = 16
    ) -> None:
        super().__init__()
        check_classes(classes)
        blocks, remainder = divmod(depth - 2, 6)
        if blocks < 1 or remainder:
            refuse("depth", depth, "6n + 2 with n of at least 1: 8, 14, 20, ...", ModelError)
        self.stem = _convolution(check_image(input_shape), width, 1)
        self.stages = nn.Sequential(
            _stage(width, width, blocks, stride=1),
            _stage(width, 2 * width, blocks, stride=2),
            _stage(2 * width, 4 * width, blocks, stride=2),
        )
        self.relu = nn.ReLU()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores.

        Args:
            inputs: Shape ``(batch, channels, height, width)``.

        Returns:
            Logits, shape ``(batch, classes)``.
        """
        logits: Tensor = self.head(self.pool(self.stages(self.relu(self.stem(inputs)))))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions added to the shortcut: ``relu(F(x) + shortcut(x))``, equation 2."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels_out, stride)
        self.second = _convolution(channels_out, channels_out, 1)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else _projection(channels_in, channels_out, stride)
        # One module per use, so that a walk over the modules meets each activation once.
        self.relu_first = nn.ReLU()
        self.relu_second = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.second(self.relu_first(self.first(inputs)))
        outputs: Tensor = self.relu_second(residual + self.shortcut(inputs))
        return outputs


def _stage(channels_in: int, channels_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    later = (_Block(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(channels_in, channels_out, stride), *later)


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def _projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )
