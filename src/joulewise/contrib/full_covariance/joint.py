"""The joint distribution of the values that a network still needs: means, and every covariance.

A value's own axes are flattened in row-major order wherever it takes part in a covariance, so a
covariance is ``[batch, size_a, size_b]``: one matrix for each sample, since samples are predicted
one by one. What does not vary is a plain tensor and is not kept here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Gain", "Joint", "Map", "Noise", "Outcome", "Same", "Scale", "Value", "sandwich"]

# Rows that go through a linear operation at once: enough to keep it busy, little beside a
# covariance that is worth cutting up (16384 x 16384 in float32 is 64 times this).
_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the network that varies with the noise.

    Args:
        mean: Its mean, ``[batch, *shape]``.
    """

    mean: Tensor

    @property
    def size(self) -> int:
        """Numbers in one sample."""
        return self.mean[0].numel()

    def map(self, function: Callable[[Tensor], Tensor], size_out: int) -> Map:
        """A linear function of a batch, ``[n, *shape]`` to ``[n, *shape_out]``, as a `Map`."""
        shape = self.mean.shape[1:]

        def rows(flat: Tensor) -> Tensor:
            return function(flat.reshape(-1, *shape)).reshape(*flat.shape[:2], -1)

        return Map(rows, size_out)


class Gain(ABC):
    """How far a value moves with an input of its operation: a linear map, one for each sample."""

    @abstractmethod
    def rows(self, rows: Tensor, *, overwrite: bool = False) -> Tensor:
        """Apply the map to every row.

        Args:
            rows: ``[batch, count, size_in]``.
            overwrite: The result may lie where ``rows`` is; never done while gradients are kept.

        Returns:
            ``[batch, count, size_out]``.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Same(Gain):
    """The input moves the output one for one, entry by entry in row-major order."""

    def rows(self, rows: Tensor, *, overwrite: bool = False) -> Tensor:
        """See `Gain.rows`."""
        return rows if overwrite or torch.is_grad_enabled() else rows.clone()


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Gain):
    """Each entry moves one entry.

    Args:
        factor: ``[batch, size]``, or ``[1, size]`` for all samples alike.
    """

    factor: Tensor

    def rows(self, rows: Tensor, *, overwrite: bool = False) -> Tensor:
        """See `Gain.rows`."""
        factor = self.factor[:, None].to(rows.dtype)
        if overwrite and not torch.is_grad_enabled():
            return rows.mul_(factor)
        return rows * factor


@dataclass(frozen=True, slots=True, eq=False)
class Map(Gain):
    """Any linear map.

    Args:
        function: Takes ``[batch, count, size_in]`` to ``[batch, count, size_out]``.
        size_out: Numbers in one sample of the output.
    """

    function: Callable[[Tensor], Tensor]
    size_out: int

    def rows(self, rows: Tensor, *, overwrite: bool = False) -> Tensor:
        """See `Gain.rows`; a chunk of rows at a time unless gradients are kept."""
        if torch.is_grad_enabled():
            return self.function(rows)
        batch, count, size_in = rows.shape
        if overwrite and self.size_out <= size_in:
            out = rows[:, :, : self.size_out]
        else:
            out = rows.new_empty(batch, count, self.size_out)
        row_bytes = batch * max(size_in, self.size_out) * rows.element_size()
        step = max(_CHUNK_BYTES // row_bytes, 1)
        for start in range(0, count, step):
            out[:, start : start + step] = self.function(rows[:, start : start + step])
        return out


def sandwich(gain: Gain, cov: Tensor, *, overwrite: bool = False) -> Tensor:
    """The covariance ``G C G^T`` of a linear map's output.

    Args:
        gain: The map ``G``.
        cov: The symmetric covariance ``C`` of its input, ``[batch, size_in, size_in]``.
        overwrite: ``cov`` is not needed any more.

    Returns:
        ``[batch, size_out, size_out]``; a tensor of its own.
    """
    half = gain.rows(cov, overwrite=overwrite)
    del cov  # the last reference, where the caller handed it over: 1 GB in a network's first layers
    # A smaller result gets its own storage, and the larger one is given back.
    whole = gain.rows(half.mT, overwrite=half.shape[1] == half.shape[2])
    # Symmetric, so the transpose of the result is the result.
    return whole if whole.is_contiguous() else whole.mT.contiguous()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noise:
    """Variance that enters at one operation, independent of everything before it.

    A weight that serves several positions moves them together, so there is a block over positions
    for each unit (an output channel, say), and nothing between units.

    Args:
        blocks: ``[batch, units, positions, positions]``.
        units_last: Whether the value's row-major order is positions, units (a linear layer over
            leading axes) and not units, positions (a convolution).
    """

    blocks: Tensor
    units_last: bool = False

    @staticmethod
    def independent(var: Tensor) -> Noise:
        """Each entry on its own: ``var`` is ``[batch, *shape]``."""
        return Noise(blocks=var.flatten(1)[:, :, None, None])

    def add_to(self, cov: Tensor) -> Tensor:
        """Add to a covariance, in place."""
        batch, units, positions, _ = self.blocks.shape
        if self.units_last:
            split = cov.view(batch, positions, units, positions, units)
            view = split.diagonal(dim1=2, dim2=4).permute(0, 3, 1, 2)
        else:
            split = cov.view(batch, units, positions, units, positions)
            view = split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        view += self.blocks.to(cov.dtype)
        return cov

    def to_cov(self) -> Tensor:
        """The covariance of this noise alone, ``[batch, size, size]``."""
        batch, units, positions, _ = self.blocks.shape
        return self.add_to(self.blocks.new_zeros(batch, units * positions, units * positions))

    def through(self, slopes: Tensor) -> Tensor:
        """The variance of a weighted sum of the entries.

        Args:
            slopes: The weights, ``[batch, size]``.

        Returns:
            ``[batch]``.
        """
        batch, units, positions, _ = self.blocks.shape
        if self.units_last:
            slopes = slopes.view(batch, positions, units).mT
        slopes = slopes.reshape(batch, units, positions, 1).to(self.blocks.dtype)
        return (slopes.mT @ self.blocks @ slopes).sum((1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a rule says of an operation's output.

    Args:
        mean: ``[batch, *shape]``.
        cov: Its covariance, ``[batch, size, size]``; a tensor of its own. None: it does not vary.
        gains: For each input that varies, how far the output moves with it: this gives the
            covariance with everything else that varies.
        noise: For each placed tensor that the operation reads, the part of ``cov`` that its
            noise added.
    """

    mean: Tensor
    cov: Tensor | None = None
    gains: Sequence[tuple[Value, Gain]] = ()
    noise: Mapping[str, Noise] = field(default_factory=dict)


