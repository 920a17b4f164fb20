"""Joint distribution of the tensors that a network still needs: means, and all covariances.

The axes of a tensor are flattened in row-major order wherever it takes part in a covariance, so a
covariance is ``[batch, size_a, size_b]``: one matrix for each sample, since samples are predicted
one by one. Tensors that do not vary over chips are plain tensors and not kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Gain", "Joint", "Noise", "Outcome", "Value", "mean_of"]

# Bytes of rows that go through a linear operation at once: enough to keep it busy, little beside a
# covariance that is worth cutting up (16384 x 16384 in float32 is 64 times this).
_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the network that varies over chips.

    Args:
        mean: Its mean, ``[batch, *shape]``.
    """

    mean: Tensor

    @property
    def size(self) -> int:
        """Number of entries of one sample."""
        return self.mean[0].numel()

    def gain(self, function: Callable[[Tensor], Tensor], size_out: int) -> Gain:
        """Linear function of a batch, ``[n, *shape]`` to ``[n, *shape_out]``, as a `Gain`."""
        shape = self.mean.shape[1:]

        def rows(flat: Tensor) -> Tensor:
            return function(flat.reshape(-1, *shape)).reshape(*flat.shape[:2], -1)

        return Gain(rows, size_out)


def mean_of(tensor: Value | Tensor) -> Tensor:
    """Mean of a tensor that varies or does not."""
    return tensor.mean if isinstance(tensor, Value) else tensor


