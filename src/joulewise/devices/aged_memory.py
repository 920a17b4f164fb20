"""Memories whose rows were written at different times: a key-value cache as it is decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.device import Device
from joulewise.devices.moments import ReadMoments
from joulewise.devices.operating_point import Knob, Point, as_point
from joulewise.devices.word_memory import WordMemory
from joulewise.errors import check_in_range, refuse
from joulewise.words import FixedPoint, Words

__all__ = ["AgedMemory", "check_step"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgedMemory(Device[Words]):
    """A dynamic memory of activations ``[batch, rows, ...]`` at the ages of its rows.

    A cell has a retention time, fixed on its chip. Charge is renewed by a write and at
    every refresh, one interval ``T`` after the other from the write on; a bit whose retention time
    is below the time since its charge was renewed is lost, and a refresh then renews the leaked
    value. A word of age ``a`` has lost the bits with retention times below ``min(a, T)``: it reads
    as in a memory that is refreshed at that interval. So lost bits are nested, in age and interval.

    Args:
        memory: The memory, whose knob is its refresh interval in seconds.
        ages_s: Seconds since each row was written, 0 or more, ``[rows]``.
    """

    memory: WordMemory
    ages_s: Tensor

    @property
    def knob(self) -> Knob:
        """The refresh interval, in seconds."""
        return self.memory.knob

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Words:
        """Round a batch ``[batch, rows, ...]`` to words of one scale."""
        one = replace(self.memory, channel_dim=None, group_size=None)
        return one.store(tensor, limit=limit, name=name)

    def ideal(self, stored: Words) -> Tensor:
        """The values rounded to words."""
        return self.memory.ideal(stored)

    def read(self, stored: Words, point: Point, chip: Chip) -> Tensor:
        """A batch as read on one chip, all samples from the same cells."""
        # The limit of its scale: the largest value that is stored may be smaller.
        limit = float(stored.scale) * FixedPoint(bits=self.memory.bits).highest
        return self.round_trip(stored.values, point, chip, limit).to(stored.dtype)

    def moments(self, stored: Words, point: Point) -> ReadMoments:
        """Mean and variance of each word of a batch; differentiable in ``point``."""
        # Points are those of indices of the first axis.
        rows = replace(stored, codes=stored.codes.transpose(0, 1).contiguous())
        found = self.memory.moments(rows, self._points(point, len(self.ages_s)))
        mean, var = found.mean.transpose(0, 1), found.var.transpose(0, 1)
        return replace(found, mean=mean, var=var)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """Joules per inference, those of the memory."""
        return self.memory.energy(traffic, point)

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        """Write a batch and read it back; see `Device.round_trip`."""
        # Of `held` words the first `used` are given; rows are as long in all of them.
        used = inputs[0].numel()
        held = max(words or used, used)
        points = self._points(point, held * inputs.shape[1] // used)
        return self.memory.round_trip(inputs, points, chip, limit, words=held)

    def _points(self, point: Point, rows: int) -> Tensor:
        """Refresh interval that stands for the age of each row, ``[rows, 1]`` or ``[rows, bits]``.

        Rows beyond those with an age are empty.
        """
        # Above 0, so that the logarithm in the law of retention has a gradient.
        ages = self.ages_s.new_full((rows,), 1e-30)
        ages[: len(self.ages_s)] = self.ages_s.clamp(min=1e-30)
        return torch.minimum(as_point(point), ages[:, None])


def check_step(memory: WordMemory) -> None:
    """Refuse a decoding step out of range, or where words cannot fail by their age.

    Raises:
        InputError: naming the field.
    """
    if memory.step_s is None:
        return
    check_in_range("step_s", memory.step_s, 0.0, 1e6, open_low=True)
    if memory.knob.name != "refresh_s":
        refuse("step_s", f"given beside the knob {memory.knob.name}", "None there")
    if memory.protection is not None or not memory.fault_map.channels:
        got = "given beside a protection or spare rows"
        refuse("step_s", got, "None there, as entries of a cache fail at different rates")
