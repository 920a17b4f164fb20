"""Propagation: a network's operations in order, each by its rule, to the moments of the output.

Operations whose inputs and weights do not vary are simply evaluated, whatever they are: noise that
enters late costs nothing before. Values are dropped after their last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from joulewise.contrib.full_covariance.converters import converted, converted_apart
from joulewise.contrib.full_covariance.joint import Gain, Joint, Noise, Outcome, Value
from joulewise.contrib.full_covariance.network import Network, Step, function_of
from joulewise.contrib.full_covariance.operation import Operation, Rule, leaves, replaced
from joulewise.contrib.full_covariance.stored import stored
from joulewise.contrib.full_covariance.weighted import on_units
from joulewise.devices import Common, Moments, Point
from joulewise.errors import JoulewiseError, ModelError, refuse
from joulewise.placement import Placed
from joulewise.placement.calling import tensors_in
from joulewise.placement.conversion import Converters
from joulewise.user_code import cause_of

__all__ = ["OutputMoments", "arguments_of", "propagate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputMoments:
    """The output of each sample over chips.

    Args:
        mean: ``[batch, *outputs]``.
        cov: ``[batch, size, size]``, the outputs in row-major order; None where nothing varies.
        parts: The variance of all outputs together that enters at each placed tensor, ``[batch]``
            each: its noise, carried to the output by the mean gains of what follows. Together they
            are the variance wherever the network is linear from there on, and less where it is not.
    """

    mean: Tensor
    cov: Tensor | None
    parts: Mapping[str, Tensor]


def propagate(
    network: Network,
    inputs: Any,
    *,
    weights: Mapping[str, Moments],
    plan: Mapping[str, Point],
    converters: Mapping[str, Converters],
    rules: Mapping[Any, Rule],
    order: int,
) -> OutputMoments:
    """Mean and covariance of a network's output for a batch of samples.

    Args:
        network: From `joulewise.contrib.full_covariance.network.trace_network`.
        inputs: As the model is called with: a tensor, a tuple, or a mapping.
        weights: Mean and variance of each placed weight.
        plan: Operating points, for stored activations.
        converters: Of the weights whose arrays round.
        rules: The table of rules.
        order: Terms of Mehler's series.

    Returns:
        The moments of the output.
    """
    walk = _Walk(network, weights, plan, converters, rules, order)
    output = walk.run(inputs)
    if isinstance(output, Tensor):
        return OutputMoments(mean=output, cov=None, parts={})
    parts = _parts(walk.history, output)
    return OutputMoments(mean=output.mean, cov=walk.joint.pop_own(output), parts=parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Event:
    """One output that varies: what moved it, and the noise that entered."""

    value: Value
    gains: Sequence[tuple[Value, Gain]]
    noise: Mapping[str, Noise]


class _Walk:
    """One pass over the graph."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, Moments],
        plan: Mapping[str, Point],
        converters: Mapping[str, Converters],
        rules: Mapping[Any, Rule],
        order: int,
    ) -> None:
        self.network, self.plan, self.rules, self.order = network, plan, rules, order
        self.converters = converters
        self.weights = {name: _cast(m, network.dtype) for name, m in weights.items()}
        self.joint = Joint()
        self.history: list[_Event] = []
        self.env: dict[fx.Node, Any] = {}
        self.samples = 0

    def run(self, inputs: Any) -> Value | Tensor:
        """Every step in order."""
        self.env.update(arguments_of(self.network, inputs))
        self.samples = next(len(t) for t in tensors_in(inputs) if t.ndim)
        for step in self.network.steps:
            node = step.node
            if node.op == "placeholder":
                continue
            if node.op == "get_attr":
                self.env[node] = self.network.constant(str(node.target))
            elif node.op == "output":
                return _first(replaced(node.args[0], self._look_up))
            else:
                self.env[node] = self._call(step)
                for gone in step.last_use_of:
                    self.env.pop(gone, None)
        return _first(None)

    def _look_up(self, argument: Any) -> Any:
        return self.env[argument] if isinstance(argument, fx.Node) else argument

    def _call(self, step: Step) -> Any:
        arguments = replaced((step.node.args, step.node.kwargs), self._look_up)
        last = (self.env[node] for node in step.last_use_of if node in self.env)
        dying = frozenset(value for value in last if isinstance(value, Value))
        read, dying = self._received(step, arguments, dying)
        args, kwargs = replaced(arguments, lambda a: read.get(id(a), a))
        op = Operation(
            name=step.name,
            function=function_of(step),
            args=args,
            kwargs=kwargs,
            module=step.module,
            readings={name: self.weights[p.name] for name, p in step.weights.items()},
            placed_names={name: p.name for name, p in step.weights.items()},
            joint=self.joint,
            dying=dying,
            order=self.order,
        )
        return self._converted(step, self._apply(step, op))

    def _received(
        self, step: Step, arguments: Any, dying: frozenset[Value]
    ) -> tuple[dict[int, Value | Tensor], frozenset[Value]]:
        """What the layer gets of its inputs through memories and converters, by identity.

        And what dies with the layer.
        """
        read: dict[int, Value | Tensor] = {}
        ends = ((p.name, self.converters.get(p.name)) for p in step.weights.values())
        rounds = [(name, c) for name, c in ends if c and c.array.input_bits is not None]
        if not step.stored and not rounds:
            return read, dying
        sources: dict[int, Value | Tensor] = {}
        for argument in leaves(arguments):
            if isinstance(argument, Value) or argument.is_floating_point():
                sources.setdefault(id(argument), argument)
        for position, source in enumerate(sources.values()):
            placed = next((p for p in step.stored if _position(p) == position), None)
            changes: list[Callable[[Any, bool], Outcome]] = []
            if placed is not None:
                mean = source.mean if isinstance(source, Value) else source
                self._check_batch(placed.name, mean)
                changes.append(partial(self._store, placed))
            changes += [partial(self._convert, *end) for end in rounds if not position]
            value = source
            for change in changes:
                gone = {v for v in dying if v is value}
                value = self._record(change(value, bool(gone)), gone)
                dying = (dying - gone) | {v for v in (value,) if isinstance(v, Value)}
            read[id(source)] = value
        return read, dying

    def _convert(self, name: str, ends: Converters, source: Value | Tensor, gone: bool) -> Outcome:
        assert ends.array.input_bits is not None
        gone = gone and not torch.is_grad_enabled()
        limits = ends.input_limit, ends.array.input_bits
        return converted(source, name, *limits, self.joint, order=self.order, gone=gone)

    def _converted(self, step: Step, sums: Any) -> Any:
        """A layer's output through its output converters."""
        for placed in step.weights.values():
            ends, name = self.converters.get(placed.name), placed.name
            if ends is None or ends.array.output_bits is None:
                continue
            rows = placed.words // len(self.weights[name].mean)
            if ends.array.count(rows) > 1:
                outcome = converted_apart(sums, name, ends, rows, self.joint)
            else:
                outcome = converted(
                    sums,
                    name,
                    ends.output_limit,
                    ends.array.output_bits,
                    self.joint,
                    order=self.order,
                    gone=not torch.is_grad_enabled(),
                    offset=self._bias(step, sums),
                )
            sums = self._record(outcome, {sums} if isinstance(sums, Value) else ())
        return sums

    def _bias(self, step: Step, sums: Value | Tensor) -> Tensor | float:
        """The bias of a layer as it lies on its output; it is added after the conversion."""
        bias = getattr(step.module, "bias", None)
        if bias is None:
            return 0.0
        if (placed := step.weights.get("bias")) is not None:
            bias = self.weights[placed.name].mean
        mean = sums if isinstance(sums, Tensor) else sums.mean
        units_last = isinstance(step.module, torch.nn.Linear)
        return on_units(bias.detach(), mean, units_last=units_last)

    def _store(self, placed: Placed, source: Value | Tensor, gone: bool) -> Outcome:
        return stored(
            source,
            placed,
            self.plan[placed.name],
            self.joint,
            order=self.order,
            overwrite=gone and not torch.is_grad_enabled(),
        )

    def _apply(self, step: Step, op: Operation) -> Any:
        try:
            if not op.inputs and not op.readings:
                result = op.evaluate()
            else:
                result = self._rule(step, op)(op)
        except JoulewiseError:
            raise
        except Exception as error:  # a user's layer or rule, or shapes that do not fit
            raise ModelError(f"{step.name} fails with {cause_of(error)}") from error
        missed = [op.placed_names[name] for name in op.readings if name not in op.read]
        if missed:
            op.refuse(f"has a rule that does not read {missed[0]}, which is placed")
        if not _is_finite(result):
            what = f"the output of {step.name}"
            refuse(what, "NaN or infinite", "finite activations", ModelError)
        if not isinstance(result, Outcome):
            return result
        self._check_batch(f"the output of {step.name}", result.mean)
        return self._record(result, op.dying)

    def _record(self, outcome: Outcome, dying: Any) -> Value | Tensor:
        if outcome.cov is None:
            return outcome.mean
        value = self.joint.add(outcome, dying)
        self.history.append(_Event(value, tuple(outcome.gains), outcome.noise))
        return value

    def _rule(self, step: Step, op: Operation) -> Rule:
        if step.kind in self.rules:
            return self.rules[step.kind]
        kind = getattr(step.kind, "__name__", step.kind)
        raise ModelError(
            f"{step.name} is a {kind}, which has no rule for its moments; give it one, "
            f"predict(..., method=FullCovariance(rules=RULES | {{{kind}: my_rule}})), or use "
            'method="first-order"'
        )

    def _check_batch(self, what: str, mean: Tensor) -> None:
        if mean.ndim == 0 or len(mean) != self.samples:
            allowed = f'the batch, {self.samples}, as the first axis; or use method="first-order"'
            refuse(f"the shape of {what}", tuple(mean.shape), allowed, ModelError)


