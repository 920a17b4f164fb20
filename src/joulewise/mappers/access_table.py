"""Accesses and energies of an accelerator by layer, tensor, component and action."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from joulewise.errors import TableError, check_in_range, check_kind, refuse
from joulewise.mappers.reading import read_text
from joulewise.results import Result, write_csv
from joulewise.units import format_si

__all__ = ["AccessRow", "AccessTable", "check_total", "row_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRow:
    """Accesses of one kind to one tensor of one layer in one component.

    Args:
        layer: The layer, as the mapper names it.
        tensor: ``"weights"``, ``"inputs"``, ``"outputs"``, or the mapper's own name for any other;
            empty for what belongs to no tensor, such as arithmetic and leakage.
        component: The memory or unit, as the mapper names it.
        action: ``"read"``, ``"write"``, or the mapper's own name in lower case for any other, such
            as ``"compute"`` or ``"leak"``.
        count: Number in one run of the mapped workload, which is one inference at batch size 1;
            reads and writes in words of the tensor. 0 for what is not counted, such as leakage.
        joules: Energy of all of them, J; None if the mapper states none.

    Raises:
        TableError: if a name is not printable, begins or ends with a space or begins with ``#``, an
            action is not in lower case, or a number not within 0 to 1e30.
    """

    layer: str
    tensor: str
    component: str
    action: str
    count: float
    joules: float | None = None

    def __post_init__(self) -> None:
        """Check names and numbers."""
        for field in _COLUMNS[:4]:
            name = getattr(self, field)
            # CSV files are read without outer spaces, and lines that start with # are comments.
            kept = isinstance(name, str) and name.isprintable() and name == name.strip()
            if not kept or name[:1] == "#":
                allowed = "printable text that starts with no # and has no outer spaces"
                refuse(field, f"{name!r:.60}", allowed, TableError)
        if self.action != self.action.lower():
            refuse("action", repr(self.action), "lower case", TableError)
        check_in_range("count", self.count, 0.0, 1e30, error=TableError)
        if self.joules is not None:
            check_in_range("joules", self.joules, 0.0, 1e30, error=TableError)


_COLUMNS = tuple(field.name for field in fields(AccessRow))
_SHORT = ("name", "reads", "writes")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AccessTable(Result):
    """Accesses and energies that a mapper found, one row for each layer, tensor, component, action.

    Args:
        rows: The rows.

    Raises:
        TableError: if there are none, or two of one layer, tensor, component and action.

    Example:
        >>> own = {"layer": "fc", "tensor": "weights", "action": "read", "count": 8}
        >>> sram = AccessRow(**own, component="sram", joules=2e-12)
        >>> table = AccessTable(rows=(sram, AccessRow(**own, component="dram", joules=5e-10)))
        >>> table.totals(), table.filter(component="sram").total_j
        ({'sram': 2e-12, 'dram': 5e-10}, 2e-12)
    """

    rows: tuple[AccessRow, ...]

    def __post_init__(self) -> None:
        """Refuse an empty table, and rows of equal layer, tensor, component and action."""
        check_kind("rows", self.rows, Iterable, "a tuple of AccessRow", TableError)
        object.__setattr__(self, "rows", tuple(self.rows))
        if not self.rows:
            refuse("the access table", "without rows", "at least one", TableError)
        seen = set()
        for row in self.rows:
            check_kind("a row of the access table", row, AccessRow, "an AccessRow", TableError)
            key = (row.layer, row.tensor, row.component, row.action)
            if key in seen:
                refuse("the access table", f"two rows of {', '.join(key)}", "one", TableError)
            seen.add(key)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, in order."""
        return tuple(dict.fromkeys(row.component for row in self.rows))

    @property
    def total_j(self) -> float:
        """Energy of all rows that state one, J."""
        return math.fsum(row.joules or 0.0 for row in self.rows)

    def totals(self, by: str = "component") -> dict[str, float]:
        """Joules by component, or by another column of names.

        Raises:
            TableError: if there is no such column.
        """
        if by not in _COLUMNS[:4]:
            refuse("by", repr(by), ", ".join(_COLUMNS[:4]), TableError)
        joules: dict[str, list[float]] = {}
        for row in self.rows:
            joules.setdefault(getattr(row, by), []).append(row.joules or 0.0)
        return {name: math.fsum(parts) for name, parts in joules.items()}

    def filter(self, **wanted: str | Collection[str]) -> AccessTable:
        """The rows of given names.

        Args:
            **wanted: By column (``layer``, ``tensor``, ``component`` or ``action``), one name or
                several.

        Raises:
            TableError: if the table has no such column or name, or no row is of all of them.
        """
        rows = self.rows
        for column, names in wanted.items():
            known = self.totals(column)
            check_kind(column, names, Collection, "a name, or several", TableError)
            chosen = (names,) if isinstance(names, str) else tuple(names)
            for name in chosen:
                check_kind(column, name, str, "a name, or several", TableError)
                if name not in known:
                    refuse(column, repr(name), ", ".join(known), TableError)
            rows = tuple(row for row in rows if getattr(row, column) in chosen)
        return AccessTable(rows=rows)

    def to_dict(self) -> dict[str, Any]:
        """See `Result`."""
        return {"rows": list(self._rows())}

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file ``layer,tensor,component,action,count,joules``, as `from_csv` reads it.

        Raises:
            InputError: if it cannot be written.
        """
        write_csv(path, self._rows())

    @classmethod
    def from_csv(cls, path: str | Path) -> AccessTable:
        """Read a CSV file; lines that start with ``#`` are comments.

        Args:
            path: A file with the columns ``layer,tensor,component,action,count,joules``, joules
                empty where unknown; or of the short form ``name,reads,writes``: a placed tensor's
                name, and how many of its words one inference reads and writes.

        Raises:
            TableError: if the file cannot be read or a line is malformed; names the line.
        """
        rows: dict[tuple[str, ...], AccessRow] = {}
        header: tuple[str, ...] = ()
        for number, line in enumerate(read_text(path, "access counts").splitlines(), 1):
            if line.strip()[:1] in ("", "#"):
                continue
            where = f"{path}, line {number}"
            if not header:
                header = tuple(cell.strip() for cell in line.split(","))
                if header not in (_SHORT, _COLUMNS):
                    allowed = f"{','.join(_SHORT)} or {','.join(_COLUMNS)}"
                    refuse(f"{where}: the header", f"{line:.80}", allowed, TableError)
                continue
            for row in _rows_of(where, header, line):
                key = (row.layer, row.tensor, row.component, row.action)
                if key in rows:
                    got = f"{','.join(filter(None, key[:3]))} again"
                    refuse(f"{where}: {header[0]}", got, "one line a name", TableError)
                rows[key] = row
        if not rows:
            allowed = f"a header {','.join(_SHORT)} and rows, or a header {','.join(_COLUMNS)}"
            raise TableError(f"{path} has no rows; allowed: {allowed}")
        return cls(rows=tuple(rows.values()))

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [asdict(row) for row in self.rows]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        title = f"Accesses of {len(self.layers)} layers, {format_si(self.total_j, 'J')}"
        return title, {name: format_si(joules, "J") for name, joules in self.totals().items()}


def _rows_of(where: str, header: Sequence[str], line: str) -> list[AccessRow]:
    """Rows of one line; a read and a write of an unnamed component for the short form.

    Raises:
        TableError: if it is malformed.
    """
    texts = 1 if header == _SHORT else 4
    values: dict[str, Any] = {}
    try:
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        for index, (field, cell) in enumerate(zip(header, cells, strict=True)):
            if cell or field != "joules":
                values[field] = cell if index < texts else float(cell)
    except (ValueError, csv.Error):
        refuse(where, f"{line!r:.80}", f"text and numbers, {','.join(header)}", TableError)
    if texts == 4:
        return [row_at(where, **values)]
    for field in _SHORT[1:]:
        check_in_range(f"{where}: {field}", values[field], 0.0, 1e30, error=TableError)
    own = {"layer": values["name"], "tensor": "", "component": ""}
    return [row_at(where, **own, action=a, count=values[f"{a}s"]) for a in ("read", "write")]


def row_at(where: str, **columns: Any) -> AccessRow:
    """A row of a file.

    Raises:
        TableError: if it is malformed; names the place in the file.
    """
    try:
        return AccessRow(**columns)
    except TableError as error:
        raise TableError(f"{where}: {error}") from error


def check_total(where: str, rows: Iterable[AccessRow], total: float, tolerance: float) -> None:
    """Refuse rows whose joules do not add up to the total that the mapper states.

    Args:
        where: The file, for the error message.
        rows: The rows.
        total: The total, J.
        tolerance: Rounding of the mapper's figures, J.

    Raises:
        TableError: if they differ by more than the tolerance.
    """
    found = math.fsum(row.joules or 0.0 for row in rows)
    if not abs(found - total) <= tolerance:
        allowed = f"{total:.6g} J, the total that it states"
        refuse(f"{where}: the sum of all energies", f"{found:.6g} J", allowed, TableError)
