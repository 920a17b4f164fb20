"""Read-out: what it costs to compute with a crossbar.

Voltages on the rows, currents from the columns, one amplifier to a column of each array, a
converter at either end. The devices spend ``(g+ + g-) v^2``, an amplifier of resistance ``r``
spends ``r i^2``; both are random, since conductances are, and their means are taken exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.array import WHOLE, Array
from joulewise.devices.chip import Load
from joulewise.devices.moments import Moments
from joulewise.errors import InputError, check_in_range

__all__ = ["ISAAC", "ReadOut", "check_loads"]


def check_loads(loads: Sequence[Load]) -> None:
    """Refuse a tensor of which nobody knows how it is used.

    Raises:
        InputError: if there are no loads.
    """
    if not loads:
        raise InputError(
            "the energy of a memory that computes depends on what it is given, and no product with "
            "this tensor was traced; give place(..., inputs=a batch), or exclude the tensor"
        )


# Converters whose bits are not said cost as much as the profile's own.
_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOut:
    """The circuits around a crossbar.

    Args:
        v_read: The voltage of the largest input that a weight meets, volts, above 0.
        t_read: How long a voltage is applied, seconds, above 0.
        r_amplifier: Of the transimpedance amplifiers, ohms, 0 or more.
        input_j: Joules to convert one input to 8 bits, 0 or more; taken to grow with the bits.
        output_j: Joules to convert one sum to 8 bits, 0 or more; taken to double with each bit.
        source: Where the figures come from.

    Raises:
        InputError: if a field is outside its range.
    """

    v_read: float
    t_read: float
    r_amplifier: float
    input_j: float
    output_j: float
    source: str

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("v_read", self.v_read, 0.0, 1e3, open_low=True)
        check_in_range("t_read", self.t_read, 0.0, 1e3, open_low=True)
        check_in_range("r_amplifier", self.r_amplifier, 0.0, 1e12)
        check_in_range("input_j", self.input_j, 0.0, 1.0)
        check_in_range("output_j", self.output_j, 0.0, 1.0)

    def energy_j(
        self, loads: Sequence[Load], plus: Moments, minus: Moments, array: Array = WHOLE
    ) -> Tensor:
        """Joules per inference of one tensor's products.

        Args:
            loads: How it is used.
            plus: Mean and variance of the positive conductances, siemens, float64, in the weight's
                shape.
            minus: The same of the negative ones.
            array: What the matrix is cut into.

        Returns:
            One number, float64; differentiable.
        """
        parts = [spent.sum() for spent in self._by_column(loads, plus, minus, array)]
        return torch.stack(parts).sum()

    def energy_by_channel_j(
        self, loads: Sequence[Load], plus: Moments, minus: Moments, array: Array = WHOLE
    ) -> Tensor:
        """The same for each output channel, the first axis of the weight.

        What inputs cost is shared out evenly among the columns that they reach.

        Args:
            loads: As for `energy_j`.
            plus: As for `energy_j`.
            minus: As for `energy_j`.
            array: As for `energy_j`.

        Returns:
            float64 ``[channels]``, differentiable.

        Raises:
            InputError: if channels are not columns.
        """
        total = torch.zeros(len(plus.mean), dtype=torch.float64, device=plus.mean.device)
        for load, spent in zip(loads, self._by_column(loads, plus, minus, array), strict=True):
            channels = load.channels()
            if channels is None:
                raise InputError(
                    "the first axis of the weight runs over the rows of its matrix, so its "
                    "channels are no columns; allowed: one operating point for the whole tensor"
                )
            total = total.index_add(0, channels.reshape(-1), spent.reshape(-1))
        return total

    def _by_column(
        self, loads: Sequence[Load], plus: Moments, minus: Moments, array: Array
    ) -> list[Tensor]:
        """Joules of each use, ``[groups, columns]``."""
        largest = max(load.largest for load in loads) or 1.0
        return [self._of_use(load, load.largest / largest, plus, minus, array) for load in loads]

    def _of_use(
        self, load: Load, level: float, plus: Moments, minus: Moments, array: Array
    ) -> Tensor:
        volts = self.v_read * level * load.inputs.double()
        parts = []
        for side in (plus, minus):
            mean, var = load.matrix(side.mean), load.matrix(side.var)
            squares = volts.square().mean(0)
            parts.append(torch.einsum("gnk,gk->gn", mean, squares))
            for rows in array.pieces(mean.shape[2]):
                currents = torch.einsum("sgk,gnk->sgn", volts[..., rows], mean[..., rows])
                noise = torch.einsum("gnk,gk->gn", var[..., rows], squares[..., rows])
                parts.append(self.r_amplifier * (currents.square().mean(0) + noise))
        groups, columns, inputs = mean.shape
        given = inputs * array.beside(columns)
        converted = given * self.input_j * (array.input_bits or _BITS) / _BITS
        conversions = columns * array.count(inputs)
        converted += conversions * self.output_j * 2.0 ** ((array.output_bits or _BITS) - _BITS)
        return load.uses * (self.t_read * torch.stack(parts).sum(0) + converted / columns)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "v_read": self.v_read,
            "t_read": self.t_read,
            "r_amplifier": self.r_amplifier,
            "input_j": self.input_j,
            "output_j": self.output_j,
            "read_out_source": self.source,
        }


ISAAC = ReadOut(
    v_read=0.2,
    t_read=100e-9,
    r_amplifier=1e3,
    input_j=8 * 4e-3 * 100e-9 / 1024,
    output_j=2e-3 / 1.2e9,
    source=(
        "A. Shafiee et al., ISAAC, ISCA 2016 (32 nm): a read takes 100 ns; 4 mW for 1024 1-bit "
        "input converters, so 0.39 pJ a bit and 3.1 pJ for 8 bits; 2 mW for an 8-bit output "
        "converter of 1.2 Gsample/s, 1.7 pJ a sample. 0.2 V and 1 kohm: illustrative."
    ),
)
"""The read-out of a published accelerator."""
