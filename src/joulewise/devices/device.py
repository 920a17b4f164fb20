"""The interface of a memory device: a distribution over what is read back, and an energy.

Both are functions of one operating point, a value on the device's knob. A new technology is one
class with a `knob`, `store`, `read` and `energy`; simulation, prediction, allocation and reports
need nothing else. With `moments` in closed form they have no sampling error, and allocation may
choose any point.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.moments import ReadMoments, WordClasses, estimated_moments
from joulewise.devices.operating_point import Knob, PlainPoint, Point, as_point, plain_point
from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J
from joulewise.errors import DeviceError, InputError, refuse

__all__ = ["Device"]

Stored = TypeVar("Stored")


class Device(ABC, Generic[Stored]):
    """A memory technology; `check_device` and ``tests/contracts.py`` check one.

    Attributes:
        moment_chips: Chips that `moments` are estimated from where a device states none, 3 or more:
            the standard error of a word's variance is then about ``sqrt(2 / moment_chips)`` of it,
            and that of a sum over many words far less.
        array: Size and converters of the arrays of a compute-in-memory device, whose `energy` is
            given the inputs of its matrix-vector products: a class attribute or a field. None for a
            memory that only stores.
        step_s: Seconds of a decoding step, for a memory whose words fade with their age and whose
            knob is a refresh interval; a class attribute or a field. None for all others.
    """

    moment_chips: ClassVar[int] = 64
    array: Array | None = None
    step_s: float | None = None

    @property
    @abstractmethod
    def knob(self) -> Knob:
        """The knob, whose values are the operating points."""

    @property
    def smooth(self) -> bool:
        """True if moments are differentiable in the operating point; estimated ones are not."""
        return self.states_moments

    @property
    def tensors(self) -> Collection[str]:
        """Names of tensors that this memory is made for, whatever others it holds; by default none.

        `joulewise.placement.place` refuses names that the model does not have.
        """
        return ()

    @property
    def states_moments(self) -> bool:
        """True if the device has `moments` in closed form, False if they are estimated."""
        return type(self).moments is not Device.moments

    @property
    def independent_words(self) -> bool:
        """True if the faults of different words are independent."""
        return True

    @property
    def fresh(self) -> bool:
        """True if some noise is drawn anew in every use of a chip (read noise)."""
        return False

    @property
    def reliable_bit_j(self) -> float:
        """Joules to read one bit of reliable memory, for tensors not placed; by default an SRAM."""
        return HOROWITZ_SRAM_BIT_J

    def point(self, **setting: Point) -> Point:
        """Check a setting, for instance ``eta=0.5`` or ``v_dd=0.6``; see `Knob.checked`."""
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

    def ideal(self, stored: Stored) -> Tensor:
        """The tensor as read back without faults: rounded to the memory's format.

        By default what is stored, if that is a tensor.

        Raises:
            DeviceError: if what is stored is not a tensor.
        """
        if not isinstance(stored, Tensor):
            allowed = "a tensor, or a method ideal(stored) that returns one"
            what = f"what {type(self).__name__}.store returns"
            refuse(what, f"a {type(stored).__name__}", allowed, DeviceError)
        return stored

    def moments(self, stored: Stored, point: Point) -> ReadMoments:
        """Mean and variance over chips of `read`, in closed form, differentiable in ``point``.

        By default estimated from reads of `moment_chips` chips, without gradients.

        Raises:
            InputError: if ``point`` requires a gradient, which estimates do not have.
        """
        if isinstance(point, Tensor) and point.requires_grad:
            raise InputError(
                f"{type(self).__name__} states no moments, and estimates have no gradient in the "
                "operating point; allowed: a plan without gradients, Granularity(levels=...) to "
                "allocate, or a method moments"
            )
        ideal = self.ideal(stored)
        return estimated_moments(
            lambda chip: self.read(stored, point, chip), ideal, self.moment_chips
        )

    def word_classes(self, stored: Stored) -> WordClasses:
        """Classes of words with equal moments; allocation is faster with few of them.

        By default each word is a class.
        """
        whole = self.ideal(stored)
        index = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)

        def moments(point: Tensor) -> tuple[Tensor, Tensor]:
            found = self.moments(stored, point)
            return found.mean.double().cpu().reshape(-1), found.var.double().cpu().reshape(-1)

        @lru_cache(maxsize=32)  # estimates take many reads, and discrete points recur
        def known(point: PlainPoint) -> tuple[Tensor, Tensor]:
            return moments(as_point(point))

        def remembered(point: Tensor) -> tuple[Tensor, Tensor]:
            # `moments` refuses gradients.
            return moments(point) if point.requires_grad else known(plain_point(point))

        return WordClasses(
            index=index,
            scale=torch.ones((), dtype=torch.float64, device=whole.device),
            count=whole.numel(),
            moments=moments if self.states_moments else remembered,
        )

    @abstractmethod
    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference; float64 scalar, differentiable in ``point``."""

    def energy_by_channel(self, traffic: Traffic, point: Point, channels: int) -> Tensor:
        """Joules per inference of each output channel of a weight; they sum to `energy`.

        Each of the ``channels``, the length of the weight's first axis, depends on the operating
        point of its channel alone: float64 ``[channels]``.

        Raises:
            NotImplementedError: if the knob has no points for channels.
        """
        raise NotImplementedError(f"{type(self).__name__} has no points for channels")

    def converter_energy(self, traffic: Traffic) -> float:
        """Joules per inference of converters, the part of `energy` that no point changes.

        0 for memories that are read as words.
        """
        return 0.0

    def reference_energies(self, traffic: Traffic) -> dict[str, float]:
        """Joules per inference at supplies that savings are compared with, by name.

        Names such as ``"nominal supply"`` and ``"V_min"``; empty by default.
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """Plain data for records: the name of the class, and the fields of a dataclass."""
        own: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        values = {field.name: getattr(self, field.name) for field in own if field.name != "knob"}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
        return {"device": type(self).__name__, **plain}

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


def _plain(value: Any) -> Any:
    """JSON stand-in for a value, without memory addresses, which differ between runs."""
    if hasattr(value, "describe"):
        return value.describe()
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    return type(value).__name__ if " at 0x" in repr(value) else repr(value)
