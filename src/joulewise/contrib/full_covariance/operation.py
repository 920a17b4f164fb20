"""An operation of the network, as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Never

import torch
from torch import Tensor, nn

from joulewise.contrib.full_covariance.joint import Gain, Joint, Value, sandwich
from joulewise.devices import Common, Moments
from joulewise.errors import ModelError

__all__ = ["Operation", "Reading", "Rule", "leaves", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """A parameter, as its memory reads it.

    Args:
        mean: The shape of the parameter; the parameter itself where it is in reliable memory.
        var: The same shape; None where nothing varies. Each word's own where they share a factor.
        placed: The name of the placed tensor; None in reliable memory.
        common: The factor that the words share; None where they are independent.
    """

    mean: Tensor
    var: Tensor | None = None
    placed: str | None = None
    common: Common | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Operation:
    """One call of a module, a function or a method, whose inputs or weights vary.

    Args:
        name: The module's path, or the function and its place in the graph.
        function: What is called.
        args: Its arguments; a `Value` stands for each tensor that varies.
        kwargs: Its named arguments.
        module: The module that is called, its parameters in the dtype of the computation; None for
            functions and methods.
        readings: The module's placed parameters, by their names within it.
        joint: The covariances.
        dying: Values that nothing needs after this operation.
        order: Terms of Mehler's series.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: nn.Module | None
    readings: Mapping[str, Moments]
    placed_names: Mapping[str, str]
    joint: Joint
    dying: frozenset[Value]
    order: int
    read: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> list[Value]:
        """The distinct values among the arguments, in order."""
        found = leaves((self.args, self.kwargs))
        return list(dict.fromkeys(a for a in found if isinstance(a, Value)))

    @property
    def only_input(self) -> Value | None:
        """The one argument that varies; None if none does.

        Raises:
            ModelError: if several do.
        """
        if len(self.inputs) > 1:
            self.refuse("has several inputs that vary, which its rule does not cover")
        return self.inputs[0] if self.inputs else None

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
        """A parameter of the module; says that the rule covers the noise in it."""
        self.read.add(name)
        if name in self.readings:
            moments = self.readings[name]
            silent = not moments.var.requires_grad and not bool(moments.var.any())
            var, common = None if silent else moments.var, None if silent else moments.common
            if common is not None:
                var = common.own(moments.mean, moments.var)
            placed = self.placed_names[name]
            return Reading(mean=moments.mean, var=var, placed=placed, common=common)
        own = getattr(self.module, name)
        return Reading(mean=own)

    def evaluate(self, given: Mapping[Value, Tensor] | None = None) -> Any:
        """Call it with tensors in the place of values: those given, the means by default."""
        given = given or {}

        def tensor(argument: Any) -> Any:
            if isinstance(argument, Value):
                return given.get(argument, argument.mean)
            return argument

        args, kwargs = replaced((self.args, self.kwargs), tensor)
        return self.function(*args, **kwargs)

    def mean_of_input(self) -> Tensor:
        """The mean of the one tensor that is the first argument, varying or not."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        mean: Tensor = first.mean if isinstance(first, Value) else first
        return mean

    def take_cov(self, value: Value) -> Tensor:
        """The covariance of an input, to be overwritten where `may_overwrite` says so."""
        if value in self.dying:
            return self.joint.pop_own(value)
        return self.joint.own(value)

    def may_overwrite(self, value: Value) -> bool:
        """Whether nothing needs the covariance that `take_cov` gives."""
        return value in self.dying and not torch.is_grad_enabled()

    def carried(self, gains: Sequence[tuple[Value, Gain]]) -> Tensor:
        """The covariance of a sum of linear maps of the inputs, with all cross terms.

        ``Cov(sum_i G_i x_i) = sum_ij G_i Cov(x_i, x_j) G_j^T``; exact.
        """
        if len(gains) == 1:
            value, gain = gains[0]
            overwrite = self.may_overwrite(value)
            return sandwich(gain, self.take_cov(value), overwrite=overwrite)
        distinct = len({value for value, _ in gains}) == len(gains)
        total: Tensor | None = None
        for i, (a, gain_a) in enumerate(gains):
            for j, (b, gain_b) in enumerate(gains[i:], i):
                cov = self.joint.cov(a, b)
                if cov is None:
                    continue
                overwrite = distinct and self.may_overwrite(a) and self.may_overwrite(b)
                half = gain_b.rows(cov, overwrite=overwrite)
                block = gain_a.rows(half.mT, overwrite=True)  # transposed, which the sum is not
                total = _plus(total, block if i == j else block + block.mT)
        assert total is not None
        return total if total.is_contiguous() else total.mT.contiguous()


Rule = Callable[[Operation], Any]
"""Takes an operation to its `joint.Outcome`; or to something that is no tensor (a shape, say)."""


def replaced(nested: Any, by: Callable[[Any], Any]) -> Any:
    """The arguments of a call with everything replaced that is not a container."""
    if isinstance(nested, (tuple, list)):
        items = (replaced(item, by) for item in nested)
        return tuple(items) if isinstance(nested, tuple) else list(items)
    if isinstance(nested, Mapping):
        return {key: replaced(item, by) for key, item in nested.items()}
    if isinstance(nested, slice):
        return slice(*(replaced(item, by) for item in (nested.start, nested.stop, nested.step)))
    return by(nested)


def leaves(nested: Any) -> list[Value | Tensor]:
    """The values and tensors among the arguments of a call, in order."""
    found: list[Value | Tensor] = []

    def note(argument: Any) -> None:
        if isinstance(argument, (Value, Tensor)):
            found.append(argument)

    replaced(nested, note)
    return found


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part
