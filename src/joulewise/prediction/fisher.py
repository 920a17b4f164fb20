"""Loss and divergence by the Fisher information: any network with a cross-entropy.

With ``wbar`` and ``v`` the mean and variance of what is read, and ``F`` the Fisher information at
the mean,

    E[KL] = KL(wbar) + 1/2 sum_i v_i F_ii,

to second order in the noise, and the same for the loss. The first term is exact. The second takes
one backward pass for each draw of classes; see `joulewise.prediction.fisher_scores`.

Higher orders come from passes at Gaussian noise ``n`` of the variance of what is read: the mean of
``KL(wbar + n)`` and ``KL(wbar - n)`` has all orders that depend on the variances alone. It gives
the whole; the information, at ``wbar + sqrt(t) n`` with ``t`` uniform in [0, 1], gives its division
among tensors, bit planes and channels. For independent Gaussian noise the heat equation,

    d/dt E[KL(wbar + sqrt(t) n)] = 1/2 sum_i v_i E[d^2 KL / dw_i^2],

makes that division exact where the second derivative is the information. Noise of another law
differs by terms of fourth order in the noise of single words; those of single faults that are large
are added one by one (see `joulewise.prediction.large_faults` and `head_faults`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from joulewise.errors import check_count, check_in_range, check_kind, refuse
from joulewise.prediction.fisher_sums import FisherSums
from joulewise.prediction.loss_forecast import LossForecast
from joulewise.prediction.noise_draws import further_draws
from joulewise.prediction.problem import Problem

__all__ = ["Fisher"]

# Least degrees of freedom of a standard error.
_FREEDOM = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher:
    """Loss and divergence by the Fisher information, for outputs that are logits.

    Logits ``[batch, classes]`` or ``[batch, tokens, classes]``; targets are not needed for the
    divergence. Left out are correlations between faults of different words; those of the calls of a
    layer that a pass calls several times, for its placed activations; for words, the product of the
    two gradients of a table that is the head too; and large faults of a head's bias. Choices that
    faults change, as in a router of experts, are in the whole but have no information: the whole is
    then divided among the other tensors, or, without higher orders, too low.

    Args:
        draws: Draws of noise for each batch, 1 or more: two passes, and a backward pass for every
            other draw.
        precision: Standard error of the divergence relative to it; batches take more draws until it
            is reached, at most ``most_draws``. Batches of few samples need fewer draws.
        most_draws: The most draws for each batch.
        higher_order: False for the information at the mean alone, which is second order in the
            noise: one backward pass for each draw.
        channels: True for the contribution of each output channel too, but of the head's classes.
        seed: Seed of the draws.

    Raises:
        InputError: if a field is outside its range.

    References:
        The Fisher information is the second derivative of the divergence: S. Amari, "Natural
        gradient works efficiently in learning", Neural Computation 10(2), 1998. The sum over rows
        from one backward pass of a batch is ours.
    """

    draws: int = 1
    precision: float = 0.05
    most_draws: int = 64
    higher_order: bool = True
    channels: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("draws", self.draws, 1, 10**4)
        check_in_range("precision", self.precision, 0.0, 10.0, open_low=True)
        check_count("most_draws", self.most_draws, self.draws, 10**4)
        check_kind("higher_order", self.higher_order, bool, "True or False")
        check_kind("channels", self.channels, bool, "True or False")
        check_count("seed", self.seed, 0, 2**62)

    def forecast(self, problem: Problem) -> LossForecast:
        """See `joulewise.prediction.predict`."""
        if problem.differentiable:
            allowed = "points without gradients, or joulewise.error_model(..., of='divergence')"
            refuse("at", "points that require gradients, for method fisher", allowed)
        numbers = problem.numbers
        sums = FisherSums(
            problem, higher_order=self.higher_order, channels=self.channels, seed=self.seed
        )
        sums.add({number: range(self.draws) for number in numbers})
        # Two draws or more of a batch give its own variance, and several batches a variance that
        # the differences between them increase.
        done = max(self.draws, 1 + math.ceil(_FREEDOM / len(numbers)))
        done = min(done, self.most_draws)
        if done > self.draws and not self._precise(sums):
            sums.add({number: range(self.draws, done) for number in numbers})
        if 1 < done < self.most_draws and not self._precise(sums):
            variances, goal = sums.draws.variances(), max(self._goal(sums), 0.0) * sums.rows
            share, further = further_draws(variances, done, goal, self.most_draws - done)
            more = {n: range(done, done + m) for n, m in zip(numbers, further, strict=True)}
            sums.add(more, share)
        return sums.forecast()

    def _precise(self, sums: FisherSums) -> bool:
        error = sums.standard_error()
        return error is not None and error <= self._goal(sums)

    def _goal(self, sums: FisherSums) -> float:
        """Standard error to reach, nats."""
        # One standard deviation below it: where the draws so far happen to agree, their error is
        # underestimated, and stopping then would make predictions too low.
        cautious: float = 1 + (2 * sums.draws.freedom) ** -0.5
        return self.precision * sums.divergence() / cautious
