"""Linearisation of a network around the mean of what its memories read.

One forward pass at the mean, then backward passes from probes of the outputs, give for each sample
how the noise of every placed tensor moves the probed outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from joulewise.devices import Chip
from joulewise.errors import refuse
from joulewise.nested import batch_size
from joulewise.placement import TwiceDifferentiable, check_finite, differentiating, take
from joulewise.prediction.linearisation.op_interception import (
    ActivationUse,
    Interception,
    WeightUse,
    intercepted_pass,
)
from joulewise.prediction.linearisation.self_check import cover
from joulewise.prediction.linearisation.weight_gradients import (
    WeightGradients,
    axis_of,
    caught_gradients,
)
from joulewise.prediction.problem import Problem

__all__ = ["LinearLogits", "Linearisation", "Piece"]


Each = Callable[[str, WeightGradients], None]
"""Called with the name of a placed weight and its gradients."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples that run in one pass.

    Args:
        inputs: Inputs of the model.
        reference: Outputs of the model as given; several rows may belong to one sample.
        targets: Targets, if any.
        samples: Number of samples.
    """

    inputs: Any
    reference: Tensor
    targets: Tensor | None
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearLogits:
    """Probed outputs of some samples, to first order in the noise.

    Args:
        mean: Outputs at the mean read, ``[samples, classes]``.
        classes: Indices of these outputs, ``[samples, classes]``.
        has_target: True if the first of them is the sample's target.
        cov: Contribution of each placed tensor to their covariance,
            ``[samples, classes, classes]``.
        chips: Deviation of each linearised chip from the mean, ``[samples, classes, chips]``; None
            without chips.
    """

    mean: Tensor
    classes: Tensor
    has_target: bool
    cov: Mapping[str, Tensor]
    chips: Tensor | None


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
        self._seed, self._generator = seed, torch.Generator()
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
        self._coverage = self._initial_coverage = cover(problem, self.fixed)

    @property
    def noisy(self) -> tuple[str, ...]:
        """The placed weights whose words have any variance."""
        return tuple(name for name, var in self.variances.items() if bool(var.any()))

    def pieces(self, scalars: int) -> Iterator[Piece]:
        """The batches to go through, cut so that gradients of one piece fit in the memory allowed.

        Args:
            scalars: Probed outputs whose gradients are held at the same time; 0 for none.
        """
        for number in self.problem.numbers:
            batch, reference = self.problem.batches[number], self.problem.references[number]
            self._begin(number)
            whole = Piece(batch.inputs, reference, batch.targets, batch_size(batch.inputs))
            for piece, _ in self.cut(whole, scalars):
                yield piece

    def _begin(self, number: int) -> None:
        """Seed the probes of a batch by its number, not by the batches before it."""
        # The first batch has the seed itself: predictions from one batch do not depend on this.
        entropy = np.random.SeedSequence((self._seed, number))
        seed = int(entropy.generate_state(1, np.uint64)[0]) if number else self._seed
        self._generator.manual_seed(seed)
        self._coverage = self._initial_coverage

    def cut(self, whole: Piece, scalars: int) -> Iterator[tuple[Piece, slice]]:
        """Cut one piece further, as in `pieces`; yields the samples of each too."""
        # Inputs of each use, what autograd keeps between them, and the gradients: about five
        # numbers each.
        numbers = (5 + scalars) * self._coverage.numbers
        numbers += 2 * scalars * max((mean.numel() for mean in self.fixed.values()), default=0)
        # Gradients that are kept whole: of weights used several times, or differentiated alone.
        kept = self._coverage.repeated | self._coverage.one_by_one
        numbers += 2 * max(scalars, 1) * sum(self.fixed[name].numel() for name in kept)
        step = max(1, self._memory_bytes // (4 * max(numbers, 1)))
        size, rows = whole.samples, len(whole.reference)
        for start in range(0, size, step):
            stop = min(start + step, size)
            some = slice(start, stop)
            inputs = take(whole.inputs, size, some)
            reference = whole.reference[start * rows // size : stop * rows // size]
            targets = None if whole.targets is None else whole.targets[some]
            yield Piece(inputs, reference, targets, stop - start), some

    def probed_variance(self, piece: Piece, probes: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Output variance from random +-1 probes; differentiable where the points are.

        Returns:
            The output at the mean; and the contribution of each placed tensor to the variance, mean
            over outputs, float64 ``[samples]``.
        """
        create = self.differentiable
        totals: dict[str, Tensor] = {}
        output, interception = self._forward(piece, self.means)

        def each(name: str, gradients: WeightGradients) -> None:
            for part in self._variances(name, gradients):
                totals[name] = totals.get(name, 0.0) + part.double()

        for number in range(probes):
            probe, keep = self._signs(output), create or number + 1 < probes
            self._backward(
                piece, self.means, output, interception, probe, each, keep=keep, create=create
            )
            with torch.set_grad_enabled(create):
                for use in interception.activations:
                    for g in use.caught:
                        wide = g.to(use.var.dtype)
                        part = (wide.square() * use.var).flatten(1).sum(1)
                        name = use.placed.name
                        totals[name] = totals.get(name, 0.0) + part.double()
            interception.clear()
        interception.release()
        numbers = output.numel() // piece.samples * probes
        scaled = {name: total / numbers for name, total in totals.items()}
        return output if create else output.detach(), scaled

    def probe(self, piece: Piece, each: Each) -> tuple[Tensor, Tensor, list[ActivationUse]]:
        """Gradients of one random +-1 probe of the outputs.

        Args:
            piece: Some samples.
            each: Called with the name and the gradients of each placed weight.

        Returns:
            The output at the mean; the probe, in its shape; and placed activations with theirs.
        """
        output, interception = self._forward(piece, self.fixed)
        probe = self._signs(output)
        self._backward(piece, self.fixed, output, interception, probe, each)
        return output.detach(), probe, interception.activations

    def logits(self, piece: Piece, classes: int, chips: Sequence[Chip]) -> LinearLogits:
        """The largest outputs of each sample and its target, if any, from one probe for each.

        Args:
            piece: Some samples.
            classes: Number of outputs; all of them if there are no more.
            chips: Chips whose reads are followed through the linearised network.
        """
        output, interception = self._forward(piece, self.fixed)
        flat = output.detach().reshape(piece.samples, -1)
        ranked, has_target = flat, piece.targets is not None and self.problem.has_classes
        if has_target:
            assert piece.targets is not None
            ranked = flat.scatter(1, piece.targets.long()[:, None], torch.inf)
        chosen = ranked.topk(min(classes, flat.shape[1]), 1).indices
        rows = [torch.zeros_like(flat).scatter_(1, c[:, None], 1) for c in chosen.unbind(1)]
        probes = [row.reshape(output.shape) for row in rows]
        for probe in probes:
            interception.backward(output, probe, keep=True)
        interception.release()
        with torch.no_grad():
            found = self._gradients(piece, self.fixed, interception, probes)
            cov, moved = self._spread(found, interception.activations, chips)
        return LinearLogits(
            mean=flat.gather(1, chosen), classes=chosen, has_target=has_target, cov=cov, chips=moved
        )

    def noise(self, name: str, chip: Chip) -> Tensor:
        """Deviation of a chip's read of a placed weight from the mean, in its shape."""
        mean, placed = self.fixed[name], self._placed[name]
        read = self.problem.memory.weight(placed, self.problem.points[name], chip)
        return torch.empty_like(mean).copy_(read).sub_(mean)

    def _variances(self, name: str, one: WeightGradients) -> Iterator[Tensor]:
        """Contributions of a placed weight to the variance of a probed output, ``[samples]``."""
        yield one.squared(self.variances[name], self._thinning)
        if name in self.commons:
            common = self.commons[name]
            sums = one.response([self.means[name], common.coupling])[:, 0]
            yield common.variance(sums[:, 0], sums[:, 1])

    def _spread(
        self,
        found: Mapping[str, WeightGradients],
        activations: Sequence[ActivationUse],
        chips: Sequence[Chip],
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Covariance by tensor, and the deviations of each linearised chip."""
        cov: dict[str, Tensor] = {}
        moved: list[Tensor] = []
        for name, one in found.items():
            cov[name] = one.products(self.variances[name].detach(), self._thinning)
            if name in self.commons:
                common = self.commons[name]
                sums = one.response([self.fixed[name], common.coupling.detach()])
                cov[name] = cov[name] + common.covariance(sums[..., 0], sums[..., 1])
            if chips:
                moved.append(one.response([self.noise(name, chip) for chip in chips]))
        for use in activations:
            if not use.caught:  # it does not reach the output
                continue
            jacobian = torch.stack(use.caught, 1).flatten(2).to(use.var.dtype)
            scaled = jacobian * use.var.flatten(1)[:, None]
            cov[use.placed.name] = cov.get(use.placed.name, 0.0) + torch.matmul(scaled, jacobian.mT)
            if chips:
                moved.append(self._activation_response(use, jacobian, chips))
        return cov, torch.stack(moved).sum(0) if moved else None

    def _activation_response(
        self, use: ActivationUse, jacobian: Tensor, chips: Sequence[Chip]
    ) -> Tensor:
        placed, moved = use.placed, []
        for chip in chips:
            read = placed.device.round_trip(
                use.inputs,
                self.problem.points[placed.name],
                chip.region(placed.name),
                placed.limit,
                words=placed.words,
            )
            deviation = (read - use.mean).flatten(1).to(jacobian.dtype)
            moved.append((jacobian @ deviation[:, :, None])[:, :, 0])
        return torch.stack(moved, 2)

    def _signs(self, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=self._generator, device="cpu")
        return (2 * signs - 1).to(output)

    def _forward(self, piece: Piece, means: Mapping[str, Tensor]) -> tuple[Tensor, Interception]:
        with self._twice(), torch.enable_grad():
            output, interception = intercepted_pass(self.problem, means, piece.inputs)
        model = self.problem.memory.placement.model
        check_finite(model, piece.inputs, output, "at the mean that is read")
        return output, interception

    def _twice(self) -> AbstractContextManager[None]:
        """A block whose operations have the derivatives that gradients in the points need."""
        return TwiceDifferentiable() if self.differentiable else nullcontext()

    def _backward(
        self,
        piece: Piece,
        means: Mapping[str, Tensor],
        output: Tensor,
        interception: Interception,
        probe: Tensor,
        each: Each,
        *,
        keep: bool = False,
        create: bool = False,
    ) -> None:
        """One backward pass; ``each`` gets the gradients of every placed weight.

        Those of a weight that is used once are given as soon as they are caught, and then dropped:
        the gradients of all weights and samples do not fit in memory together.
        """
        counts = Counter(use.name for use in interception.uses)

        def caught(use: WeightUse) -> None:
            axis = axis_of(use, self._coverage, piece.samples)
            if axis is None or counts[use.name] > 1 or use.name in self._coverage.one_by_one:
                return
            gs, mean = [use.caught.pop()], means[use.name]
            gradients = use.read.gradients(axis)
            each(use.name, WeightGradients(gradients=gradients, use=use, gs=gs, mean=mean))

        interception.each = caught
        interception.backward(output, probe, keep=keep, create=create)
        interception.each = None
        with torch.set_grad_enabled(create):
            for name, gradients in self._gradients(piece, means, interception, [probe]).items():
                each(name, gradients)

    def _gradients(
        self,
        piece: Piece,
        means: Mapping[str, Tensor],
        interception: Interception,
        probes: Sequence[Tensor],
    ) -> dict[str, WeightGradients]:
        """Gradients of placed weights at hand after a backward pass from each probe."""
        found, unseen = caught_gradients(interception.uses, means, self._coverage, piece.samples)
        alone = self._coverage.one_by_one | unseen
        self._coverage = replace(self._coverage, one_by_one=alone)
        for name, jacobian in self._per_sample(piece, means, probes).items():
            found[name] = WeightGradients.whole(jacobian, means[name])
        return found

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
        rows = []
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
            rows.append([torch.stack(several) for several in zip(*found, strict=True)])
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return {name: torch.stack(parts).float() for name, parts in columns}