@dataclass(frozen=True, slots=True, eq=False)
class Gain:
    """Mean derivative of an output with respect to one input: a linear map for each sample.

    Args:
        function: Takes rows ``[batch, count, size_in]`` to ``[batch, count, size_out]``.
        size_out: Number of entries of one sample of the output.
        in_place: The same function, overwriting its input; None if it cannot.
    """

    function: Callable[[Tensor], Tensor]
    size_out: int
    in_place: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def diagonal(cls, factor: Tensor) -> Gain:
        """A factor for each entry, ``[batch, size]``, or ``[1, size]`` for all samples alike."""
        column = factor[:, None]
        return cls(
            lambda rows: rows * column.to(rows.dtype),
            factor.shape[1],
            lambda rows: rows.mul_(column.to(rows.dtype)),
        )

    def apply(self, rows: Tensor, *, overwrite: bool = False) -> Tensor:
        """Apply the map to every row; a chunk of rows at a time unless gradients are recorded.

        Args:
            rows: ``[batch, count, size_in]``.
            overwrite: True if the result may share memory with ``rows``; ignored while gradients
                are recorded.

        Returns:
            ``[batch, count, size_out]``.
        """
        if torch.is_grad_enabled():
            return self.function(rows)
        if overwrite and self.in_place is not None:
            return self.in_place(rows)
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

    def sandwich(self, cov: Tensor, *, overwrite: bool = False) -> Tensor:
        """Covariance ``G C G^T`` of the output of the map ``G``.

        Args:
            cov: The symmetric covariance ``C`` of the input, ``[batch, size_in, size_in]``.
            overwrite: True if ``cov`` is not needed any more.

        Returns:
            ``[batch, size_out, size_out]``, contiguous.
        """
        half = self.apply(cov, overwrite=overwrite)
        del cov  # may be the last reference: 1 GB in the first layers of a network
        # A smaller result gets its own storage, so that the larger one is freed.
        whole = self.apply(half.mT, overwrite=half.shape[1] == half.shape[2])
        # The result is symmetric, so its transpose will do.
        return whole if whole.is_contiguous() else whole.mT.contiguous()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noise:
    """Covariance that an operation adds: a block of positions for each unit, none between units.

    Args:
        blocks: ``[batch, units, positions, positions]``; a unit is an output channel, for example.
        units_last: True if the row-major order of the value is positions, units (a linear layer
            over leading axes); False for units, positions (a convolution).
    """

    blocks: Tensor
    units_last: bool = False

    @staticmethod
    def independent(var: Tensor) -> Noise:
        """Noise of variance ``var``, ``[batch, *shape]``, independent from entry to entry."""
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
        """Covariance of this noise alone, ``[batch, size, size]``."""
        batch, units, positions, _ = self.blocks.shape
        return self.add_to(self.blocks.new_zeros(batch, units * positions, units * positions))

    def variance_of_sum(self, weights: Tensor) -> Tensor:
        """Variance, ``[batch]``, of a sum of the entries with weights ``[batch, size]``."""
        batch, units, positions, _ = self.blocks.shape
        if self.units_last:
            weights = weights.view(batch, positions, units).mT
        weights = weights.reshape(batch, units, positions, 1).to(self.blocks.dtype)
        return (weights.mT @ self.blocks @ weights).sum((1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Output of an operation, as its rule returns it.

    Args:
        mean: ``[batch, *shape]``.
        cov: Its covariance, ``[batch, size, size]``, in memory that nothing else uses; None if it
            does not vary.
        gains: Mean derivative with respect to each input that varies; gives the covariances with
            all other values.
        noise: The part of ``cov`` that the noise of each placed tensor adds in this operation.
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
        ...                 gains=[(a, Gain.diagonal(torch.full((1, 2), 2.0)))])
        >>> b = joint.add(twice)
        >>> joint.cov(b, a)
        tensor([[[2., 0.], [0., 2.]]])
    """

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._covs: dict[tuple[Value, Value], Tensor] = {}

    def add(self, outcome: Outcome, dying: Collection[Value | Tensor] = ()) -> Value:
        """Add the output of an operation.

        Args:
            outcome: The output; it has a covariance.
            dying: Values that nothing needs after this operation; they are dropped.
        """
        assert outcome.cov is not None
        value = Value(outcome.mean)
        for other in self._values:
            if other not in dying:
                cross = self._cross(other, outcome.gains, dying)
                if cross is not None:
                    self._covs[other, value] = cross
        self._values = [old for old in self._values if old not in dying]
        for pair in [pair for pair in self._covs if pair[0] in dying or pair[1] in dying]:
            del self._covs[pair]
        self._covs[value, value] = outcome.cov
        self._values.append(value)
        return value

    def _cross(
        self, other: Value, gains: Sequence[tuple[Value, Gain]], dying: Collection[Value | Tensor]
    ) -> Tensor | None:
        """Covariance of a value z with an output y: ``sum over inputs x of Cov(z, x) G^T``.

        Exact for operations that are linear in their inputs. Otherwise Stein's lemma: with z and x
        jointly Gaussian, ``Cov(z, f(x)) = Cov(z, x) E[f'(x)]`` (C. Stein, Annals of Statistics 9,
        1981, lemmas 1 and 2).
        """
        total: Tensor | None = None
        for source, gain in gains:
            cov = self.cov(other, source)
            if cov is None:
                continue
            once = sum(s is source for s, _ in gains) == 1
            part = gain.apply(cov, overwrite=once and source in dying)
            if part.untyped_storage().nbytes() > part.nbytes:
                part = part.clone()  # a view would keep the larger covariance alive
            total = part if total is None else total + part
        return total

    def cov(self, a: Value, b: Value) -> Tensor | None:
        """Covariance ``[batch, size_a, size_b]``; None if the two are independent."""
        if (a, b) in self._covs:
            return self._covs[a, b]
        reverse = self._covs.get((b, a))
        return None if reverse is None else reverse.mT

    def own(self, value: Value, *, last: bool = False) -> Tensor:
        """Covariance of a value with itself; ``last`` removes it, so that it may be overwritten."""
        return self._covs.pop((value, value)) if last else self._covs[value, value]

    def var(self, value: Value) -> Tensor:
        """Variances, float64, in the shape of the mean; rounding errors below zero are cut off."""
        var = self.own(value).diagonal(dim1=1, dim2=2).double().clamp_min(0.0)
        return var.reshape(value.mean.shape)
