"""Small transformer encoder on image patches; inputs and outputs as in `joulewise.models.zoo`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from joulewise.models.shapes import check_image

__all__ = ["Transformer"]

_HEADS = 4
_PATCHES = 8  # the aim along the shorter side; patches are at least 2x2


class Transformer(nn.Module):
    """Pre-norm encoder blocks (attention, then two linear layers with GELU) over image patches.

    Differs from the paper, since images are small: patches from 2x2 pixels (4x4 for 32x32), and
    the average of all tokens in place of a class token.

    Args:
        width: Features of a token, a multiple of 4.
        depth: Number of encoder blocks.

    Example:
        >>> import torch
        >>> Transformer((1, 8, 8), 10)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale", ICLR 2021, https://arxiv.org/abs/2010.11929, section 3.1.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 3
    ) -> None:
        super().__init__()
        channels = check_image(input_shape, classes)
        patch = max(2, min(input_shape[1:]) // _PATCHES)
        tokens = (input_shape[1] // patch) * (input_shape[2] // patch)
        self.patches = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(_EncoderBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, height, width]."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


class _EncoderBlock(nn.Module):
    """Encoder block of figure 1: attention and MLP, each with pre-normalisation and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _SelfAttention(width)
        self.expand, self.contract = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        outputs: Tensor = tokens + self.contract(functional.gelu(self.expand(self.norm2(tokens))))
        return outputs


class _SelfAttention(nn.Module):
    """Multi-head attention of linear layers only, so that the inputs of each can be placed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.queries_keys_values(tokens).unflatten(-1, (3, _HEADS, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        outputs: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return outputs
