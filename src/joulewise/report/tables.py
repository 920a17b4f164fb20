"""Tables that the terminal, pages, notebooks and CSV files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of formatted cells.

    Args:
        caption: A sentence on what the cells are.
        columns: Headers; the first ``words`` columns are text, the others figures.
        rows: Cells, one for each column.
        words: Number of columns of text.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
