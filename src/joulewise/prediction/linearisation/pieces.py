"""Pieces of the data, cut by memory, and the linearised logits of one piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from joulewise.placement import take

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

    def cut(self, step: int) -> Iterator[tuple[Piece, slice]]:
        """Pieces of ``step`` samples or fewer, each with the slice of samples that it holds."""
        size = self.samples
        for start in range(0, size, step):
            some = slice(start, min(start + step, size))
            rows = slice(*(n * len(self.reference) // size for n in (some.start, some.stop)))
            piece = Piece(
                take(self.inputs, size, some),
                self.reference[rows],
                None if self.targets is None else self.targets[some],
                some.stop - some.start,
            )
            yield piece, some


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
