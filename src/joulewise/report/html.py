"""One HTML file that opens from disk, without a network, on any screen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from joulewise.errors import InputError, refuse
from joulewise.files import write_atomically
from joulewise.report.provenance import Fact
from joulewise.study import AllocationRecord, ArmComparison, Comparison, FrontComparison

__all__ = ["render_page", "standard_error", "write_page"]

_Record = Comparison | ArmComparison | AllocationRecord | FrontComparison


def render_page(
    name: str,
    record: _Record,
    figures: Mapping[str, go.Figure],
    *,
    run: Sequence[Fact],
    **said: Any,
) -> str:
    """A page of charts, tables and the record itself.

    Args:
        name: Of a template of this room.
        record: What the page is about.
        figures: By the names that the template's slots show.
        run: How the record was made.
        **said: What else the template says.
    """
    charts = {slot: figure.to_plotly_json() for slot, figure in figures.items()}
    return _template(name).render(
        version=record.environment.joulewise,
        comparison=record,
        run=run,
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        figures=_script_json(json.dumps(charts)),
        record=_script_json(record.model_dump_json()),
        **said,
    )


def standard_error(accuracy: float, images: int) -> str:
    """One binomial standard error of an accuracy, in points."""
    return f"{100 * math.sqrt(accuracy * (1 - accuracy) / images):.2g}"


def _template(name: str) -> Template:
    """The filter ``typeset`` sets figures as print has them."""
    environment = Environment(
        loader=PackageLoader("joulewise.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = _typeset
    return environment.get_template(name)


def _typeset(text: str) -> str:
    """As print has it: a Greek micro, and per cent signs that stay with their number."""
    return re.sub(r"(?<=\d) u(?=[JS])", " µ", text).replace(" %", "\u00a0%")


def _script_json(text: str) -> Markup:
    """JSON that may stand inside a script element: no ``<`` can end it or open a comment."""
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def write_page(path: str | Path, render: Callable[[], str]) -> None:
    """Write a page, whole or not at all; an older file of that name is replaced.

    Args:
        path: Where the page goes.
        render: Makes it, once it is known that it has somewhere to go.

    Raises:
        InputError: if the folder is not there, or the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        refuse(
            f"the folder of {path.name}",
            f"{path.parent}, which is not there",
            "a folder that exists; create it first",
        )
    page = render()
    try:
        write_atomically(path, page)
    except OSError as error:
        raise InputError(f"the report {path} cannot be written: {error}") from error
