"""Moments: mean and full covariance of a network's output, operation by operation.

Where `first-order` is linear in the noise, this follows the whole distribution's first two moments
through each operation: strong noise, saturating activations and rectifiers that noise switches on
and off included. The price is a covariance between all numbers of a layer, for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.budget import budget
from joulewise.contrib.full_covariance.network import Network, trace_network
from joulewise.contrib.full_covariance.operation import Rule
from joulewise.contrib.full_covariance.propagation import OutputMoments, arguments_of, propagate
from joulewise.contrib.full_covariance.rules import RULES
from joulewise.errors import ModelError, check_in_range, refuse
from joulewise.placement import take
from joulewise.placement.calling import batch_size
from joulewise.prediction import Forecast, Problem, Total

__all__ = ["FullCovariance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullCovariance:
    """Mean and covariance by a table of rules; for networks that the table covers.

    Exact for networks of linear operations, whatever the noise, as long as weights are independent.
    Otherwise exact for each operation's mean and variance if what arrives there is Gaussian, with
    covariances cut off at a stated order. A placed tensor's share of the variance is what its noise
    adds where it enters, carried to the output by the mean gains of what follows; shares are scaled
    so that they sum to the variance (for a linear network they do by themselves).

    Args:
        rules: The table: ``RULES | {MyLayer: my_rule}``.
        dtype: What is computed in, float32 or float64.
        order: Terms of the series for covariances behind an activation, 1 to 12; 1 is linear.
        memory_bytes: What covariances may take, roughly; decides how many samples run at a time.
            With gradients a pass keeps all that it made.

    Raises:
        InputError: if a field is outside its range.

    References:
        M. Kern et al., "MemSE: Fast MSE Prediction for Noisy Memristor-Based DNN Accelerators",
        AICAS 2022, arXiv 2205.01707: the idea, and the rules of linear layers and ReLU's diagonal.
    """

    rules: Mapping[Any, Rule] = field(default_factory=lambda: RULES)
    dtype: torch.dtype = torch.float32
    order: int = 4
    memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        """Check the fields once."""
        if self.dtype not in (torch.float32, torch.float64):
            refuse("dtype", self.dtype, "torch.float32 or torch.float64")
        check_in_range("order", self.order, 1, 12)
        check_in_range("memory_bytes", self.memory_bytes, 1, 1 << 60)

    def forecast(self, problem: Problem) -> Forecast:
        """See `joulewise.prediction.predict`."""
        total = Total()
        with torch.set_grad_enabled(problem.differentiable):
            for piece in self.pieces(problem):
                _add(total, piece)
                problem.progress(total.samples, problem.images)
            return total.forecast("moments", problem)

    def pieces(self, problem: Problem) -> Iterator[Piece]:
        """The moments of the output, some samples at a time, in the order of the data."""
        weights, has_classes = problem.memory.moments(problem.plan), problem.has_classes
        problem.memory.original()
        network = trace_network(problem.placement, self.rules, self.dtype)
        for batch, reference in zip(problem.batches, problem.references, strict=True):
            size = batch_size(batch.inputs)
            if len(reference) != size:
                allowed = f'the batch, {size}, as its first axis; or use method="first-order"'
                refuse("the shape of the output", tuple(reference.shape), allowed, ModelError)
            step = self._samples_at_a_time(network, take(batch.inputs, size, slice(0, 1)))
            for start in range(0, size, step):
                chosen = slice(start, start + step)
                output = propagate(
                    network,
                    take(batch.inputs, size, chosen),
                    weights=weights,
                    plan=problem.plan,
                    converters=problem.memory.converters,
                    rules=self.rules,
                    order=self.order,
                )
                targets = (
                    batch.targets[chosen] if has_classes and batch.targets is not None else None
                )
                yield Piece(output=output, reference=reference[chosen].double(), targets=targets)

    def _samples_at_a_time(self, network: Network, sample: Any) -> int:
        with torch.no_grad():
            need = budget(network, arguments_of(network, sample))
        numbers = need.total if torch.is_grad_enabled() else need.peak
        taken = max(numbers, 1) * self.dtype.itemsize
        if taken > self.memory_bytes:
            raise ModelError(
                f"the covariances of one sample at {need.at}, {need.size} numbers, take "
                f"{taken / 1e9:.3g} GB; allowed: memory_bytes, {self.memory_bytes / 1e9:.3g} GB; "
                'give more, or use method="first-order"'
            )
        return int(self.memory_bytes // taken)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """Some samples.

    Args:
        output: The moments of their outputs.
        reference: The outputs of the model as given, float64.
        targets: Their targets, if those are classes.
    """

    output: OutputMoments
    reference: Tensor
    targets: Tensor | None

    def logits(self) -> tuple[Tensor, Tensor]:
        """Mean ``[batch, size]`` and covariance ``[batch, size, size]`` of the outputs, float64."""
        mean = self.output.mean.double().flatten(1)
        if self.output.cov is None:
            return mean, mean.new_zeros(*mean.shape, mean.shape[1])
        return mean, self.output.cov.double()


def _add(total: Total, piece: Piece) -> None:
    mean, cov = piece.logits()
    shift = (mean - piece.reference.flatten(1)).square()
    var = cov.diagonal(dim1=1, dim2=2).clamp_min(0.0)
    # Nonlinear terms belong to no tensor alone; they are spread in proportion.
    parts = {name: part.double() for name, part in piece.output.parts.items()}
    whole = sum(parts.values(), torch.zeros_like(shift.mean(1)))
    scale = torch.where(whole > 0, var.mean(1) / torch.where(whole > 0, whole, 1.0), 0.0)
    total.add(
        shift.mean(1),
        {name: part * scale for name, part in parts.items()},
        (shift + var).detach().view(piece.reference.shape),
    )
    if piece.targets is not None:
        total.ballot.add(mean.detach(), cov.detach(), piece.targets.long(), None)
