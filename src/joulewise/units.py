"""Quantities as text: SI prefixes, times and percentages.

Everywhere else floats are in SI units without prefixes (joule, volt, second, siemens), and
probabilities and accuracies lie in [0, 1].
"""

from __future__ import annotations

import math

__all__ = ["format_percent", "format_point", "format_si", "format_time"]

_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Format a quantity with the prefix that leaves one to three digits before the point.

    Args:
        value: The quantity, in ``unit`` without prefix.
        unit: The SI unit, for instance ``"J"``.
        digits: Significant digits.

    Example:
        >>> format_si(3.2e-15, "J"), format_si(0.0, "J"), format_si(1.25e-6, "J")
        ('3.2 fJ', '0 J', '1.25 uJ')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    # Round first, so that 999.96 becomes 1 k rather than 1000.
    rounded = float(f"{value:.{digits}g}")
    exponent = 3 * math.floor(math.log10(abs(rounded)) / 3)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return f"{rounded / 10.0**exponent:.{digits}g} {_PREFIXES[exponent]}{unit}"


def format_point(knob: str, value: float) -> str:
    """Format a value of a knob, with its unit if it has one.

    Example:
        >>> format_point("eta", 0.5), format_point("g_max", 2.5e-5), format_point("seconds", 9000)
        ('0.5', '25 uS', '2.5 hours')
    """
    if knob == "seconds":
        return format_time(value)
    return format_si(value, "S") if knob == "g_max" else f"{value:g}"


_TIMES = {"years": 31_557_600.0, "days": 86400.0, "hours": 3600.0, "minutes": 60.0}


def format_time(seconds: float, digits: int = 3) -> str:
    """Format a time in the largest unit of which it is at least one.

    Args:
        seconds: The time, 0 or more.
        digits: Significant digits.

    Example:
        >>> format_time(25), format_time(86400), format_time(1e8)
        ('25 s', '1 day', '3.17 years')
    """
    for unit, size in _TIMES.items():
        number = f"{seconds / size:.{digits}g}"
        if float(number) >= 1:
            return f"{number} {unit.removesuffix('s') if number == '1' else unit}"
    return f"{seconds:.{digits}g} s"


def format_percent(fraction: float, digits: int = 2) -> str:
    """Format a fraction in [0, 1] as a percentage, small ones with two significant digits.

    Args:
        fraction: The fraction.
        digits: Digits after the point.

    Example:
        >>> format_percent(0.98765), format_percent(0.000123, 1)
        ('98.77 %', '0.012 %')
    """
    percent = 100 * fraction
    if 0 < abs(percent) < 10 ** (1 - digits):
        return f"{percent:.2g} %"
    return f"{percent:.{digits}f} %"
