"""The interface of blocks: a title, a sentence, tables and charts from a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joulewise.report.tables import Table

__all__ = ["Block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One part of a page.

    Args:
        name: Identifier within the page.
        title: Heading.
        sentence: The answer of the block in words.
        tables: Tables, the same in the terminal.
        charts: Vega-Lite charts by title; pages show the first and a switch to the others.
        note: A sentence on how it was computed; small print.
    """

    name: str
    title: str
    sentence: str
    tables: Sequence[Table] = ()
    charts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
