"""Faults of single words that are far from second order, drawn and tried.

A fault that changes word ``i`` by ``d`` costs ``1/2 d^2 F_ii`` to second order, with ``F`` the
Fisher information. Divergences saturate: a word behind an outlier activation of a language model
may cost tens of nats by its curvature and two in fact, at every rate of faults, so that noise of
the same variance does not show it. Such words are found from a few batches, and are read
without faults in all passes with noise. One of their faults a draw, of known probability, is tried
among others that happen on the same chip: the mean over draws is the change by all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from joulewise.devices import WordMemory
from joulewise.devices.moments import taken
from joulewise.prediction.error_parts import Part
from joulewise.prediction.problem import Problem

__all__ = ["HeldWords", "LargeFault", "LargeFaults"]

# Divergence by curvature, nats, above which the faults of a word are tried.
_LEAST = 0.1


class LargeFault(NamedTuple):
    """A fault that was drawn.

    Args:
        name: Name of the placed weight.
        word: Index of the word.
        bit: The cell.
        change: Change of what is read.
        weight: Rate of the fault over the probability of its draw.
    """

    name: str
    word: tuple[int, ...]
    bit: int
    change: float
    weight: float


class HeldWords(NamedTuple):
    """Words of one tensor that are read without faults.

    Args:
        where: As of ``nonzero(as_tuple=True)``, ``[words]`` each.
        value: Their values, ``[words]``.
    """

    where: tuple[Tensor, ...]
    value: Tensor


class _Words(NamedTuple):
    """Words of one tensor, each with its possible faults.

    Args:
        held: The words.
        change: Change of what is read by a fault in each cell, ``[bits, words]``.
        rate: Rate of that fault, the same shape.
        cost: Its divergence by curvature, nats.
    """

    held: HeldWords
    change: Tensor
    rate: Tensor
    cost: Tensor


class LargeFaults:
    """Words whose single faults cost more than 0.1 nats by their curvature.

    Args:
        problem: The problem.
        parts: Placed weights to search, by name, at their points.
    """

    def __init__(self, problem: Problem, parts: Mapping[str, Part]) -> None:
        self._problem = problem
        self._parts = {name: part for name, part in parts.items() if part.has_single_faults}
        # By tensor and word, the sum over batches of estimates of its information.
        self._candidates: dict[str, dict[int, float]] = {}
        self._found: dict[str, _Words] = {}
        self._chances = torch.zeros(0, dtype=torch.float64)

    @property
    def possible(self) -> bool:
        """True if some weights are words whose faults are independent."""
        return bool(self._parts)

    @property
    def words(self) -> Mapping[str, HeldWords]:
        """The words found, by name of their tensor."""
        return {name: words.held for name, words in self._found.items()}

    def search(self, name: str, gradient: Tensor, rows: int, draws: int) -> None:
        """Look for large faults by the gradient of one of several draws of a batch.

        Args:
            name: Name of the placed weight.
            gradient: Its gradient.
            rows: Number of rows of the batch.
            draws: Number of draws of the batch.
        """
        if name not in self._parts or not rows:
            return
        memory, stored = self._memory(name), self._problem.memory.stored[name]
        shifts = memory.single_faults[0].abs().amax(0).float()
        # Costs by curvature are ``1/2 (change * gradient)^2 / rows``.
        least = (2 * _LEAST * rows) ** 0.5
        if float(shifts.max() * stored.scale.max() * gradient.abs().max()) <= least:
            return
        codes = memory.word_classes(stored).index
        farthest = taken(shifts.to(codes.device), codes) * stored.scale
        flat = ((farthest * gradient).abs() > least).flatten().nonzero()[:, 0]
        if not len(flat):
            return
        information = gradient.flatten()[flat].double().square() / (rows * draws)
        found = self._candidates.setdefault(name, {})
        for word, value in zip(flat.tolist(), information.tolist(), strict=True):
            found[word] = found.get(word, 0.0) + value

    def select(self, batches: int) -> float:
        """Select words after a search of several batches; their cost by curvature, nats a row."""
        for name, found in self._candidates.items():
            self._found[name] = self._words(name, found, batches)
        self._candidates.clear()
        chances = [(one.rate * _attention(one)).flatten() for one in self._found.values()]
        self._chances = torch.cat([*chances, torch.zeros(0, dtype=torch.float64)])
        if float(self._chances.sum()) == 0:  # no cell fails
            self._found.clear()
        return sum(float((one.rate * one.cost).sum()) for one in self._found.values())

    def clear(self) -> None:
        """Leave all words to second order."""
        self._found.clear()

    def draw(self, generator: torch.Generator) -> tuple[LargeFault, list[LargeFault]]:
        """Draw a fault, and others that happen on the same chip before it.

        With rates ``t r_i``, the mean of any function ``f`` of independent faults changes by
        ``sum_i r_i E[f(with fault i) - f(without)]`` in ``t``: faults compete for the same damage.

        Args:
            generator: On the processor.
        """
        t = torch.rand((), generator=generator, dtype=torch.float64)
        others: list[LargeFault] = []
        for name, words in self._found.items():
            hit = torch.rand(words.rate.shape, generator=generator, dtype=torch.float64)
            for bit, word in (hit < t * words.rate).nonzero().tolist():
                others.append(_fault(name, words, bit, word, 1.0))
        sums = self._chances.cumsum(0)
        at = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
        place = int(torch.searchsorted(sums, at, right=True).clamp(max=len(sums) - 1))
        chance = float(self._chances[place] / sums[-1])
        ends = torch.tensor([one.rate.numel() for one in self._found.values()]).cumsum(0)
        which = int(torch.searchsorted(ends, place, right=True))
        name, words = list(self._found.items())[which]
        start = int(ends[which]) - words.rate.numel()
        bit, word = divmod(place - start, words.rate.shape[1])
        fault = _fault(name, words, bit, word, float(words.rate[bit, word]) / chance)
        return fault, [one for one in others if (one.name, one.word) != (name, fault.word)]

    def _words(self, name: str, found: Mapping[int, float], batches: int) -> _Words:
        """Possible faults of the words found in a tensor, given sums of their information."""
        part, memory = self._parts[name], self._memory(name)
        stored = self._problem.memory.stored[name]
        codes = memory.word_classes(stored).index
        flat = torch.tensor(list(found), device=codes.device)
        where = torch.unravel_index(flat, codes.shape)
        shifts, holds = (table.to(codes.device) for table in memory.single_faults)
        some = codes[where].long()
        change = shifts[:, some] * stored.scale.expand(codes.shape)[where].double()
        rates = torch.stack([memory.wrong_rates(row) for row in part.rows.detach()])
        row = where[0] if part.by_channel else torch.zeros_like(flat)
        bits = torch.arange(memory.bits, device=codes.device)[:, None]
        rate = rates.to(codes.device)[row, holds[:, some], bits].double()
        information = torch.tensor(list(found.values()), dtype=torch.float64) / batches
        change = change.cpu()
        held = HeldWords(where, part.placed.device.ideal(stored)[where])
        return _Words(held, change, rate.cpu(), 0.5 * change.square() * information)

    def _memory(self, name: str) -> WordMemory:
        memory = self._parts[name].placed.device
        assert isinstance(memory, WordMemory)
        return memory


def _attention(words: _Words) -> Tensor:
    """Probability of a draw over the rate of a fault, up to a factor.

    Costs saturate, so it grows with their logarithm; estimates from few scores may be far too low,
    so no large change of a word is passed over.
    """
    farthest = words.change.abs().amax(0).clamp(min=1e-300)
    return words.cost.log1p() + 0.3 * (words.change / farthest).square()


def _fault(name: str, words: _Words, bit: int, word: int, weight: float) -> LargeFault:
    place = tuple(int(axis[word]) for axis in words.held.where)
    return LargeFault(name, place, bit, float(words.change[bit, word]), weight)
