"""Tables of numbers: reading them from CSV files, and linear interpolation."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding

from joulewise.errors import TableError, check_kind, refuse

__all__ = ["as_numbers", "has_column", "interpolate", "read_csv"]

_LARGEST_FILE = 1 << 28


def as_numbers(field: str, values: object, allowed: str) -> NDArray[Any]:
    """Array of a tuple of numbers, or of tuples of equal lengths.

    Raises:
        TableError: if it is something else.
    """
    check_kind(field, values, tuple, allowed, TableError)
    try:
        numbers = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged, or of objects
        numbers = np.asarray(None)
    if numbers.size and numbers.dtype.kind not in "iuf":
        refuse(field, "not of numbers alone, or ragged", allowed, TableError)
    return numbers


def has_column(path: str | Path, column: str) -> bool:
    """True if the header of a CSV file names a column.

    Raises:
        TableError: if the file cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            header = next((line for line in file if line.split("#")[0].strip()), "")
    except (OSError, ValueError, TypeError) as error:  # no text, or no path at all
        raise TableError(f"{path} cannot be read: {error}") from error
    return column in [cell.strip() for cell in _cells(header)]


def read_csv(
    path: str | Path,
    columns: Sequence[str],
    kind: str,
    *,
    optional: Sequence[str] = (),
    units: Mapping[str, tuple[str, float]] = MappingProxyType({}),
    fractions: Sequence[str] = (),
) -> tuple[str, list[tuple[str, list[float]]]]:
    """Read a CSV file of numbers with a header; lines that start with ``#`` are comments.

    Columns are in any order, and others are ignored.

    Args:
        path: The file.
        columns: Names in the header.
        kind: The kind of table, for error messages.
        optional: Names that may be in the header, all or none.
        units: Names of columns in other units: the column each stands for, and the divisor, since
            40 / 1e6 is the number 40e-6, and 40 * 1e-6 is not.
        fractions: Columns in which a number may be in per cent, such as ``0.1 %``.

    Returns:
        The comments, joined; and for each row its place, for error messages, and its values.

    Raises:
        TableError: if the file cannot be read or a line is malformed; the message names the line.
    """
    check_kind(f"the path of the {kind}", path, str | PathLike, "a path", TableError)
    try:
        size = Path(path).stat().st_size
        content = Path(path).read_text(encoding="utf-8-sig") if size <= _LARGEST_FILE else ""
    except (OSError, ValueError) as error:  # ValueError: no text, or no path at all
        raise TableError(f"{kind} {path} cannot be read: {error}") from error
    if size > _LARGEST_FILE:
        refuse(f"{kind} {path}", f"{size} bytes", f"at most {_LARGEST_FILE}", TableError)
    lines = content.splitlines()
    comments = " ".join(one.lstrip("# ").strip() for one in lines if one.lstrip()[:1] == "#")
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.split("#")[0].strip()]
    names = ",".join(columns) + (f"[,{','.join(optional)}]" if optional else "")
    if not numbered:
        raise TableError(f"{path} has no rows; allowed: a header {names} and rows")
    number, header = numbered[0]
    given = [cell.strip() for cell in _cells(header)]
    read = [units.get(name, (name, 1.0)) for name in given]
    known = [name for name, _ in read]
    wanted = [*columns, *(optional if set(optional) <= set(known) else ())]
    if any(known.count(name) != 1 for name in wanted):
        refuse(f"{path}, line {number}: the header", header, names, TableError)
    chosen = [known.index(name) for name in wanted]
    rows = []
    for number, line in numbered[1:]:
        cells = _cells(line)
        try:
            values = [_number(cells[at], known[at] in fractions) / read[at][1] for at in chosen]
        except (ValueError, IndexError):
            values = []
        if not values or len(cells) != len(given):
            allowed = f"{len(given)} numbers, {','.join(given)}"
            refuse(f"{path}, line {number}", repr(line), allowed, TableError)
        rows.append((f"{path}, line {number}", values))
    return comments, rows


def _number(cell: str, fraction: bool) -> float:
    number = cell.strip()
    return float(number[:-1]) / 100 if fraction and number[-1:] == "%" else float(number)


def _cells(line: str) -> list[str]:
    """Cells of a line; one that no CSV file has, where it cannot be read."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return [line]


def interpolate(x: Tensor, xs: Tensor, ys: Tensor, *, last: bool = False) -> Tensor:
    """Piecewise linear interpolation; the first and last pieces extrapolate.

    Args:
        x: Any shape.
        xs: Ascending ``[rows]``.
        ys: ``[rows]`` or ``[rows, columns]``.
        last: True to take the last of several equal entries of ``xs``, False for the first.

    Returns:
        The shape of ``x``, or ``[*x, columns]``; differentiable in ``x`` and ``ys``, and equal to a
        row of ``ys`` at an entry of ``xs``.
    """
    upper = torch.searchsorted(xs, x.detach().contiguous(), right=last).clamp(1, len(xs) - 1)
    lower = upper - 1
    # Embedding and not indexing: its gradient is faster, and scalars work within torch.func.vmap.
    low, high = (embedding(row, xs[:, None]) for row in (lower, upper))
    table = ys.reshape(len(ys), -1)
    fraction = (x[..., None] - low) / (high - low)
    # torch.lerp is exact at both ends of a piece.
    found = torch.lerp(embedding(lower, table), embedding(upper, table), fraction)
    return found if ys.ndim > 1 else found[..., 0]
