"""Restricted unpickling: plain values are read, and no code that a pickle names is run.

A pickle is a program that names functions and calls them. Here each of the few names that a NumPy
array is stored with resolves to a stand-in, which checks its arguments and builds arrays of plain
numbers only; every other name is refused. NumPy's own functions are not used either: with a forged
dtype state they take stored bytes for object pointers.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from joulewise.errors import DataError

__all__ = ["read_pickle"]

# Booleans, integers, floats and complex numbers; no objects, records, texts or dates.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")


def read_pickle(path: str | Path) -> object:
    """Read a pickle of plain values: numbers, texts, lists, dicts and NumPy arrays of numbers.

    Texts of Python 2 pickles are bytes.

    Raises:
        DataError: if the file is missing or truncated, or names anything to call or build.
    """
    try:
        with Path(path).open("rb") as file:
            return _PlainUnpickler(file, path).load()
    except DataError:
        raise
    except Exception as error:  # a broken pickle raises nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{path} cannot be read ({reason}); allowed: a whole pickle of plain values"
        raise DataError(message) from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: str | Path) -> None:
        super().__init__(file, encoding="bytes")
        self._path = path
        # Bound methods, because a pickle may set attributes of an object, which fails for these.
        self._stand_ins: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument, never called
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self._encode,
        }
        for core in ("numpy.core", "numpy._core"):
            self._stand_ins[f"{core}.multiarray", "_reconstruct"] = self._array
            self._stand_ins[f"{core}.numeric", "_frombuffer"] = self._array_from_buffer

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._stand_ins[module, name]
        except KeyError:
            raise DataError(
                f"{self._path} asks to run {module}.{name}, which joulewise never does; "
                "allowed: a pickle of numbers, texts, lists, dicts and NumPy arrays of numbers"
            ) from None

    def _dtype(self, code: object, *_: object) -> _PlainDtype:
        return _PlainDtype(_text(code))

    def _encode(self, text: object, encoding: object) -> bytes:
        # Python 3's form of bytes in a pickle that Python 2 can read.
        if _text(encoding) != "latin1":
            raise pickle.UnpicklingError("bytes encoded other than as latin1")
        return _text(text).encode("latin1")

    def _array(self, *_: object) -> _PlainArray:
        return _PlainArray((0,), dtype=np.uint8)

    def _array_from_buffer(
        self, buffer: object, dtype: object, shape: object, order: object, *axes: object
    ) -> NDArray[Any]:
        if _text(order) not in {"C", "F"} or any(axis is not None for axis in axes):
            raise pickle.UnpicklingError("an array in an unknown order of its axes")
        array = _PlainArray((0,), dtype=np.uint8)
        array.__setstate__((1, shape, dtype, _text(order) == "F", buffer))
        return array


class _PlainDtype:
    """Stand-in for a dtype; only the byte order is taken from its stored state."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str) -> None:
        if _PLAIN_DTYPE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"an array of {code!r}, which are not plain numbers")
        self._code = code
        self._order = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = _text(state[1])
        if order not in {"<", ">", "|", "="}:
            raise pickle.UnpicklingError(f"the byte order {order!r}")
        self._order = order

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _PlainArray(np.ndarray[Any, Any]):
    """Array that accepts a stored state of plain numbers only."""

    # Any, since a pickle can hold anything in place of the five items that NumPy writes.
    def __setstate__(self, state: Any, /) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _PlainDtype) or not isinstance(raw, bytes | bytearray):
            raise pickle.UnpicklingError("an array of something other than plain numbers")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array of impossible shape")
        plain: Any = (1, shape, dtype.resolve(), bool(fortran), bytes(raw))
        super().__setstate__(plain)


def _text(value: object) -> str:
    # Names in pickles of Python 2 are bytes.
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__} where a name belongs")
