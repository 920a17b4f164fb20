"""Exceptions of joulewise, and checks of arguments.

    JoulewiseError                  catch this to catch them all
    |- InputError                   a value from outside is not allowed   (exit code 2)
    |  |- DataError                 a data set or a data file
    |  |- WeightsError              a weights file, or a tensor to be stored
    |  |- ModelError                a model, or the path to import it from
    |  |- TableError                a device table or a fault map
    |  |- DeviceError               a memory device that is inconsistent
    |  |- WorkerLostError          a worker of an executor, which ended early
    |  `- OperatingPointError       a knob outside the range of its device, or of the wrong shape

Each message is one sentence: the field, the value received, the values allowed, the remedy.
"""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any, Never

__all__ = [
    "DataError",
    "DeviceError",
    "InputError",
    "JoulewiseError",
    "ModelError",
    "OperatingPointError",
    "TableError",
    "WeightsError",
    "WorkerLostError",
    "check_count",
    "check_in_range",
    "check_kind",
    "refuse",
]

_NUMBER: Any = Real  # NumPy scalars too; Any, since type checkers do not take float for Real


class JoulewiseError(Exception):
    """Base class of all exceptions of joulewise."""


class InputError(JoulewiseError, ValueError):
    """A value from outside is not allowed."""


class DataError(InputError):
    """A data set or a data file is missing, truncated or of the wrong kind."""


class WeightsError(InputError):
    """A weights file, or a tensor to be stored, cannot be used."""


class ModelError(InputError):
    """A model, or the path to import it from, cannot be used."""


class TableError(InputError):
    """A device table or a fault map is malformed."""


class DeviceError(InputError):
    """A memory device whose reads, moments or energies are inconsistent."""


class WorkerLostError(InputError):
    """A worker of an executor ended before its part was done."""


class OperatingPointError(InputError):
    """A knob is outside the range of its device, or of the wrong shape."""


def refuse(field: str, got: object, allowed: str, error: type[InputError] = InputError) -> Never:
    """Raise ``error`` with the message "<field> is <got>; allowed: <allowed>".

    Raises:
        InputError: always, of the class ``error``.

    Example:
        >>> refuse("bits", 1, "a whole number from 2 to 16")
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: bits is 1; allowed: a whole number from 2 to 16
    """
    raise error(f"{field} is {got}; allowed: {allowed}")


def check_count(field: str, value: object, low: int, high: int = 2**62) -> int:
    """The value, an integer of Python or NumPy from ``low`` to ``high``.

    Raises:
        InputError: if it is anything else.

    Example:
        >>> check_count("chips", "5", 1)
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: chips is '5'; allowed: a whole number, 1 or more
    """
    ends = f"{low} or more" if high == 2**62 else f"{low} to {high}"
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        refuse(field, f"{value!r:.80}", f"a whole number, {ends}")
    if isinstance(value, bool) or not low <= number <= high:
        refuse(field, f"{value!r:.80}", f"a whole number, {ends}")
    return number


def check_in_range(
    field: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    error: type[InputError] = InputError,
) -> None:
    """Refuse NaN, a number outside an interval, and a value that is not a number.

    Both ends are included, the lower one unless ``open_low``.

    Raises:
        InputError: of the class ``error``; also for a bool.

    Example:
        >>> check_in_range("eta", 1.5, 0.0, 1.0)
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: eta is 1.5; allowed: 0 to 1
    """
    number = isinstance(value, _NUMBER) and not isinstance(value, bool)
    if number and (value > low if open_low else value >= low) and value <= high:
        return
    ends = f"{'above ' if open_low else ''}{low:g} to {high:g}"
    check_kind(field, value, _NUMBER, f"a number, {ends}", error)
    too_large = isinstance(value, int) and abs(value) > 10**300  # for a float
    refuse(field, "an integer of over 300 digits" if too_large else f"{value:g}", ends, error)


def check_kind(
    field: str,
    value: object,
    kinds: Any,
    allowed: str,
    error: type[InputError] = InputError,
) -> None:
    """Refuse an argument of the wrong type.

    A bool does not count as a number, unless ``bool`` is one of the ``kinds``.

    Raises:
        InputError: of the class ``error``.

    Example:
        >>> check_kind("include", 3, list, "a list of patterns")
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: include is 3 (int); allowed: a list of patterns
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, type):
        refuse(field, f"the class {value.__name__}", allowed, error)
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return
    kind = type(value).__name__
    # The repr of a model or a tensor has many lines.
    short = value is None or isinstance(value, (str, int, float))
    refuse(field, f"{value!r:.60} ({kind})" if short else f"of type {kind}", allowed, error)
