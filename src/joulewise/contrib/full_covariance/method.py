"""Prediction by mean and full covariance of the output of each operation.

Where first order is linear in the noise, this method follows the first two moments of the whole
distribution through each operation: strong noise, saturating activations, and rectifiers that noise
switches on and off included. The price is a covariance between all entries of a layer, for each
sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.budget import Budget
from joulewise.contrib.full_covariance.network import Network, trace_network
from joulewise.contrib.full_covariance.operation import Rule
from joulewise.contrib.full_covariance.propagation import OutputMoments, Propagation
from joulewise.contrib.full_covariance.rules import RULES
from joulewise.errors import ModelError, check_in_range, refuse
from joulewise.nested import batch_size
from joulewise.placement import take
from joulewise.prediction import Forecast, ForecastAccumulator, Problem

__all__ = ["FullCovariance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullCovariance:
    """Mean and covariance by a table of rules; for networks that the table covers.

    Exact for networks of linear operations, whatever the noise, as long as weights are independent.
    Otherwise exact for mean and variance of each operation with Gaussian inputs, with covariances
    truncated at a stated order. The contribution of a placed tensor to the variance is what its
    noise adds where it enters, carried to the output by the mean gains of the operations that
    follow; contributions are scaled so that they sum to the variance (for a linear network they do
    by themselves).

    Args:
        rules: Table of rules, such as ``RULES | {MyLayer: my_rule}``.
        dtype: The dtype of the computation, float32 or float64.
        order: Number of terms of the series for covariances after an activation, 1 to 12; 1 is
            linear.
        memory_bytes: Memory for covariances, roughly; limits the number of samples in a pass. With
            gradients a pass keeps all that it makes.

    Raises:
        InputError: if a field is outside its range.

    References:
        J. Kern et al., "MemSE: Fast MSE Prediction for Noisy Memristor-Based DNN Accelerators",
        AICAS 2022, arXiv 2205.01707: the idea, the rules of linear layers, the variance of ReLU.
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
        total = ForecastAccumulator()
        with torch.set_grad_enabled(problem.differentiable):
            for piece in self.pieces(problem):
                _add(total, *piece)
                problem.progress(total.samples, problem.samples)
            return total.forecast("full-covariance", problem)

    def pieces(self, problem: Problem) -> Iterator[tuple[OutputMoments, Tensor, Tensor | None]]:
        """Predictions for some samples at a time, in the order of the data.

        Yields:
            Moments of the outputs; outputs of the model as given, float64; targets, if those are
            classes.
        """
        weights, has_classes = problem.memory.moments(problem.points), problem.has_classes
        for name, moments in weights.items():
            if moments.estimate is not None:
                got = "one that states no moments"
                refuse(f"the memory of {name}", got, 'method="first-order", or simulate')
        problem.memory.original()
        network = trace_network(problem.placement, self.rules, self.dtype)
        for batch, reference in zip(problem.batches, problem.references, strict=True):
            size = batch_size(batch.inputs)
            if len(reference) != size:
                allowed = f'the batch, {size}, as its first axis; or use method="first-order"'
                refuse("the shape of the output", tuple(reference.shape), allowed, ModelError)
            step = self._samples_at_a_time(network, take(batch.inputs, size, slice(0, 1)))
            targets = batch.targets if has_classes else None
            for start in range(0, size, step):
                chosen = slice(start, start + step)
                propagation = Propagation(
                    network,
                    rules=self.rules,
                    order=self.order,
                    weights=weights,
                    plan=problem.points,
                    converters=problem.memory.converters,
                )
                output = propagation.run(take(batch.inputs, size, chosen))
                classes = None if targets is None else targets[chosen]
                yield output, reference[chosen].double(), classes

    def _samples_at_a_time(self, network: Network, sample: Any) -> int:
        with torch.no_grad():
            need = Budget.of(network, sample)
        numbers = need.total if torch.is_grad_enabled() else need.peak
        taken = max(numbers, 1) * self.dtype.itemsize
        if taken > self.memory_bytes:
            raise ModelError(
                f"the covariances of one sample at {need.at}, {need.size} numbers, take "
                f"{taken / 1e9:.3g} GB; allowed: memory_bytes, {self.memory_bytes / 1e9:.3g} GB; "
                'give more, or use method="first-order"'
            )
        return int(self.memory_bytes // taken)


def _add(
    total: ForecastAccumulator, output: OutputMoments, reference: Tensor, targets: Tensor | None
) -> None:
    shift = (output.mean - reference.flatten(1)).square()
    var = output.cov.diagonal(dim1=1, dim2=2).clamp_min(0.0)
    # Nonlinear terms belong to no tensor alone; they are distributed in proportion.
    parts = {name: part.double() for name, part in output.parts.items()}
    whole = sum(parts.values(), torch.zeros_like(shift.mean(1)))
    scale = torch.where(whole > 0, var.mean(1) / torch.where(whole > 0, whole, 1.0), 0.0)
    total.add(
        shift.mean(1),
        {name: part * scale for name, part in parts.items()},
        (shift + var).detach().view(reference.shape),
    )
    if targets is not None:
        total.accuracy.add(output.mean.detach(), output.cov.detach(), targets.long(), None)
