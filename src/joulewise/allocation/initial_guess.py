"""Initial guess: about the output error that costs a given accuracy, where the search starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from joulewise.placement import Batch

__all__ = ["mse_for_accuracy_drop"]

# Errors from 10^-9 to 10^9 are searched: any that outputs of a network can have.
_DECADES = 9.0


def mse_for_accuracy_drop(
    outputs: Sequence[Tensor], batches: Sequence[Batch], drop: float
) -> float:
    """The output error at which accuracy falls by ``drop``, with independent Gaussian errors.

    A sample with margin ``m``, the output of its target less the largest other one, is lost with
    probability ``Phi(-m / sqrt(2 mse))``. Only the start of the search depends on it.

    Args:
        outputs: Outputs of the model as given, for each batch.
        batches: Inputs with a class as target for each sample.
        drop: Above 0.

    Example:
        >>> batch = Batch(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> error = mse_for_accuracy_drop([batch.inputs], [batch], 0.1)
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

    def lost(exponent: float) -> float:
        spread = torch.tensor(2 * 10.0**exponent, dtype=torch.float64).sqrt()
        return float(torch.special.ndtr(-margins / spread).mean() - (margins <= 0).double().mean())

    if lost(_DECADES) <= drop:
        return float(10.0**_DECADES)
    if lost(-_DECADES) >= drop:
        return float(10.0**-_DECADES)
    return float(10.0 ** brentq(lambda x: lost(x) - drop, -_DECADES, _DECADES))


def _margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the target less the largest other output, ``[batch]``."""
    outputs, targets = outputs.double(), targets.long()[:, None]
    others = outputs.scatter(1, targets, -torch.inf).amax(1)
    return (outputs.gather(1, targets)[:, 0] - others).cpu()
