"""Bit faults in the layer that gives the logits, beyond their curvature.

One faulty word of the head moves the logit of one class by ``D = shift * h``. Where ``D`` is large
the divergence is far from its second-order form: a common offset of a column, which the softmax
ignores, may lift an unlikely class by ``e^20`` when one row of it is lost. With ``p`` the
probabilities at the mean read, ``r`` the rate of a fault, and ``X = p (e^D - 1)``, a row of
outputs costs, beyond second order,

    B = sum r [log(1 + X) - p D - 1/2 p (1 - p) D^2]

from single faults; and from several at once, which compete for the same probability, the
difference of ``E log(1 + sum X)`` and ``sum r log(1 + X)`` over ``X > 0``, where for Poisson faults
(Frullani's integral)

    E log(1 + sum X) = int_0^inf e^-s / s [1 - exp(-sum r (1 - e^{-s X}))] ds.

Faults with ``|D| < 1``, and those of classes that stay below ``e^-7``, are left to second order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from joulewise.devices import WordMemory
from joulewise.words import Words

__all__ = ["HeadFaults"]

# Least change of a logit, and least logarithm of the class' probability after it, that count. Four
# other settings of these change the result for a language model by less than 1 %.
_LEAST_CHANGE, _LEAST_LOG = 1.0, -7.0
# Classes are selected for changes of up to these sizes at a time.
_REACHES = (2.0, 4.0, 8.0, 16.0)
# Histogram of log X, and nodes of the integral in log s: its integrand varies over a unit.
_LOWEST, _HIGHEST, _WIDTH = -8.0, 40.0, 0.1
_BINS = round((_HIGHEST - _LOWEST) / _WIDTH)
_STEP = 0.4
_NODES = torch.arange(-_HIGHEST - 3.0, 4.0, _STEP, dtype=torch.float64)
# Cost of a fault in one row, nats, above which quantiles treat it as a random event.
_LARGE = 1e-2
# Classes whose words are unpacked at a time.
_BLOCK = 4096
# Chips drawn for quantiles.
_CHIPS = 20_000


class HeadFaults:
    """Costs of single faults in the words of a head, summed over rows of outputs.

    Kinds of faults are cells of a word, by what they hold: ``[2, bits]`` flattened.

    Args:
        memory: The memory of the head, whose words are not protected.
        stored: Its words, ``[classes, inputs]``.
        shares: Rates of each class over those that methods take, ``[kinds, classes]``; None for
            equal rates.
    """

    def __init__(self, memory: WordMemory, stored: Words, shares: Tensor | None = None) -> None:
        self._memory, self._shares = memory, shares
        classes, inputs = stored.codes.shape
        index = memory.word_classes(stored).index.cpu()
        self._codes = index.numpy()
        self._columns_of_codes = np.ascontiguousarray(self._codes.T)
        # Scales are those of classes, of inputs, one for all, or those of groups. All but the last
        # are products of a row and a column: no matrix of scales is kept for them.
        scale = stored.scale.float().cpu()
        scale = scale.reshape(scale.shape if scale.ndim == 2 else (1, 1))
        self._group_scale = None
        if min(scale.shape) > 1:
            self._group_scale, scale = scale, torch.ones(1, 1)
        self._row_scale = (
            scale.expand(classes, 1) if scale.shape[1] == 1 else torch.ones(classes, 1)
        )
        self._column_scale = scale[0] if scale.shape[1] > 1 else torch.ones(inputs)
        shifts, holds = memory.single_faults
        self._shifts, self._holds = shifts.float(), holds
        self._kinds = 2 * memory.bits
        # Largest change of a word in each column, by a fault in each cell.
        self._columns = torch.zeros(memory.bits, inputs)
        for start in range(0, classes, _BLOCK):  # by blocks: an index of int64 is large
            block = slice(start, start + _BLOCK)
            scales = self._row_scale[block] * self._column_scale
            if self._group_scale is not None:
                scales = self._group_scale[block]
            codes = index[block].long()
            for shift, largest in zip(self._shifts.abs(), self._columns, strict=True):
                found = (shift[codes] * scales).amax(0)
                torch.maximum(largest, found, out=largest)
        self._rows = 0
        self._beyond = torch.zeros(self._kinds, dtype=torch.float64)  # of B
        self._alone: list[Tensor] = []  # sum of log(1 + X), by row and kind
        self._together: list[Tensor] = []  # sum of 1 - e^{-s X}, by kind, row and node
        # Word and kind of each large fault, and its cost; costs of the others by kind.
        self._large = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        self._small = torch.zeros(self._kinds, dtype=torch.float64)

    def add(self, inputs: Tensor, log_p: Tensor) -> None:
        """Add rows of outputs.

        Args:
            inputs: Inputs of the head, ``[rows, inputs]``.
            log_p: Logarithms of the probabilities at the mean read, ``[rows, classes]``.
        """
        if not len(inputs):  # a batch whose targets are all ignored
            return
        # 1 - e^{-s X} at each bin of log X and node of log s.
        middles = _LOWEST + _WIDTH * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
        kernel = -torch.expm1(-torch.exp(middles[:, None] + _NODES))
        words, costs = [self._large[0]], [self._large[1]]
        together, alone, zeros = [], [], torch.zeros(self._kinds, dtype=torch.float64)
        for h, row in zip(inputs.float().cpu(), log_p.float().cpu(), strict=True):
            found = [self._block(h, row, *ends) for ends in self._blocks(h)]
            kind, word, change, low = (torch.cat(parts) for parts in zip(*found, strict=True))
            p = low.exp()
            # log p + log(e^D - 1) for D > 0, without overflow.
            gain = (low + change + torch.log(-torch.expm1(-change.abs()))).double()
            up, change = change > 0, change.double()
            # log(1 + X): the first form where e^D may overflow, the second where X is below 0.
            cost = torch.where(up, _log1p_exp(gain), torch.log1p(p * torch.expm1(change)))
            beyond = cost - p * change - 0.5 * p * (1 - p) * change.square()
            share = self._share(word, kind)
            self._beyond.index_add_(0, kind, share * beyond)
            bins = ((gain[up] - _LOWEST) / _WIDTH).long().clamp(0, _BINS - 1)
            where = kind[up] * _BINS + bins
            counts = torch.bincount(where, share[up], minlength=self._kinds * _BINS).double()
            together.append(counts.reshape(-1, _BINS) @ kernel)
            # Cut off at the end of the histogram, as in the integral that it is compared with.
            single = _log1p_exp(gain[up].clamp(max=_HIGHEST))
            alone.append(zeros.clone().index_add_(0, kind[up], share[up] * single))
            # Its whole divergence, second order included.
            own = cost - p * change
            large = own > _LARGE
            words.append((word * self._kinds + kind)[large])
            costs.append(own[large])
            self._small.index_add_(0, kind[~large], (share * own)[~large])
            self._rows += 1
        self._together.append(torch.stack(together, dim=1))
        self._alone.append(torch.stack(alone))
        # The same fault costs in each row: one event, whose cost is their sum.
        found_words, place = torch.unique(torch.cat(words), return_inverse=True)
        summed = torch.zeros(len(found_words), dtype=torch.float64)
        self._large = found_words, summed.index_add_(0, place, torch.cat(costs))

    def _blocks(self, h: Tensor) -> list[tuple[Tensor, float]]:
        """Columns whose faults can change a logit by similar amounts, and the most they can."""
        reach, found = self._columns.amax(0) * h.abs(), []
        for low, high in zip((_LEAST_CHANGE, *_REACHES), (*_REACHES, torch.inf), strict=True):
            columns = ((reach > low) & (reach <= high)).nonzero()[:, 0]
            if len(columns):
                found.append((columns, float(reach[columns].max())))
        return found or [(torch.zeros(0, dtype=torch.long), 0.0)]

    def _block(
        self, h: Tensor, log_p: Tensor, columns: Tensor, reach: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kind, word, change of the logit and log-probability of each fault that counts."""
        # Classes that no fault of these columns lifts above the least logarithm are passed over.
        classes = (log_p > _LEAST_LOG - reach).nonzero()[:, 0]
        # Two selections by NumPy take a third of the time of torch's; the smaller one first.
        rows, some_columns = classes.numpy(), columns.numpy()
        if len(rows) * self._codes.shape[1] > len(some_columns) * len(self._codes):
            some_codes = self._columns_of_codes.take(some_columns, 0).take(rows, 1).T
        else:
            some_codes = self._codes.take(rows, 0).take(some_columns, 1)
        all_codes = torch.from_numpy(some_codes).long()
        scale, low, found = self._row_scale[classes], log_p[classes][:, None], []
        possible = self._columns[:, columns] * h[columns].abs() > _LEAST_CHANGE
        for bit in possible.any(1).nonzero()[:, 0].tolist():
            some = possible[bit].nonzero()[:, 0]
            codes = all_codes if len(some) == len(columns) else all_codes.index_select(1, some)
            change = self._shifts[bit][codes] * (scale * (self._column_scale * h)[columns[some]])
            if self._group_scale is not None:
                change = change * self._group_scale[classes][:, columns[some]]
            counts = (change > _LEAST_CHANGE) & (change > _LEAST_LOG - low)
            counts |= (change < -_LEAST_CHANGE) & (low > _LEAST_LOG)
            row, column = counts.nonzero(as_tuple=True)
            kind = self._holds[bit][codes[row, column]] * self._memory.bits + bit
            word = classes[row] * self._codes.shape[1] + columns[some[column]]
            found.append((kind, word, change[row, column], low[row, 0]))
        if not found:
            none = torch.zeros(0, dtype=torch.long)
            return none, none, none.float(), none.float()
        kind, word, change, low = (torch.cat(parts) for parts in zip(*found, strict=True))
        return kind, word, change, low

    def _share(self, word: Tensor, kind: Tensor) -> Tensor:
        """Relative rate of faults of these words and kinds, float64."""
        if self._shares is None:
            return torch.ones(len(word), dtype=torch.float64)
        return self._shares[kind, word // self._codes.shape[1]]

    @property
    def numbers(self) -> int:
        """Numbers that one call of `excess` works on."""
        return self._rows * len(_NODES)

    def excess(self, rates: Tensor) -> Tensor:
        """Divergence beyond second order, mean over rows; float64, differentiable.

        Args:
            rates: Rates of wrong reads, ``[2, bits]``; see `WordMemory.wrong_rates`.
        """
        each = rates.double().reshape(-1)
        return (each @ self._beyond + self._competing(each)) / self._rows

    def _competing(self, each: Tensor) -> Tensor:
        """Cost of several faults at once less that of each alone, summed over rows; 0 or less."""
        # With u = log s, ds / s = du: Frullani's integral is a sum over equidistant nodes of u.
        weights = _STEP * torch.exp(-torch.exp(_NODES))
        competing: Tensor = each.new_zeros(())
        for together, alone in zip(self._together, self._alone, strict=True):
            exponents = (each @ together.flatten(1)).reshape(-1, len(_NODES))
            several = -torch.expm1(-exponents) @ weights
            competing = competing + (several - alone @ each).sum()
        return competing

    def random_part(self, rates: Tensor) -> float:
        """Divergence from the faults that quantiles take as random events, one by one, nats.

        Args:
            rates: See `excess`.
        """
        each = rates.detach().double().reshape(-1)
        return float(self._large_rates(each) @ self._large[1]) / max(self._rows, 1)

    def _large_rates(self, each: Tensor) -> Tensor:
        """Rate of each large fault, given those of all kinds."""
        words = self._large[0]
        kind = words % self._kinds  # the remainder: see `add`
        return each[kind] * self._share(words // self._kinds, kind)

    def deviations(self, rates: Tensor, levels: Sequence[float], seed: int = 0) -> list[float]:
        """Quantiles over chips of the divergence from large faults, less its mean, nats.

        Costs of faults add up (compound Poisson); their competition is taken to lower all of them
        by one factor.

        Args:
            rates: See `excess`.
            levels: Levels of the quantiles, each in [0, 1].
            seed: Seed of the chips that are drawn.
        """
        words, costs = self._large[0], self._large[1] / self._rows
        each = rates.detach().double().reshape(-1)
        if not len(words):
            return [0.0] * len(levels)
        rate = self._large_rates(each)
        # Faults of similar cost are drawn together.
        bins = (costs.clamp(min=1e-12).log() / _WIDTH).floor().long()
        _, group = torch.unique(bins, return_inverse=True)
        expected = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        spent = expected.clone().index_add_(0, group, rate * costs)
        expected.index_add_(0, group, rate)
        generator = torch.Generator().manual_seed(seed)
        counts = torch.poisson(expected.expand(_CHIPS, -1).contiguous(), generator)
        found = counts @ (spent / expected.clamp(min=1e-300))  # of a group, the mean cost
        # The mean cost with competition over that of faults one by one.
        alone = float(spent.sum()) * self._rows + float(each @ self._small)
        factor = max(1 + float(self._competing(each)) / alone, 0.0) if alone > 0 else 1.0
        at = torch.tensor(levels, dtype=torch.float64)
        away = torch.quantile(found, at) - spent.sum()
        return [factor * float(value) for value in away]


def _log1p_exp(x: Tensor) -> Tensor:
    """``log(1 + e^x)``."""
    return torch.nn.functional.softplus(x, threshold=40.0)
