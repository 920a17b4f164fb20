"""Pieces of the data, and the linearised logits of one piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["LinearLogits", "Piece"]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples that run in one pass.

    Args:
        inputs: Inputs of the model.
        reference: Outputs of the model as given; several rows may belong to one sample.
        targets: Targets, if any.
        samples: Number of samples.
    """

    inputs: Any
    reference: Tensor
    targets: Tensor | None
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearLogits:
    """Probed outputs of some samples, to first order in the noise.

    Args:
        mean: Outputs at the mean read, ``[samples, classes]``.
        classes: Indices of these outputs, ``[samples, classes]``.
        has_target: True if the first of them is the sample's target.
        cov: Contribution of each placed tensor to their covariance,
            ``[samples, classes, classes]``.
        chips: Deviation of each linearised chip from the mean, ``[samples, classes, chips]``; None
            without chips.
    """

    mean: Tensor
    classes: Tensor
    has_target: bool
    cov: Mapping[str, Tensor]
    chips: Tensor | None
