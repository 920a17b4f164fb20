"""The contract: a memory device is a distribution over what is read back, and a price.

Both are functions of one operating point, a number on the device's own knob. A new technology is
one file with one class that answers `store`, `read`, `moments` and `energy`; simulation,
prediction, allocation and reports need nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.moments import Moments, WordClasses
from joulewise.devices.operating_point import Point

__all__ = ["Device"]

Stored = TypeVar("Stored")


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
