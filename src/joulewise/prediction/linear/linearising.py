"""Linearising: a network around the mean of what its memories read.

One forward pass at the mean, then backward passes from probes of the outputs. What comes back for
each sample is how the noise of every placed tensor moves the probed outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from joulewise.devices import Chip, Moments, WordClasses
from joulewise.placement import Observer, Placed, check_finite, take
from joulewise.placement.execution import batch_size, call
from joulewise.prediction.linear.collectors import (
    Logits,
    Responses,
    Sensitivities,
    Squares,
    Unforeseen,
    weighted_products,
)
from joulewise.prediction.linear.coverage import cover
from joulewise.prediction.linear.interception import Interception
from joulewise.prediction.linear.pieces import LinearLogits, Piece
from joulewise.prediction.problem import Problem

__all__ = ["Linearisation"]

Made = TypeVar("Made")


def _foresighted(pass_over: Callable[..., Made]) -> Callable[..., Made]:
    """Do a pass again where it met a use of a weight that nothing was known of."""

    @wraps(pass_over)
    def again(self: Linearisation, *args: Any, **named: Any) -> Made:
        while True:
            try:
                return pass_over(self, *args, **named)
            except Unforeseen as use:
                self.differentiate_alone(use.name)

    return again


def _root(var: Tensor) -> Tensor:
    """The standard deviation; its slope at 0 is infinite, and what has no noise stays out of it."""
    if not var.requires_grad:
        return var.sqrt()
    return torch.where(var > 0, var, 1.0).sqrt().where(var > 0, torch.zeros_like(var))


def _own_variance(moments: Moments) -> Tensor:
    """What is left of the variance of each word without the factor that all share."""
    if moments.common is None:
        return moments.var
    return moments.common.own(moments.mean, moments.var)


def _disturbed(length: float, drawn: dict[str, Tensor], generator: torch.Generator) -> Observer:
    """Adds Gaussian noise to placed activations, the same for all samples, as cells are."""

    def observe(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if placed.name not in drawn or drawn[placed.name].shape != var.shape[1:]:
            normal = torch.randn(var.shape[1:], generator=generator, device="cpu")
            drawn[placed.name] = normal.to(var)
        return mean + (length * _root(var) * drawn[placed.name]).to(mean.dtype)

    return observe


class Linearisation:
    """A problem's network around the mean read.

    Args:
        problem: What is to be predicted.
        memory_bytes: What one pass may hold, roughly.
        thinned: See `joulewise.prediction.FirstOrder`.
        generator: Draws the probes.
    """

    def __init__(
        self, problem: Problem, *, memory_bytes: int, thinned: bool, generator: torch.Generator
    ) -> None:
        self._problem, self._memory_bytes = problem, memory_bytes
        self._thinned, self._generator = thinned, generator
        self.differentiable = problem.differentiable
        with torch.set_grad_enabled(self.differentiable):
            moments = problem.memory.moments(problem.plan)
            self._variances = {name: _own_variance(m) for name, m in moments.items()}
        self._means = {name: m.mean for name, m in moments.items()}
        self._commons = {n: m.common for n, m in moments.items() if m.common is not None}
        self._fixed = {name: mean.detach() for name, mean in self._means.items()}
        self._placed = {p.name: p for p in problem.placement.placed}
        self._coverage = cover(problem, self._fixed)

    def warn_of_no_effect(self, variance: Mapping[str, Tensor]) -> None:
        """A noise source that contributes nothing at all is a mistake somewhere.

        Args:
            variance: What the noise of each placed tensor adds to the outputs.
        """
        noisy = [name for name, var in self._variances.items() if bool(var.any())]
        still = [name for name in noisy if not bool(variance[name].any())]
        if still:
            warnings.warn(
                f"faults in {', '.join(still)} move no output by first order: does the output "
                "depend differentiably on it? If it does not, simulate",
                stacklevel=4,
            )

    def differentiate_alone(self, name: str) -> None:
        """From now on, differentiate a weight sample by sample."""
        alone = self._coverage.one_by_one | {name}
        self._coverage = replace(self._coverage, one_by_one=alone)

    def pieces(self, scalars: int) -> Iterator[Piece]:
        """The data, cut so that one piece's gradients fit in the memory allowed.

        Args:
            scalars: Probed outputs whose gradients are held side by side; 0 for none.
        """
        for batch, reference in zip(self._problem.batches, self._problem.references, strict=True):
            whole = Piece(batch.inputs, reference, batch.targets, batch_size(batch.inputs))
            for piece, _ in self.cut(whole, scalars):
                yield piece

    def cut(self, whole: Piece, scalars: int) -> Iterator[tuple[Piece, slice]]:
        """See `pieces`: one piece in smaller ones, and which samples each of them has."""
        size = whole.samples
        step = self._samples_at_a_time(size, scalars)
        for start in range(0, size, step):
            some = slice(start, min(start + step, size))
            rows = slice(*(n * len(whole.reference) // size for n in (some.start, some.stop)))
            piece = Piece(
                take(whole.inputs, size, some),
                whole.reference[rows],
                None if whole.targets is None else whole.targets[some],
                some.stop - some.start,
            )
            yield piece, some

    def _samples_at_a_time(self, size: int, scalars: int) -> int:
        # Inputs of each use, what autograd keeps between them, and the gradients: five of a kind.
        numbers = 5 * self._coverage.numbers
        largest = max((mean.numel() for mean in self._fixed.values()), default=0)
        numbers += scalars * (self._coverage.numbers + 2 * largest)
        # Gradients that are kept whole: of what is used several times, or goes sample by sample.
        whole = self._coverage.repeated | self._coverage.one_by_one
        numbers += 2 * max(scalars, 1) * sum(self._fixed[name].numel() for name in whole)
        return max(1, min(size, self._memory_bytes // (4 * max(numbers, 1))))

    @_foresighted
    def squares(self, piece: Piece, probes: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Variance from random +-1 probes of the outputs; differentiable where the points are.

        Returns:
            The output at the mean; and for each placed tensor the variance that it causes, mean
            over outputs, float64 ``[samples]``.
        """
        collector = Squares(
            samples=piece.samples,
            means=self._means,
            variances=self._variances,
            commons=self._commons,
            coverage=self._coverage,
            generator=self._generator if self._thinned else None,
        )
        means = self._means if self.differentiable else self._fixed
        output, roots, interception = self._forward(piece.inputs, means, collector)
        for number in range(probes):
            probe = self._signs(output)
            last = number + 1 == probes and not self.differentiable
            _backward(output, probe, roots, keep=not last, create=self.differentiable)
            for name, rows in self._one_by_one(piece, means, [probe]).items():
                collector.add_whole(name, rows[:, 0])
            collector.end_probe()
        interception.release()
        number_of = output.numel() // piece.samples * probes
        output = output if self.differentiable else output.detach()
        return output, {name: total / number_of for name, total in collector.totals.items()}

    @_foresighted
    def sensitivities(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared gradients from one +-1 probe, for each weight that interception gets right.

        Returns:
            The output at the mean; and for each placed weight, in its shape, an unbiased estimate
            of the squared gradients summed over outputs and samples.
        """
        collector = Sensitivities(samples=piece.samples, means=self._fixed, coverage=self._coverage)
        output, roots, interception = self._forward(piece.inputs, self._fixed, collector)
        _backward(output, self._signs(output), roots, keep=False, create=False)
        interception.release()
        return output.detach(), collector.totals

    @_foresighted
    def responses(
        self,
        piece: Piece,
        classes: Mapping[str, WordClasses],
        shifts: Mapping[str, Tensor],
        by_channel: Collection[str] = (),
    ) -> tuple[Tensor, Responses]:
        """How one +-1 probe of the outputs moves with the words of every placed tensor.

        Args:
            piece: Some samples.
            classes: See `Responses`.
            shifts: See `Responses`.
            by_channel: See `Responses`.

        Returns:
            How far the probed output at the mean is from that of the model as given, float64
            ``[samples]``; and the rest.
        """
        collector = Responses(
            samples=piece.samples,
            means=self._fixed,
            coverage=self._coverage,
            classes=classes,
            shifts=shifts,
            by_channel=by_channel,
        )
        output, roots, interception = self._forward(piece.inputs, self._fixed, collector)
        probe = self._signs(output)
        _backward(output, probe, roots, keep=False, create=False)
        for name, rows in self._one_by_one(piece, self._fixed, [probe]).items():
            collector.add_whole(name, rows[:, 0])
        collector.end_probe()
        interception.release()
        error = (output.detach() - piece.reference).double() * probe
        return error.reshape(piece.samples, -1).sum(1).cpu(), collector

    def variance(self, name: str) -> Tensor:
        """The variance of what is read of a placed weight, in its shape; see `_own_variance`."""
        return self._variances[name].detach()

    def noise(self, name: str, chip: Chip) -> Tensor:
        """What a chip reads of a placed weight, less the mean."""
        mean, placed = self._fixed[name], self._placed[name]
        read = self._problem.memory.weight(placed, self._problem.plan[name], chip)
        return torch.empty_like(mean).copy_(read).sub_(mean)

    def moved(self, piece: Piece, name: str, entry: int, by: float) -> Tensor:
        """The output with one entry of one weight moved from the mean that is read.

        Args:
            piece: Some samples.
            name: A placed weight.
            entry: The entry, counted in the weight's logical order.
            by: How far to move it.
        """
        self._problem.memory.expect(self._problem.plan, self._fixed)
        place = torch.unravel_index(torch.tensor(entry), self._fixed[name].shape)
        before = self._fixed[name][place].clone()
        with torch.no_grad():
            try:
                self._fixed[name][place] += by
                return call(self._problem.placement.model, piece.inputs)
            finally:
                self._fixed[name][place] = before

    def disturbed(
        self,
        piece: Piece,
        noise: Mapping[str, Tensor],
        length: float,
        drawn: dict[str, Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """The output with noise on every weight and placed activation, float64.

        Args:
            piece: Some samples.
            noise: Of each placed weight, in its shape.
            length: What all noise is multiplied by; 0 for the output at the mean read.
            drawn: The normal numbers of activations, kept here from one call to the next.
            generator: Draws them.
        """
        means = self._means if self.differentiable else self._fixed
        if not length:
            return self._at(piece, means)
        moved = {name: mean + length * noise[name] for name, mean in means.items()}
        return self._at(piece, moved, _disturbed(length, drawn, generator))

    @property
    def has_digits(self) -> bool:
        """Whether the network computes with enough digits for small differences."""
        return all(m.dtype in (torch.float32, torch.float64) for m in self._fixed.values())

    def gaussian(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Gaussian noise of the moments of what is read, for each placed weight in its shape."""
        return {name: self._gaussian(name, generator) for name in self._fixed}

    def _at(
        self, piece: Piece, means: Mapping[str, Tensor], observer: Observer | None = None
    ) -> Tensor:
        # Rounding is no part of what bends: over the pairs it would average out, and near the mean
        # it is all steps.
        self._problem.memory.expect(self._problem.plan, means, observer, convert=False)
        return call(self._problem.placement.model, piece.inputs).double()

    def _gaussian(self, name: str, generator: torch.Generator) -> Tensor:
        mean, var = self._means[name], self._variances[name]
        normal = torch.randn(mean.shape, generator=generator, device="cpu").to(var)
        noise = _root(var) * normal
        if name in self._commons:
            rest = torch.randn((), generator=generator, device="cpu").to(var)
            noise = noise + self._factor(name, noise, rest) * mean
        return (noise if self.differentiable else noise.detach()).to(mean.dtype)

    def _factor(self, name: str, own: Tensor, rest: Tensor) -> Tensor:
        """The factor that all words share, given the noise of each and a normal number."""
        common, var = self._commons[name], self._variances[name]
        tied = common.coupling.to(var) / torch.where(var > 0, var, 1.0) * (var > 0)
        free = (common.var.to(var) - (tied * common.coupling).sum()).clamp(min=0)
        return (tied * own).sum() + _root(free) * rest

    def _signs(self, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=self._generator, device="cpu")
        return (2 * signs - 1).to(output)

    @_foresighted
    def logits(self, piece: Piece, classes: int, chips: Sequence[Chip]) -> LinearLogits:
        """The largest outputs of each sample and its target, if any, from one probe for each.

        Args:
            piece: Some samples.
            classes: How many outputs; all of them, where there are no more.
            chips: Chips whose reads to follow through the linearised network.
        """
        collector = Logits(
            samples=piece.samples,
            means=self._fixed,
            coverage=self._coverage,
            generator=self._generator if self._thinned else None,
        )
        output, roots, interception = self._forward(piece.inputs, self._fixed, collector)
        flat = output.detach().reshape(piece.samples, -1)
        favoured, has_target = flat, piece.targets is not None and self._problem.has_classes
        if has_target:
            assert piece.targets is not None
            favoured = flat.scatter(1, piece.targets.long()[:, None], torch.inf)
        chosen = favoured.topk(min(classes, flat.shape[1]), 1).indices
        rows = [torch.zeros_like(flat).scatter_(1, c[:, None], 1) for c in chosen.unbind(1)]
        probes = [row.reshape(output.shape) for row in rows]
        for probe in probes:
            _backward(output, probe, roots, keep=True, create=False)
        interception.release()
        with torch.no_grad():
            cov, moved = self._spread(piece, collector, probes, chips)
        return LinearLogits(
            mean=flat.gather(1, chosen),
            classes=chosen,
            has_target=has_target,
            cov=cov,
            chips=moved,
        )

    def _spread(
        self, piece: Piece, collector: Logits, probes: list[Tensor], chips: Sequence[Chip]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Covariance by tensor, and the deviations of each linearised chip."""
        cov: dict[str, Tensor] = {}
        moved: list[Tensor] = []
        for name in collector.names():
            cov[name] = collector.products(name, self._variances[name].detach())
            if name in self._commons:
                common = self._commons[name]
                along = torch.stack([self._fixed[name], common.coupling.detach()])
                sums = collector.response(name, along)
                cov[name] = cov[name] + common.covariance(sums[..., 0], sums[..., 1])
            if chips:
                moved.append(collector.response(name, self._noise(name, chips)))
        alone = self._one_by_one(piece, self._fixed, probes)
        for name, jacobian in alone.items():
            cov[name] = weighted_products(jacobian, self._variances[name].detach())
            if name in self._commons:
                common = self._commons[name]
                mean, tied = (
                    (jacobian * along.detach()).flatten(2).sum(2)
                    for along in (self._fixed[name], common.coupling)
                )
                cov[name] = cov[name] + common.covariance(mean, tied)
            if chips:
                noise = self._noise(name, chips).flatten(1).mT.to(jacobian.dtype)
                moved.append(jacobian.flatten(2) @ noise)
        for placed, inputs, mean, var, gradients in collector.activations:
            if not gradients:  # it does not reach the output
                continue
            jacobian = torch.stack(gradients, 1).flatten(2).to(var.dtype)
            part = weighted_products(jacobian, var.flatten(1))
            cov[placed.name] = cov[placed.name] + part if placed.name in cov else part
            if chips:
                moved.append(self._activation_response(placed, inputs, mean, jacobian, chips))
        return cov, torch.stack(moved).sum(0) if moved else None

    def _noise(self, name: str, chips: Sequence[Chip]) -> Tensor:
        """`noise` of several chips: ``[chips, *weight]``."""
        return torch.stack([self.noise(name, chip) for chip in chips])

    def _activation_response(
        self, placed: Placed, inputs: Tensor, mean: Tensor, jacobian: Tensor, chips: Sequence[Chip]
    ) -> Tensor:
        point, moved = self._problem.plan[placed.name], []
        for chip in chips:
            read = placed.device.round_trip(
                inputs, point, chip.at(placed.name), placed.limit, words=placed.words
            )
            deviation = (read - mean).flatten(1).to(jacobian.dtype)
            moved.append((jacobian @ deviation[:, :, None])[:, :, 0])
        return torch.stack(moved, 2)

    def _forward(
        self,
        inputs: Any,
        means: Mapping[str, Tensor],
        collector: Squares | Logits | Sensitivities | Responses,
    ) -> tuple[Tensor, list[Tensor], Interception]:
        """The output at the mean, and what to ask gradients for so that every use is passed by."""
        interception = Interception(means, collector.receive)

        def observe(placed: Placed, given: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            mean = interception.rooted(mean)
            interception.catch(mean, collector.observe(placed, given, mean, var))
            return mean

        model = self._problem.placement.model
        self._problem.memory.expect(self._problem.plan, means, observe)
        with torch.enable_grad(), interception:
            output = call(model, inputs)
        check_finite(model, inputs, output, "at the mean that is read")
        leaves = [mean for mean in means.values() if mean.requires_grad]
        return output, [interception.root, *leaves], interception

    def _one_by_one(
        self, piece: Piece, means: Mapping[str, Tensor], probes: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Gradients ``[samples, probes, *weight]`` of what interception does not get right."""
        names = sorted(self._coverage.one_by_one)
        if not names:
            return {}
        leaves = {n: m if m.requires_grad else m.clone().requires_grad_() for n, m in means.items()}
        self._problem.memory.expect(self._problem.plan, leaves)
        wanted = [leaves[name] for name in names]
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for sample in range(piece.samples):
            one = take(piece.inputs, piece.samples, slice(sample, sample + 1))
            found = []
            with torch.enable_grad():
                output = call(self._problem.placement.model, one)
                for probe in probes:
                    own = probe.reshape(piece.samples, -1)[sample].reshape(output.shape)
                    found.append(_gradients(output, wanted, own, self.differentiable))
            for name, gradients in zip(names, zip(*found, strict=True), strict=True):
                rows[name].append(torch.stack(gradients))
        return {name: torch.stack(parts).float() for name, parts in rows.items()}


def _gradients(
    output: Tensor, wanted: list[Tensor], probe: Tensor, create: bool
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        output, wanted, probe, retain_graph=True, create_graph=create, materialize_grads=True
    )


def _backward(
    output: Tensor, probe: Tensor, roots: list[Tensor], *, keep: bool, create: bool
) -> None:
    if output.requires_grad:  # else nothing was intercepted
        torch.autograd.grad(
            output, roots, probe, retain_graph=keep, create_graph=create, allow_unused=True
        )
