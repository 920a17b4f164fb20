"""Interface of rules: an operation of the network, with what varies among its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Never

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from joulewise.contrib.full_covariance.joint import Gain, Joint, Outcome, Value, mean_of
from joulewise.devices import ReadMoments, SharedFactor
from joulewise.errors import ModelError

__all__ = ["Operation", "Reading", "Rule", "leaves", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """A parameter as it is read back.

    Args:
        mean: Mean in the shape of the parameter; its value if it is not placed.
        placed: Name of the placed tensor; empty if it is not placed.
        var: Variance in the same shape, without what a shared factor adds; None for no noise.
        common: The factor that the words share; None if they are independent.
    """

    mean: Tensor
    placed: str = ""
    var: Tensor | None = None
    common: SharedFactor | None = None

    @classmethod
    def of(cls, placed: str, moments: ReadMoments, dtype: torch.dtype) -> Reading:
        """Moments of a placed tensor, in the dtype of the computation."""
        mean, var, common = moments.mean.to(dtype), moments.var.to(dtype), moments.common
        if not var.requires_grad and not bool(var.any()):
            return cls(mean=mean, placed=placed)
        if common is not None:
            common = SharedFactor(var=common.var.to(dtype), coupling=common.coupling.to(dtype))
            var = common.own(mean, var)
        return cls(mean=mean, placed=placed, var=var, common=common)


@dataclass(slots=True, kw_only=True, eq=False)
class Operation:
    """A call of a module, a function or a method, with inputs or weights that vary.

    Args:
        name: Path of the module, or the function and its node in the graph.
        function: The callable.
        args: Its arguments, with a `Value` for each tensor that varies.
        kwargs: Its named arguments.
        module: The module, its parameters in the dtype of the computation; None for functions and
            methods.
        readings: The placed parameters of the module, by their names within it.
        joint: The covariances.
        dying: Values that nothing needs after this operation.
        order: Number of terms of Mehler's series.
        read: Names of the parameters that the rule has read so far.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: nn.Module | None
    readings: Mapping[str, Reading]
    joint: Joint
    dying: frozenset[Value]
    order: int
    read: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> list[Value]:
        """Distinct values among the arguments, in order."""
        found = leaves((self.args, self.kwargs))
        return list(dict.fromkeys(a for a in found if isinstance(a, Value)))

    @property
    def varying_input(self) -> Value:
        """The one argument that varies.

        Raises:
            ModelError: if none does, or several.
        """
        if len(self.inputs) > 1:
            self.refuse("has several inputs that vary, which its rule does not cover")
        if not self.inputs:
            self.refuse("has placed weights that its rule does not cover")
        return self.inputs[0]

    @property
    def mean_of_input(self) -> Tensor:
        """Mean of the first argument, whether it varies or not."""
        return mean_of(self.args[0] if self.args else next(iter(self.kwargs.values())))

    def refuse(self, why: str) -> Never:
        """Raise a `ModelError` that names the operation.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{self.name} {why}; give it a rule of your own, predict(..., method="
            'FullCovariance(rules=RULES | {...: my_rule})), or use method="first-order"'
        )

    def parameter(self, name: str) -> Reading:
        """Read a parameter of the module, and mark its noise as covered by the rule."""
        self.read.add(name)
        return self.readings.get(name) or Reading(mean=getattr(self.module, name))

    def evaluate(self, given: Mapping[Value, Tensor] | None = None) -> Any:
        """Call the function with tensors in place of values: those given, else their means."""
        given = given or {}

        def tensor(argument: Any) -> Any:
            return given.get(argument, argument.mean) if isinstance(argument, Value) else argument

        args, kwargs = replaced((self.args, self.kwargs), tensor)
        return self.function(*args, **kwargs)

    def linear(self, mean: Tensor, gains: Sequence[tuple[Value, Gain]]) -> Outcome:
        """Outcome of a sum of linear maps of the inputs."""
        return Outcome(mean=mean, cov=self.linear_cov(gains), gains=gains)

    def linear_cov(self, gains: Sequence[tuple[Value, Gain]]) -> Tensor:
        """Covariance of a sum of linear maps of the inputs, with all cross terms.

        ``Cov(sum_i G_i x_i) = sum_ij G_i Cov(x_i, x_j) G_j^T``; exact.
        """
        if len(gains) == 1:
            value, gain = gains[0]
            last = value in self.dying
            return gain.sandwich(self.joint.own(value, last=last), overwrite=last)
        distinct = len({value for value, _ in gains}) == len(gains)
        total: Tensor | None = None
        for i, (a, gain_a) in enumerate(gains):
            for j, (b, gain_b) in enumerate(gains[i:], i):
                cov = self.joint.cov(a, b)
                if cov is None:
                    continue
                half = gain_b.apply(cov, overwrite=distinct and {a, b} <= self.dying)
                # The transposes of the blocks: their sum is symmetric.
                block = gain_a.apply(half.mT, overwrite=True)
                block = block if i == j else block + block.mT
                total = block if total is None else total + block
        assert total is not None
        return total if total.is_contiguous() else total.mT.contiguous()


Rule = Callable[[Operation], Any]
"""Takes an operation to its `Outcome`; or to something that is no tensor, such as a shape."""


replaced: Callable[[Any, Callable[[Any], Any]], Any] = map_aggregate
"""Nested arguments of a call with everything replaced that is not a container."""


def leaves(nested: Any) -> list[Value | Tensor]:
    """Values and tensors among the arguments of a call, in order."""
    found: list[Value | Tensor] = []

    def note(argument: Any) -> None:
        if isinstance(argument, (Value, Tensor)):
            found.append(argument)

    replaced(nested, note)
    return found
