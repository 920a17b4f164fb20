"""Gradients of the log-likelihood of sampled classes at the mean read, and the loss there.

For one class ``y`` a row, drawn from the model's own softmax ``q``, the score ``d log q_y / dw``
has mean zero, and scores of different rows are independent. The squared gradient of the summed
log-likelihood of a batch is then an unbiased estimate of the sum of its rows' Fisher information,
for all weights at once: one plain backward pass, whatever the operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from joulewise.errors import ModelError, refuse
from joulewise.metrics import Metric, NextToken
from joulewise.placement import Batch, Placed, check_finite, differentiating
from joulewise.prediction.problem import Problem

__all__ = ["Draw", "FisherScores", "LossSums", "counted_rows"]


class LossSums(NamedTuple):
    """Sums over the rows of a batch that count, at the mean read.

    Args:
        rows: Number of rows.
        divergence: Divergence from the model as given, nats.
        loss: Negative log-likelihood of the targets at the mean, nats; 0 without targets.
        given: The same of the model as given.
    """

    rows: int
    divergence: float
    loss: float
    given: float


@dataclass(slots=True, eq=False)
class NoisyActivation:
    """A placed activation in one forward pass.

    Args:
        placed: The placed tensor.
        inputs: The values stored, ``[batch, ...]``.
        mean: The mean read, in the same shape, part of the graph.
        var: The variance, too.
    """

    placed: Placed
    inputs: Tensor
    mean: Tensor
    var: Tensor


class Draw(NamedTuple):
    """Gradients for one class drawn in each row of a batch.

    Args:
        weights: Gradient of each placed weight, in the shape of the weight; of the head's, that of
            its other uses, if any.
        head: Gradient of the head by its use as such; None if there is none, or if not requested.
        activations: Placed activations, each with its gradient; None where it has none.
        offset: Sum over rows of the score times the change of the outputs at the mean read.
    """

    weights: dict[str, Tensor]
    head: Tensor | None
    activations: list[tuple[NoisyActivation, Tensor | None]]
    offset: float


class Head(NamedTuple):
    """The layer whose output is the logits.

    Args:
        name: Name of its placed weight.
        module: The layer, in the private copy.
        shared: True if the weight has other owners, such as an input table.
    """

    name: str
    module: nn.Linear
    shared: bool


class FisherScores:
    """Passes at the mean read of a problem whose outputs are logits ``[..., classes]``.

    Args:
        problem: The problem.
        seed: Seed of the classes that are drawn.

    Attributes:
        means: Mean read of each placed weight, leaves of the graph.
        commons: The factor that the words of a weight share, for each weight that has one.
        own_variances: Variance of the words of these weights without that factor.
        head: The layer that gives the logits; None if no placed weight is that of one.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self._problem, self._seed = problem, seed
        moments = problem.memory.moments(problem.points)
        self.means = {n: m.mean.detach().requires_grad_() for n, m in moments.items()}
        self.commons = {n: m.common for n, m in moments.items() if m.common is not None}
        self.own_variances = {
            n: c.own(moments[n].mean, moments[n].var).double() for n, c in self.commons.items()
        }

        self.head = self._found_head()

    def _found_head(self) -> Head | None:
        """The linear layer with a placed weight whose output is that of the model."""
        problem, seen = self._problem, dict[nn.Linear, Tensor]()
        linear = {
            module: placed
            for placed in problem.placement.weights
            for module in problem.memory.modules_of(placed)
            if type(module) is nn.Linear and placed.name not in self.commons
        }
        with ExitStack() as stack:
            for module in linear:
                hook = module.register_forward_hook(partial(_remember, seen))
                stack.callback(hook.remove)
            problem.memory.expect(problem.points, self.means)
            logits = problem.memory.call(problem.batches[problem.numbers[0]].inputs)
        for layer, output in seen.items():
            if output.data_ptr() == logits.data_ptr() and output.shape == logits.shape:
                placed = linear[layer]
                return Head(placed.name, layer, len(placed.owners) > 1)
        return None

    def batch(
        self,
        number: int,
        draws: Sequence[int],
        each: Callable[[Draw], None],
        head: Callable[[Tensor, Tensor], None],
        head_gradient: bool = False,
    ) -> LossSums:
        """Run a batch, once forward and once backward for each draw.

        Args:
            number: Index of the batch.
            draws: Numbers of the draws, which seed them.
            each: Called with each draw; without the gradient of the head.
            head: Called with the inputs of the head ``[rows, inputs]`` and the logarithms of the
                probabilities ``[rows, classes]``, if there is a head.
            head_gradient: True for draws with the gradient of the head.
        """
        problem, activations = self._problem, list[NoisyActivation]()

        def observe(placed: Placed, inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            mean = mean if mean.requires_grad else mean.detach().requires_grad_()
            activations.append(NoisyActivation(placed, inputs, mean, var))
            return mean

        batch, reference = problem.batches[number], problem.references[number]
        problem.memory.expect(problem.points, self.means, observe)
        hidden: list[Tensor] = []
        with torch.enable_grad(), ExitStack() as stack:
            if self.head is not None:
                stack.callback(self._watch_head(hidden))
            logits = problem.memory.call(batch.inputs)
            check_finite(problem.memory.placement.model, batch.inputs, logits, "at the mean read")
            counts, classes = counted_rows(problem.metric, batch, logits)
            rows = logits[counts].float().log_softmax(-1)
        fixed, given = rows.detach(), reference[counts].float()
        if self.head is not None:
            head(hidden[-1].detach()[counts], fixed)
        del logits
        step = given.log_softmax(-1)
        sums = _loss_sums(fixed, step, classes)
        wanted = [*self.means.values(), *(one.mean for one in activations)]
        probabilities = fixed.exp()
        # Rows sum to 0 against a score, so logarithms of probabilities serve as logits.
        change = fixed - step
        drift = (probabilities * change).sum(-1)
        for place, draw in enumerate(draws):
            drawn = torch.multinomial(probabilities, 1, generator=self._generator(number, draw))
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if rows.requires_grad:  # else the head alone is placed
                with torch.enable_grad(), differentiating("; or simulate"):
                    loss = -rows.gather(1, drawn).sum()
                    found = torch.autograd.grad(
                        loss, wanted, retain_graph=place + 1 < len(draws), allow_unused=True
                    )
            own = None
            if head_gradient and self.head is not None:
                score = probabilities.scatter_add(1, drawn, -torch.ones_like(drift)[:, None])
                own = score.mT @ hidden[-1].detach()[counts].to(score)
            offset = (drift - change.gather(1, drawn)[:, 0]).sum(dtype=torch.float64)
            weights = {
                name: gradient
                for name, gradient in zip(self.means, found, strict=False)
                if gradient is not None
            }
            rest = found[len(self.means) :]
            each(Draw(weights, own, list(zip(activations, rest, strict=True)), float(offset)))
        return sums

    def _watch_head(self, hidden: list[Tensor]) -> Callable[[], None]:
        """Collect inputs of the head, whose own gradient is not needed; call the result to stop."""
        assert self.head is not None
        table: dict[str, Any] = self.head.module._parameters
        table["weight"] = self.means[self.head.name].detach()
        hook = self.head.module.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        return hook.remove

    def _generator(self, number: int, draw: int) -> torch.Generator:
        device = self._problem.references[number].device
        generator = torch.Generator(device)
        return generator.manual_seed(hash((self._seed, number, draw)) & (2**62 - 1))


def _remember(seen: dict[nn.Linear, Tensor], module: Any, args: Any, output: Tensor) -> None:
    seen[module] = output


def _loss_sums(fixed: Tensor, given: Tensor, classes: Tensor | None) -> LossSums:
    divergence = (given.exp() * (given - fixed)).where(given > -torch.inf, 0.0)
    loss = original = 0.0
    if classes is not None:
        loss, original = (
            float(-x.gather(1, classes[:, None]).sum(dtype=torch.float64)) for x in (fixed, given)
        )
    return LossSums(len(fixed), float(divergence.sum(dtype=torch.float64)), loss, original)


def counted_rows(
    metric: Metric | None, batch: Batch, logits: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Rows of logits that count, as the metric counts them, and their targets.

    Args:
        metric: The metric; None without targets.
        batch: The batch, whose targets are classes if they have the shape of the rows.
        logits: ``[..., classes]``.

    Returns:
        A mask in the shape of the rows, and classes ``[rows]``, int64; None without targets.

    Raises:
        ModelError: if the outputs are not logits of two classes or more.
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        got = f"one with outputs {list(logits.shape)}"
        refuse("the model", got, "logits [..., classes] of two classes or more", ModelError)
    mask = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    targets, inner = batch.targets, metric
    if metric is None or not isinstance(targets, Tensor) or targets.shape != mask.shape:
        return mask, None
    targets = targets.long()
    if isinstance(metric, NextToken):
        inner = metric.metric
        mask[..., -1] = False
        targets = targets.roll(-1, -1)
    ignored = getattr(inner, "ignore_index", None)
    if ignored is not None:
        mask &= targets != ignored
    return mask, targets[mask]
