"""Self-check: weights whose per-sample gradients by interception agree with autograd.

No table of operations covers every model. So three samples run through the model, and the gradients
recorded for each are compared with autograd's. A weight that disagrees (an operation without a
reader, a cast, a scripted module, a batch axis that is not recognised) is differentiated sample by
sample instead: slower, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.errors import ModelError, refuse
from joulewise.nested import batch_size
from joulewise.placement import differentiating, take
from joulewise.prediction.linearisation.gradients import BatchAxis
from joulewise.prediction.linearisation.op_interception import (
    Interception,
    Key,
    WeightUse,
    intercepted_pass,
)
from joulewise.prediction.problem import Problem

__all__ = ["Coverage", "cover"]

Axes = Mapping[Key, BatchAxis]

_SAMPLES = 3
# Relative to the largest gradient: far above rounding, far below the effect of a wrong axis or a
# missed use.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Result of the self-check.

    Args:
        batch_axes: For each use, the axis that holds the samples.
        repeated: Weights used several times in one pass: their gradients add up before squaring.
        one_by_one: Weights to be differentiated sample by sample.
        numbers: Numbers that the uses and placed activations of one sample keep in memory.
    """

    batch_axes: Axes
    repeated: frozenset[str]
    one_by_one: frozenset[str]
    numbers: int


def cover(problem: Problem, means: Mapping[str, Tensor]) -> Coverage:
    """Compare per-sample gradients by interception with autograd's, on samples of the first batch.

    Args:
        problem: The problem.
        means: The mean read of each placed weight, at which the gradients are taken.

    Raises:
        ModelError: if the output does not depend differentiably on any placed tensor, does not have
            the batch as its first axis, or if samples depend on each other.
    """
    if problem.memory.draws:
        refuse("the model", "one that draws random numbers", "one that does not", ModelError)
    means = {name: mean.detach().clone().requires_grad_() for name, mean in means.items()}
    inputs = problem.batches[0].inputs
    size = batch_size(inputs)
    shapes: list[dict[Key, tuple[int, ...]]] = []
    outputs: list[Tensor] = []
    for count in (_SAMPLES - 1, _SAMPLES):
        few = take(inputs, size, [k % size for k in range(count)])
        with torch.set_grad_enabled(count == _SAMPLES):
            output, interception = intercepted_pass(problem, means, few)
        outputs.append(output)
        shapes.append({use.key: tuple(use.read.batched.shape) for use in interception.uses})
    _check_outputs(*outputs)
    axes = {key: axis for key, a in shapes[0].items() if (axis := _axis(a, shapes[1].get(key)))}
    return _compared(output, means, interception, axes)


def _check_outputs(fewer: Tensor, more: Tensor) -> None:
    """Refuse outputs that are not one sample after another, each from its own input alone.

    Raises:
        ModelError: if they are not.
    """
    if not more.requires_grad:
        raise ModelError(
            f"the output, of shape {tuple(more.shape)} for {_SAMPLES} samples, does not depend "
            "differentiably on any placed tensor; allowed: differentiable operations; or simulate"
        )
    if not more.ndim or len(fewer) * _SAMPLES != len(more) * (_SAMPLES - 1):
        shapes = f"{tuple(fewer.shape)} for two samples and {tuple(more.shape)} for three"
        refuse("the shape of the output", shapes, "the batch as its first axis", ModelError)
    first = more.detach()[: len(fewer)]
    scale = float(first.abs().max()) or 1.0
    if float((first - fewer).abs().max()) > _TOLERANCE.get(more.dtype, 0.03) * scale:
        raise ModelError(
            "the output of a sample changes with the other samples of its batch; allowed: a model "
            "whose samples are independent"
        )


def _axis(fewer: tuple[int, ...], more: tuple[int, ...] | None) -> BatchAxis | None:
    """The one axis that grew in proportion to the batch; None if there is no such axis."""
    if more is None or len(fewer) != len(more):
        return None
    grown = [k for k, (a, b) in enumerate(zip(fewer, more, strict=True)) if a != b]
    in_proportion = [k for k in grown if fewer[k] * _SAMPLES == more[k] * (_SAMPLES - 1)]
    return BatchAxis(grown[0], _SAMPLES) if len(grown) == len(in_proportion) == 1 else None


def _compared(
    output: Tensor, means: Mapping[str, Tensor], interception: Interception, axes: Axes
) -> Coverage:
    exact, uses = _exact(output, means), interception.uses

    def wrong(axes: Axes) -> set[str]:
        recorded = _recorded(uses, means, axes)
        return {name for name in means if not _agree(exact[name], recorded.get(name))}

    refuted = wrong(axes)
    # An axis that holds tokens and samples may hold the tokens first: the second guess.
    turned = dict(axes)
    for use in uses:
        if use.name in refuted and use.key in axes:
            tokens_first = axes[use.key].is_shared(use.read.batched)
            turned[use.key] = replace(axes[use.key], tokens_first=tokens_first)
    mended = refuted - wrong(turned)
    numbers = sum(use.read.batched.numel() for use in uses)
    numbers += sum(use.mean.numel() for use in interception.activations)
    return Coverage(
        batch_axes={key: (turned if key[0] in mended else axes)[key] for key in axes},
        repeated=frozenset(use.name for use in uses if use.ordinal),
        one_by_one=frozenset(refuted - mended),
        numbers=numbers // _SAMPLES,
    )


def _exact(output: Tensor, means: Mapping[str, Tensor]) -> dict[str, list[Tensor | None]]:
    """Gradients of each sample by autograd, of a random combination of its outputs."""
    leaves = list(means.values())
    if not leaves:
        return {}
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.enable_grad():
        weighted = (output * probe.to(output)).reshape(_SAMPLES, -1).sum(1).unbind()
    with differentiating("; or simulate"):
        rows = [
            torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True)
            for one in weighted
        ]
        # The last pass, whose gradients are compared: that of all samples together.
        together = [torch.ones_like(one) for one in weighted]
        torch.autograd.grad(weighted, leaves, together, allow_unused=True)
    return {name: list(column) for name, column in zip(means, zip(*rows, strict=True), strict=True)}


def _recorded(
    uses: Sequence[WeightUse], means: Mapping[str, Tensor], axes: Axes
) -> dict[str, Tensor]:
    """Per-sample gradients by interception, of the weights whose uses are all understood."""
    totals: dict[str, Tensor] = {}
    unclear = {use.name for use in uses if use.key not in axes}
    for use in uses:
        if use.name in unclear or not use.caught:
            continue
        try:
            part = use.jacobian(axes[use.key], use.caught[-1:], means[use.name])[:, 0].detach()
        except (RuntimeError, ValueError, IndexError):  # shapes that the reader does not expect
            unclear.add(use.name)
            continue
        totals[use.name] = totals[use.name] + part if use.name in totals else part
    return {name: total for name, total in totals.items() if name not in unclear}


def _agree(exact: list[Tensor | None], recorded: Tensor | None) -> bool:
    if recorded is None:
        return False  # also where these samples do not use the weight: others may
    scale = max((float(g.abs().max()) for g in exact if g is not None), default=0.0)
    tolerance = _TOLERANCE.get(next((g.dtype for g in exact if g is not None), torch.float32), 0.0)
    return all(
        float((ours - (0 if g is None else g)).abs().max()) <= tolerance * scale
        for g, ours in zip(exact, recorded, strict=True)
    )
