"""Pieces: the data cut into parts that run at a time, and what is found out about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["LinearLogits", "Piece"]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some samples, as many as run at a time."""

    inputs: Any
    reference: Tensor
    targets: Tensor | None
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearLogits:
    """The probed outputs of some samples, to first order in the noise.

    Args:
        mean: At the mean read, ``[samples, classes]``.
        classes: Which outputs they are, ``[samples, classes]``.
        has_target: Whether the first of them is the sample's target.
        cov: What each placed tensor adds to their covariance, ``[samples, classes, classes]``.
        chips: How far each linearised chip is from the mean, ``[samples, classes, chips]``; None
            for no chips.
    """

    mean: Tensor
    classes: Tensor
    has_target: bool
    cov: Mapping[str, Tensor]
    chips: Tensor | None
