"""Alternatives: memories of one word format, of which each tensor has one, at one of its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.device import Device
from joulewise.devices.fault_kinds import all_codes
from joulewise.devices.moments import ReadMoments, WordClasses
from joulewise.devices.operating_point import Knob, Point, as_point, fixed_point
from joulewise.devices.word_memory import WordMemory
from joulewise.errors import OperatingPointError, check_kind, refuse
from joulewise.words import Words

__all__ = ["Alternatives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives(Device[Words]):
    """Memories of words that differ in protection, law or faults, each at some operating points.

    The operating point ``option`` is an index from 0 into `options`, in ascending order of access
    energy. An allocation over ``points`` then weighs a protection against a higher supply, tensor
    by tensor: ``allocate(..., granularity=Granularity(levels=memory.points))``.

    Args:
        memories: Memories with equal words (bits, scales), and the points that each may have.

    Attributes:
        options: Memory and point of each option. Options above the energy of the most accurate one
            are dropped; no other is, since the better of two depends on the stored values.

    Raises:
        InputError: if the words differ, a point is out of range, or fewer than two options remain.
            An `OperatingPointError` where an operating point is none of `points`.

    Example:
        >>> from joulewise.devices import SECDED, SRAM, Flip
        >>> plain, guarded = SRAM(fault=Flip()), SRAM(fault=Flip(), protection=SECDED())
        >>> memory = Alternatives(memories=((plain, (0.5, 0.8)), (guarded, (0.6, 0.7))))
        >>> [(memory.label(point), point) for point in memory.points]  # cells over 64: 12.5 % more
        [('eta 0.5', 0.0), ('secded, eta 0.6', 1.0), ('secded, eta 0.7', 2.0)]
    """

    memories: tuple[tuple[WordMemory, tuple[float, ...]], ...]
    options: tuple[tuple[WordMemory, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        allowed = "a tuple of pairs, each a memory and a tuple of its points"
        check_kind("memories", self.memories, tuple, allowed)
        options: list[tuple[WordMemory, float]] = []
        for pair in self.memories:
            if not isinstance(pair, tuple) or len(pair) != 2:
                refuse("memories", "not of pairs", allowed)
            memory, points = pair
            check_kind("a memory", memory, WordMemory, "an SRAM, DRAM or EDRAM")
            check_kind("the points of a memory", points, tuple, "a tuple of numbers")
            for point in points:
                check_kind("a point of a memory", point, Real, "a number")
            if memory.step_s is not None:
                refuse("step_s of a memory", memory.step_s, "None, as options have one age")
            if not memory.states_moments:
                refuse("a memory", "one of estimated moments", "one that states its moments")
            first = self.memories[0][0]
            for name in ("bits", "channel_dim", "group_size", "limit"):
                value, other = getattr(memory, name), getattr(first, name)
                if value != other:
                    refuse(f"{name} of a memory", value, f"{other}, as in the first")
            options += [
                (memory, float(memory.point(**{memory.knob.name: float(point)})))
                for point in points
            ]
        if len(options) < 2:
            refuse("memories", f"{len(options)} options", "two or more")
        one = Traffic(words=1, reads=1.0, writes=0.0)
        options.sort(key=lambda option: float(option[0].energy(one, option[1])))
        errors = [_error(*option) for option in options]
        kept = options[: errors.index(min(errors)) + 1]
        if len(kept) < 2:
            refuse("memories", "one option that is cheapest and best", "options to weigh")
        object.__setattr__(self, "options", tuple(kept))

    @property
    def knob(self) -> Knob:
        """``option``, a number from 0 in the order of energy."""
        return Knob(name="option", least_reliable=0.0, most_reliable=float(len(self.options) - 1))

    @property
    def points(self) -> tuple[float, ...]:
        """The numbers of all options, for `joulewise.Granularity`."""
        return tuple(float(number) for number in range(len(self.options)))

    @property
    def smooth(self) -> bool:
        """False: options are listed."""
        return False

    @property
    def independent_words(self) -> bool:
        """True if they are on all memories."""
        return all(memory.independent_words for memory, _ in self.options)

    @property
    def reliable_bit_j(self) -> float:
        """Joules per bit of the first memory at its most reliable point."""
        return self.memories[0][0].reliable_bit_j

    def point(self, **setting: Point) -> Point:
        """Check an option; see `Device.point`."""
        point = Device.point(self, **setting)
        self._at(as_point(point).detach())
        return point

    def _at(self, point: Point) -> tuple[WordMemory, float]:
        """Memory and point of an option."""
        option = fixed_point(point, type(self).__name__)
        nearest = min(range(len(self.options)), key=lambda number: abs(option - number))
        if not abs(option - nearest) < 1e-6:  # points are computed from levels
            allowed = f"a whole number, 0 to {len(self.options) - 1}"
            refuse("option", f"{option:g}", allowed, OperatingPointError)
        return self.options[nearest]

    def label(self, point: Point) -> str:
        """An option in words, such as ``"secded, v_dd 0.55"``."""
        memory, at = self._at(self.point(option=point))
        protection = [] if memory.protection is None else [type(memory.protection).__name__.lower()]
        return ", ".join([*protection, f"{memory.knob.name} {at:g}"])

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Words:
        """Round a tensor to words."""
        return self.memories[0][0].store(tensor, limit=limit, name=name)

    def ideal(self, stored: Words) -> Tensor:
        """The values rounded to words."""
        return self.memories[0][0].ideal(stored)

    def read(self, stored: Words, point: Point, chip: Chip) -> Tensor:
        """The values as read on one chip from the memory of an option."""
        memory, at = self._at(point)
        return memory.read(stored, at, chip)

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch of activations and read it back; see `Device.round_trip`."""
        memory, at = self._at(point)
        return memory.round_trip(inputs, at, chip, limit, words=words)

    def moments(self, stored: Words, point: Point) -> ReadMoments:
        """Mean and variance over chips; without gradients in the option."""
        memory, at = self._at(point)
        return memory.moments(stored, at)

    def word_classes(self, stored: Words) -> WordClasses:
        """One class for each code."""
        classes = self.memories[0][0].word_classes(stored)
        return WordClasses(
            index=classes.index, scale=classes.scale, count=classes.count, moments=self._of_codes
        )

    def _of_codes(self, point: Tensor) -> tuple[Tensor, Tensor]:
        # The nearest option: predictions sample moments over the range of the knob.
        memory, at = self._at(point.round())
        return memory.code_moments(at)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference on the memory of an option."""
        memory, at = self._at(point)
        return memory.energy(traffic, at)

    def reference_energies(self, traffic: Traffic) -> dict[str, float]:
        """Reference energies of the first memory."""
        return self.memories[0][0].reference_energies(traffic)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        listed: Sequence[dict[str, Any]] = [
            {"knob": memory.knob.name, "point": at, "memory": memory.describe()}
            for memory, at in self.options
        ]
        return {"device": "alternatives", "options": listed}


def _error(memory: WordMemory, point: float) -> float:
    """Mean squared error in squared code steps, for Gaussian weights.

    Their standard deviation is a quarter of full scale.
    """
    codes = all_codes(memory.bits).double()
    weights = torch.exp(-((codes / 2 ** (memory.bits - 3)) ** 2) / 2)
    mean, var = memory.code_moments(point)
    return float((weights * (var + (mean - codes) ** 2)).sum() / weights.sum())
