"""Energy of the read-out circuits of a crossbar.

Voltages drive the rows, currents leave the columns, with one amplifier per column of each array and
converters at both ends. Devices dissipate ``(g+ + g-) v^2`` and an amplifier of resistance ``r``
dissipates ``r i^2``. Conductances, and so currents, are random: energies are exact means over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import MatrixInputs
from joulewise.devices.moments import ReadMoments
from joulewise.errors import InputError, check_in_range

__all__ = ["ISAAC", "ReadOut"]

# Resolution that the energies of `ReadOut` are stated for, and of converters without a given one.
_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOut:
    """The read-out circuits of a crossbar.

    Args:
        v_read: Voltage of the largest input, volts, above 0.
        t_read: Time that a voltage is applied for, seconds, above 0.
        r_amplifier: Resistance of the transimpedance amplifiers, ohms, 0 or more.
        input_j: Joules per 8-bit conversion of an input, 0 to 1; proportional to the bits.
        output_j: Joules per 8-bit conversion of a sum, 0 to 1; doubles with each bit.
        source: Origin of the figures.
    """

    v_read: float
    t_read: float
    r_amplifier: float
    input_j: float
    output_j: float
    source: str

    def __post_init__(self) -> None:
        check_in_range("v_read", self.v_read, 0.0, 1e3, open_low=True)
        check_in_range("t_read", self.t_read, 0.0, 1e3, open_low=True)
        check_in_range("r_amplifier", self.r_amplifier, 0.0, 1e12)
        check_in_range("input_j", self.input_j, 0.0, 1.0)
        check_in_range("output_j", self.output_j, 0.0, 1.0)

    def energy_j(
        self,
        matrix_inputs: Sequence[MatrixInputs],
        plus: ReadMoments,
        minus: ReadMoments,
        array: Array,
        *,
        by_channel: bool = False,
    ) -> Tensor:
        """Joules per inference of the matrix-vector products with one tensor.

        Args:
            matrix_inputs: The products, one entry for each use of the tensor.
            plus: Mean and variance of the positive conductances, siemens, float64, in the shape of
                the weight.
            minus: The same for the negative conductances.
            array: Size of the arrays and their converters.
            by_channel: True for the joules of each output channel, the first axis of the weight;
                the energy of input conversion is divided evenly among the columns.

        Returns:
            float64 scalar, or ``[channels]``; differentiable.

        Raises:
            InputError: if output channels are asked for and are not columns of the matrix.
        """
        largest = max(product.largest for product in matrix_inputs) or 1.0
        uses = [
            self._of_use(product, product.largest / largest, plus, minus, array)
            for product in matrix_inputs
        ]
        if not by_channel:
            return torch.stack([spent.sum() for spent in uses]).sum()
        total = torch.zeros(len(plus.mean), dtype=torch.float64, device=plus.mean.device)
        for product, spent in zip(matrix_inputs, uses, strict=True):
            channels = product.channels()
            if channels is None:
                raise InputError(
                    "the first axis of the weight runs over the rows of its matrix, so its "
                    "channels are no columns; allowed: one operating point for the whole tensor"
                )
            total = total.index_add(0, channels.reshape(-1), spent.reshape(-1))
        return total

    def offset_energy_j(
        self,
        matrix_inputs: Sequence[MatrixInputs],
        devices: ReadMoments,
        middle: Tensor,
        array: Array,
        *,
        by_channel: bool = False,
    ) -> Tensor:
        """Joules per inference of an offset mapping: devices, and one middle column of each array.

        Args:
            matrix_inputs: As for `energy_j`.
            devices: Mean and variance of the conductances, as for `energy_j`.
            middle: The middle conductance, in their shape.
            array: As for `energy_j`.
            by_channel: As for `energy_j`.
        """
        none = ReadMoments(mean=middle * 0, var=middle * 0)
        # As if all columns were middle ones, less what converters spend whatever is read.
        own, whole, idle = (
            self.energy_j(matrix_inputs, plus, none, array, by_channel=by_channel)
            for plus in (devices, ReadMoments(mean=middle, var=middle * 0), none)
        )
        columns = matrix_inputs[0].matrix(middle).shape[1]
        middle_per_column = -(-columns // (array.columns or columns)) / columns
        return own + middle_per_column * (whole - idle)

    def _of_use(
        self,
        product: MatrixInputs,
        level: float,
        plus: ReadMoments,
        minus: ReadMoments,
        array: Array,
    ) -> Tensor:
        """Joules per inference of each column, ``[groups, columns]``."""
        volts = self.v_read * level * product.inputs.double()
        squares = volts.square().mean(0)
        watts = []
        for side in (plus, minus):
            mean, var = product.matrix(side.mean), product.matrix(side.var)
            watts.append(torch.einsum("gnk,gk->gn", mean, squares))
            for rows in array.pieces(mean.shape[2]):
                # E i^2 = (sum_k E g_k v_k)^2 + sum_k Var g_k v_k^2, conductances independent.
                currents = torch.einsum("sgk,gnk->sgn", volts[..., rows], mean[..., rows])
                noise = torch.einsum("gnk,gk->gn", var[..., rows], squares[..., rows])
                watts.append(self.r_amplifier * (currents.square().mean(0) + noise))
        columns, inputs = mean.shape[1:]
        joules = self._conversions_j(columns, inputs, array) / columns
        return product.uses * (self.t_read * torch.stack(watts).sum(0) + joules)

    def converters_j(self, matrix_inputs: Sequence[MatrixInputs], array: Array) -> float:
        """Joules per inference of the converters: the part of `energy_j` that no state changes.

        Args:
            matrix_inputs: As for `energy_j`.
            array: As for `energy_j`.
        """
        spent = 0.0
        for product in matrix_inputs:
            groups, columns, inputs = product.matrix(product.weight).shape
            spent += product.uses * groups * self._conversions_j(columns, inputs, array)
        return spent

    def _conversions_j(self, columns: int, inputs: int, array: Array) -> float:
        """Joules of all conversions of one matrix-vector product."""
        converted = inputs * -(-columns // (array.columns or columns))  # by each array in a row
        joules = converted * self.input_j * (array.input_bits or _BITS) / _BITS
        converted = columns * array.count(inputs)
        return joules + converted * self.output_j * 2.0 ** ((array.output_bits or _BITS) - _BITS)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        rest = asdict(self)
        return {"read_out_source": rest.pop("source"), **rest}


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
"""Read-out circuits of a published accelerator."""
