"""Per-sample gradients of a placed weight, from its uses in one forward pass or kept whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.prediction.linearisation.gradients import (
    BatchAxis,
    OperationGradients,
    WholeGradients,
)
from joulewise.prediction.linearisation.op_interception import WeightUse
from joulewise.prediction.linearisation.self_check import Coverage

__all__ = ["WeightGradients", "axis_of", "caught_gradients"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightGradients:
    """Gradients of each sample's probed outputs with respect to a placed weight.

    The methods are those of `OperationGradients`, for tensors in the shape and memory layout of the
    placed weight, where an operation may have read a part or a view of it.

    Args:
        gradients: Those of the operation that consumed the weight, or whole ones.
        use: The use by that operation; None for whole gradients.
        gs: Gradients at the operation's output, one for each probe.
        mean: The mean read of the weight.
    """

    gradients: OperationGradients
    use: WeightUse | None
    gs: Sequence[Tensor]
    mean: Tensor

    @classmethod
    def whole(cls, jacobian: Tensor, mean: Tensor) -> WeightGradients:
        """Gradients that are there, ``[samples, probes, *weight]``."""
        return cls(gradients=WholeGradients(jacobian=jacobian), use=None, gs=[jacobian], mean=mean)

    def squared(self, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sum_i var_i (dz/dw_i)^2`` of the first probe, ``[samples]``."""
        return self.gradients.squared(self.gs[0], self._seen(var), generator)

    def products(self, var: Tensor, generator: torch.Generator | None) -> Tensor:
        """``J diag(var) J^T``, ``[samples, probes, probes]``."""
        return self.gradients.products(self.gs, self._seen(var), generator)

    def summed(self) -> Tensor:
        """``(dz/dw_i)^2`` of the first probe summed over samples, ``[*weight]``."""
        part = self.gradients.summed(self.gs[0])
        return part if self.use is None else self.use.spread(part[None], self.mean)[0]

    def response(self, noise: Sequence[Tensor]) -> Tensor:
        """``J noise`` for each draw, ``[samples, probes, draws]``."""
        return self.gradients.response(self.gs, torch.stack([self._seen(one) for one in noise]))

    def response_by_channel(self, noise: Sequence[Tensor]) -> Tensor:
        """``J noise`` of the first probe by output channel, ``[samples, channels, draws]``."""
        channels = len(self.mean)
        first = torch.arange(channels, device=self.mean.device)
        shape = (-1, *(1,) * (self.mean.ndim - 1))
        index = torch.empty_like(self.mean, dtype=torch.int64)
        index.copy_(first.reshape(shape).expand(index.shape))
        seen = torch.stack([self._seen(one) for one in noise])
        return self.gradients.response_by_channel(self.gs[0], seen, self._seen(index), channels)

    def _seen(self, whole: Tensor) -> Tensor:
        return whole if self.use is None else self.use.view(whole)


def caught_gradients(
    uses: Sequence[WeightUse], means: Mapping[str, Tensor], coverage: Coverage, samples: int
) -> tuple[dict[str, WeightGradients], frozenset[str]]:
    """Gradients of the weights whose uses the self-check has understood.

    Gradients of a weight that is used several times in a pass add up before they are squared.

    Args:
        uses: The uses of a pass, with the gradients that were caught since.
        means: The mean read of each placed weight.
        coverage: Result of the self-check.
        samples: Samples in the pass.

    Returns:
        The gradients by name, in the order of first uses; and weights with a use that the
        self-check has not seen.
    """
    by_name: dict[str, list[WeightUse]] = {}
    for use in uses:
        if use.caught and use.name not in coverage.one_by_one:
            by_name.setdefault(use.name, []).append(use)
    found, unseen = {}, set()
    for name, own in by_name.items():
        axes = [axis_of(use, coverage, samples) for use in own]
        known = [axis for axis in axes if axis is not None]
        if len(known) < len(axes):
            unseen.add(name)
        elif len(own) == 1:
            gradients = own[0].read.gradients(known[0])
            found[name] = WeightGradients(
                gradients=gradients, use=own[0], gs=own[0].caught, mean=means[name]
            )
        else:
            parts = [
                use.jacobian(axis, use.caught, means[name])
                for use, axis in zip(own, known, strict=True)
            ]
            found[name] = WeightGradients.whole(torch.stack(parts).sum(0), means[name])
    return found, frozenset(unseen)


def axis_of(use: WeightUse, coverage: Coverage, samples: int) -> BatchAxis | None:
    """The batch axis of a use, as the self-check found it; None if this use does not fit it."""
    axis, shape = coverage.batch_axes.get(use.key), use.read.batched.shape
    if axis is None or len(shape) <= axis.axis:
        return None
    length = shape[axis.axis]
    return replace(axis, samples=samples) if length and length % samples == 0 else None
