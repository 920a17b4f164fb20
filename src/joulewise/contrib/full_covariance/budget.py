"""Size of the covariances of a network, before the first one is made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

from torch import Tensor

from joulewise.contrib.full_covariance.joint import Value, mean_of
from joulewise.contrib.full_covariance.network import Network, Step
from joulewise.contrib.full_covariance.operation import leaves, replaced
from joulewise.errors import ModelError
from joulewise.user_code import cause_of

__all__ = ["Budget"]


@dataclass(slots=True, eq=False)
class Budget:
    """Numbers in the covariances of one sample.

    Exact for rules that make a covariance of their own only where sizes differ.

    Attributes:
        peak: Numbers held during the operation that holds most of them.
        total: Numbers made in all operations: those that a pass with gradients keeps.
        at: Name of the operation with the peak.
        size: Number of entries of its output.
    """

    peak: int = 0
    total: int = 0
    at: str = "the model"
    size: int = 0

    @classmethod
    def of(cls, network: Network, sample: Any) -> Budget:
        """Count while running the network on one sample without noise.

        Args:
            network: The traced network.
            sample: Inputs of the model, one sample.

        Raises:
            ModelError: if an operation fails.
        """
        budget = cls()
        live: list[Value] = []

        def call(step: Step, arguments: Any, dying: frozenset[Value]) -> Any:
            args, kwargs = replaced(arguments, mean_of)
            try:
                result = step.function(*args, **kwargs)
            except Exception as error:  # a user's layer
                cause = cause_of(error)
                raise ModelError(f"{step.name} fails on one sample with {cause}") from error
            sources = frozenset(v for v in leaves(arguments) if isinstance(v, Value))
            before = [v.size for v in live]
            live[:] = [v for v in live if v not in dying]
            varies = step.weights or step.stored or sources
            if not varies or not isinstance(result, Tensor) or not result.ndim:
                return result
            value = Value(result)
            own = next(iter(sources)).size if sources == dying and len(sources) == 1 else None
            held = _held(before, [v.size for v in live], own, value.size)
            if held > budget.peak:
                budget.peak, budget.at, budget.size = held, step.name, value.size
            live.append(value)
            budget.total += value.size * sum(v.size for v in live)
            return value

        network.run(sample, call)
        return budget


def _held(live: list[int], staying: list[int], own: int | None, size: int) -> int:
    """Numbers in covariances while an operation makes an output of ``size`` entries.

    Sizes of the values before it and of those that stay; ``own`` is that of its only input, if
    nothing else needs that.
    """
    if own is None:
        return _pairs(live) + size * (size + sum(staying))
    # Rows first, then columns, each in place where the output is not larger.
    work = size * (own + size) if own < size else own**2 + (size**2 if own > size else 0)
    return _pairs(staying) + max(own, size) * sum(staying) + work


def _pairs(sizes: list[int]) -> int:
    """Numbers in the covariances of all pairs, each value with itself among them."""
    return sum(a * b for a, b in combinations_with_replacement(sizes, 2))
