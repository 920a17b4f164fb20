"""Coverage: which weights' per-sample gradients the interception gets right, by trying it out.

No list of layers could promise that for any model. So three samples run through the model, and what
was recorded for each of them is compared with what automatic differentiation says. A weight that
does not agree (used by an operation that is not known, cast, inside a scripted module, batch axis
not recognised) is differentiated sample by sample: slower, and never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import ModelError, refuse
from joulewise.placement import Placed, take
from joulewise.placement.execution import batch_size, call
from joulewise.prediction.linear.gradients import BatchAxis
from joulewise.prediction.linear.interception import Interception, Use
from joulewise.prediction.problem import Problem

__all__ = ["Coverage", "cover"]

Key = tuple[str, int]
"""A placed tensor and the ordinal of one of its uses."""

Axes = Mapping[Key, BatchAxis]

_SAMPLES = 3
# Far above rounding, far below what a wrong axis or a missed use would give.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What interception can be trusted with.

    Args:
        batch_axes: For each use (tensor and ordinal), the axis that holds the samples.
        repeated: Weights used several times in one pass: their gradients add up before squaring.
        one_by_one: Weights to be differentiated sample by sample.
        numbers: Numbers that the uses of one sample keep: sizes the batches.
    """

    batch_axes: Mapping[Key, BatchAxis]
    repeated: frozenset[str]
    one_by_one: frozenset[str]
    numbers: int


@dataclass(slots=True)
class _Recorder:
    """The shapes that uses met, and the gradients at their outputs."""

    uses: list[Use] = field(default_factory=list)
    activations: int = 0
    gradients: dict[Key, Tensor] = field(default_factory=dict)

    def receive(self, use: Use) -> Any:
        self.uses.append(use)
        key = (use.name, use.ordinal)
        return lambda g: self.gradients.__setitem__(key, g.detach())

    def shapes(self) -> dict[Key, tuple[int, ...]]:
        return {(u.name, u.ordinal): tuple(u.reading.batched.shape) for u in self.uses}

    def numbers(self) -> int:
        return self.activations + sum(use.reading.batched.numel() for use in self.uses)


def cover(problem: Problem, means: Mapping[str, Tensor]) -> Coverage:
    """Try the interception out on three samples.

    Args:
        problem: What is to be predicted.
        means: The mean of each placed weight, as the model is going to compute with.

    Returns:
        What can be trusted.

    Raises:
        ModelError: if the output does not depend differentiably on any placed tensor.
    """
    means = {name: mean.detach().clone().requires_grad_() for name, mean in means.items()}
    inputs = problem.batches[0].inputs
    size = batch_size(inputs)
    shapes: list[dict[Key, tuple[int, ...]]] = []
    outputs: list[Tensor] = []
    for count in (_SAMPLES - 1, _SAMPLES):
        few = take(inputs, size, [k % size for k in range(count)])
        recorder = _Recorder()
        with torch.set_grad_enabled(count == _SAMPLES):
            output = _run(problem, means, recorder, few)
        shapes.append(recorder.shapes())
        outputs.append(output)
    _check_outputs(*outputs)
    axes = {key: axis for key, a in shapes[0].items() if (axis := _axis(a, shapes[1].get(key)))}
    return _compared(output, means, recorder, axes)


