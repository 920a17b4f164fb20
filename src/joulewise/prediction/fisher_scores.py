"""Gradients of random combinations of the logits at the mean read or near it, and the loss.

The Fisher information of a row of logits is ``C = diag(p) - p p^T``, ``p`` its probabilities. For
standard normal ``z``, the vector ``s = sqrt(p) z - p (sqrt(p)^T z)`` has mean zero and covariance
``C``, and those of different rows are independent. The squared gradient of the sum of
``s^T logits`` over a batch is then an unbiased estimate of the sum of its rows' Fisher information,
for all weights at once: one plain backward pass, whatever the operations. The score of a class
drawn from ``p`` has the same covariance, but a heavier tail, since unlikely classes may have large
gradients: with it, estimates for a language model spread twice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from joulewise.devices import ReadMoments
from joulewise.errors import DataError, refuse
from joulewise.metrics import divergences
from joulewise.placement import Placed, check_finite, differentiating
from joulewise.placement.execution import check_logits, tensor_of
from joulewise.placement.given_outputs import output_layer
from joulewise.prediction.counted_rows import counted_rows
from joulewise.prediction.large_faults import HeldWords, LargeFault
from joulewise.prediction.linearisation import ActivationUse
from joulewise.prediction.problem import Problem

__all__ = ["Draw", "FisherScores", "LossPass", "WeightGradient"]

# Most words of a weight whose moments are kept: computing those of small ones takes as long as a
# pass, those of large ones would take the memory of two more copies.
_KEPT = 1 << 16


@dataclass(slots=True, kw_only=True, eq=False)
class LossPass:
    """A forward pass of a batch at the present means; rows are those that count.

    Args:
        number: Index of the batch.
        log_p: Logarithms of the probabilities, ``[rows, classes]``, part of the graph.
        given: The same of the model as given, without a graph.
        classes: Targets, ``[rows]``; None without.
        hidden: Inputs of the head, ``[rows, inputs]``; None without one.
        activations: Placed activations.
    """

    number: int
    log_p: Tensor
    given: Tensor
    classes: Tensor | None
    hidden: Tensor | None
    activations: Sequence[ActivationUse]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.log_p)

    @property
    def divergence(self) -> float:
        """Divergence from the model as given, summed over rows, nats."""
        each = divergences(self.given, self.log_p.detach())
        return max(float(each.sum(dtype=torch.float64)), 0.0)  # below 0 by rounding

    @property
    def losses(self) -> tuple[float, float] | None:
        """Negative log-likelihood at the mean and of the model as given, summed; or None."""
        if self.classes is None:
            return None
        mean, given = (
            float(-x.gather(1, self.classes[:, None]).sum(dtype=torch.float64))
            for x in (self.log_p.detach(), self.given)
        )
        return mean, given


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draw:
    """Gradients of a scalar function of the outputs of a batch, but those of weights.

    Args:
        loss_pass: The pass.
        score: Gradient in the logits, ``[rows, classes]``; sums to 0 over classes.
        activations: Placed activations, each with its gradient; None where it has none.
    """

    loss_pass: LossPass
    score: Tensor
    activations: list[tuple[ActivationUse, Tensor | None]]

    def head(self) -> Tensor | None:
        """Gradient of the head by its use as such; None if there is none."""
        if self.loss_pass.hidden is None:
            return None
        return self.score.mT @ self.loss_pass.hidden.to(self.score)

    def offset(self) -> float:
        """Sum over rows of the gradient times the change of the outputs at the mean read."""
        # Scores sum to 0 over classes, so logarithms of probabilities serve as logits.
        change = self.loss_pass.log_p.detach() - self.loss_pass.given
        return float((self.score * change).sum(dtype=torch.float64))


WeightGradient = Callable[[str, Tensor], object]
"""Takes the name and the gradient of each placed weight, one by one: no two need to be kept.

