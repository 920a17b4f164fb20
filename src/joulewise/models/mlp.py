"""Multilayer perceptron: fully connected layers with ReLU between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from joulewise.models.shapes import check_classes, check_shape

__all__ = ["MLP"]


class MLP(nn.Module):
    """A multilayer perceptron on the flattened input; any input shape will do.

    Args:
        input_shape: Shape of one input, without the batch axis.
        classes: How many outputs.
        hidden: Widths of the hidden layers; empty for a linear classifier.

    Example:
        >>> import torch
        >>> MLP((1, 28, 28), 10)(torch.zeros(4, 1, 28, 28)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (256, 256)
    ) -> None:
        super().__init__()
        check_shape(input_shape)
        check_classes(classes)
        widths = (math.prod(input_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores.

        Args:
            inputs: Shape ``(batch, *input_shape)``.

        Returns:
            Logits, shape ``(batch, classes)``.
        """
        logits: Tensor = self.head(self.features(inputs))
        return logits
