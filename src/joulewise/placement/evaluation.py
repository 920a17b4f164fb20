"""Evaluation passes over data: of the model as given, and with the tensors that a memory reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.errors import DataError, ModelError, refuse
from joulewise.metrics import Compared, Metric, as_metric, default_metric, is_loss, resolve_metric
from joulewise.nested import cloned
from joulewise.placement.batches import NOT_COUNTED, Batch, attention_mask
from joulewise.placement.execution import check_finite, check_logits, main_tensor
from joulewise.placement.given_outputs import GivenOutputs, output_layer
from joulewise.placement.memory import Memory

__all__ = ["Reference", "reference_pass", "score_pass"]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Outputs and metric of the model as given, from which output errors are measured.

    Args:
        outputs: The main tensor of the output for each batch.
        metric: The metric of the targets; None without targets.
        value: Its value; None without targets.
    """

    outputs: GivenOutputs
    metric: Metric | None
    value: float | None


def reference_pass(
    memory: Memory,
    batches: Sequence[Batch],
    metric: Any = None,
    *,
    required: bool = True,
    kept_bytes: int = 2**30,
) -> Reference:
    """Run the model as given over the data.

    Args:
        memory: Set to the model's own tensors by this function.
        batches: The data.
        metric: Anything that `joulewise.metrics.as_metric` takes; None for the default of the
            targets.
        required: True to refuse targets without a default metric, False to ignore them.
        kept_bytes: See `GivenOutputs`.

    Raises:
        DataError: if targets do not fit the outputs or the metric, or a metric has no targets.
        ModelError: if an output is NaN or infinite, naming the first such layer; or outputs are
            hidden states, for a metric of their softmax.
    """
    given = None if metric is None else as_metric(metric)
    if given is not None and batches[0].targets is None and not given.compares:
        raise DataError(
            "a metric is given, and the data has no targets; allowed: (inputs, targets), or a dict "
            "with labels"
        )
    memory.original()
    outputs = GivenOutputs(kept_bytes)
    resolved: Metric | None = None
    layers = [layer for layer in memory.placement.model.modules() if type(layer) is nn.Linear]
    with output_layer(layers) as source:
        for number, batch in enumerate(batches):
            # Clones: the model may write to its inputs, which is known only after a pass.
            output = memory.run(cloned(batch.inputs))
            check_finite(memory.placement.model, batch.inputs, output, "without any fault")
            main = main_tensor(output)
            outputs.append(main, source(main))
            if number == 0 and (batch.targets is not None or (given and given.compares)):
                # Labels that may be those of tokens are compared with the tensor, shifted by one.
                tokens = batch.labels and main is not None and main.ndim == 3
                seen = output if given is not None and given.raw and not tokens else main
                targets = _targets(given, batch, outputs[0])
                if is_loss(given or default_metric(seen, targets)):
                    check_logits(output)
                resolved = resolve_metric(
                    given, seen, targets, labels=batch.labels, required=required
                )
                accumulator = None if resolved is None else resolved.new()
            if resolved is not None and accumulator is not None:
                targets = _targets(resolved, batch, outputs[-1])
                accumulator.update(output if resolved.raw else main, targets)
    if resolved is None or accumulator is None:
        return Reference(outputs, None, None)
    value = accumulator.compute()
    if accumulator.failure:
        raise DataError(f"{resolved.name} of the model as given fails: {accumulator.failure}")
    return Reference(outputs, resolved, value)


def score_pass(
    memory: Memory, batches: Sequence[Batch], reference: Reference
) -> tuple[float | None, float | None]:
    """Run the model over the data with the tensors that the memory reads.

    Args:
        memory: Set to the tensors to compute with.
        batches: The data.
        reference: The pass of the model as given.

    Returns:
        Value of the metric, None without targets or if the pass failed; and squared difference to
        the outputs of the model as given, mean over outputs and samples, None where outputs have
        no fixed shape.
    """
    metric = reference.metric
    accumulator = None if metric is None else metric.new()
    # Sums over all numbers, in float64: the mean does not depend on the batching.
    error, count, fixed = 0.0, 0, True
    for batch, expected in zip(batches, reference.outputs, strict=True):
        output = memory.run(batch.inputs)
        tensor = main_tensor(output)
        if tensor is None or expected is None or tensor.shape != expected.shape:
            fixed = False
        else:
            difference = tensor.to(expected.dtype) - expected
            error += float(difference.square().sum(dtype=torch.float64))
            count += expected.numel()
        if metric is not None and accumulator is not None:  # last: a metric may work in place
            targets = _targets(metric, batch, expected)
            accumulator.update(output if metric.raw else tensor, targets)
    value = None if accumulator is None else accumulator.compute()
    return value, error / count if fixed and count else None


def _targets(metric: Metric | None, batch: Batch, reference: Tensor | None) -> Any:
    """Targets of a batch as a metric takes them."""
    if metric is None or not metric.compares:
        return batch.targets
    if reference is None:
        got = "an output without a tensor of one shape"
        refuse("the model", f"one with {got}", f"a tensor, for {metric.name}", ModelError)
    mask = attention_mask(batch.inputs, reference.shape[:-1])
    if batch.targets is not None or mask is None:
        return Compared(reference, batch.targets)
    ignored = getattr(metric, "ignore_index", NOT_COUNTED)
    ignored = NOT_COUNTED if ignored is None else int(ignored)
    return Compared(reference, torch.where(mask, ignored + 1, ignored))
