"""Everything joulewise raises on purpose.

    JoulewiseError                  catch this to catch them all
    |- InputError                   a value that came from outside is not allowed   (exit code 2)
    |  |- DataError                 a data set or a data file
    |  |- WeightsError              a weights file or a tensor to be stored
    |  |- ModelError                a model, or the path it was to be imported from
    |  |- TableError                a device table or a fault map
    |  |- DeviceError               a memory device that contradicts itself
    |  `- OperatingPointError       a knob outside what the device allows

Each message is one sentence: the field, what arrived, what is allowed, what to do next.
"""

from __future__ import annotations

import math
from typing import Never

__all__ = [
    "DataError",
    "DeviceError",
    "InputError",
    "JoulewiseError",
    "ModelError",
    "OperatingPointError",
    "TableError",
    "WeightsError",
    "check_in_range",
    "check_whole",
    "refuse",
]


class JoulewiseError(Exception):
    """Base of every error that joulewise raises on purpose."""


class InputError(JoulewiseError, ValueError):
    """A value that came from outside is not allowed."""


class DataError(InputError):
    """A data set or a data file is missing, truncated or of the wrong kind."""


class WeightsError(InputError):
    """A weights file, or a tensor to be stored, cannot be used."""


class ModelError(InputError):
    """A model, or the path it was to be imported from, cannot be used."""


class TableError(InputError):
    """A device table or a fault map is malformed."""


class DeviceError(InputError):
    """A memory device whose answers contradict each other."""


class OperatingPointError(InputError):
    """A knob is outside what the device allows."""


def refuse(field: str, got: object, allowed: str, error: type[InputError] = InputError) -> Never:
    """Raise ``error`` with the sentence that every refusal shares.

    Args:
        field: The name of the field, as the user wrote it.
        got: What arrived.
        allowed: What is allowed, and what to do next.
        error: The kind of refusal.

    Raises:
        InputError: always; the kind is ``error``.

    Example:
        >>> refuse("bits", 1, "a whole number from 2 to 16")
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: bits is 1; allowed: a whole number from 2 to 16
    """
    raise error(f"{field} is {got}; allowed: {allowed}")


def check_in_range(
    field: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    error: type[InputError] = InputError,
) -> None:
    """Refuse a number outside an interval, or one that is not a number at all.

    Args:
        field: The name of the field, as the user wrote it.
        value: What arrived.
        low: Lower end of the interval.
        high: Upper end of the interval, included.
        open_low: Leave the lower end out.
        error: The kind of refusal.

    Raises:
        InputError: if ``value`` lies outside.

    Example:
        >>> check_in_range("eta", 0.5, 0.0, 1.0)
        >>> check_in_range("eta", 1.5, 0.0, 1.0)
        Traceback (most recent call last):
            ...
        joulewise.errors.InputError: eta is 1.5; allowed: 0 to 1
    """
    above = value > low if open_low else value >= low
    if math.isnan(value) or not above or value > high:
        ends = f"{'above ' if open_low else ''}{low:g} to {high:g}"
        refuse(field, f"{value:g}", ends, error)


def check_whole(field: str, value: float) -> None:
    """Refuse a number with a fraction.

    Args:
        field: The name of the field, as the user wrote it.
        value: What arrived, finite.

    Raises:
        InputError: if there is one.
    """
    if value % 1:
        refuse(field, value, "a whole number")