def arguments_of(network: Network, inputs: Any) -> dict[fx.Node, Any]:
    """What each of the graph's placeholders is given: copies, in the dtype of the computation.

    Args:
        network: The traced network.
        inputs: As the model is called with: a tensor, a tuple, or a mapping.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    listed = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs] * (not named)

    def copied(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        # Copied: the first operation may work in place.
        return argument.to(network.dtype if argument.is_floating_point() else None, copy=True)

    given: dict[fx.Node, Any] = {}
    for step in network.steps:
        node = step.node
        if node.op == "placeholder":
            default = node.args[0] if node.args else None
            found = named.get(str(node.target), listed.pop(0) if listed else default)
            given[node] = replaced(found, copied)
    return given


def _parts(history: Sequence[_Event], output: Value) -> dict[str, Tensor]:
    """The variance that enters at each placed tensor, as it arrives at the output.

    The gains make a linear network of their own; one backward pass for each output gives how far
    that output moves with each entry of each value.
    """
    differentiable = torch.is_grad_enabled()
    batch, size = len(output.mean), output.size
    with torch.enable_grad():
        moved: dict[Value, Tensor] = {}
        starts: list[tuple[_Event, Tensor]] = []
        for event in history:
            start = event.value.mean.detach().new_zeros(batch, 1, event.value.size)
            if event.noise:
                starts.append((event, start.requires_grad_()))
            total = start
            for source, gain in event.gains:
                total = total + gain.rows(moved[source])
            moved[event.value] = total
        parts: dict[str, Tensor] = {}
        for k in range(size):
            slopes = torch.autograd.grad(
                moved[output][:, 0, k].sum(),
                [start for _, start in starts],
                retain_graph=True,
                create_graph=differentiable,
                allow_unused=True,
            )
            for (event, _), slope in zip(starts, slopes, strict=True):
                for name, noise in event.noise.items() if slope is not None else ():
                    part = noise.through(slope[:, 0])
                    parts[name] = parts[name] + part if name in parts else part
    return parts if differentiable else {name: part.detach() for name, part in parts.items()}


def _cast(moments: Moments, dtype: torch.dtype) -> Moments:
    common = moments.common
    if common is not None:
        common = Common(var=common.var.to(dtype), coupling=common.coupling.to(dtype))
    return Moments(mean=moments.mean.to(dtype), var=moments.var.to(dtype), common=common)


def _is_finite(result: Any) -> bool:
    if isinstance(result, Outcome):
        parts = [result.mean]
        if result.cov is not None:
            parts.append(result.cov.diagonal(dim1=1, dim2=2))
    else:
        parts = [t for t in tensors_in(result) if t.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in parts)


def _position(placed: Placed) -> int:
    """The number at the end of an activation's name: ``conv1:input``, ``conv1:input1``."""
    return int(placed.name.rpartition(":input")[2] or 0)


def _first(output: Any) -> Value | Tensor:
    """The tensor that counts, as `joulewise.placement.call` has it.

    Raises:
        ModelError: if there is none.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, (Value, Tensor)):
        raise ModelError(
            f"the traced model returns a {type(output).__name__}; allowed: a tensor, a mapping "
            'with logits, or a tuple that begins with a tensor; or use method="first-order"'
        )
    return output
