"""Arrays of compute-in-memory devices: their size, and the converters at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from joulewise.errors import check_count, check_in_range

__all__ = ["Array", "rounded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Size of the arrays that a matrix is split into, by default any, and their converters.

    Currents of a column add up over the rows of one array. Each such partial sum is converted, and
    those of several arrays are added digitally. The two columns of a differential pair are
    subtracted before conversion.

    Args:
        rows: Rows of an array, 1 or more; None for as many as a matrix has.
        columns: Columns of an array, a differential pair counted once, 1 or more; None for as many
            as a matrix has. Every array converts the inputs of its rows, so more arrays side by
            side cost more; results do not depend on them.
        input_bits: Bits of the input converters, sign included, 2 to 16; None for exact inputs.
        output_bits: Bits of the output converters, sign included, 2 to 16; None for exact ones.
        headroom: Range of the output converters over the largest partial sum of the traced inputs,
            above 0; larger sums saturate.
    """

    rows: int | None = None
    columns: int | None = None
    input_bits: int | None = None
    output_bits: int | None = None
    headroom: float = 1.0

    def __post_init__(self) -> None:
        sizes, bits = ("rows", "columns"), ("input_bits", "output_bits")
        for field in (*sizes, *bits):
            if getattr(self, field) is not None:
                low, high = (1, 2**31) if field in sizes else (2, 16)
                check_count(field, getattr(self, field), low, high)
        check_in_range("headroom", self.headroom, 0.0, 1e6, open_low=True)

    @property
    def exact(self) -> bool:
        """True if nothing is rounded; results then do not depend on the array size."""
        return self.input_bits is None and self.output_bits is None

    def pieces(self, rows: int) -> Iterator[slice]:
        """Slices of a matrix's rows, one for each array."""
        step = self.rows or rows
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))

    def count(self, rows: int) -> int:
        """Arrays that the rows of a matrix are split into."""
        return -(-rows // (self.rows or rows))

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        rest = asdict(self)
        return {"array_rows": rest.pop("rows"), "array_columns": rest.pop("columns"), **rest}


def rounded(values: Tensor, limit: float, bits: int | None) -> Tensor:
    """Quantise to ``2**bits - 1`` uniform levels from ``-limit`` to ``limit``, with saturation.

    With ``bits`` None, values are as given. The gradient is straight through, saturation included.

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
