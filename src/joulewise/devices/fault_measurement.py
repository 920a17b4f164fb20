"""Measured faults of memory arrays over the supply: reading them, and what follows from them."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from joulewise.devices.fault_maps import Layout
from joulewise.devices.measured_map import MeasuredMap
from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J, VoltageRow, VoltageTable
from joulewise.devices.tables import read_csv
from joulewise.errors import TableError, check_count, check_in_range, check_kind, refuse

__all__ = ["FaultMeasurement"]

Counts = NDArray[np.int64]

# A block RAM of a Xilinx 7 series FPGA as published: 1,024 words of 16 bits, whose two bytes are
# equal in all files: one byte was captured twice. Words of even and odd addresses fail in different
# columns, so that two words share a row.
_RAM_WORDS, _RAM_BITS, _RAM_ROW = 1024, 8, 2
_LARGEST_FILE = 1 << 30
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMeasurement:
    """Cells of equal memory arrays that failed at some supply.

    A cell counts as failing at every supply up to the highest one at which it failed, so that
    faults are nested. Marginal cells that were read correctly at a lower supply are `recovered`.

    Args:
        rows: Rows of an array.
        columns: Cells in a row.
        arrays: Arrays that were read.
        volts: Supplies at which they were read, ascending.
        cells: Numbers of the cells that failed, ascending:
            ``(array * rows + row) * columns + column``.
        highest: For each of them, the highest supply at which it failed, one of ``volts``.
        layout: Columns of words that share a row; see `Layout`.
        recovered: Reads without a fault of cells that had failed at a higher supply.
        positions: Place of each array on the die, ``(x, y)``; empty if not known.
        source: Origin of the measurement.

    Raises:
        TableError: if a field is out of range.
    """

    rows: int
    columns: int
    arrays: int
    volts: tuple[float, ...]
    cells: tuple[int, ...]
    highest: tuple[float, ...]
    layout: Layout = "adjacent"
    recovered: int = 0
    positions: tuple[tuple[float, float], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("rows", "columns", "arrays"):
            check_count(field, getattr(self, field), 1, 1 << 30)
        check_kind("volts", self.volts, tuple, "a tuple of supplies", TableError)
        for volts in self.volts:
            check_in_range("volts", volts, 0.0, 100.0, open_low=True, error=TableError)
        if not self.volts or list(self.volts) != sorted(set(self.volts)):
            refuse("volts", f"{self.volts}", "supplies that ascend", TableError)
        most = self.arrays * self.rows * self.columns
        cells = np.asarray(self.cells, dtype=np.int64)
        if not len(cells) or (np.diff(cells) <= 0).any() or cells[0] < 0 or cells[-1] >= most:
            refuse(
                "cells", "empty, or out of order or range", f"ascending below {most}", TableError
            )
        if len(self.highest) != len(cells) or not set(self.highest) <= set(self.volts):
            refuse("highest", "not one for each cell", "one of volts for each cell", TableError)
        if self.layout not in get_args(Layout):
            refuse("layout", repr(self.layout), " or ".join(get_args(Layout)), TableError)
        if len(self.positions) not in (0, self.arrays):
            refuse("positions", f"{len(self.positions)}", f"{self.arrays}, or none", TableError)

    @classmethod
    def read_block_rams(
        cls, folder: str | Path, *, floorplan: str | Path | None = None
    ) -> FaultMeasurement:
        """Read the published fault maps of undervolted FPGA block RAMs.

        Args:
            folder: A folder with one file for each supply, named by it (``KC705B-0.53.bin``). Each
                is text of hexadecimal digits, 4 for each 16-bit word, 1,024 words for each block
                RAM, where a 0 bit is a fault: every cell was written with 1. Both bytes of each
                word are equal; they count once.
            floorplan: An OpenDocument spreadsheet with a table ``Floorplan`` of block RAM, x and y.

        Raises:
            TableError: if a file is not like that.

        References:
            B. Salami, O. Unsal, A. Cristal, "Comprehensive evaluation of supply voltage
            underscaling in FPGA on-chip memories", MICRO 2018: 28 nm, nominal supply 1 V.
        """
        check_kind("the folder", folder, str | Path, "a path", TableError)
        files: dict[float, Path] = {}
        for path in sorted(Path(folder).glob("*.bin")):
            named = re.search(r"(\d+\.\d+)\.bin$", path.name)
            if named is None:
                allowed = "a name such as KC705B-0.53.bin"
                refuse(str(path), "not named by its supply", allowed, TableError)
            if float(named[1]) in files:
                got = f"of the supply of {files[float(named[1])].name}, too"
                refuse(str(path), got, "the files of one board", TableError)
            files[float(named[1])] = path
        if not files:
            refuse(str(folder), "without files *.bin", "a file for each supply", TableError)
        fails = {volts: _block_rams(files[volts]) for volts in sorted(files, reverse=True)}
        sizes = {len(found) for found in fails.values()}
        if len(sizes) > 1:
            got = f"files of {', '.join(str(len(f) // _RAM_WORDS) for f in fails.values())} RAMs"
            refuse(str(folder), got, "as many in each file", TableError)
        highest, recovered = np.zeros((sizes.pop(), _RAM_BITS)), 0
        for volts, found in fails.items():
            recovered += int(np.count_nonzero((highest > 0) & ~found))
            highest[(highest == 0) & found] = volts
        # Two words to a row, the columns of one bit side by side.
        table = highest.reshape(-1, _RAM_ROW, _RAM_BITS).transpose(0, 2, 1).reshape(-1)
        cells = np.flatnonzero(table)
        arrays = len(highest) // _RAM_WORDS
        return cls(
            rows=_RAM_WORDS // _RAM_ROW,
            columns=_RAM_BITS * _RAM_ROW,
            arrays=arrays,
            volts=tuple(sorted(files)),
            cells=tuple(cells.tolist()),
            highest=tuple(table[cells].tolist()),
            layout="interleaved",
            recovered=recovered,
            positions=_floorplan(Path(floorplan), arrays) if floorplan is not None else (),
            source=f"{Path(folder).name}: {arrays} block RAMs, 28 nm (Salami et al., MICRO 2018)",
        )

    @classmethod
    def read_csv(
        cls,
        path: str | Path,
        *,
        rows: int,
        columns: int,
        arrays: int = 1,
        volts: Sequence[float] | None = None,
        layout: Layout = "adjacent",
    ) -> FaultMeasurement:
        """Read weak cells of arrays and the highest supply at which each failed.

        Args:
            path: A CSV file with the columns ``row,column,v_dd[,array]``, zero-based; lines that
                start with ``#`` are comments, and kept as the source.
            rows: Rows of an array.
            columns: Columns of an array.
            arrays: Arrays that were read.
            volts: Supplies at which they were read; None for those in the file.
            layout: See `Layout`.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        source, found = read_csv(path, ("row", "column", "v_dd"), "fault map", optional=["array"])
        highest: dict[int, float] = {}
        sizes = {"row": rows, "column": columns, "array": arrays}
        for place, numbers in found:
            row, column, supply, *rest = numbers
            at = {"row": row, "column": column, "array": rest[0] if rest else 0}
            for name, value in at.items():
                if value % 1 or not 0 <= value < sizes[name]:
                    allowed = f"a whole number below {sizes[name]}"
                    refuse(f"{place}: {name}", f"{value:g}", allowed, TableError)
            cell = int((at["array"] * rows + row) * columns + column)
            if cell in highest:
                refuse(place, "a cell named twice", "one line for each cell", TableError)
            highest[cell] = supply
        if not highest:
            refuse(str(path), "without any weak cell", "at least one", TableError)
        cells = sorted(highest)
        return cls(
            rows=rows,
            columns=columns,
            arrays=arrays,
            volts=tuple(sorted(set(highest.values()) if volts is None else volts)),
            cells=tuple(cells),
            highest=tuple(highest[cell] for cell in cells),
            layout=layout,
            source=source or str(path),
        )

    @property
    def bits(self) -> int:
        """Cells that were read."""
        return self.arrays * self.rows * self.columns

    @property
    def counts(self) -> dict[float, int]:
        """Failing cells at each supply."""
        highest = np.asarray(self.highest)
        return {volts: int(np.count_nonzero(highest >= volts)) for volts in self.volts}

    def failing_per(self, group: Literal["array", "column"], volts: float) -> Counts:
        """Failing cells at a supply, of each array ``[arrays]`` or column ``[arrays * columns]``.

        Raises:
            TableError: if arrays were not read at that supply.
        """
        if volts not in self.volts:
            refuse("volts", volts, f"one of {', '.join(map(str, self.volts))}", TableError)
        cells = np.asarray(self.cells)[np.asarray(self.highest) >= volts]
        array, place = np.divmod(cells, self.rows * self.columns)
        if group == "array":
            return np.bincount(array, minlength=self.arrays)
        column = array * self.columns + place % self.columns
        return np.bincount(column, minlength=self.arrays * self.columns)

    def fault_map(self) -> MeasuredMap:
        """The map of these cells, for ``SRAM(fault_map=..., law=...)`` with the law of `law`.

        At each measured supply exactly the measured cells fail. Between two of them the cells that
        are added fail from the middle on, in the logarithm of the bit error rate.
        """
        rates = {volts: count / self.bits for volts, count in self.counts.items()}
        descending, before = sorted(rates, reverse=True), 0.0
        threshold: dict[float, float] = {}
        for volts in descending:
            # Halfway in the logarithm: at a measured supply exactly the measured cells fail,
            # however its rate is rounded; the first rate has no neighbour.
            threshold[volts] = math.sqrt(before * rates[volts]) or rates[volts] * (1 - 1e-9)
            before = rates[volts]
        return MeasuredMap(
            rows=self.rows,
            columns=self.columns,
            cells=self.cells,
            rates=tuple(threshold[volts] for volts in self.highest),
            arrays=self.arrays,
            layout=self.layout,
        )

    def law(
        self,
        *,
        v_nominal: float | None = None,
        v_min: float | None = None,
        energy_per_bit_j: float = HOROWITZ_SRAM_BIT_J,
    ) -> VoltageTable:
        """Bit error rate over the supply, with an access energy of ``C V^2``.

        Args:
            v_nominal: Nominal supply, V.
            v_min: Lowest supply without an error, V.
            energy_per_bit_j: Joules per access to one bit at the nominal supply, or at the highest
                measured one if that is not known.

        Raises:
            TableError: if fewer than two supplies had a fault.
        """
        reference = v_nominal or self.volts[-1]
        rows = tuple(
            VoltageRow(volts, energy_per_bit_j * (volts / reference) ** 2, count / self.bits)
            for volts, count in self.counts.items()
            if count
        )
        source = f"{self.source}; energy C V^2, {energy_per_bit_j:.3g} J a bit at {reference:g} V"
        return VoltageTable(rows=rows, source=source, v_nominal=v_nominal, v_min=v_min)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {
            "source": self.source,
            "arrays": self.arrays,
            "rows": self.rows,
            "columns": self.columns,
            "layout": self.layout,
            "faults": {f"{volts:g}": count for volts, count in self.counts.items()},
            "recovered": self.recovered,
        }


