"""Loss and divergence by the Fisher information: any network with a cross-entropy.

With ``wbar`` and ``v`` the mean and variance of what is read, and ``F`` the Fisher information at
the mean,

    E[KL] = KL(wbar) + 1/2 sum_i v_i F_ii,

to second order in the noise, and the same for the loss. The first term is exact. The second takes
one backward pass for each draw of classes; see `joulewise.prediction.fisher_scores`.

Higher orders come from the information at ``w_t = wbar + sqrt(t v) n``, with ``n`` standard normal
and ``t`` uniform in [0, 1]. For independent Gaussian noise the heat equation gives

    d/dt E[KL(w_t)] = 1/2 sum_i v_i E[d^2 KL(w_t) / dw_i^2],

and the integral over ``t`` is ``E[KL] - KL(wbar)``. The second derivative is taken to be the
information at ``w_t`` (Gauss-Newton): left out is the curvature of the logits, weighted by the
differences between the probabilities at ``w_t`` and those of the model as given. Noise of another
law differs by terms of fourth order in the noise of single words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from joulewise.devices import WordMemory
from joulewise.devices.operating_point import as_point
from joulewise.errors import check_count, check_in_range, check_kind, refuse
from joulewise.prediction.draw_allocation import further_draws
from joulewise.prediction.error_parts import Part
from joulewise.prediction.fisher_scores import FisherScores, LossPass
from joulewise.prediction.head_curvature import HeadCurvature
from joulewise.prediction.large_faults import LargeFaults
from joulewise.prediction.loss_forecast import LossForecast
from joulewise.prediction.problem import Problem

__all__ = ["Fisher"]

# Levels of the quantiles over chips.
_LEVELS = (0.05, 0.5, 0.95, 0.99)
# Least degrees of freedom of a standard error.
_FREEDOM = 8
# Multiples of the golden ratio, modulo 1, are spread evenly over [0, 1]: values of t.
_GOLDEN = (5**0.5 - 1) / 2
# Batches searched for large faults, and the share of the divergence below which they are not tried.
_SEARCHED, _NEGLIGIBLE = 4, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher:
    """Loss and divergence by the Fisher information, for outputs that are logits.

    Logits ``[batch, classes]`` or ``[batch, tokens, classes]``; targets are not needed for the
    divergence. Left out are correlations between faults of different words, and choices that faults
    change. In a mixture of experts the last are most of the cost of faults in a router.

    Args:
        draws: Draws of classes for each row, 1 or more; one backward pass each.
        precision: Standard error of the divergence relative to it; batches take more draws until it
            is reached, at most ``most_draws``. Batches of few samples need fewer draws.
        most_draws: The most draws for each row.
        higher_order: True for the information at noise between none and that of the memory, one
            more forward pass for each draw; False for that at the mean alone, which is second order
            in the noise.
        channels: True for the contribution of each output channel too, but of the head's classes.
        seed: Seed of the draws.

    Raises:
        InputError: if a field is outside its range.

    References:
        The Fisher information is the second derivative of the divergence: S. Amari, "Natural
        gradient works efficiently in learning", Neural Computation 10(2), 1998. Scores of sampled
        classes: F. Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS
        2019. The sum over rows from one backward pass of a batch is ours.
    """

    draws: int = 2
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
        sums, numbers = _Sums(problem, self), problem.numbers
        done = self.draws
        if done > 1:  # enough draws for a reliable standard error
            done = max(done, min(1 + math.ceil(_FREEDOM / len(numbers)), self.most_draws))
        sums.add({number: range(done) for number in numbers}, 1.0)
        whole, error = sums.divergence(), sums.standard_error()
        # One standard deviation above the estimated error: where the draws so far happen to be low,
        # so is their error, and stopping then would make predictions too low.
        cautious = 1 + (2 * len(numbers) * max(done - 1, 1)) ** -0.5
        goal, most = self.precision * whole / cautious, self.most_draws - done
        if error is not None and error > goal > 0 and most > 0:
            variances = [sums.variance(number) for number in numbers]
            share, further = further_draws(variances, done, goal * sums.rows, most)
            more = {n: range(done, done + m) for n, m in zip(numbers, further, strict=True)}
            sums.add(more, (1 - share) / share)
        return sums.forecast()


class _Sums:
    """Sums over rows and draws.

    Args:
        problem: The problem.
        method: The options.
    """

    def __init__(self, problem: Problem, method: Fisher) -> None:
        self._problem, self._method = problem, method
        self._scores = FisherScores(problem, seed=method.seed)
        self._parts = {
            p.name: Part(p, problem.memory, as_point(problem.points[p.name]))
            for p in problem.placement.weights
            if p.name not in self._scores.shared
        }
        # Per row of points and class, in units of half the squared score.
        self._half_var = {name: part.variance().detach() / 2 for name, part in self._parts.items()}
        # Contributions that are no sum over classes of words: activations, shared factors, faults
        # that were tried; the last also by bit plane.
        self._other: dict[str, Tensor] = {}
        self._tried: dict[str, Tensor] = {}
        self._channels: dict[str, Tensor] | None = {} if method.channels else None
        self._head: HeadCurvature | None = None
        body = dict(self._parts)
        if (head := self._scores.head) is not None:
            self._head = HeadCurvature(body.pop(head.name), problem)
        self._large = LargeFaults(problem, body)
        # By batch, the contributions of each draw at the plan, and its weight.
        self._totals: dict[int, list[tuple[float, float]]] = {}
        # Sum of the weights of the draws of a batch, the same for all.
        self._weight = 0.0
        self.rows = self._with_targets = 0
        self._divergence = self._loss = self._given = 0.0

    def add(self, draws: Mapping[int, Sequence[int]], weight: float) -> None:
        """Add draws of each batch, whose weights sum to ``weight``."""
        first = not self._totals
        passes = first * len(draws)
        passes += sum(map(len, draws.values())) if self._method.higher_order else 0
        done = 0
        for number, own in draws.items():
            if first or not self._method.higher_order:
                self._add_mean(number, own, weight / len(own))
                done += 1
                self._report(done, passes)
        if first and self._large.possible and self._method.higher_order:
            self._select()
        for draw in range(max(map(len, draws.values()))):
            for number, own in draws.items():
                if draw < len(own) and self._method.higher_order:
                    self._add_noisy(number, own[draw], weight / len(own))
                    done += 1
                    self._report(done, passes)
        self._weight += weight

    def _report(self, done: int, passes: int) -> None:
        numbers = len(self._problem.numbers)
        self._problem.progress(min(done / max(passes, 1), 1.0) * numbers, numbers)

    def _add_mean(self, number: int, draws: Sequence[int], weight: float) -> None:
        """Add a batch at the mean read, with its draws unless `_add_noisy` has them."""
        one, searched = self._scores.forward(number), len(self._totals) < _SEARCHED
        if number not in self._totals:
            self._totals[number] = []
            self._add_pass(one)
        if not self._method.higher_order:
            self._totals[number] += [(self._added(one, draw, weight), weight) for draw in draws]
        elif searched and self._large.possible:
            search = partial(self._large.search, rows=one.rows)
            self._scores.draw(one, self._method.most_draws, search)

    def _select(self) -> None:
        """Try single faults of words, if those found matter beside what is known of the rest."""
        cost = self._large.select(min(len(self._totals), _SEARCHED))
        head = 0.0 if self._head is None or self._head.faults is None else self._head_divergence()
        if cost < _NEGLIGIBLE * (self._divergence / self.rows + head + cost):
            self._large.clear()

    def _add_noisy(self, number: int, draw: int, weight: float) -> None:
        """Add a draw of a batch at noise of its own."""
        t = (0.5 + (draw * len(self._problem.batches) + number) * _GOLDEN) % 1
        # A head whose single faults are added one by one stays at its mean, so that none of them is
        # counted twice.
        counted = self._head is not None and self._head.faults is not None
        head = self._scores.head
        fixed = head.name if head and counted else None
        self._scores.move(number, draw, t, fixed, self._large.words)
        one = self._scores.forward(number)
        if self._head is not None and not counted and one.hidden is not None:
            self._head.add(one.hidden, one.log_p.detach(), weight)
        total = self._added(one, draw, weight)
        if self._large.words:
            one = replace(one, log_p=one.log_p.detach(), activations=())  # frees the graph
            total += self._added_fault(one, draw, weight)
        self._totals[number].append((total, weight))

    def _added_fault(self, one: LossPass, draw: int, weight: float) -> float:
        """Add a fault of one word, tried; its contribution."""
        if not one.rows:
            return 0.0
        fault = self._large.draw(self._scores.generator(torch.device("cpu"), one.number, draw))
        found = self._scores.tried(one, fault) * fault.weight
        memory = self._parts[fault.name].placed.device
        assert isinstance(memory, WordMemory)
        planes = self._tried.setdefault(fault.name, torch.zeros(memory.bits, dtype=torch.float64))
        planes[fault.bit] += weight * found
        if self._channels is not None and len(fault.word) > 1:
            channels = torch.zeros(len(self._scores.means[fault.name]), dtype=torch.float64)
            channels[fault.word[0]] = weight * found
            self._add_channels(fault.name, channels)
        return found

    def _add_pass(self, one: LossPass) -> None:
        """Add what does not depend on draws."""
        self.rows += one.rows
        self._divergence += one.divergence
        if (losses := one.losses) is not None:
            self._loss, self._given = self._loss + losses[0], self._given + losses[1]
            self._with_targets += one.rows
        if self._head is None or one.hidden is None:
            return
        if self._head.faults is not None or not self._method.higher_order:
            self._head.add(one.hidden, one.log_p.detach())

    def _added(self, one: LossPass, number: int, weight: float) -> float:
        """Add a draw; its contributions at the plan."""
        found: list[float] = []

        def take(name: str, gradient: Tensor) -> None:
            found.append(self._added_weight(name, gradient, weight))

        draw = self._scores.draw(one, number, take)
        for use, caught in draw.activations:
            if caught is not None:
                spent = (caught.double().square() * use.var.double()).sum() / 2
                found.append(self._added_to(use.placed.name, spent, weight))
        return sum(found)

    def _added_weight(self, name: str, gradient: Tensor, weight: float) -> float:
        """Add the gradient of a weight; its contribution at the plan."""
        if name in self._scores.shared:
            return self._added_shared(name, gradient, weight)
        if name in self._large.words:
            gradient[self._large.words[name]] = 0
        part, half = self._parts[name], self._half_var[name]
        if self._channels is not None and gradient.ndim > 1:
            self._add_channels(name, weight * part.by_channel_sum(gradient, half))
        return float((part.add_scores(gradient, weight) * half).sum())

    def _added_shared(self, name: str, gradient: Tensor, weight: float) -> float:
        """Add the gradient of a weight whose words share a factor; its contribution."""
        m = self._scores.moments_of(name)
        assert m.common is not None
        # 1/2 g^T C g: the variances of the words alone, and that of the factor along g.
        each = m.common.own(m.mean, m.var).double() * gradient.double().square() / 2
        if self._channels is not None and gradient.ndim > 1:
            self._add_channels(name, weight * each.flatten(1).sum(1).cpu())
        parts = (m.mean, m.common.coupling)
        sums = ((part * gradient).sum(dtype=torch.float64) for part in parts)
        return self._added_to(name, each.sum() + m.common.variance(*sums) / 2, weight)

    def _add_channels(self, name: str, found: Tensor) -> None:
        assert self._channels is not None
        self._channels[name] = found + self._channels.get(name, torch.zeros_like(found))

    def _added_to(self, name: str, addend: Tensor, weight: float) -> float:
        none = torch.zeros((), dtype=torch.float64)
        self._other[name] = self._other.get(name, none) + weight * addend.cpu()
        return float(addend.detach())

    def divergence(self) -> float:
        """Divergence at the plan, mean over rows, nats."""
        draws = sum(sum(x * w for x, w in totals) for totals in self._totals.values())
        head = 0.0 if self._head is None else self._head_divergence()
        return (self._divergence + draws / self._weight) / self.rows + head

    def _head_divergence(self) -> float:
        assert self._head is not None
        return float(self._head.contribution().detach())

    def variance(self, number: int) -> float:
        """Variance of the draws of a batch, summed over its rows; two draws or more."""
        draws = [x for x, _ in self._totals[number]]
        return float(torch.tensor(draws, dtype=torch.float64).var())

    def standard_error(self) -> float | None:
        """Standard error of the divergence over draws; None for one draw."""
        # Draws of different batches are independent: the variances of their means add up.
        squared = 0.0
        for number, totals in self._totals.items():
            if len(totals) < 2:
                return None
            shares = sum((w / self._weight) ** 2 for _, w in totals)
            squared += self.variance(number) * shares
        return float(squared**0.5) / self.rows

    def forecast(self) -> LossForecast:
        """The forecast."""
        problem, rows = self._problem, self.rows
        numbers = rows * self._weight
        contributions: dict[str, Tensor] = {}
        by_plane: dict[str, Tensor] = {}
        for placed in problem.placement.placed:
            name, none = placed.name, torch.zeros((), dtype=torch.float64)
            own = self._other.get(name, none) / numbers
            tried = self._tried.get(name)
            if tried is not None:
                own = own + tried.sum() / numbers
            if name in self._parts:
                part = self._parts[name]
                own = own + (part.variance() * part.squares).sum() / (2 * numbers)
                if isinstance(placed.device, WordMemory) and placed.device.states_moments:
                    by_plane[name] = part.plane_sums(part.squares) / (2 * numbers)
                    if tried is not None:
                        by_plane[name] = by_plane[name] + tried / numbers
            if self._head is not None and name == self._head.part.placed.name:
                own = own + self._head.contribution()
                if name in by_plane:
                    by_plane[name] = by_plane[name] + self._head.by_plane()
            contributions[name] = own
        known = self._with_targets == rows
        whole = self.divergence()
        deviations = [0.0] * len(_LEVELS) if self._head is None else self._head.deviations(_LEVELS)
        quantiles = {
            level: max(whole + away, 0.0) for level, away in zip(_LEVELS, deviations, strict=True)
        }
        return LossForecast(
            method="Fisher information",
            plan=problem.plan,
            rows=rows,
            mean_divergence=torch.tensor(self._divergence / rows, dtype=torch.float64),
            contributions=contributions,
            by_plane=by_plane,
            by_channel={n: c / numbers for n, c in (self._channels or {}).items()},
            standard_error=self.standard_error(),
            draws=sum(map(len, self._totals.values())),
            large_faults={n: float(c.sum()) / numbers for n, c in self._tried.items()},
            quantiles=quantiles if any(deviations) else {},
            given=self._given / rows if known else None,
            mean_loss=self._loss / rows if known else None,
        )
