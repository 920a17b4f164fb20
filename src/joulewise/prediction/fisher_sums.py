"""Sums over rows and draws of what `Fisher` predicts from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from joulewise.devices import WordMemory
from joulewise.devices.operating_point import as_point
from joulewise.prediction.error_parts import Part
from joulewise.prediction.fisher_scores import FisherScores, LossPass
from joulewise.prediction.head_curvature import HeadCurvature
from joulewise.prediction.large_faults import LargeFaults
from joulewise.prediction.loss_forecast import LossForecast
from joulewise.prediction.noise_draws import NoiseDraw, NoiseDraws
from joulewise.prediction.problem import Problem

__all__ = ["FisherSums"]

# Levels of the quantiles over chips.
_LEVELS = (0.05, 0.5, 0.95, 0.99)
# Share of the divergence by large faults of a head, above which they decide the quantiles.
_RANDOM = 0.5
# Multiples of the golden ratio, modulo 1, are spread evenly over [0, 1]: values of t.
_GOLDEN = (5**0.5 - 1) / 2
# Batches searched for large faults, and the share of the divergence below which they are not tried.
_SEARCHED, _NEGLIGIBLE = 4, 0.01
# Number of the draw for that search; those of batches are smaller.
_SEARCH = 10**6
_AT_NOISE = "at noise of the memory"
# Divergence of a row, nats, below which rounding errors matter, and higher orders do not.
_ROUNDING = 1e-6


class _Mean(NamedTuple):
    """A batch at the mean read: rows, and divergence and loss summed over them."""

    rows: int
    divergence: float
    loss: float | None


class FisherSums:
    """Sums over rows and draws.

    Args:
        problem: The problem.
        higher_order: False for the information at the mean alone.
        channels: True for the contribution of each output channel.
        seed: Seed of the draws.

    Attributes:
        rows: Number of rows.
        draws: The draws.
    """

    def __init__(self, problem: Problem, *, higher_order: bool, channels: bool, seed: int) -> None:
        self._problem, self._by_channel = problem, channels
        self._scores = FisherScores(problem, seed=seed)
        # Noise of weights, if there are any.
        self._noisy = higher_order and bool(problem.placement.weights)
        self._parts = {
            p.name: Part(p, problem.memory, as_point(problem.points[p.name]))
            for p in problem.placement.weights
            if p.name not in self._scores.shared
        }
        # Per row of points and class, in units of half the squared score.
        self._half_var = {name: part.variance().detach() / 2 for name, part in self._parts.items()}
        # Contributions of weights with a shared factor and of activations, without a sum by class.
        self._other: dict[str, Tensor] = {}
        self._channels: dict[str, Tensor] = {}
        # Contributions of large faults, by bit plane and by channel.
        self._tried: dict[str, Tensor] = {}
        self._tried_channels: dict[str, Tensor] = {}
        self._head: HeadCurvature | None = None
        body = dict(self._parts)
        if (head := self._scores.head) is not None:
            self._head = HeadCurvature(body.pop(head.name), problem)
        if self._counted and self._noisy:  # none of the head's faults is counted twice
            self._scores.hold_head()
        self._large = LargeFaults(problem, body if higher_order else {})
        self._searched = 0  # batches with rows
        self._means: dict[int, _Mean] = {}
        self.draws = NoiseDraws()
        self.rows = self._with_targets = 0
        self._divergence = self._loss = self._given = 0.0
        self.draws.all_orders = self._noisy

    @property
    def _counted(self) -> bool:
        """True for a head whose single faults are added one by one."""
        return self._head is not None and self._head.faults is not None

    def add(self, draws: Mapping[int, Sequence[int]], share: float | None = None) -> None:
        """Add draws of each batch.

        Args:
            draws: Their numbers, by that of the batch.
            share: Share of all draws before in the estimate; None for equal weights of all draws.
        """
        first, done = not self._means, 0
        steps = sum(map(len, draws.values())) + first * len(draws)

        def report() -> None:
            nonlocal done
            done += 1
            self._problem.progress(done / steps * len(draws), len(draws))

        if first:
            for number in draws:
                self._add_mean(number)
                report()
            self._select()
        found: list[tuple[int, NoiseDraw]] = []
        for number, own in draws.items():
            # A backward pass for every other draw; the second is without one.
            start = 0 if first or share is not None else 1
            curved = own if self._all_curvature else own[start::2]
            weight = curvature_weight = 1.0
            if share is not None:
                more = 1 / share - 1
                weight = more * self.draws.weight / len(own)
                curvature_weight = more * self.draws.curvature_weight / len(curved)
            # Without noise all draws of a batch share a pass.
            mean_pass = None if self._noisy else self._scores.forward(number)
            for draw in own:
                curvature = curvature_weight if draw in curved else 0.0
                found.append((number, self._drawn(number, draw, weight, curvature, mean_pass)))
                report()
            del mean_pass  # frees its graph before that of the next batch
        self.draws.add(found)
        if first and abs(self.draws.mean_of("noise")) < _ROUNDING * self.rows:
            self.draws.all_orders = False

    @property
    def _all_curvature(self) -> bool:
        """True if each draw needs a backward pass."""
        activations = any(p.role == "activation" for p in self._problem.placement.placed)
        return activations or not self.draws.all_orders

    def _add_mean(self, number: int) -> None:
        """Add a batch at the mean read."""
        searched = self._large.possible and len(self._means) < _SEARCHED
        one = self._scores.forward(number, graph=searched)
        self.rows += one.rows
        self._divergence += one.divergence
        if (losses := one.losses) is not None:
            self._loss, self._given = self._loss + losses[0], self._given + losses[1]
            self._with_targets += one.rows
        exact = self._counted or not self._noisy
        if self._head is not None and exact and one.hidden is not None:
            self._head.add(one.hidden, one.log_p.detach())
        if searched:
            # Draws that are not used again, so that words are not selected by what they add.
            scores = math.ceil(_SEARCHED / len(self._problem.numbers))
            for score in range(scores):
                search = partial(self._large.search, rows=one.rows, draws=scores)
                self._scores.draw(one, _SEARCH + score, search)
            self._searched += one.rows > 0
        self._means[number] = _Mean(one.rows, one.divergence, None if losses is None else losses[0])

    def _select(self) -> None:
        """Try single faults of words, if those found matter beside what is known of the rest."""
        cost = self._large.select(max(self._searched, 1))
        head = self._head_divergence() if self._counted else 0.0
        if cost < _NEGLIGIBLE * (self._divergence / max(self.rows, 1) + head + cost):
            self._large.clear()

    def _drawn(
        self,
        number: int,
        draw: int,
        weight: float,
        curvature_weight: float,
        mean_pass: LossPass | None,
    ) -> NoiseDraw:
        """A draw of a batch, with a backward pass if it has a weight for it."""
        curvature = others = noise = excess = 0.0
        if mean_pass is not None:
            curvature, others = self._added(mean_pass, draw, curvature_weight)
            return NoiseDraw(weight, curvature_weight, noise, curvature, others, excess)
        root = None
        if curvature_weight:
            t = (0.5 + (draw * len(self._problem.batches) + number) * _GOLDEN) % 1
            root = t**0.5
            self._scores.move(number, draw, root, self._large.words)
            one = self._scores.forward(number, where=_AT_NOISE)
            if self._head is not None and not self._counted and one.hidden is not None:
                self._head.add(one.hidden, one.log_p.detach(), curvature_weight)
            curvature, others = self._added(one, draw, curvature_weight)
            del one  # frees the graph
        mean = self._means[number]
        self._scores.move(number, draw, 1.0, self._large.words, root)
        for sign in (1, -1):  # opposite noise: odd orders cancel
            if sign < 0:
                self._scores.mirror(self._large.words)
            one = self._scores.forward(number, graph=False, where=_AT_NOISE)
            found = one.divergence - mean.divergence
            noise += found / 2
            if one.losses is not None and mean.loss is not None:
                excess += (one.losses[0] - mean.loss - found) / 2
            if sign > 0 and self._large.words and one.rows:
                cost, beyond = self._added_fault(one, draw, weight)
                others, excess = others + cost, excess + beyond
        return NoiseDraw(weight, curvature_weight, noise, curvature, others, excess)

    def _added_fault(self, one: LossPass, draw: int, weight: float) -> tuple[float, float]:
        """Add a fault of one word, tried; its contribution, and the excess of that to the loss."""
        generator = self._scores.generator(torch.device("cpu"), one.number, draw, _SEARCH)
        fault, others = self._large.draw(generator)
        found, loss = (fault.weight * x for x in self._scores.tried(one, fault, others))
        memory = self._parts[fault.name].placed.device
        assert isinstance(memory, WordMemory)
        _add_at(self._tried, fault.name, memory.bits, fault.bit, weight * found)
        if self._by_channel and len(fault.word) > 1:
            channels = len(self._scores.means[fault.name])
            _add_at(self._tried_channels, fault.name, channels, fault.word[0], weight * found)
        return found, loss - found if one.losses is not None else 0.0

    def _added(self, one: LossPass, number: int, weight: float) -> tuple[float, float]:
        """Add a backward pass; contributions of weights and of activations at the plan."""
        weights: list[float] = []
        activations: list[float] = []

        def take(name: str, gradient: Tensor) -> None:
            weights.append(self._added_weight(name, gradient, weight))

        draw = self._scores.draw(one, number, take)
        for use, caught in draw.activations:
            if caught is not None:
                spent = (caught.double().square() * use.var.double()).sum() / 2
                activations.append(self._added_to(use.placed.name, spent, weight))
        return sum(weights), sum(activations)

    def _added_weight(self, name: str, gradient: Tensor, weight: float) -> float:
        """Add the gradient of a weight; its contribution at the plan."""
        if name in self._scores.shared:
            return self._added_shared(name, gradient, weight)
        if name in self._large.words:
            gradient[self._large.words[name].where] = 0
        part, half = self._parts[name], self._half_var[name]
        if self._by_channel and gradient.ndim > 1:
            self._add_channels(name, weight * part.by_channel_sum(gradient, half))
        return float((part.add_scores(gradient, weight) * half).sum())

    def _added_shared(self, name: str, gradient: Tensor, weight: float) -> float:
        """Add the gradient of a weight whose words share a factor; its contribution."""
        m = self._scores.moments_of(name)
        assert m.common is not None
        # 1/2 g^T C g: the variances of the words alone, and that of the factor along g.
        each = m.common.own(m.mean, m.var).double() * gradient.double().square() / 2
        if self._by_channel and gradient.ndim > 1:
            self._add_channels(name, weight * each.flatten(1).sum(1).cpu())
        parts = (m.mean, m.common.coupling)
        sums = ((part * gradient).sum(dtype=torch.float64) for part in parts)
        return self._added_to(name, each.sum() + m.common.variance(*sums) / 2, weight)

    def _add_channels(self, name: str, found: Tensor) -> None:
        self._channels[name] = found + self._channels.get(name, torch.zeros_like(found))

    def _added_to(self, name: str, addend: Tensor, weight: float) -> float:
        none = torch.zeros((), dtype=torch.float64)
        self._other[name] = self._other.get(name, none) + weight * addend.cpu()
        return float(addend.detach())

    def _noise(self) -> tuple[float, float]:
        """Divergence by the noise of weights: as predicted, and from the information; mean."""
        curvature = self.draws.mean_of("curvature") / self.rows
        if self._head is not None and not self._counted:
            curvature += self._head_divergence()
        if not self.draws.all_orders:
            return curvature, curvature
        return self.draws.mean_of("noise") / self.rows, curvature

    def _head_divergence(self) -> float:
        assert self._head is not None
        return float(self._head.contribution().detach())

    def divergence(self) -> float:
        """Divergence at the plan, mean over rows, nats."""
        others = (self._divergence + self.draws.mean_of("others")) / self.rows
        return others + self._noise()[0] + (self._head_divergence() if self._counted else 0.0)

    def standard_error(self, *, loss: bool = False) -> float | None:
        """Standard error of the divergence or the loss; None for one draw of one batch."""
        squared = self.draws.squared_error(loss=loss)
        return None if squared is None else float(squared**0.5) / self.rows

    def forecast(self) -> LossForecast:
        """The forecast."""
        problem, rows = self._problem, self.rows
        whole = self.divergence()
        contributions, by_plane = self._contributions()
        known = self._with_targets == rows
        # Noise that changes choices alone has no information to divide it by.
        noise, curvature = self._noise()
        undivided = noise if curvature <= 0 else 0.0
        tried = self.draws.weight * rows
        return LossForecast(
            method="Fisher information",
            plan=problem.plan,
            rows=rows,
            mean_divergence=torch.tensor(self._divergence / rows + undivided, dtype=torch.float64),
            contributions=contributions,
            by_plane=by_plane,
            by_channel=self._channel_contributions(),
            standard_error=self.standard_error(),
            loss_standard_error=self.standard_error(loss=True) if known else None,
            draws=len(self.draws),
            large_faults={name: float(f.sum()) / tried for name, f in self._tried.items()},
            quantiles=self._quantiles(whole),
            given=self._given / rows if known else None,
            mean_loss=self._loss / rows + undivided if known else None,
            loss_excess=self.draws.mean_of("excess") / rows if self.draws.all_orders else 0.0,
        )

    def _quantiles(self, whole: float) -> dict[float, float]:
        """Quantiles of the divergence over chips; empty where large faults are not most of it."""
        head = self._head
        if head is None or head.random_part() < _RANDOM * whole:
            return {}
        away = head.deviations(_LEVELS)
        return {q: max(whole + one, 0.0) for q, one in zip(_LEVELS, away, strict=True)}

    def _scale(self) -> float:
        """Contributions to all orders over those from the information, the same for all weights."""
        noise, curvature = self._noise()
        return noise / curvature if curvature > 0 else 1.0

    def _contributions(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Contributions of placed tensors, and of bit planes alone."""
        scale, contributions = self._scale(), dict[str, Tensor]()
        draws = self.rows * self.draws.curvature_weight
        by_plane: dict[str, Tensor] = {}
        for placed in self._problem.placement.placed:
            name, none = placed.name, torch.zeros((), dtype=torch.float64)
            own = self._other.get(name, none) / draws
            own = own * scale if placed.role == "weight" else own
            tried = self._tried.get(name, none) / (self.rows * self.draws.weight)
            if name in self._parts:
                part = self._parts[name]
                own = own + scale * (part.variance() * part.squares).sum() / (2 * draws)
                if isinstance(placed.device, WordMemory) and placed.device.states_moments:
                    by_plane[name] = scale * part.plane_sums(part.squares) / (2 * draws) + tried
            if self._head is not None and name == self._head.part.placed.name:
                factor = 1.0 if self._counted else scale
                own = own + factor * self._head.contribution()
                if name in by_plane:
                    by_plane[name] = by_plane[name] + factor * self._head.by_plane()
            contributions[name] = own + tried.sum()
        return contributions, by_plane

    def _channel_contributions(self) -> dict[str, Tensor]:
        scale = self._scale() / (self.rows * self.draws.curvature_weight)
        found = {name: scale * channels for name, channels in self._channels.items()}
        for name, channels in self._tried_channels.items():
            found[name] = found[name] + channels / (self.rows * self.draws.weight)
        return found


def _add_at(table: dict[str, Tensor], name: str, size: int, place: int, value: float) -> None:
    table.setdefault(name, torch.zeros(size, dtype=torch.float64))[place] += value