def _block_rams(path: Path) -> NDArray[np.bool_]:
    """Faults of all words of the block RAMs of a file, ``[words, 8]``.

    Raises:
        TableError: if the file is not as `FaultMeasurement.read_block_rams` states.
    """
    allowed = f"hexadecimal digits, {4 * _RAM_WORDS} for each block RAM"
    try:
        if path.stat().st_size > _LARGEST_FILE:
            refuse(
                str(path), f"{path.stat().st_size} bytes", f"at most {_LARGEST_FILE}", TableError
            )
        content = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); allowed: {allowed}") from error
    if not content or len(content) % (2 * _RAM_WORDS):
        refuse(str(path), f"{2 * len(content)} digits", allowed, TableError)
    first, second = np.frombuffer(content, dtype=np.uint8).reshape(-1, 2).T
    if (first != second).any():
        word = int(np.flatnonzero(first != second)[0])
        got = f"{int(first[word]):02x}{int(second[word]):02x} in word {word}"
        refuse(str(path), got, "two equal bytes in each word, as published", TableError)
    return np.unpackbits(~first[:, None], axis=1).astype(bool)[:, ::-1]


def _floorplan(path: Path, arrays: int) -> tuple[tuple[float, float], ...]:
    """Positions from the table ``Floorplan`` of an OpenDocument spreadsheet.

    Raises:
        TableError: if there is no such table with a row for each array.
    """
    allowed = f"a spreadsheet with a table Floorplan: number, x, y for each of {arrays} arrays"
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("content.xml").file_size > _LARGEST_FILE:
                refuse(str(path), "too large", allowed, TableError)
            root = ElementTree.fromstring(archive.read("content.xml"))
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, ElementTree.ParseError) as error:
        raise TableError(f"{path} cannot be read ({error}); allowed: {allowed}") from error
    found: Mapping[int, tuple[float, float]] = {
        int(texts[0]): (float(texts[1]), float(texts[2]))
        for table in root.iter(f"{_TABLE}table")
        if table.get(f"{_TABLE}name") == "Floorplan"
        for row in table.iter(f"{_TABLE}table-row")
        for texts in [_texts(row)]
        if len(texts) >= 3 and all(text.isdecimal() for text in texts[:3])
    }
    if sorted(found) != list(range(arrays)):
        refuse(str(path), f"{len(found)} rows", allowed, TableError)
    return tuple(found[number] for number in range(arrays))


def _texts(row: ElementTree.Element) -> list[str]:
    """Texts of the first cells of a row; equal neighbours are stored once, with their number."""
    texts: list[str] = []
    for cell in row.iter(f"{_TABLE}table-cell"):
        repeated = cell.get(f"{_TABLE}number-columns-repeated", "1")
        texts += ["".join(cell.itertext()).strip()] * (
            min(int(repeated[:6]), 3) if repeated.isdecimal() else 1
        )
    return texts
