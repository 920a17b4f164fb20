"""The contract: a memory device is a distribution over what is read back, and a price.

Both are functions of one operating point, a number on the device's own knob. A new technology is
one file with one class that answers `store`, `read`, `moments` and `energy`; simulation,
prediction, allocation and reports need nothing else.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from joulewise.devices.arrays import Array
from joulewise.devices.word_classes import WordClasses
from joulewise.errors import check_in_range

__all__ = [
    "Chip",
    "Common",
    "Device",
    "Load",
    "Moments",
    "PlainPoint",
    "Point",
    "Traffic",
    "as_point",
    "plain_point",
]

Point = float | Tensor
"""An operating point on the device's own knob: a number, or several, where the device takes them.

One for each bit plane is ``[bits]``, one for each output channel (the first axis of a weight)
``[channels, 1]``, and one for each bit plane of each channel ``[channels, bits]``.
"""

PlainPoint = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""An operating point as plain data: a number, or the rows of a table."""

Stored = TypeVar("Stored")


def as_point(point: Point) -> Tensor:
    """An operating point as a float64 tensor, through which gradients flow back to the caller."""
    return torch.as_tensor(point, dtype=torch.float64)


def plain_point(point: Point) -> PlainPoint:
    """An operating point as plain data, for records."""
    if isinstance(point, Tensor) and point.ndim > 1:
        return tuple(tuple(float(p) for p in row) for row in point)
    if isinstance(point, Tensor) and point.ndim:
        return tuple(float(p) for p in point)
    return float(point)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One manufactured instance: everything that is drawn once and then stays.

    Args:
        seed: Names the chip, 0 or more. The same seed is the same chip, on any machine.
        part: Names the region of the chip that holds one tensor; regions are independent.
        use: Counts forward passes on the chip: noise that is fresh at each read differs by it.
    """

    seed: int
    part: str = ""
    use: int = 0

    def __post_init__(self) -> None:
        """Check the seed once."""
        check_in_range("seed", self.seed, 0, 2**63)

    def at(self, part: str) -> Chip:
        """The region of this chip that holds the tensor ``part``."""
        return replace(self, part=part)

    def again(self) -> Chip:
        """This chip in its next use."""
        return replace(self, use=self.use + 1)

    def generator(self, purpose: str) -> np.random.Generator:
        """A random stream that depends on the chip, the part and the purpose, and on nothing else.

        NumPy draws it on the CPU, so that a chip is the same whatever computes on it.
        """
        return _stream(self.seed, _digest(self.part, purpose))

    def fresh(self, purpose: str) -> np.random.Generator:
        """A random stream as from `generator`, another one in every use of the chip."""
        # The first use is 1: a stream with a 0 at its end is the same as without.
        return _stream(self.seed, _digest(self.part, purpose), self.use + 1)


def _stream(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=4096)
def _digest(part: str, purpose: str) -> int:
    text = f"{part}\0{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """A random factor that all words of a tensor share.

    A word reads ``mean (1 + f) + e``, ``f`` the same for all, ``e`` each word's own. Words ``i``
    and ``j`` have a covariance of ``var mean_i mean_j + mean_i coupling_j + mean_j coupling_i``.

    Args:
        var: Variance of ``f``, one number, 0 or more.
        coupling: Covariance of ``e`` and ``f``, the shape of the tensor, its unit.
    """

    var: Tensor
    coupling: Tensor

    def own(self, mean: Tensor, var: Tensor) -> Tensor:
        """Variance of each word's ``e``, of its mean and variance; 0 or more."""
        mean, coupling = mean.to(var.dtype), self.coupling.to(var.dtype)
        shared = self.var.to(var.dtype) * mean.square() + 2 * mean * coupling
        return (var - shared).clamp(min=0)

    def variance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """What the factor adds to the variance of a weighted sum of the words.

        Args:
            mean: The weighted sum of the means, any shape.
            coupling: That of the couplings.
        """
        return self.covariance(mean[..., None], coupling[..., None])[..., 0, 0]

    def covariance(self, mean: Tensor, coupling: Tensor) -> Tensor:
        """What the factor adds to the covariance of several weighted sums of the words.

        Args:
            mean: The weighted sums of the means, ``[..., sums]``.
            coupling: Those of the couplings.

        Returns:
            ``[..., sums, sums]``.
        """
        mixed = mean[..., :, None] * coupling[..., None, :]
        return self.var.to(mean) * mean[..., :, None] * mean[..., None, :] + mixed + mixed.mT


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Element-wise mean and variance of what is read back.

    Args:
        mean: The shape of the stored tensor, its unit.
        var: The same shape, its unit squared, 0 or more.
        common: What couples the words; None where they are independent.
    """

    mean: Tensor
    var: Tensor
    common: Common | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Load:
    """One use of a weight as a matrix, as a memory that computes has to know it.

    Args:
        inputs: Some of the vectors that the matrix meets, evenly from all of them, over
            ``largest``: ``[vectors, groups, rows]``, within +-1.
        largest: The largest magnitude among all inputs.
        uses: Vectors that it meets per inference.
        weight: The weight, ``[groups * columns, *rows]``.
        rows_first: Whether its first axis runs over the rows instead.
        view: Shape, strides and offset, in entries, of the matrix ``[columns, rows]`` within the
            weight as it is laid out, where it is a part of it or turned; None for all of it.
    """

    inputs: Tensor
    largest: float
    uses: float
    weight: Tensor
    rows_first: bool = False
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None

    def matrix(self, tensor: Tensor) -> Tensor:
        """A tensor in the weight's shape as ``[groups, columns, rows]``."""
        groups, rows = self.inputs.shape[1:]
        if self.view is not None:
            shape, strides, offset = self.view
            laid_out = torch.empty_like(self.weight, dtype=tensor.dtype).copy_(tensor)
            return laid_out.as_strided(shape, strides, offset)[None]
        if self.rows_first:
            return tensor.reshape(groups, rows, -1).mT
        return tensor.reshape(groups, -1, rows)

    def channels(self) -> Tensor | None:
        """The output channel that each column belongs to, the first axis of the weight.

        Returns:
            int64 ``[groups, columns]``; None where that axis does not run over the columns.
        """
        first = torch.arange(len(self.weight), device=self.weight.device)
        index = first.reshape(-1, *(1,) * (self.weight.ndim - 1)).expand(self.weight.shape)
        found = self.matrix(index)
        return found[..., 0] if bool((found == found[..., :1]).all()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How often the words of one placed tensor are accessed in one inference.

    Args:
        words: Words stored.
        reads: Words read per inference (all words once: ``reads == words``).
        writes: Words written per inference; 0 for weights.
        loads: What a memory that computes is used for; empty for others.
    """

    words: int
    reads: float
    writes: float
    loads: tuple[Load, ...] = ()


class Device(ABC, Generic[Stored]):
    """A memory technology; see the module's docstring. ``tests/contracts.py`` is its contract."""

    @property
    @abstractmethod
    def knob(self) -> str:
        """The name of the operating point, for instance ``"eta"``."""

    @property
    @abstractmethod
    def most_reliable(self) -> float:
        """The operating point at which what is read is (nearly) what was stored."""

    @property
    def independent_words(self) -> bool:
        """Whether the faults of one word say nothing of those of any other."""
        return True

    @property
    def computes(self) -> bool:
        """Whether products are computed where the weights are: `energy` then needs the loads."""
        return False

    @property
    def array(self) -> Array | None:
        """The arrays of a memory that computes; None for one of any size with exact converters."""
        return None

    @property
    def fresh(self) -> bool:
        """Whether a chip reads differently in every use: noise on top of what stays."""
        return False

    @property
    def adjustable(self) -> bool:
        """Whether whoever designs a system sets the knob; nobody sets the age of a memory."""
        return True

    @property
    def smooth(self) -> bool:
        """Whether moments change with the point by slopes, and not by steps alone."""
        return True

    @property
    def planes(self) -> int | None:
        """Bit planes that may each have an operating point of their own; None where none may."""
        return None

    @property
    def channel_points(self) -> bool:
        """Whether each output channel of a weight may have an operating point of its own."""
        return False

    @property
    @abstractmethod
    def reliable_bit_j(self) -> float:
        """Joules to read one bit from reliable memory beside this one: what is not placed costs."""

    @property
    @abstractmethod
    def least_reliable(self) -> float:
        """The operating point at the other end of what the device allows."""

    @abstractmethod
    def point(self, **setting: Point) -> Point:
        """An operating point from what a user gives, refused if out of range.

        Args:
            **setting: One name and value, for instance ``eta=0.5`` or ``v_dd=0.6``.
        """

    @abstractmethod
    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Stored:
        """Write a tensor to the memory, free of faults.

        Args:
            tensor: Finite values of any shape.
            limit: The largest magnitude to represent; None leaves it to the device.
            name: What to call the tensor in an error message.
        """

    @abstractmethod
    def read(self, stored: Stored, point: Point, chip: Chip) -> Tensor:
        """What one chip reads back: the same chip at the same point gives the same tensor."""

    @abstractmethod
    def ideal(self, stored: Stored) -> Tensor:
        """What a perfect device of this format reads back: rounded to words, free of faults."""

    @abstractmethod
    def moments(self, stored: Stored, point: Point) -> Moments:
        """Mean and variance over chips of `read`, in closed form, differentiable in ``point``."""

    def word_classes(self, stored: Stored) -> WordClasses:
        """What `moments` looks at, for those who ask at many points; see `WordClasses`.

        Here, each word is a class of its own. A device whose words have few different contents
        says so in a few lines, and allocation gets fast.
        """
        whole = self.ideal(stored)
        index = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)

        def moments(point: Tensor) -> tuple[Tensor, Tensor]:
            found = self.moments(stored, point)
            return found.mean.double().cpu().reshape(-1), found.var.double().cpu().reshape(-1)

        one = torch.ones((), dtype=torch.float64, device=whole.device)
        return WordClasses(index=index, scale=one, count=whole.numel(), moments=moments)

    @abstractmethod
    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules that one inference spends on accesses; float64, differentiable in ``point``."""

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """What each output channel of a weight spends; they sum to `energy`.

        Args:
            traffic: As for `energy`.
            point: As for `energy`.
            channels: How many there are, the length of the weight's first axis.

        Returns:
            float64 ``[channels]``; each depends on its own channel's point alone.

        Raises:
            NotImplementedError: if channels have no points of their own.
        """
        raise NotImplementedError(f"{type(self).__name__} has no points for channels")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a record needs in order to say which device this was; plain data."""

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch of activations and read it back, at once.

        All samples pass through the same cells, one after the other, so a static fault meets every
        one of them. The batch is the first axis. Without a chip, the memory is perfect.

        Raises:
            NotImplementedError: if this device does not hold activations.
        """
        raise NotImplementedError(f"{type(self).__name__} does not hold activations")
