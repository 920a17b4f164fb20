"""Base class of results: a short text, HTML for notebooks, plain data and a data frame."""

from __future__ import annotations

import csv
import html
import importlib
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from joulewise.errors import InputError, check_kind
from joulewise.files import write_atomically

__all__ = ["Result", "finite", "format_estimate", "format_value", "plotted", "write_csv"]


class Result(ABC):
    """Base class of results: short text in a terminal, an HTML table in a notebook."""

    __slots__ = ()

    @abstractmethod
    def _overview(self) -> tuple[str, Mapping[str, str]]:
        """Title of the summary, and its formatted figures by label."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The whole result as JSON-serialisable data."""

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the data frame."""
        return [self.to_dict()]

    def __repr__(self) -> str:
        title, figures = self._overview()
        width = max(map(len, figures), default=0)
        return "\n".join([title, *(f"  {k:<{width}}  {v}" for k, v in figures.items())])

    def _repr_html_(self) -> str:
        title, figures = self._overview()
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for label, text in figures.items()
        )
        return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``.

        Raises:
            InputError: if pandas is not installed.
        """
        return frame(self._rows(), "to_dict()")


def frame(rows: Iterable[Mapping[str, Any]], instead: str) -> Any:
    """Rows as a ``pandas.DataFrame``.

    Args:
        rows: The rows.
        instead: The call that gives them without pandas, for the error.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise InputError(
            f'pandas is not installed; allowed: pip install "joulewise[frames]", or {instead}'
        ) from error
    return pandas.DataFrame(list(rows))


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys to a CSV file, atomically; None is an empty cell.

    Raises:
        InputError: if it cannot be written.
    """
    check_kind("path", path, str | PathLike, "a path")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(path, text.getvalue())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(f"{path} cannot be written: {error}") from error


def finite(plain: Any) -> Any:
    """Plain data with NaN and infinities replaced by None, since JSON has neither."""
    if isinstance(plain, dict):
        return {key: finite(value) for key, value in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def plotted(mark: str, x: str, y: str, pairs: Iterable[tuple[Any, Any]]) -> Any:
    """An Altair chart of pairs.

    Args:
        mark: ``"bar"`` with names on the horizontal axis, or ``"line"`` with numbers.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        pairs: Horizontal and vertical values.
    """
    import altair as alt

    data = alt.InlineData(values=[{"x": one, "y": other} for one, other in pairs])
    chart = alt.Chart(data, width=480, height=300)
    if mark == "bar":
        marks, across = chart.mark_bar(), alt.X("x:N", title=x, sort=None)
    else:
        marks, across = chart.mark_line(point=True), alt.X("x:Q", title=x)
    scale = alt.Scale(zero=mark == "bar")
    return marks.encode(x=across, y=alt.Y("y:Q", title=y, scale=scale))


def format_value(value: float | None, bounds: tuple[float, float] = (-math.inf, math.inf)) -> str:
    """Format a value of a metric: as a percentage if its bounds are 0 and 1.

    Args:
        value: The value; None if it is not known.
        bounds: Bounds of the metric.

    Example:
        >>> format_value(0.98765, (0.0, 1.0)), format_value(2.5)
        ('98.77 %', '2.5')
    """
    if value is None:
        return "none"
    return f"{100 * value:.2f} %" if bounds == (0.0, 1.0) else f"{value:.4g}"


def format_estimate(value: float, ends: Sequence[float], bounds: tuple[float, float]) -> str:
    """Format a value of a metric and its interval; see `format_value`.

    Example:
        >>> format_estimate(0.98, (0.97, 0.99), (0.0, 1.0))
        '98.00 % [97.00, 99.00]'
    """
    low, high = (format_value(end, bounds).removesuffix(" %") for end in ends)
    return f"{format_value(value, bounds)} [{low}, {high}]"
