"""Augmentation of image batches: random crops after padding, and mirroring where it suits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["augment"]


def augment(images: Tensor, *, padding: int, flips: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels, and mirror half of them.

    Args:
        images: ``[batch, channels, height, width]``, any dtype.
        padding: Pixels of zeros around the image before the crop, 0 or more.
        flips: Whether a mirrored image still shows its class.
        generator: The source of randomness; numbers are drawn on its device.

    Returns:
        A tensor of the same shape and dtype.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    where = generator.device
    shift = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=where)
    rows = shift[0] + torch.arange(height, device=where)
    columns = shift[1] + torch.arange(width, device=where)
    if flips:
        mirrored = torch.rand(count, 1, generator=generator, device=where) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count, device=where)[:, None, None]
    cropped = padded.movedim(1, 3)[samples, rows[:, :, None], columns[:, None, :]]
    return cropped.movedim(3, 1)
