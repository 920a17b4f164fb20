"""ResNet and MobileNetV2 for small images; inputs and outputs as in `joulewise.models.zoo`."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from joulewise.errors import ModelError, refuse
from joulewise.models.shapes import check_image

__all__ = ["MobileNetV2", "ResNet", "average_pool", "conv_bn"]


def conv_bn(
    channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Convolution with an odd kernel that keeps the map's size up to its stride, and BatchNorm."""
    convolution = nn.Conv2d(
        channels_in,
        channels_out,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,  # batch normalisation has its own offset
    )
    return convolution, nn.BatchNorm2d(channels_out)


def average_pool() -> nn.Sequential:
    """Average over the map: ``[batch, channels]``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ResNet(nn.Sequential):
    """Residual network in the layout of the paper's CIFAR-10 experiments, depth 6n + 2.

    One 3x3 convolution, then three stages of n blocks with ``width``, ``2 width`` and ``4 width``
    channels on a full, halved and quartered map, then the average over the map and a linear layer.
    Where a block changes the shape, its shortcut is a 1x1 convolution (the paper's option B).

    Args:
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
        blocks, remainder = divmod(depth - 2, 6)
        if blocks < 1 or remainder:
            refuse("depth", depth, "6n + 2 with n of at least 1: 8, 14, 20, ...", ModelError)
        stem = nn.Sequential(*conv_bn(check_image(input_shape, classes), width, 3))
        stages = nn.Sequential(
            _stage(width, width, blocks, stride=1),
            _stage(width, 2 * width, blocks, stride=2),
            _stage(2 * width, 4 * width, blocks, stride=2),
        )
        head = nn.Linear(4 * width, classes)
        super().__init__(
            OrderedDict(stem=stem, relu=nn.ReLU(), stages=stages, pool=average_pool(), head=head)
        )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to the shortcut: ``relu(F(x) + shortcut(x))``, equation 2."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(channels_in, channels_out, 3, stride=stride))
        self.second = nn.Sequential(*conv_bn(channels_out, channels_out, 3))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*conv_bn(channels_in, channels_out, 1, stride=stride))
        # One module per use, so that hooks and patterns can tell the two activations apart.
        self.relu_first = nn.ReLU()
        self.relu_second = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.second(self.relu_first(self.first(inputs)))
        outputs: Tensor = self.relu_second(residual + self.shortcut(inputs))
        return outputs


def _stage(channels_in: int, channels_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    later = (_ResidualBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(_ResidualBlock(channels_in, channels_out, stride), *later)


# Columns of the MobileNetV2 paper's table 2: expansion t, channels c, repeats n, first stride s.
# Its first five rows with fewer repeats, and with the last two of its halvings, since the table
# is for 224x224.
_ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 1, 1))
_STEM_CHANNELS = 32
_LAST_CHANNELS = 320


class MobileNetV2(nn.Sequential):
    """Inverted residual blocks: expand by 1x1, filter depthwise by 3x3, project by 1x1.

    The map is halved twice, where the paper's 224x224 network halves it five times.

    Example:
        >>> import torch
        >>> MobileNetV2((1, 8, 8), 10)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals
        and Linear Bottlenecks", CVPR 2018, https://arxiv.org/abs/1801.04381, tables 1 and 2.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        channels_in = _STEM_CHANNELS
        stem = conv_bn(check_image(input_shape, classes), channels_in, 3)
        blocks = []
        for expansion, channels, repeats, first_stride in _ROWS:
            for stride in (first_stride, *(1,) * (repeats - 1)):
                blocks.append(_InvertedResidual(channels_in, channels, expansion, stride))
                channels_in = channels
        parts = OrderedDict(
            stem=nn.Sequential(*stem, nn.ReLU6()),
            blocks=nn.Sequential(*blocks),
            last=nn.Sequential(*conv_bn(channels_in, _LAST_CHANNELS, 1), nn.ReLU6()),
            pool=average_pool(),
            head=nn.Linear(_LAST_CHANNELS, classes),
        )
        super().__init__(parts)


class _InvertedResidual(nn.Module):
    """Block of table 1, with a shortcut where input and output have the same shape."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels_in
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*conv_bn(channels_in, inner, 1), nn.ReLU6()]
        layers += [*conv_bn(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        # No activation after the projection: the paper's linear bottleneck (section 3.2).
        layers += conv_bn(inner, channels_out, 1)
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.has_shortcut else outputs
