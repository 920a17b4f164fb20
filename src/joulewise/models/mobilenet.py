"""MobileNetV2 for small images: inverted residual blocks with depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from joulewise.models.shapes import check_classes, check_image

__all__ = ["MobileNetV2"]

# Columns as in the paper's table 2: expansion t, channels c, repeats n, stride s of the first.
# The table's first five rows with fewer repeats; of their strides only the last two halvings
# remain, since the table is for 224x224.
_ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 1, 1))
_STEM = 32
_LAST = 320


class MobileNetV2(nn.Module):
    """Inverted residual blocks: expand by 1x1, filter depthwise by 3x3, project by 1x1.

    The map is halved twice, where the paper's 224x224 network halves it five times.

    Args:
        input_shape: Shape of one input, ``(channels, height, width)``, from 8x8 up.
        classes: How many outputs.

    Example:
        >>> import torch
        >>> MobileNetV2((1, 8, 8), 10)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals
        and Linear Bottlenecks", CVPR 2018, https://arxiv.org/abs/1801.04381, tables 1 and 2.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        check_classes(classes)
        self.stem = nn.Sequential(*_convolution(check_image(input_shape), _STEM, 3), nn.ReLU6())
        blocks = []
        channels_in = _STEM
        for expansion, channels, repeats, first_stride in _ROWS:
            for stride in (first_stride, *(1,) * (repeats - 1)):
                blocks.append(_InvertedResidual(channels_in, channels, expansion, stride))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*_convolution(channels_in, _LAST, 1), nn.ReLU6())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(_LAST, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores.

        Args:
            inputs: Shape ``(batch, channels, height, width)``.

        Returns:
            Logits, shape ``(batch, classes)``.
        """
        logits: Tensor = self.head(self.pool(self.last(self.blocks(self.stem(inputs)))))
        return logits


class _InvertedResidual(nn.Module):
    """The block of table 1; the shortcut exists only where input and output shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * channels_in
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_convolution(channels_in, inner, 1), nn.ReLU6()]
        layers += [*_convolution(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        # No activation after the projection: the paper's linear bottleneck (section 3.2).
        layers += _convolution(inner, channels_out, 1)
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.has_shortcut else outputs


def _convolution(
    channels_in: int, channels_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(
        channels_in,
        channels_out,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )
    return convolution, nn.BatchNorm2d(channels_out)
