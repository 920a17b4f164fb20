import zipfile
from pathlib import Path

import numpy as np
import pytest

import joulewise
from joulewise.devices import read_salami2018
from joulewise.errors import TableError

PUBLISHED = Path(joulewise.__file__).parents[3] / "shared/data/undervolt-kc705b"
SHEET = (
    '<office:document-content xmlns:office="o" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:text="t"><table:table table:name="Floorplan">{rows}</table:table>'
    "</office:document-content>"
)


def write_rams(folder, volts, faults, rams=2):
    """Faults: word and bit (0 the least significant of the byte), within all RAMs."""
    words = np.full(rams * 1024, 0xFF, dtype=np.uint8)
    for word, bit in faults:
        words[word] &= ~np.uint8(1 << bit)
    path = folder / f"board-{volts}.bin"
    path.write_text(np.repeat(words, 2).tobytes().hex().upper())
    return path


@pytest.fixture
def folder(tmp_path):
    write_rams(tmp_path, "0.55", [(5, 0)])
    write_rams(tmp_path, "0.54", [(5, 0), (5, 7), (1024, 3)])
    write_rams(tmp_path, "0.53", [(5, 7), (1024, 3), (1025, 3), (2047, 0)])
    return tmp_path


def test_block_rams_are_read_as_arrays_of_two_words_a_row(folder):
    found = read_salami2018(folder)
    assert (found.arrays, found.rows, found.columns) == (2, 512, 16)
    assert found.layout == "interleaved"
    assert found.supplies_v == (0.53, 0.54, 0.55)
    assert found.counts == {0.55: 1, 0.54: 3, 0.53: 5}  # word 5, bit 0 had recovered at 0.53 V
    assert found.recovered == 1
    # Word 5 is in row 2, the second of it: bit 7 in column 15; word 1024 is the first of RAM 1.
    assert found.cells == (2 * 16 + 1, 2 * 16 + 15, 8192 + 6, 8192 + 7, 8192 + 511 * 16 + 1)
    assert found.first_failure_v == (0.55, 0.54, 0.54, 0.53, 0.53)
    assert found.failing_per("array", 0.53).tolist() == [2, 3]
    columns = found.failing_per("column", 0.54)
    assert columns.nonzero()[0].tolist() == [1, 15, 16 + 6]


def write_plan(path, rows):
    """A spreadsheet of rows of numbers."""
    row = "<table:table-row>{}</table:table-row>"
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    text = "".join(row.format("".join(cell.format(number) for number in one)) for one in rows)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.xml", SHEET.format(rows=text))


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 4, 100), (1, 7, 7), (1, 7, 8)],
        [(0, 4, 100), (1, "9" * 400, 7)],
        [(0, 4, 100), ("1" * 5000, 7, 7)],
    ],
    ids=["a RAM twice", "an x of 400 digits", "a number of 5,000 digits"],
)
def test_rows_that_name_no_ram_once(folder, tmp_path, rows):
    write_plan(tmp_path / "plan.ods", rows)
    with pytest.raises(TableError, match=r"plan.ods is [13] rows; allowed: .*2 arrays, once"):
        read_salami2018(folder, floorplan=tmp_path / "plan.ods")


