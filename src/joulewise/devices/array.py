"""Arrays: matrices cut into pieces of hardware's size, with converters at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from joulewise.errors import check_in_range, check_whole

__all__ = ["WHOLE", "Array", "rounded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """The arrays of a memory that computes.

    The currents of a column add up over the rows of one array. Each sum is converted, and the sums
    of several arrays are added as numbers. The two columns of a differential pair are subtracted
    before the converter.

    Args:
        rows: Rows of an array, 1 or more; None for as many as a matrix has.
        columns: Its columns, likewise, one for both lines of a pair. Sums do not depend on them,
            but every array converts the inputs of its rows anew.
        input_bits: Of the input converters, sign included, 2 to 16; None for exact inputs.
        output_bits: Of the output converters, likewise.
        headroom: Range of the output converters over the largest sum among the vectors that were
            traced, above 0; what is beyond saturates.

    Raises:
        InputError: if a field is outside its range.
    """

    rows: int | None = None
    columns: int | None = None
    input_bits: int | None = None
    output_bits: int | None = None
    headroom: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields once."""
        sizes = (("rows", 1, 2**31), ("columns", 1, 2**31))
        for field, low, high in (*sizes, ("input_bits", 2, 16), ("output_bits", 2, 16)):
            number = getattr(self, field)
            if number is not None:
                check_in_range(field, number, low, high)
                check_whole(field, number)
        check_in_range("headroom", self.headroom, 0.0, 1e6, open_low=True)

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded: then it does not matter how a matrix is cut."""
        return self.input_bits is None and self.output_bits is None

    def pieces(self, rows: int) -> Iterator[slice]:
        """The rows of a matrix that share an array."""
        step = self.rows or rows
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))

    def count(self, rows: int) -> int:
        """How many arrays the rows of a matrix take, below each other."""
        return -(-rows // (self.rows or rows))

    def beside(self, columns: int) -> int:
        """How many arrays the columns of a matrix take, beside each other."""
        return -(-columns // (self.columns or columns))

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "array_rows": self.rows,
            "array_columns": self.columns,
            "input_bits": self.input_bits,
            "output_bits": self.output_bits,
            "headroom": self.headroom,
        }


WHOLE = Array()
"""Arrays of any size with exact converters."""


def rounded(values: Tensor, limit: float, bits: int | None) -> Tensor:
    """What a converter makes of a value: the nearest of ``2**bits - 1`` even steps, saturating.

    Args:
        values: Any shape.
        limit: The largest magnitude, above 0.
        bits: Of the converter, sign included; None for an exact one.

    Returns:
        The same shape and dtype; the gradient is that of the value itself.

    Example:
        >>> import torch
        >>> rounded(torch.tensor([0.3, -0.8, 2.0]), limit=1.0, bits=2).tolist()
        [0.0, -1.0, 1.0]
    """
    if bits is None:
        return values
    most = 2 ** (bits - 1) - 1
    step = limit / most
    found: Tensor = (values.detach() / step).round().clamp(-most, most) * step
    return values + (found - values.detach()) if values.requires_grad else found
