from __future__ import annotations

import collections
import datetime
import pickle
import struct

import numpy as np
import pytest

from joulewise.data import read_pickle
from joulewise.errors import DataError


class Smuggler:
    """Unpickling this the usual way would create the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def store(tmp_path):
    def write(content, protocol=4):
        path = tmp_path / "batch"
        raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
        path.write_bytes(raw)
        return path

    return write


def python_2_string(content):
    return b"T" + struct.pack("<I", len(content)) + content


def python_2_batch(core=b"numpy.core", dtype=b"u1", state=None, data=bytes(range(6))):
    """A pickle as Python 2 wrote it: protocol 2, byte strings throughout, an array of 2 x 3."""
    order = (
        state if state is not None else b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"c" + core + b".multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\n(" + python_2_string(dtype) + b"K\x00K\x01tR" + order
    )
    array += b"\x89" + python_2_string(data) + b"tb"
    labels = b"](K\x07K\x03e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"u."


def test_plain_values(store):
    value = {"a": [1, 2.5, None, True], b"b": ("text", b"bytes", {1, 2})}
    assert read_pickle(store(value)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">i4", "f4", "f8", "c16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_plain_numbers(store, protocol, dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    read = read_pickle(store({b"data": array}, protocol=protocol))[b"data"]
    assert isinstance(read, np.ndarray)
    # NumPy turns a foreign byte order into the native one while it reads.
    assert read.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_python_2_pickle(store, core):
    read = read_pickle(store(python_2_batch(core)))
    assert list(read) == [b"data", b"labels"]
    np.testing.assert_array_equal(read[b"data"], np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert read[b"labels"] == [7, 3]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {b"data": [x]}, lambda x: (x, x)])
def test_nothing_is_run(store, tmp_path, protocol, wrap):
    path = store(wrap(Smuggler(tmp_path / "smuggled")), protocol=protocol)
    with pytest.raises(DataError, match=r"batch asks to run \w+.open, which joulewise never does"):
        read_pickle(path)
    assert not (tmp_path / "smuggled").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_object_arrays_are_refused_with_what_they_carry(store, tmp_path, protocol):
    array = np.array([Smuggler(tmp_path / "smuggled"), None], dtype=object)
    with pytest.raises(DataError, match="asks to run|not plain numbers"):
        read_pickle(store(array, protocol=protocol))
    assert not (tmp_path / "smuggled").exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1], 2], dtype=object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, dtype=[("a", "u1")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
    ],
)
def test_arrays_of_other_things_are_refused(store, value):
    with pytest.raises(DataError, match="not plain numbers"):
        read_pickle(store(value))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (collections.OrderedDict(), "collections.OrderedDict"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        (np.float64(1), "numpy._core.multiarray.scalar"),
    ],
)
def test_the_refusal_names_what_was_asked_for(store, value, name):
    with pytest.raises(DataError, match=f"asks to run {name}, which joulewise never does"):
        read_pickle(store(value))


def test_a_forged_dtype_state_makes_no_object_array(store):
    # NumPy itself believes these flags: object pointers would be read from the stored bytes.
    with pytest.raises(DataError, match="not plain numbers"):
        read_pickle(store(python_2_batch(dtype=b"O8", data=bytes(48))))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "Ran out of input"),
        (python_2_batch()[:60], "cannot be read"),
        (python_2_batch(data=b"short"), "cannot be read"),
        (python_2_batch(state=b"(K\x03U\x01?tb"), "the byte order '[?]'"),
        (python_2_batch(state=b"Nb"), "cannot be read"),
        (b"not a pickle", "cannot be read"),
        (b"cnumpy\nndarray\n)R.", "not callable"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "other than as latin1"),
        (b"c_codecs\nencode\n(K\x01Vlatin1\ntR.", "a int where a name belongs"),
        (b"\x80\x04\x8c\x01ac_codecs\nencode\nN}\x8c\x08__code__K\x01s\x86b.", "cannot be read"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x01NNNtb.", "other than plain numbers"),
        (
            b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x01cnumpy\ndtype\nVu1\n\x85RI00\n"
            + b"\x8e\x01\0\0\0\0\0\0\0xtb.",
            "impossible shape",
        ),
        (
            b"cnumpy.core.numeric\n_frombuffer\n(C\x01xcnumpy\ndtype\nVu1\n\x85RK\x01\x85VK\ntR.",
            "unknown order",
        ),
    ],
)
def test_broken_pickles_are_refused_in_a_sentence(store, raw, reason):
    with pytest.raises(DataError, match=reason) as refusal:
        read_pickle(store(raw))
    assert "batch" in str(refusal.value)
    assert "allowed: a whole pickle of plain values" in str(refusal.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere cannot be read .*No such file"):
        read_pickle(tmp_path / "nowhere")