class Joint:
    """Covariances of all pairs of values that are still needed.

    Example:
        >>> joint = Joint()
        >>> a = joint.add(Outcome(mean=torch.zeros(1, 2), cov=torch.eye(2)[None]))
        >>> twice = Outcome(mean=torch.zeros(1, 2), cov=4 * torch.eye(2)[None],
        ...                 gains=[(a, Scale(torch.full((1, 2), 2.0)))])
        >>> b = joint.add(twice)
        >>> joint.cov(b, a)
        tensor([[[2., 0.], [0., 2.]]])
    """

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._covs: dict[tuple[Value, Value], Tensor] = {}

    def add(self, outcome: Outcome, dying: Iterable[Value] = ()) -> Value:
        """Take in an operation's output.

        Args:
            outcome: What its rule says; it has a covariance.
            dying: Values that nothing needs after this operation; they are dropped.
        """
        assert outcome.cov is not None
        gone = set(dying)
        value = Value(outcome.mean)
        for other in self._values:
            if other not in gone:
                cross = self._cross(other, outcome.gains, gone)
                if cross is not None:
                    self._covs[other, value] = cross
        for old in gone:
            self.drop(old)
        self._covs[value, value] = outcome.cov
        self._values.append(value)
        return value

    def _cross(
        self, other: Value, gains: Sequence[tuple[Value, Gain]], gone: set[Value]
    ) -> Tensor | None:
        """The covariance of a value with an output: Cov(z, y) = sum over inputs of Cov(z, x) G^T.

        Exact for operations that are linear in their inputs. Otherwise Stein's lemma: with z and x
        jointly Gaussian, Cov(z, f(x)) = Cov(z, x) E[f'(x)] (C. Stein, Annals of Statistics 9, 1981,
        lemma 1 and 2).
        """
        total: Tensor | None = None
        for source, gain in gains:
            cov = self.cov(other, source)
            if cov is None:
                continue
            once = sum(s is source for s, _ in gains) == 1
            part = gain.rows(cov, overwrite=once and source in gone)
            if part.untyped_storage().nbytes() > part.nbytes:
                part = part.clone()  # a view would keep the larger covariance alive
            total = part if total is None else total + part
        return total

    def cov(self, a: Value, b: Value) -> Tensor | None:
        """``[batch, size_a, size_b]``; None where the two are independent."""
        if (a, b) in self._covs:
            return self._covs[a, b]
        reverse = self._covs.get((b, a))
        return None if reverse is None else reverse.mT

    def own(self, value: Value) -> Tensor:
        """The covariance of a value with itself."""
        return self._covs[value, value]

    def pop_own(self, value: Value) -> Tensor:
        """The same, which then is the caller's alone."""
        return self._covs.pop((value, value))

    def var(self, value: Value) -> Tensor:
        """Variances, float64, the shape of the mean; rounding below zero is cut off."""
        var = self.own(value).diagonal(dim1=1, dim2=2).double().clamp_min(0.0)
        return var.reshape(value.mean.shape)

    def drop(self, value: Value) -> None:
        """Forget a value."""
        self._values.remove(value)
        for pair in [pair for pair in self._covs if value in pair]:
            del self._covs[pair]
