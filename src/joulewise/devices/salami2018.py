"""Published faults of undervolted FPGA block RAMs (Salami et al., MICRO 2018)."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from joulewise.devices.fault_measurement import FaultMeasurement
from joulewise.errors import TableError, check_kind, refuse

__all__ = ["read_salami2018"]

# A block RAM of a Xilinx 7 series FPGA as published: 1,024 words of 16 bits, whose two bytes are
# equal in all files: one byte was captured twice. Words of even and odd addresses fail in different
# columns, so that two words share a row.
_RAM_WORDS, _RAM_BITS, _RAM_ROW = 1024, 8, 2
_SUPPLY = re.compile(r"(\d+\.\d+)\.bin$")
_LARGEST_FILE = 1 << 30
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"


def read_salami2018(folder: str | Path, *, floorplan: str | Path | None = None) -> FaultMeasurement:
    """Read the published fault maps of undervolted FPGA block RAMs.

    Args:
        folder: A folder with one file for each supply, named by it (``KC705B-0.53.bin``). Each
            is text of hexadecimal digits, 4 for each 16-bit word, 1,024 words for each block
            RAM, where a 0 bit is a fault: every cell was written with 1. Both bytes of each
            word are equal; they count once.
        floorplan: An OpenDocument spreadsheet with a table ``Floorplan`` of block RAM, x and y.

    Raises:
        TableError: if a file is not like that, or of another board.

    References:
        B. Salami, O. Unsal, A. Cristal, "Comprehensive evaluation of supply voltage
        underscaling in FPGA on-chip memories", MICRO 2018: 28 nm, nominal supply 1 V.
    """
    check_kind("the folder", folder, str | Path, "a path", TableError)
    check_kind("floorplan", floorplan, str | Path | None, "a path, or None", TableError)
    try:
        paths = sorted(Path(folder).glob("*.bin"))
    except (OSError, ValueError) as error:  # ValueError: no path at all
        raise TableError(f"the folder cannot be read ({error}); allowed: a folder") from error
    files: dict[float, Path] = {}
    for path in paths:
        named = _SUPPLY.search(path.name)
        if named is None:
            allowed = "a name such as KC705B-0.53.bin"
            refuse(str(path), "not named by its supply", allowed, TableError)
        v_dd = float(named[1])
        if v_dd in files:
            got = f"of the supply of {files[v_dd].name}, too"
            refuse(str(path), got, "the files of one board", TableError)
        if _SUPPLY.sub("", path.name) != _SUPPLY.sub("", paths[0].name):
            got = f"of another board than {paths[0].name}"
            refuse(str(path), got, "the files of one board", TableError)
        files[v_dd] = path
    if not files:
        refuse(str(folder), "without files *.bin", "a file for each supply", TableError)
    fails = {v_dd: _block_rams(files[v_dd]) for v_dd in sorted(files, reverse=True)}
    sizes = {len(found) for found in fails.values()}
    if len(sizes) > 1:
        got = f"files of {', '.join(str(len(f) // _RAM_WORDS) for f in fails.values())} RAMs"
        refuse(str(folder), got, "as many in each file", TableError)
    first_failure_v, recovered = np.zeros((sizes.pop(), _RAM_BITS)), 0
    for v_dd, found in fails.items():
        recovered += int(np.count_nonzero((first_failure_v > 0) & ~found))
        first_failure_v[(first_failure_v == 0) & found] = v_dd
    if not first_failure_v.any():
        refuse(str(folder), "without any fault", "files with a 0 bit", TableError)
    # Two words to a row, the columns of one bit side by side.
    table = first_failure_v.reshape(-1, _RAM_ROW, _RAM_BITS).transpose(0, 2, 1).reshape(-1)
    cells = np.flatnonzero(table)
    arrays = len(first_failure_v) // _RAM_WORDS
    return FaultMeasurement(
        rows=_RAM_WORDS // _RAM_ROW,
        columns=_RAM_BITS * _RAM_ROW,
        arrays=arrays,
        supplies_v=tuple(sorted(files)),
        cells=tuple(cells.tolist()),
        first_failure_v=tuple(table[cells].tolist()),
        layout="interleaved",
        recovered=recovered,
        positions=_floorplan(Path(floorplan), arrays) if floorplan is not None else (),
        source=f"{Path(folder).name}: {arrays} block RAMs, 28 nm (Salami et al., MICRO 2018)",
    )


def _block_rams(path: Path) -> NDArray[np.bool_]:
    """Faults of all words of the block RAMs of a file, ``[words, 8]``.

    Raises:
        TableError: if the file is not as `read_salami2018` states.
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
        with zipfile.ZipFile(path) as archive, archive.open("content.xml") as file:
            root = ElementTree.fromstring(file.read(_LARGEST_FILE))
    except Exception as error:  # archives, compression, encodings and XML each have their own
        raise TableError(f"{path} cannot be read ({error}); allowed: {allowed}") from error
    found = sorted(
        (int(texts[0]), float(texts[1]), float(texts[2]))
        for table in root.iter(f"{_TABLE}table")
        if table.get(f"{_TABLE}name") == "Floorplan"
        for row in table.iter(f"{_TABLE}table-row")
        for texts in [_texts(row)]
        if len(texts) >= 3 and all(re.fullmatch(r"\d{1,9}", text) for text in texts[:3])
    )
    if [number for number, _, _ in found] != list(range(arrays)):
        refuse(str(path), f"{len(found)} rows", allowed + ", once", TableError)
    return tuple((x, y) for _, x, y in found)


def _texts(row: ElementTree.Element) -> list[str]:
    """Texts of the first cells of a row; equal neighbours are stored once, with their number."""
    texts: list[str] = []
    for cell in row.iter(f"{_TABLE}table-cell"):
        repeated = cell.get(f"{_TABLE}number-columns-repeated", "1")
        texts += ["".join(cell.itertext()).strip()] * (
            min(int(repeated[:6]), 3) if repeated.isdecimal() else 1
        )
    return texts
