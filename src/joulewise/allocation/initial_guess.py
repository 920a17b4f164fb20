"""Initial guess of the output error at which a goal is just met, the start of the bracketing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import brentq
from torch import Tensor

from joulewise.allocation.goals import Condition
from joulewise.allocation.problem import AllocationProblem
from joulewise.metrics import Accuracy
from joulewise.placement import Batch
from joulewise.simulation import Simulation

__all__ = ["first_error", "mse_for_accuracy_drop"]

# Errors from 10^-9 to 10^9 are searched: any that outputs of a network can have.
_DECADES = 9.0
# Guess for other metrics, as a fraction of the variance of the outputs over samples.
_FRACTION_OF_VARIANCE = 1e-2


def first_error(problem: AllocationProblem, condition: Condition, ideal: Simulation) -> float:
    """Guess the predicted error at which a goal is just met.

    Args:
        problem: The allocation problem.
        condition: The condition of the goal.
        ideal: A simulation of the most reliable plan.
    """
    if condition.of_error:
        return condition.limit
    if problem.of == "divergence":
        return _divergence(condition, ideal)
    if problem.of == "weights":
        # Relative errors of tensors add up; that of a tensor read as zeros is 1.
        return _FRACTION_OF_VARIANCE * len(problem.placement.placed)
    batches, outputs = problem.outputs()
    if condition.metric == Accuracy() and all(output.ndim == 2 for output in outputs):
        assert ideal.ideal is not None
        drop = max(ideal.ideal - condition.limit, 1e-4)
        found = mse_for_accuracy_drop(outputs, batches, drop)
        if found is not None:
            return found
    return _FRACTION_OF_VARIANCE * problem.output_variance()


def _divergence(condition: Condition, ideal: Simulation) -> float:
    """The divergence that costs a drop of a loss: the same number of nats, or its own limit."""
    limit, metric = condition.limit, condition.metric
    if metric.compares:
        return max(limit, 1e-9)
    assert ideal.ideal is not None
    if metric.geometric:
        return max(math.log(limit / ideal.ideal), 1e-9)
    return max(limit - ideal.ideal, 1e-9)


def mse_for_accuracy_drop(
    outputs: Sequence[Tensor], batches: Sequence[Batch], drop: float
) -> float | None:
    """The output error at which accuracy falls by ``drop``, with independent Gaussian errors.

    A sample with margin ``m``, the output of its target less the largest other one, is lost with
    probability ``Phi(-m / sqrt(2 mse))``: the difference of two errors has variance ``2 mse``.

    Args:
        outputs: Outputs of the model as given, for each batch.
        batches: Inputs with a class as target for each sample.
        drop: Drop of accuracy, above 0 to 1.

    Returns:
        None if no error lowers accuracy by that much, as where noise corrects many wrong samples.

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

    # Over decades of mse, since it may lie anywhere between them.
    def lost(exponent: float) -> float:
        spread = torch.tensor(2 * 10.0**exponent, dtype=torch.float64).sqrt()
        return float(torch.special.ndtr(-margins / spread).mean() - (margins <= 0).double().mean())

    if lost(-_DECADES) >= drop:
        return float(10.0**-_DECADES)
    low, high = -_DECADES, _DECADES
    if lost(high) <= drop:
        # Large errors turn wrong samples right as well: ``lost`` may have been above the drop.
        tried = [low + step / 10 for step in range(round(20 * _DECADES))]
        above = next((exponent for exponent in tried if lost(exponent) > drop), None)
        if above is None:
            return None
        high = above
    return float(10.0 ** brentq(lambda x: lost(x) - drop, low, high))


def _margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output of the target less the largest other output, ``[batch]``."""
    outputs, targets = outputs.double(), targets.long()[:, None]
    others = outputs.scatter(1, targets, -torch.inf).amax(1)
    return (outputs.gather(1, targets)[:, 0] - others).cpu()