Gradients are in the shape of the weight; that of the head is of its other uses, if any.
"""


class Head(NamedTuple):
    """The layer whose output is the logits.

    Args:
        name: Name of its placed weight.
        module: The layer, in the private copy.
    """

    name: str
    module: nn.Linear


class FisherScores:
    """Passes of a problem whose outputs are logits ``[..., classes]``, at the mean read or near it.

    Args:
        problem: The problem.
        seed: Seed of the draws.

    Attributes:
        means: Mean read of each placed weight, or what `move` sets; leaves of the graph.
        shared: Names of weights whose words share a factor.
        head: The layer that gives the logits; None if no placed weight is that of one.

    Raises:
        DataError: if no row counts.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self._problem, self._seed = problem, seed
        some = (
            counted_rows(problem.metric, problem.batches[number], problem.references[number])[0]
            for number in problem.numbers
        )
        if not any(mask.any() for mask in some):
            refuse("the number of outputs that count", 0, "1 or more", DataError)
        self.means: dict[str, Tensor] = {}
        self.shared: set[str] = set()
        self._moments: dict[str, ReadMoments] = {}
        self._placed = {placed.name: placed for placed in problem.placement.weights}
        for name in self._placed:  # one by one: variances of large weights are not kept
            m = self.moments_of(name)
            # Not for each move: those estimated from many reads, and small ones.
            kept = not self._placed[name].device.states_moments or m.mean.numel() <= _KEPT
            # Passes write to the leaf.
            self.means[name] = (m.mean.clone() if kept else m.mean.detach()).requires_grad_()
            if m.common is not None:
                self.shared.add(name)
            if kept:
                self._moments[name] = m
        self.head = self._found_head()
        self._held: Head | None = None
        self._held_weight: Tensor | None = None
        self._kept: tuple[int, Tensor] | None = None

    def moments_of(self, name: str) -> ReadMoments:
        """Moments of a placed weight at its point."""
        if name in self._moments:
            return self._moments[name]
        return self._problem.memory.moments_of(self._placed[name], self._problem.points[name])

    def hold_head(self) -> None:
        """Keep the head at its mean when weights move; not another use of the same weight."""
        assert self.head is not None
        self._held = self.head
        if len(self._placed[self.head.name].owners) > 1:  # tied
            self._held_weight = self.means[self.head.name].detach().clone()

    @property
    def _moving(self) -> Iterator[tuple[int, str]]:
        """Place and name of the weights that move."""
        alone = self._held.name if self._held is not None and self._held_weight is None else None
        return ((place, name) for place, name in enumerate(self._placed) if name != alone)

    def move(
        self,
        number: int,
        draw: int,
        scale: float,
        held: Mapping[str, HeldWords],
        before: float | None = None,
    ) -> None:
        """Set weights to the mean plus ``scale`` times Gaussian noise of their variance.

        Args:
            number: Index of a batch, which seeds the noise.
            draw: Number of a draw, which seeds it too.
            scale: 0 to 1.
            held: Words without noise, by name of their weight.
            before: Scale of the same noise in the last call, above 0; None for other noise.
        """
        for place, name in self._moving:
            m, leaf = self.moments_of(name), self.means[name].data
            if before is not None and leaf.dtype.itemsize >= 4:  # else, what was added is rounded
                leaf.sub_(m.mean).mul_(scale / before).add_(m.mean)
                continue
            generator = self.generator(m.mean.device, number, draw, place)
            # In place: the memory of the passes before is taken again.
            leaf.copy_(m.noise(generator, scale, leaf).add_(m.mean))
        self._hold(held)

    def mirror(self, held: Mapping[str, HeldWords]) -> None:
        """Turn the noise of the last `move` around the mean; ``held`` as there."""
        for _, name in self._moving:
            self.means[name].data.neg_().add_(self.moments_of(name).mean, alpha=2)
        self._hold(held)

    def _hold(self, held: Mapping[str, HeldWords]) -> None:
        for name, words in held.items():
            self.means[name].data[words.where] = words.value.to(self.means[name].dtype)

    def generator(self, device: torch.device, *of: int) -> torch.Generator:
        """A generator seeded by the seed and some integers."""
        # A hash of integers is the same in every process.
        seed = hash((self._seed, *of)) & (2**62 - 1)
        return torch.Generator(device).manual_seed(seed)

    def _found_head(self) -> Head | None:
        """The linear layer with a placed weight whose output, unchanged, is that of the model."""
        problem = self._problem
        linear = {
            module: placed
            for placed in problem.placement.weights
            for module in problem.memory.modules_of(placed)
            if type(module) is nn.Linear and placed.name not in self.shared
            # No bias, no parametrised weight; and no hook may change the output.
            if any(module.weight is own for own in problem.memory.parameters[placed.name])
            and not module._forward_hooks
        }
        with output_layer(linear) as source:
            problem.memory.original()
            output = problem.memory.run(problem.batches[problem.numbers[0]].inputs)
        check_logits(output)
        found = source(tensor_of(output))
        return None if found is None else Head(linear[found.layer].name, found.layer)

    def tried(
        self, one: LossPass, fault: LargeFault, others: Sequence[LargeFault]
    ) -> tuple[float, float]:
        """Change of divergence and loss by a fault, summed over rows, nats.

        Args:
            one: A pass at the present means.
            fault: The fault.
            others: Other faults on the same chip.
        """
        with ExitStack() as stack:
            for other in others:
                self._install(other, stack)
            if others:
                one = self.forward(one.number, graph=False, where="with large faults")
            self._install(fault, stack)
            faulty = self.forward(one.number, graph=False, where="with large faults")
        loss = 0.0
        if one.losses is not None and faulty.losses is not None:
            loss = faulty.losses[0] - one.losses[0]
        return faulty.divergence - one.divergence, loss

    def _install(self, fault: LargeFault, stack: ExitStack) -> None:
        """Add a fault to the present means, until the stack is closed."""
        mean = self.means[fault.name].data
        before = mean[fault.word].clone()
        mean[fault.word] = before + fault.change
        stack.callback(mean.__setitem__, fault.word, before)

    def forward(
        self, number: int, *, graph: bool = True, where: str = "at the mean read"
    ) -> LossPass:
        """Run a batch at the present means.

        Args:
            number: Index of the batch.
            graph: False to save memory, for a pass without gradients.
            where: Place of the means, for messages.
        """
        problem, activations = self._problem, list[ActivationUse]()

        def observe(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            # A leaf, where nothing before it in the graph is placed.
            mean = mean if mean.requires_grad else mean.detach().requires_grad_()
            use = ActivationUse(placed=placed, inputs=inputs, mean=mean, var=var)
            activations.append(use)
            return mean

        batch = problem.batches[number]
        problem.memory.expect(problem.points, self.means, observe)
        hidden: list[Tensor] = []
        with torch.set_grad_enabled(graph), ExitStack() as stack:
            if self.head is not None:
                stack.callback(self._watch_head(hidden))
            logits = problem.memory.call(batch.inputs)
            check_finite(problem.memory.placement.model, batch.inputs, logits, where)
            counts, classes = counted_rows(problem.metric, batch, logits)
            log_p = logits[counts].float().log_softmax(-1)
        return LossPass(
            number=number,
            log_p=log_p,
            given=self._given(number, counts),
            classes=classes,
            hidden=hidden[-1].detach()[counts] if hidden else None,
            activations=activations,
        )

    def _given(self, number: int, counts: Tensor) -> Tensor:
        """Logarithms of the probabilities of the model as given; those of one batch are kept."""
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # frees its memory first
            logits = self._problem.references[number][counts]
            self._kept = number, logits.float().log_softmax(-1)
        return self._kept[1]

    def draw(self, one: LossPass, number: int, take: WeightGradient) -> Draw:
        """Differentiate a random combination of the logits.

        Args:
            one: The pass.
            number: Number of the draw, which seeds it.
            take: Takes gradients of weights.
        """
        log_p = one.log_p.detach()
        score = torch.empty_like(log_p)
        score.normal_(generator=self.generator(log_p.device, one.number, number))
        score.mul_((log_p / 2).exp_())  # in place: logits are large
        score.addcmul_(log_p.exp(), score.sum(-1, keepdim=True), value=-1)
        return self._differentiated(one, score, take)

    def divergence(self, one: LossPass, take: WeightGradient) -> Draw:
        """Differentiate the divergence from the model as given."""
        return self._differentiated(one, one.log_p.detach().exp() - one.given.exp(), take)

    def _differentiated(self, one: LossPass, score: Tensor, take: WeightGradient) -> Draw:
        """Differentiate a function whose gradient in the logits is given."""
        # Each leaf passes its gradient on as soon as it is complete, and drops it: all at once
        # would take the memory of the weights a second time.
        found: list[Tensor | None] = [None] * len(one.activations)
        leaves = [*self.means.values(), *(u.mean for u in one.activations if u.mean.is_leaf)]

        def passed_on(name: str, leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            assert gradient is not None
            take(name, gradient)

        if one.log_p.requires_grad:  # else the head alone is placed
            with ExitStack() as stack, differentiating("; or simulate"):
                hooked: Any
                for name, hooked in self.means.items():
                    hook = hooked.register_post_accumulate_grad_hook(partial(passed_on, name))
                    stack.callback(hook.remove)
                for place, hooked in enumerate(use.mean for use in one.activations):
                    hook = hooked.register_hook(partial(found.__setitem__, place))
                    stack.callback(hook.remove)
                torch.autograd.backward(one.log_p, score, inputs=leaves, retain_graph=True)
        for leaf in leaves:
            leaf.grad = None
        activations = list(zip(one.activations, found, strict=True))
        return Draw(loss_pass=one, score=score, activations=activations)

    def _watch_head(self, hidden: list[Tensor]) -> Callable[[], None]:
        """Collect inputs of the head, whose own gradient is not needed; call the result to stop."""
        assert self.head is not None
        table: dict[str, Any] = self.head.module._parameters
        held = self._held_weight
        table["weight"] = self.means[self.head.name].detach() if held is None else held
        hook = self.head.module.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        return hook.remove