def test_other_encodings_and_archives(folder, tmp_path):
    path = tmp_path / "plan.ods"
    for encoding in ("foo", "utf-7"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("content.xml", f'<?xml version="1.0" encoding="{encoding}"?><a/>')
        with pytest.raises(TableError, match="plan.ods cannot be read"):
            read_salami2018(folder, floorplan=path)
    write_plan(path, [(0, 1, 2), (1, 3, 4)])
    good = path.read_bytes()
    flags, method = good.rindex(b"PK\x01\x02") + 8, good.rindex(b"PK\x01\x02") + 10
    for place, value in ((flags, 1), (method, 97), (method, 14)):  # encrypted, unknown, LZMA
        # Headers of the entry itself lie two bytes earlier than those of the directory.
        broken = bytearray(good)
        broken[place] = broken[place - flags + 6] = value
        path.write_bytes(broken)
        with pytest.raises(TableError, match="plan.ods cannot be read"):
            read_salami2018(folder, floorplan=path)
    with pytest.raises(TableError, match="^floorplan is 3 .int.; allowed: a path, or None"):
        read_salami2018(folder, floorplan=3)


def test_floorplan(folder, tmp_path):
    row = "<table:table-row>{}</table:table-row>"
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    two = (
        '<table:table-cell table:number-columns-repeated="2"><text:p>7</text:p></table:table-cell>'
    )
    rows = [row.format("".join(cell.format(t) for t in ("BRAM", "X", "Y")))]
    rows += [row.format("".join(cell.format(t) for t in (0, 4, 100)))]
    rows += [row.format(cell.format(1) + two)]
    with zipfile.ZipFile(tmp_path / "plan.ods", "w") as archive:
        archive.writestr("content.xml", SHEET.format(rows="".join(rows)))
    found = read_salami2018(folder, floorplan=tmp_path / "plan.ods")
    assert found.positions == ((4.0, 100.0), (7.0, 7.0))


@pytest.mark.parametrize("content", [b"", b"PK no zip"])
def test_a_floorplan_of_another_kind(folder, tmp_path, content):
    (tmp_path / "plan.ods").write_bytes(content)
    with pytest.raises(TableError, match=r"plan.ods cannot be read .*allowed: a spreadsheet"):
        read_salami2018(folder, floorplan=tmp_path / "plan.ods")


def test_a_floorplan_of_other_arrays(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "plan.ods", "w") as archive:
        archive.writestr("content.xml", SHEET.format(rows=""))
    with pytest.raises(TableError, match=r"plan.ods is 0 rows; allowed: .* each of 2 arrays"):
        read_salami2018(folder, floorplan=tmp_path / "plan.ods")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("board-0.52.bin", "FFFF", "is 4 digits; allowed: hexadecimal digits, 4096 for each"),
        ("board-0.52.bin", "XY" * 2048, "cannot be read"),
        ("board-0.52.bin", "", "is 0 digits"),
        ("board-0.52.bin", "FF7F" * 1024, "is ff7f in word 0; allowed: two equal bytes"),
        ("board-0.52.bin", "F" * 4096, "is files of 2, 2, 2, 1 RAMs; allowed: as many in each"),
        ("board.bin", "F" * 4096, "is not named by its supply"),
    ],
)
def test_other_files_are_refused(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(TableError, match=message):
        read_salami2018(folder)


def test_two_boards_in_one_folder(folder):
    write_rams(folder, "0.55", []).rename(folder / "other-0.55.bin")
    write_rams(folder, "0.55", [])
    with pytest.raises(TableError, match=r"is of the supply of .*; allowed: the files of one"):
        read_salami2018(folder)


def test_files_of_several_boards(folder):
    for name in ("other-0.56.bin", "0.56.bin"):
        (folder / "board-0.55.bin").rename(folder / name)
        with pytest.raises(TableError, match=r"is of another board than (board-0.53|0.56).bin"):
            read_salami2018(folder)
        (folder / name).rename(folder / "board-0.55.bin")


def test_a_folder_without_faults(tmp_path):
    write_rams(tmp_path, "0.55", [])
    with pytest.raises(TableError, match=f"^{tmp_path} is without any fault; allowed: files with"):
        read_salami2018(tmp_path)


@pytest.mark.parametrize("folder", ["a" * 5000, "a\0b"])
def test_what_is_no_folder(folder):
    with pytest.raises(TableError, match="the folder cannot be read|without files"):
        read_salami2018(folder)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(TableError, match=r"without files \*.bin; allowed: a file for each supply"):
        read_salami2018(tmp_path / "none")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs ../shared/data/undervolt-kc705b")
def test_published_counts(tmp_path):
    """The counts of the authors' spreadsheet are twice those of the cells, at every supply."""
    import lzma

    for path in PUBLISHED.glob("*.bin.xz"):
        (tmp_path / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    sheet = PUBLISHED / "Information-KC705B.ods"
    found = read_salami2018(tmp_path, floorplan=sheet)
    published = {0.59: 2, 0.58: 8, 0.57: 26, 0.56: 62, 0.55: 252, 0.54: 690, 0.53: 2274}
    read = {}
    for volts in published:
        text = (tmp_path / f"KC705B-{volts}.bin").read_text()
        read[volts] = sum(4 - int(digit, 16).bit_count() for digit in text)
    assert read == published
    # Two cells recovered from 0.55 to 0.54 V and four from 0.54 to 0.53 V; all count as failing.
    added = {0.54: 2, 0.53: 4}
    assert found.counts == {v: n // 2 + added.get(v, 0) for v, n in published.items()}
    assert found.recovered == 6
    assert len(found.positions) == found.arrays == 890
