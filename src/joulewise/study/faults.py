"""Faults of memories of words as plain data: their effect, positions, and check bits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from joulewise.study.messages import named
from joulewise.study.named_files import content_of
from joulewise.study.plain import Plain, kind_alone
from joulewise.study.store import content_digest

if TYPE_CHECKING:
    from joulewise.devices import (
        SECDED,
        CorrelatedMap,
        FaultMeasurement,
        Flip,
        IndependentMap,
        Mask,
        MeasuredMap,
        Parity,
        SpareRows,
        Stuck,
    )

__all__ = [
    "Fault",
    "FaultMapEntry",
    "FlipFault",
    "IndependentFaults",
    "MaskFault",
    "MeasuredFaults",
    "ProtectionEntry",
    "StuckFault",
]


class MaskFault(Plain):
    """A faulty bit reads as the sign bit, and a faulty sign bit zeroes the word."""

    kind: Literal["mask"] = "mask"

    def build(self) -> Mask:
        """The fault kind."""
        from joulewise.devices import Mask

        return Mask()


class FlipFault(Plain):
    """A faulty bit reads as the other value, at rates relative to the bit error rate."""

    kind: Literal["flip"] = "flip"
    zero_to_one: float = Field(default=1.0, ge=0, le=2)
    one_to_zero: float = Field(default=1.0, ge=0, le=2)

    @model_validator(mode="after")
    def _check_rates(self) -> FlipFault:
        """Refuse cells that never fail.

        Raises:
            ValueError: naming both rates.
        """
        if not self.zero_to_one and not self.one_to_zero:
            raise ValueError("zero_to_one and one_to_zero are both 0; allowed: one above 0")
        return self

    def build(self) -> Flip:
        """The fault kind."""
        from joulewise.devices import Flip

        return Flip(zero_to_one=self.zero_to_one, one_to_zero=self.one_to_zero)


class StuckFault(Plain):
    """A faulty bit is stuck, at 1 with this probability."""

    kind: Literal["stuck"] = "stuck"
    at_one: float = Field(default=0.5, ge=0, le=1)

    def build(self) -> Stuck:
        """The fault kind."""
        from joulewise.devices import Stuck

        return Stuck(at_one=self.at_one)


class IndependentFaults(Plain):
    """Cells fail independently."""

    kind: Literal["independent"] = "independent"

    def build(self, bits: int) -> IndependentMap:
        """The fault map of words of ``bits``."""
        from joulewise.devices import IndependentMap

        return IndependentMap()


class CorrelatedFaults(Plain):
    """Faults correlated within rows, columns and blocks of 16 rows by 2 words; see the map."""

    kind: Literal["correlated"] = "correlated"
    row: float = Field(default=0.0, ge=0, le=0.9)
    column: float = Field(default=0.0, ge=0, le=0.9)
    cluster: float = Field(default=0.0, ge=0, le=0.9)
    words: int = Field(default=32, ge=1, le=1 << 16, description="words in a row of an array")
    rows: int | None = Field(default=None, ge=1, le=1 << 20, description="of an array; none: any")
    layout: Literal["adjacent", "interleaved"] = "adjacent"

    @model_validator(mode="after")
    def _check_shares(self) -> CorrelatedFaults:
        """Refuse effects that leave too little to single cells.

        Raises:
            ValueError: stating their sum.
        """
        if self.row + self.column + self.cluster > 0.9:
            total = self.row + self.column + self.cluster
            raise ValueError(f"row + column + cluster is {total:g}; allowed: at most 0.9")
        return self

    def build(self, bits: int) -> CorrelatedMap:
        """The fault map of words of ``bits``."""
        from joulewise.devices import CorrelatedMap

        return CorrelatedMap(
            row=self.row,
            column=self.column,
            cluster=self.cluster,
            columns=self.words * bits,
            cluster_columns=min(2, self.words) * (bits if self.layout == "adjacent" else 1),
            rows=self.rows,
            layout=self.layout,
        )


class SpareRowFaults(Plain):
    """Independent faults, and spare rows that replace the first failing rows of each array."""

    kind: Literal["spare_rows"] = "spare_rows"
    spares: int = Field(default=2, ge=1, le=1 << 20)
    rows: int = Field(default=256, ge=2, le=1 << 20, description="of an array")
    words: int = Field(default=32, ge=1, le=1 << 16, description="words in a row of an array")

    @model_validator(mode="after")
    def _check_spares(self) -> SpareRowFaults:
        """Refuse as many spares as rows.

        Raises:
            ValueError: naming both.
        """
        if self.spares >= self.rows:
            raise ValueError(f"spares is {self.spares}; allowed: below the {self.rows} rows")
        return self

    def build(self, bits: int) -> SpareRows:
        """The fault map of words of ``bits``."""
        from joulewise.devices import SpareRows

        return SpareRows(spares=self.spares, rows=self.rows, columns=self.words * bits)


class MeasuredFaults(Plain):
    """Measured arrays: a CSV file of weak cells, or a folder of published block RAM files.

    The file has the columns ``row,column``, then ``bit_error_rate`` or ``v_dd``, then ``array`` if
    there are several. With supplies, or a folder, the measurement also gives a law, for
    ``law: measured``. A folder states its own arrays.
    """

    kind: Literal["measured"] = "measured"
    path: Path
    rows: int = Field(default=512, ge=1, le=1 << 20)
    columns: int = Field(default=256, ge=1, le=1 << 20)
    arrays: int = Field(default=1, ge=1, le=1 << 20)
    layout: Literal["adjacent", "interleaved"] = "adjacent"

    def measurement(self) -> FaultMeasurement | None:
        """The measurement; None for a file of bit error rates.

        Raises:
            InputError: if it cannot be read.
        """
        return self._read()[0]

    def build(self, bits: int) -> MeasuredMap:
        """The fault map.

        Raises:
            InputError: if it cannot be read.
        """
        return self._read()[1]

    def _read(self) -> tuple[FaultMeasurement | None, MeasuredMap]:
        with named("fault_map"):
            return _measured(self, content_digest(content_of(self.path)))


@lru_cache(maxsize=4)
def _measured(entry: MeasuredFaults, content: str) -> tuple[FaultMeasurement | None, MeasuredMap]:
    """The measurement and the map of files of some content, which all trials share."""
    from joulewise.devices import FaultMeasurement, MeasuredMap, read_salami2018
    from joulewise.devices.tables import has_column

    if entry.path.is_dir():
        measured = read_salami2018(entry.path)
        return measured, measured.fault_map()
    of_arrays = entry.model_dump(include={"rows", "columns", "arrays", "layout"})
    if has_column(entry.path, "v_dd"):
        measured = FaultMeasurement.from_csv(entry.path, **of_arrays)
        return measured, measured.fault_map()
    return None, MeasuredMap.from_csv(entry.path, **of_arrays)


class _Checked(Plain):
    """Fields of check bits over words."""

    planes: int | None = Field(default=None, ge=1, le=16, description="most significant bits")
    on_detected: Literal["zero", "keep"] = "zero"
    decode_j: float = Field(default=0.0, ge=0, le=1, description="joules a codeword")


class ParityCheck(_Checked):
    """A parity bit; see `joulewise.devices.Parity`."""

    kind: Literal["parity"] = "parity"
    words: int = Field(default=1, ge=1, le=4096, description="words in a codeword")

    def build(self) -> Parity:
        """The protection."""
        from joulewise.devices import Parity

        return Parity(**self.model_dump(exclude={"kind"}))


class SECDEDCheck(_Checked):
    """A code that corrects one error and detects two; see `joulewise.devices.SECDED`."""

    kind: Literal["secded"] = "secded"
    words: int = Field(default=8, ge=1, le=4096, description="words in a codeword")

    def build(self) -> SECDED:
        """The protection."""
        from joulewise.devices import SECDED

        return SECDED(**self.model_dump(exclude={"kind"}))


Fault = Annotated[
    Annotated[MaskFault | FlipFault | StuckFault, Field(discriminator="kind")],
    BeforeValidator(kind_alone),
]
"""The effect of a failing cell; also from its kind alone."""

FaultMapEntry = Annotated[
    Annotated[
        IndependentFaults | CorrelatedFaults | SpareRowFaults | MeasuredFaults,
        Field(discriminator="kind"),
    ],
    BeforeValidator(kind_alone),
]
"""The positions of failing cells; also from their kind alone."""

ProtectionEntry = Annotated[
    Annotated[ParityCheck | SECDEDCheck, Field(discriminator="kind")], BeforeValidator(kind_alone)
]
"""Check bits over words; also from their kind alone."""
