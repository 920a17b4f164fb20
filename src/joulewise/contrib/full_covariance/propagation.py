"""Traversal of a network, operation by operation, to mean and covariance of its output.

Operations whose inputs and weights do not vary are evaluated, whatever they are: layers before the
first noise need no rule. Values are dropped after their last use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.contrib.full_covariance.converters import (
    Quantiser,
    converter,
    memory,
    quantised,
    uniform_noise,
)
from joulewise.contrib.full_covariance.joint import Gain, Joint, Noise, Outcome, Value, mean_of
from joulewise.contrib.full_covariance.network import Network, Step
from joulewise.contrib.full_covariance.operation import Operation, Reading, Rule, leaves, replaced
from joulewise.contrib.full_covariance.weighted import bias_on_outputs
from joulewise.devices import Point, ReadMoments
from joulewise.errors import JoulewiseError, ModelError, refuse
from joulewise.nested import batch_size, tensors_in
from joulewise.placement import Placed
from joulewise.placement.converters import Converters
from joulewise.user_code import cause_of

__all__ = ["OutputMoments", "Propagation"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputMoments:
    """Moments over chips of the outputs of each sample, in row-major order.

    Args:
        mean: ``[batch, size]``, float64.
        cov: ``[batch, size, size]``, float64.
        parts: Contribution of each placed tensor to the variance, sum over outputs, ``[batch]``:
            its noise, carried to the output by the mean gains of the operations that follow. They
            sum to the variance if the network is linear from there on, and to less if it is not.
    """

    mean: Tensor
    cov: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Event:
    """A value, its gains in earlier ones, and the noise added to it."""

    value: Value
    gains: Sequence[tuple[Value, Gain]]
    noise: Mapping[str, Noise]


class Propagation:
    """One pass over a network; runs once.

    Args:
        network: Result of `joulewise.contrib.full_covariance.network.trace_network`.
        rules: Table of rules.
        order: Number of terms of Mehler's series.
        weights: Mean and variance of each placed weight.
        plan: Operating points; those of stored activations are used here.
        converters: Converters of the weights whose arrays round.
    """

    def __init__(
        self,
        network: Network,
        *,
        rules: Mapping[Any, Rule],
        order: int,
        weights: Mapping[str, ReadMoments],
        plan: Mapping[str, Point],
        converters: Mapping[str, Converters],
    ) -> None:
        self._network, self._rules, self._order = network, rules, order
        self._plan, self._converters = plan, converters
        self._readings = {name: Reading.of(name, m, network.dtype) for name, m in weights.items()}
        self._joint = Joint()
        self._history: list[_Event] = []
        self._samples = 0

    def run(self, inputs: Any) -> OutputMoments:
        """Mean and covariance of the output for a batch of samples.

        Args:
            inputs: As the model is called with: a tensor, a tuple, or a mapping.

        Raises:
            ModelError: if an operation has no rule, or fails, or an output is not finite or has
                another first axis than the batch.
        """
        self._samples = batch_size(inputs)
        output = _first(self._network.run(inputs, self._call))
        if isinstance(output, Tensor):
            mean = output.double().flatten(1)
            cov = mean.new_zeros(*mean.shape, mean.shape[1])
            return OutputMoments(mean=mean, cov=cov, parts={})
        parts = _contributions(self._history, output)
        cov = self._joint.own(output, last=True).double()
        return OutputMoments(mean=output.mean.double().flatten(1), cov=cov, parts=parts)

    def _call(self, step: Step, arguments: Any, dying: frozenset[Value]) -> Any:
        """Run one operation, with the memories and converters at its ends."""
        read, dying = self._quantise_inputs(step, arguments, dying)
        args, kwargs = replaced(arguments, lambda a: read.get(id(a), a))
        op = Operation(
            name=step.name,
            function=step.function,
            args=args,
            kwargs=kwargs,
            module=step.module,
            readings={name: self._readings[p.name] for name, p in step.weights.items()},
            joint=self._joint,
            dying=dying,
            order=self._order,
        )
        return self._quantise_output(step, self._apply(step, op))

    def _quantise_inputs(
        self, step: Step, arguments: Any, dying: frozenset[Value]
    ) -> tuple[dict[int, Value | Tensor], frozenset[Value]]:
        """Inputs of a layer through memories and converters.

        Returns:
            What is read back of each argument, by the argument's id; and the values that nothing
            needs after the layer.
        """
        read: dict[int, Value | Tensor] = {}
        found = (a for a in leaves(arguments) if isinstance(a, Value) or a.is_floating_point())
        for position, source in enumerate({id(a): a for a in found}.values()):
            value = source
            for name, quantiser in self._input_quantisers(step, position, source):
                before, value = value, self._quantise(value, name, quantiser, dying)
                dying = frozenset(v for v in dying | {value} if isinstance(v, Value)) - {before}
            read[id(source)] = value
        return read, dying

    def _input_quantisers(
        self, step: Step, position: int, source: Value | Tensor
    ) -> Iterator[tuple[str, Quantiser]]:
        """Quantisers of one input of a layer, with the placed tensors that they belong to."""
        for placed in step.stored:
            if _position(placed) == position:
                self._check_batch(placed.name, mean_of(source))
                yield placed.name, memory(placed, self._plan[placed.name], self._network.dtype)
        for weight in step.weights.values() if position == 0 else ():
            ends = self._converters.get(weight.name)
            if ends is not None and ends.array.input_bits is not None:
                yield weight.name, converter(ends.input_limit, ends.array.input_bits)

    def _quantise_output(self, step: Step, sums: Any) -> Any:
        """Output of a layer through its output converters."""
        for placed in step.weights.values():
            ends, name = self._converters.get(placed.name), placed.name
            if ends is None or ends.array.output_bits is None:
                continue
            rows = placed.words // len(self._readings[name].mean)
            if ends.array.count(rows) > 1:
                sums = self._record(uniform_noise(sums, name, ends, rows, self._joint), {sums})
            else:
                offset = self._bias(step, mean_of(sums))
                quantiser = converter(ends.output_limit, ends.array.output_bits, offset)
                sums = self._quantise(sums, name, quantiser, {sums})
        return sums

    def _quantise(
        self,
        source: Value | Tensor,
        name: str,
        quantiser: Quantiser,
        dying: Collection[Value | Tensor],
    ) -> Value | Tensor:
        last = isinstance(source, Value) and source in dying
        outcome = quantised(source, name, quantiser, self._joint, order=self._order, last=last)
        return self._record(outcome, {source} if last else ())

    def _bias(self, step: Step, sums: Tensor) -> Tensor | float:
        """Mean bias of a layer, broadcast to its output; it is added after the conversion."""
        bias = getattr(step.module, "bias", None)
        if bias is None:
            return 0.0
        if (placed := step.weights.get("bias")) is not None:
            bias = self._readings[placed.name].mean
        units_last = isinstance(step.module, nn.Linear)
        return bias_on_outputs(bias.detach(), sums, units_last=units_last)

    def _apply(self, step: Step, op: Operation) -> Any:
        """Evaluate the operation, or apply its rule and record the outcome.

        Raises:
            ModelError: if that fails.
            JoulewiseError: any that the rule raises.
        """
        varies = op.inputs or op.readings
        try:
            result = self._rule(step)(op) if varies else op.evaluate()
        except JoulewiseError:
            raise
        except Exception as error:  # a user's layer or rule, or shapes that do not fit
            raise ModelError(f"{step.name} fails with {cause_of(error)}") from error
        missed = [reading.placed for name, reading in op.readings.items() if name not in op.read]
        if missed:
            op.refuse(f"has a rule that does not read {missed[0]}, which is placed")
        if not _is_finite(result):
            what = f"the output of {step.name}"
            refuse(what, "NaN or infinite", "finite activations", ModelError)
        if not isinstance(result, Outcome):
            return result
        self._check_batch(f"the output of {step.name}", result.mean)
        return self._record(result, op.dying)

    def _rule(self, step: Step) -> Rule:
        if step.kind in self._rules:
            return self._rules[step.kind]
        kind = getattr(step.kind, "__name__", step.kind)
        raise ModelError(
            f"{step.name} is a {kind}, which has no rule for its moments; give it one, "
            f"predict(..., method=FullCovariance(rules=RULES | {{{kind}: my_rule}})), or use "
            'method="first-order"'
        )

    def _record(self, outcome: Outcome, dying: Collection[Value | Tensor]) -> Value | Tensor:
        """The mean of an outcome that does not vary, else a value with its covariances."""
        if outcome.cov is None:
            return outcome.mean
        value = self._joint.add(outcome, dying)
        self._history.append(_Event(value, tuple(outcome.gains), outcome.noise))
        return value

    def _check_batch(self, what: str, mean: Tensor) -> None:
        if mean.ndim == 0 or len(mean) != self._samples:
            allowed = f'the batch, {self._samples}, as the first axis; or use method="first-order"'
            refuse(f"the shape of {what}", tuple(mean.shape), allowed, ModelError)


def _contributions(history: Sequence[_Event], output: Value) -> dict[str, Tensor]:
    """Variance that each placed tensor adds to the output, sum over outputs, ``[batch]``.

    The gains make a linear network of their own; one backward pass through it for each output gives
    the derivatives of that output in the entries of each value.
    """
    differentiable = torch.is_grad_enabled()
    parts: dict[str, Tensor] = {}
    with torch.enable_grad():
        moved: dict[Value, Tensor] = {}
        sources: list[tuple[_Event, Tensor]] = []
        for event in history:
            shift = event.value.mean.new_zeros(len(output.mean), 1, event.value.size)
            if event.noise:
                sources.append((event, shift.requires_grad_()))
            terms = (gain.apply(moved[source]) for source, gain in event.gains)
            moved[event.value] = sum(terms, shift)
        for k in range(output.size):
            slopes = torch.autograd.grad(
                moved[output][:, 0, k].sum(),
                [shift for _, shift in sources],
                retain_graph=True,
                create_graph=differentiable,
                allow_unused=True,
            )
            for (event, _), slope in zip(sources, slopes, strict=True):
                for name, noise in event.noise.items() if slope is not None else ():
                    part = noise.variance_of_sum(slope[:, 0])
                    parts[name] = parts[name] + part if name in parts else part
    return parts if differentiable else {name: part.detach() for name, part in parts.items()}


def _is_finite(result: Any) -> bool:
    if isinstance(result, Outcome):
        var = () if result.cov is None else (result.cov.diagonal(dim1=1, dim2=2),)
        parts = [result.mean, *var]
    else:
        parts = [t for t in tensors_in(result) if t.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in parts)


def _position(placed: Placed) -> int:
    """The number at the end of an activation's name: ``conv1:input``, ``conv1:input1``."""
    return int(placed.name.rpartition(":input")[2] or 0)


def _first(output: Any) -> Value | Tensor:
    """The tensor that is the output, as in `joulewise.placement.call`.

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
