"""Linearisation of a network around the mean of what its memories read.

One forward pass at the mean, then backward passes from probes of the outputs. The reductions give,
for each sample, how the noise of every placed tensor moves the probed outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from joulewise.devices import Chip, WordClasses
from joulewise.errors import refuse
from joulewise.nested import batch_size
from joulewise.placement import Placed, TwiceDifferentiable, check_finite, differentiating, take
from joulewise.prediction.linearisation.gradients import WholeGradients
from joulewise.prediction.linearisation.op_interception import Interception
from joulewise.prediction.linearisation.pieces import LinearLogits, Piece
from joulewise.prediction.linearisation.reductions import (
    ClassReduction,
    LogitJacobians,
    Reduction,
    SensitivityReduction,
    UncheckedUse,
    VarianceReduction,
)
from joulewise.prediction.linearisation.self_check import cover
from joulewise.prediction.problem import Problem

__all__ = ["Linearisation"]

Found = TypeVar("Found")


def _repeat_if_unchecked(run: Callable[..., Found]) -> Callable[..., Found]:
    """Repeat a pass that met a use of a weight which the self-check has not seen."""

    @wraps(run)
    def repeat(self: Linearisation, *args: Any, **named: Any) -> Found:
        while True:
            try:
                return run(self, *args, **named)
            except UncheckedUse as use:
                alone = self._coverage.one_by_one | {use.name}
                self._coverage = replace(self._coverage, one_by_one=alone)

    return repeat


class Linearisation:
    """A problem's network around the mean read.

    Args:
        problem: The problem.
        seed: Seed of the probes.
        memory_bytes: Memory that one pass may take, roughly.
        subsample_channels: See `joulewise.prediction.FirstOrder`.

    Attributes:
        differentiable: True if results have gradients in the points of the plan.
        means: Mean read of each placed weight, with these gradients.
        fixed: The same without gradients.
        variances: Variance of each placed weight's words, without the factor that they share.
        commons: The shared factor of each weight that has one.
        estimates: Origin of the moments of each weight whose device states none.

    Raises:
        InputError: if the memory of an activation states no moments.
    """

    def __init__(
        self, problem: Problem, *, seed: int, memory_bytes: int, subsample_channels: bool = False
    ) -> None:
        self.problem, self._memory_bytes = problem, memory_bytes
        self._generator = torch.Generator().manual_seed(seed)
        self._thinning = self._generator if subsample_channels else None
        self.differentiable = problem.differentiable
        with torch.set_grad_enabled(self.differentiable):
            moments = problem.memory.moments(problem.points)
            self.variances = {
                name: m.var if m.common is None else m.common.own(m.mean, m.var)
                for name, m in moments.items()
            }
        self.fixed = {name: m.mean.detach() for name, m in moments.items()}
        self.means = {n: m.mean for n, m in moments.items()} if self.differentiable else self.fixed
        self.commons = {n: m.common for n, m in moments.items() if m.common is not None}
        self.estimates = {n: m.estimate for n, m in moments.items() if m.estimate is not None}
        for placed in problem.placement.placed:
            if placed.role == "activation" and not placed.device.states_moments:
                got = f"{type(placed.device).__name__}, which states no moments"
                allowed = "a memory with a method moments; or simulate"
                refuse(f"the memory of {placed.name}", got, allowed)
        self._placed = {p.name: p for p in problem.placement.placed}
        self._coverage = cover(problem, self.fixed)

    def warn_of_no_effect(self, variance: Mapping[str, Tensor]) -> None:
        """Warn of placed tensors whose noise has no effect, which is a mistake somewhere.

        Args:
            variance: Contribution of each placed tensor to the output variance.
        """
        noisy = [name for name, var in self.variances.items() if bool(var.any())]
        still = [name for name in noisy if not bool(variance[name].any())]
        if still:
            warnings.warn(
                f"faults in {', '.join(still)} move no output to first order: does the output "
                "depend differentiably on it? If it does not, simulate",
                stacklevel=4,
            )

    def pieces(self, scalars: int) -> Iterator[Piece]:
        """The data, cut so that the gradients of one piece fit in the memory allowed.

        Args:
            scalars: Probed outputs whose gradients are held at the same time; 0 for none.
        """
        for batch, reference in zip(self.problem.batches, self.problem.references, strict=True):
            whole = Piece(batch.inputs, reference, batch.targets, batch_size(batch.inputs))
            for piece, _ in self.cut(whole, scalars):
                yield piece

    def cut(self, whole: Piece, scalars: int) -> Iterator[tuple[Piece, slice]]:
        """Cut one piece further; see `pieces` and `Piece.cut`."""
        # Inputs of each use, what autograd keeps between them, and the gradients: about five
        # numbers each.
        numbers = (5 + scalars) * self._coverage.numbers
        numbers += 2 * scalars * max((mean.numel() for mean in self.fixed.values()), default=0)
        # Gradients that are kept whole: of weights used several times, or differentiated alone.
        kept = self._coverage.repeated | self._coverage.one_by_one
        numbers += 2 * max(scalars, 1) * sum(self.fixed[name].numel() for name in kept)
        fitting = self._memory_bytes // (4 * max(numbers, 1))
        return whole.cut(max(1, min(whole.samples, fitting)))

    @_repeat_if_unchecked
    def probed_variance(self, piece: Piece, probes: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Output variance from random +-1 probes; differentiable where the points are.

        Returns:
            The output at the mean; and the contribution of each placed tensor to the variance, mean
            over outputs, float64 ``[samples]``.
        """
        reduction = VarianceReduction(
            samples=piece.samples,
            means=self.means,
            variances=self.variances,
            commons=self.commons,
            coverage=self._coverage,
            generator=self._thinning,
        )
        output, _ = self._probe(piece, self.means, reduction, probes)
        number_of = output.numel() // piece.samples * probes
        output = output if self.differentiable else output.detach()
        return output, {name: total / number_of for name, total in reduction.totals.items()}

    @_repeat_if_unchecked
    def sensitivities(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared gradients from one +-1 probe, for each weight of `SensitivityReduction`.

        Returns:
            The output at the mean; and for each weight, in its shape, an unbiased estimate of the
            squared gradients summed over outputs and samples.
        """
        reduction = SensitivityReduction(
            samples=piece.samples, means=self.fixed, coverage=self._coverage
        )
        output, roots, interception = self._forward(piece.inputs, self.fixed, reduction)
        _backward(output, self._signs(output), roots)
        interception.release()
        return output.detach(), reduction.totals

    @_repeat_if_unchecked
    def class_sums(
        self,
        piece: Piece,
        classes: Mapping[str, WordClasses],
        shifts: Mapping[str, Tensor],
        by_channel: Collection[str] = (),
    ) -> tuple[Tensor, ClassReduction]:
        """Response of one +-1 probe of the outputs to the words of every placed tensor, by class.

        Args:
            piece: Some samples.
            classes: See `ClassReduction`.
            shifts: See `ClassReduction`.
            by_channel: See `ClassReduction`.

        Returns:
            The difference of the probed output at the mean from that of the model as given, float64
            ``[samples]``; and the sums.
        """
        reduction = ClassReduction(
            samples=piece.samples,
            means=self.fixed,
            coverage=self._coverage,
            classes=classes,
            shifts=shifts,
            by_channel=by_channel,
        )
        output, probe = self._probe(piece, self.fixed, reduction)
        error = (output.detach() - piece.reference).double() * probe
        return error.reshape(piece.samples, -1).sum(1).cpu(), reduction

    @_repeat_if_unchecked
    def logits(self, piece: Piece, classes: int, chips: Sequence[Chip]) -> LinearLogits:
        """The largest outputs of each sample and its target, if any, from one probe for each.

        Args:
            piece: Some samples.
            classes: Number of outputs; all of them if there are no more.
            chips: Chips whose reads are followed through the linearised network.
        """
        reduction = LogitJacobians(
            samples=piece.samples,
            means=self.fixed,
            coverage=self._coverage,
            generator=self._thinning,
        )
        output, roots, interception = self._forward(piece.inputs, self.fixed, reduction)
        flat = output.detach().reshape(piece.samples, -1)
        ranked, has_target = flat, piece.targets is not None and self.problem.has_classes
        if has_target:
            assert piece.targets is not None
            ranked = flat.scatter(1, piece.targets.long()[:, None], torch.inf)
        chosen = ranked.topk(min(classes, flat.shape[1]), 1).indices
        rows = [torch.zeros_like(flat).scatter_(1, c[:, None], 1) for c in chosen.unbind(1)]
        probes = [row.reshape(output.shape) for row in rows]
        for probe in probes:
            _backward(output, probe, roots, keep=True)
        interception.release()
        for name, jacobian in self._per_sample(piece, self.fixed, probes).items():
            reduction.add_whole(name, jacobian)
        with torch.no_grad():
            cov, moved = self._spread(reduction, chips)
        return LinearLogits(
            mean=flat.gather(1, chosen),
            classes=chosen,
            has_target=has_target,
            cov=cov,
            chips=moved,
        )

    def noise(self, name: str, chip: Chip) -> Tensor:
        """Deviation of a chip's read of a placed weight from the mean, in its shape."""
        mean, placed = self.fixed[name], self._placed[name]
        read = self.problem.memory.weight(placed, self.problem.points[name], chip)
        return torch.empty_like(mean).copy_(read).sub_(mean)

    def _spread(
        self, reduction: LogitJacobians, chips: Sequence[Chip]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Covariance by tensor, and the deviations of each linearised chip."""
        cov: dict[str, Tensor] = {}
        moved: list[Tensor] = []
        for name in reduction.names():
            cov[name] = reduction.products(name, self.variances[name].detach())
            if name in self.commons:
                common = self.commons[name]
                along = torch.stack([self.fixed[name], common.coupling.detach()])
                sums = reduction.response(name, along)
                cov[name] = cov[name] + common.covariance(sums[..., 0], sums[..., 1])
            if chips:
                noise = torch.stack([self.noise(name, chip) for chip in chips])
                moved.append(reduction.response(name, noise))
        for placed, inputs, mean, var, gradients in reduction.activations:
            if not gradients:  # it does not reach the output
                continue
            jacobian = torch.stack(gradients, 1).flatten(2).to(var.dtype)
            part = WholeGradients(jacobian=jacobian).products([], var.flatten(1), None)
            cov[placed.name] = cov[placed.name] + part if placed.name in cov else part
            if chips:
                moved.append(self._activation_response(placed, inputs, mean, jacobian, chips))
        return cov, torch.stack(moved).sum(0) if moved else None

    def _activation_response(
        self, placed: Placed, inputs: Tensor, mean: Tensor, jacobian: Tensor, chips: Sequence[Chip]
    ) -> Tensor:
        point, moved = self.problem.points[placed.name], []
        for chip in chips:
            read = placed.device.round_trip(
                inputs, point, chip.region(placed.name), placed.limit, words=placed.words
            )
            deviation = (read - mean).flatten(1).to(jacobian.dtype)
            moved.append((jacobian @ deviation[:, :, None])[:, :, 0])
        return torch.stack(moved, 2)

    def _probe(
        self, piece: Piece, means: Mapping[str, Tensor], reduction: Reduction, probes: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Reduce the gradients of random +-1 probes; the output at the mean, and the last probe."""
        output, roots, interception = self._forward(piece.inputs, means, reduction)
        create = self.differentiable and means is self.means
        for number in range(probes):
            probe = self._signs(output)
            _backward(output, probe, roots, keep=create or number + 1 < probes, create=create)
            for name, jacobian in self._per_sample(piece, means, [probe]).items():
                reduction.add_whole(name, jacobian)
            reduction.end_probe()
        interception.release()
        return output, probe

    def _signs(self, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=self._generator, device="cpu")
        return (2 * signs - 1).to(output)

    def _forward(
        self, inputs: Any, means: Mapping[str, Tensor], reduction: Reduction
    ) -> tuple[Tensor, list[Tensor], Interception]:
        """The output at the mean, and the tensors whose gradients make a pass visit every use."""
        interception = Interception(means, reduction.receive)

        def observe(placed: Placed, given: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            mean = interception.rooted(mean)
            interception.catch(mean, reduction.observe(placed, given, mean, var))
            return mean

        memory = self.problem.memory
        memory.expect(self.problem.points, means, observe)
        with self._twice(), torch.enable_grad(), interception:
            output = memory.call(inputs)
        check_finite(memory.placement.model, inputs, output, "at the mean that is read")
        leaves = [mean for mean in means.values() if mean.requires_grad]
        return output, [interception.root, *leaves], interception

    def _twice(self) -> AbstractContextManager[None]:
        """A block whose operations have the derivatives that gradients in the points need."""
        return TwiceDifferentiable() if self.differentiable else nullcontext()

    def _per_sample(
        self, piece: Piece, means: Mapping[str, Tensor], probes: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Gradients ``[samples, probes, *weight]`` of the weights that failed the self-check."""
        names = sorted(self._coverage.one_by_one)
        if not names:
            return {}
        leaves = {n: m if m.requires_grad else m.clone().requires_grad_() for n, m in means.items()}
        self.problem.memory.expect(self.problem.points, leaves)
        wanted = [leaves[name] for name in names]
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for sample in range(piece.samples):
            one = take(piece.inputs, piece.samples, slice(sample, sample + 1))
            found = []
            with self._twice(), torch.enable_grad():
                output = self.problem.memory.call(one)
                for probe in probes:
                    own = probe.reshape(piece.samples, -1)[sample].reshape(output.shape)
                    with differentiating("; or simulate"):
                        gradients = torch.autograd.grad(
                            output,
                            wanted,
                            own,
                            retain_graph=True,
                            create_graph=self.differentiable,
                            materialize_grads=True,
                        )
                    found.append(gradients)
            for name, several in zip(names, zip(*found, strict=True), strict=True):
                rows[name].append(torch.stack(several))
        return {name: torch.stack(parts).float() for name, parts in rows.items()}


def _backward(
    output: Tensor, probe: Tensor, roots: list[Tensor], *, keep: bool = False, create: bool = False
) -> None:
    if not output.requires_grad:  # nothing was intercepted
        return
    with differentiating("; or simulate"):
        torch.autograd.grad(
            output, roots, probe, retain_graph=keep, create_graph=create, allow_unused=True
        )
