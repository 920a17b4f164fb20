"""Metrics of the tokens of language models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from joulewise.metrics.classes import ClassMetric, among_largest
from joulewise.metrics.metric import (
    Accumulator,
    Compared,
    MeanMetric,
    MeanScore,
    Metric,
    check_tensors,
    refuse_pair,
)

__all__ = [
    "KLDivergence",
    "NegativeLogLikelihood",
    "NextToken",
    "Perplexity",
    "TokenAccuracy",
    "divergences",
    "is_loss",
]

# Logarithm above which the exponential is not a float64.
_OVERFLOWS = 709.0


@dataclass(frozen=True)
class TokenAccuracy(ClassMetric):
    """Fraction of targets that have the largest output; classes are on the last axis.

    NaN and equal outputs are treated as in `Accuracy`.

    Args:
        ignore_index: Target that does not count, at padding and masked tokens; or None.
    """

    ignore_index: int | None = -100
    name, axis, higher_is_better, bounds = "token accuracy", -1, True, (0.0, 1.0)

    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        return among_largest(rows, classes, 1)


@dataclass(frozen=True)
class NegativeLogLikelihood(ClassMetric):
    """Negative log-likelihood in nats, mean over targets; logits of classes are on the last axis.

    `derived` gives the perplexity of a value.

    Args:
        ignore_index: Target that does not count, at padding and masked tokens; or None.
    """

    ignore_index: int | None = -100
    name, axis, higher_is_better = "negative log-likelihood", -1, False
    bounds = (0.0, math.inf)

    def derived(self, value: float) -> dict[str, float]:
        """Perplexity, the exponential; infinite if that overflows."""
        return {"perplexity": math.exp(value) if value < _OVERFLOWS else math.inf}

    def _row_scores(self, rows: Tensor, classes: Tensor) -> Tensor:
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return functional.cross_entropy(rows, classes, reduction="none")


@dataclass(frozen=True)
class Perplexity(NegativeLogLikelihood):
    """Exponential of the negative log-likelihood; the mean over chips is geometric.

    It is the exponential of the mean log-likelihood of all chips: perplexities of single chips have
    too heavy a tail for an arithmetic mean.

    Args:
        ignore_index: Target that does not count, at padding and masked tokens; or None.

    Example:
        >>> metric = Perplexity()
        >>> accumulator = metric.new()
        >>> accumulator.update(torch.zeros(1, 3, 50), torch.tensor([[7, 8, -100]]))
        >>> round(accumulator.compute(), 4)
        50.0
    """

    name, geometric, bounds = "perplexity", True, (1.0, math.inf)

    def new(self) -> Accumulator:
        """See `Metric`."""
        return _ExponentialMean(self)

    def derived(self, value: float) -> dict[str, float]:
        """Negative log-likelihood in nats."""
        return {"negative log-likelihood": math.log(value)}


class _ExponentialMean(MeanScore):
    def _value(self) -> float:
        mean = super()._value()
        return math.exp(mean) if mean < _OVERFLOWS else math.inf


@dataclass(frozen=True)
class KLDivergence(MeanMetric):
    """Kullback-Leibler divergence in nats from the model as given, mean over samples or tokens.

    ``sum_k p_k log(p_k / q_k)`` of the softmax of outputs, classes on the last axis: ``p`` by the
    model as given, ``q`` by the faulty one. Needs no targets; where there are some, those that are
    ``ignore_index`` do not count, nor positions at which the attention mask of a batch is 0.

    Args:
        ignore_index: Target that does not count; or None.
    """

    ignore_index: int | None = -100
    name, higher_is_better, compares = "KL divergence", False, True
    bounds = (0.0, math.inf)

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        reference, classes = targets
        check_tensors(self, outputs, reference)
        if outputs.shape != reference.shape or outputs.ndim < 2:
            allowed = "outputs [batch, ..., classes] of one shape"
            refuse_pair(self, outputs, reference, allowed)
        if isinstance(classes, Tensor) and classes.shape != outputs.shape[:-1]:
            refuse_pair(self, outputs, classes, "targets of the outputs' shape without classes")

    def scores(self, outputs: Any, targets: Any) -> Tensor:
        """See `MeanMetric`."""
        reference, classes = targets
        wide = torch.float64 if reference.dtype == torch.float64 else torch.float32
        log_p, log_q = (logits.to(wide).log_softmax(-1) for logits in (reference, outputs))
        scores = divergences(log_p, log_q).flatten()
        if self.ignore_index is None or not isinstance(classes, Tensor):
            return scores
        return scores[classes.flatten() != self.ignore_index]


@dataclass(frozen=True)
class NextToken(Metric):
    """A metric of each output ``[batch, tokens, ...]`` against the target of the next token.

    Causal models of Hugging Face compare their ``labels`` in this way. The last output and the
    first target are left out.
    """

    metric: Metric

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.metric.name} of the next token")
        object.__setattr__(self, "higher_is_better", self.metric.higher_is_better)
        for fact in ("bounds", "geometric", "compares"):
            object.__setattr__(self, fact, getattr(self.metric, fact))

    def new(self) -> Accumulator:
        """See `Metric`."""
        return _Shifted(self.metric.new())

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Metric`."""
        self.metric.check(outputs[:, :-1], _following(targets))

    def derived(self, value: float) -> dict[str, float]:
        """See `Metric`."""
        return self.metric.derived(value)


class _Shifted(Accumulator):
    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator

    def update(self, outputs: Any, targets: Any) -> None:
        self._accumulator.update(outputs[:, :-1], _following(targets))

    def _value(self) -> float:
        value = self._accumulator.compute()
        self.failure = self._accumulator.failure
        return math.nan if value is None else value


def divergences(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row, nats: ``sum_k p_k log(p_k / q_k)``, ``[...]``.

    Args:
        log_p: Logarithms of probabilities, ``[..., classes]``.
        log_q: Those of the other distribution.
    """
    # Classes that p excludes add nothing, though they are 0 times infinity.
    terms = (log_p.exp() * (log_p - log_q)).where(log_p > -math.inf, 0.0)
    return terms.sum(-1)


def is_loss(metric: Metric | None) -> bool:
    """True for metrics that follow from the softmax of outputs, as a cross-entropy does."""
    inner = metric.metric if isinstance(metric, NextToken) else metric
    return isinstance(inner, (NegativeLogLikelihood, KLDivergence))


def _following(targets: Any) -> Any:
    """Targets of the next token; of `Compared`, beside the reference without its last output."""
    if not isinstance(targets, Compared):
        return targets[:, 1:]
    later = None if targets.targets is None else targets.targets[:, 1:]
    return Compared(targets.reference[:, :-1], later)
