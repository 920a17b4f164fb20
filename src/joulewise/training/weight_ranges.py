"""Protocol of trainable weight ranges: the magnitude that each placed weight is clipped to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from joulewise.placement import Placement

__all__ = ["WeightRanges"]


@runtime_checkable
class WeightRanges(Protocol):
    """Ranges that `TrainingMemory` clips weights to and `train` steps with its optimizer.

    `joulewise.contrib.LearnedRanges` is one implementation.
    """

    def check_fits(self, placement: Placement) -> None:
        """Raise an `InputError` if the ranges are not those of the weights of ``placement``."""

    def keep_positive(self) -> None:
        """Raise ranges at or below 0 to a small positive value; called before each block."""

    def by_name(self) -> Mapping[str, Tensor]:
        """Ranges by the name of their placed weight, scalars above 0, in the unit of the weights.

        In a block, the gradient of the loss accumulates in ``grad`` of those that require it.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Parameters for the optimizer, whose weight decay is `TrainingSpec.range_decay`."""
        ...

    def clip(self) -> None:
        """Clip the placed weights to their ranges, in place; called once after training."""

    def describe(self) -> dict[str, float]:
        """Ranges by name, as plain numbers for records."""
        ...
