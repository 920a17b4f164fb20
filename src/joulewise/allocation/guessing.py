"""Guessing: about how large an output error a loss of accuracy stands for, to begin a search at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from joulewise.placement import Batch

__all__ = ["error_for_drop"]

_SMALLEST, _LARGEST = 1e-9, 1e9


def error_for_drop(outputs: Sequence[Tensor], batches: Sequence[Batch], drop: float) -> float:
    """The output error at which accuracy falls by ``drop``, if errors were alike and independent.

    A sample is lost where the error of the difference between its target and the best other output
    exceeds that difference. Nothing rests on it but where a search begins.

    Args:
        outputs: Of the model as given, for each batch.
        batches: With a class as target for each sample.
        drop: Above 0.

    Example:
        >>> batch = Batch(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> error = error_for_drop([batch.inputs], [batch], 0.1)
        >>> round(2.0 / (2 * error) ** 0.5, 3)  # a tenth of normal numbers exceed 1.282
        1.282
    """
    margins = torch.cat(
        [
            _margins(o, b.targets)
            for o, b in zip(outputs, batches, strict=True)
            if b.targets is not None
        ]
    )

    def lost(logarithm: float) -> float:
        spread = torch.tensor(2 * 10.0**logarithm, dtype=torch.float64).sqrt()
        return float(torch.special.ndtr(-margins / spread).mean() - (margins <= 0).double().mean())

    low, high = -9.0, 9.0
    if lost(high) <= drop:
        return _LARGEST
    return (
        float(10.0 ** brentq(lambda x: lost(x) - drop, low, high))
        if lost(low) < drop
        else _SMALLEST
    )


def _margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """The target's output over the best other one."""
    outputs, targets = outputs.double(), targets.long()[:, None]
    others = outputs.scatter(1, targets, -torch.inf).amax(1)
    return (outputs.gather(1, targets)[:, 0] - others).cpu()
