"""The interface of a memory device: a distribution over what is read back, and an energy.

Both are functions of one operating point, a value on the device's knob. A new technology is one
class with `store`, `read`, `moments` and `energy`; simulation, prediction, allocation and reports
need nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.moments import ReadMoments, WordClasses
from joulewise.devices.operating_point import Knob, Point

__all__ = ["Device"]

Stored = TypeVar("Stored")


class Device(ABC, Generic[Stored]):
    """A memory technology; ``tests/contracts.py`` has the checks that every device passes."""

    @property
    @abstractmethod
    def knob(self) -> Knob:
        """The knob: what operating points are values of."""

    @property
    def smooth(self) -> bool:
        """True if moments are differentiable in the operating point, False if they are steps."""
        return True

    @property
    def independent_words(self) -> bool:
        """True if the faults of different words are independent."""
        return True

    @property
    def fresh(self) -> bool:
        """True if some noise is drawn anew in every use of a chip."""
        return False

    @property
    def computes(self) -> bool:
        """True for compute-in-memory devices, whose `energy` depends on the matrix inputs."""
        return False

    @property
    def array(self) -> Array | None:
        """Array size and converters of a compute-in-memory device; None if it has neither."""
        return None

    @property
    @abstractmethod
    def reliable_bit_j(self) -> float:
        """Joules to read one bit of reliable memory of this technology, for tensors not placed."""

    def point(self, **setting: Point) -> Point:
        """Check a setting and convert it to an operating point.

        Args:
            **setting: One name and value, for instance ``eta=0.5`` or ``v_dd=0.6``; values in the
                shapes of `Point` that the knob takes.

        Raises:
            OperatingPointError: if the name is unknown, the value no number, out of range, or of a
                shape that the knob does not take.
        """
        return self.knob.checked(setting, type(self).__name__)

    @abstractmethod
    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Stored:
        """Convert a tensor to the memory's format, free of faults.

        Args:
            tensor: Finite values of any shape.
            limit: The largest magnitude to represent; None leaves it to the device.
            name: Name of the tensor in error messages.
        """

    @abstractmethod
    def read(self, stored: Stored, point: Point, chip: Chip) -> Tensor:
        """The tensor as read back on one chip; deterministic in ``point`` and ``chip``."""

    @abstractmethod
    def ideal(self, stored: Stored) -> Tensor:
        """The tensor as read back without faults: rounded to the memory's format."""

    @abstractmethod
    def moments(self, stored: Stored, point: Point) -> ReadMoments:
        """Mean and variance over chips of `read`, in closed form, differentiable in ``point``."""

    def word_classes(self, stored: Stored) -> WordClasses:
        """Classes of words with equal moments; allocation is faster with few of them.

        By default each word is a class.
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
        """Joules per inference; float64 scalar, differentiable in ``point``."""

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each output channel of a weight; they sum to `energy`.

        Args:
            traffic: As for `energy`.
            point: As for `energy`.
            channels: Output channels, the length of the weight's first axis.

        Returns:
            float64 ``[channels]``; each depends on the operating point of its channel alone.

        Raises:
            NotImplementedError: if the knob has no points for channels.
        """
        raise NotImplementedError(f"{type(self).__name__} has no points for channels")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The device's parameters as plain data, for records."""

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch of activations and read it back.

        All samples pass through the same cells, one after the other: a static fault hits the same
        position of every sample.

        Args:
            inputs: ``[batch, ...]``.
            point: The operating point.
            chip: The chip, at the part that holds these activations; None for a fault-free memory.
            limit: The largest magnitude to represent, unless the device fixes it; None takes the
                largest in the batch.
            words: Words of this part of the chip; a sample with fewer uses the first ones. None
                for as many as a sample has.

        Raises:
            NotImplementedError: if the device does not hold activations.
        """
        raise NotImplementedError(f"{type(self).__name__} does not hold activations")
