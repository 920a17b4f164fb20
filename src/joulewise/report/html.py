"""One HTML file that opens from disk, without a network, on any screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from joulewise.errors import InputError, refuse
from joulewise.files import write_atomically

__all__ = ["script_json", "template", "write_page"]


def template(name: str) -> Template:
    """A template of this room; the filter ``typeset`` sets figures as print has them."""
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


def script_json(text: str) -> Markup:
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