def _check_outputs(fewer: Tensor, more: Tensor) -> None:
    """Refuse outputs that are not one sample after another, each from its own input alone.

    Raises:
        ModelError: saying which of these it is.
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
            "the output of a sample changes with the samples beside it, or from one pass to the "
            "next; allowed: a model whose samples are independent and that draws nothing at random"
        )


def _run(problem: Problem, means: Mapping[str, Tensor], recorder: _Recorder, inputs: Any) -> Tensor:
    interception = Interception(means, recorder.receive)

    def observe(placed: Placed, given: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        recorder.activations += mean.numel()
        return interception.rooted(mean)

    problem.memory.expect(problem.plan, means, observe)
    with interception:
        return call(problem.placement.model, inputs)


def _axis(fewer: tuple[int, ...], more: tuple[int, ...] | None) -> BatchAxis | None:
    """The axis that grew with the batch; None if it is not clear."""
    if more is None or len(fewer) != len(more):
        return None
    grown = [k for k, (a, b) in enumerate(zip(fewer, more, strict=True)) if a != b]
    if len(grown) != 1 or fewer[grown[0]] * _SAMPLES != more[grown[0]] * (_SAMPLES - 1):
        return None
    return BatchAxis(grown[0], _SAMPLES)


def _compared(
    output: Tensor, means: Mapping[str, Tensor], recorder: _Recorder, axes: Axes
) -> Coverage:
    exact = _exact(output, means)
    wrong = _wrong(exact, recorder, means, axes)
    # Where an axis holds tokens and samples, the tokens may also come first.
    other = {key: _turned(key, axes, recorder) if key[0] in wrong else axes[key] for key in axes}
    better = wrong - _wrong(exact, recorder, means, other)
    names = [use.name for use in recorder.uses]
    return Coverage(
        batch_axes={key: (other if key[0] in better else axes)[key] for key in axes},
        repeated=frozenset(name for name in names if names.count(name) > 1),
        one_by_one=frozenset(wrong - better),
        numbers=recorder.numbers() // _SAMPLES,
    )


def _exact(output: Tensor, means: Mapping[str, Tensor]) -> dict[str, list[Tensor | None]]:
    """The gradients of each sample by automatic differentiation."""
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.enable_grad():
        weighted = (output * probe.to(output)).reshape(_SAMPLES, -1).sum(1).unbind()
    leaves = list(means.values())
    if not leaves:
        return {}
    rows = [
        torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True) for one in weighted
    ]
    # Last, and for all samples together: this is what the recorder keeps.
    together = [torch.ones_like(one) for one in weighted]
    torch.autograd.grad(weighted, leaves, together, allow_unused=True)
    return {name: list(column) for name, column in zip(means, zip(*rows, strict=True), strict=True)}


def _turned(key: Key, axes: Axes, recorder: _Recorder) -> BatchAxis:
    use = next(use for use in recorder.uses if (use.name, use.ordinal) == key)
    return replace(axes[key], tokens_first=axes[key].is_shared(use.reading.batched))


def _wrong(
    exact: Mapping[str, list[Tensor | None]],
    recorder: _Recorder,
    means: Mapping[str, Tensor],
    axes: Axes,
) -> set[str]:
    recorded = _recorded(recorder, means, axes)
    return {name for name in means if not _agree(exact[name], recorded.get(name))}


def _recorded(recorder: _Recorder, means: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """Per-sample gradients by interception; a weight of which a use is not clear is left out."""
    totals: dict[str, Tensor] = {}
    unclear = set()
    for use in recorder.uses:
        key = (use.name, use.ordinal)
        if key not in axes:
            unclear.add(use.name)
        elif key in recorder.gradients:
            operation = use.reading.operation(axes[key])
            try:
                each = operation.jacobians([recorder.gradients[key]])[:, 0].detach()
                part = use.spread(each, means[use.name])
            except (RuntimeError, ValueError, IndexError):  # shapes that no rule foresaw
                unclear.add(use.name)
                continue
            totals[use.name] = totals[use.name] + part if use.name in totals else part
    return {name: total for name, total in totals.items() if name not in unclear}


def _agree(exact: list[Tensor | None], recorded: Tensor | None) -> bool:
    scale = max((float(g.abs().max()) for g in exact if g is not None), default=0.0)
    if recorded is None:
        return False  # also where these samples do not tell: others may
    tolerance = _TOLERANCE.get(next((g.dtype for g in exact if g is not None), torch.float32), 0.0)
    return all(
        float((ours - (0 if g is None else g)).abs().max()) <= tolerance * scale
        for g, ours in zip(exact, recorded, strict=True)
    )
