"""Users' functions that make something, called without arguments."""

from __future__ import annotations

from typing import Any

from joulewise.errors import InputError
from joulewise.user_code import cause_of, import_source, importable

__all__ = ["made_by"]


def made_by(source: str, *, field: str, allowed: str) -> Any:
    """Result of a user's function without arguments.

    Args:
        source: ``package.module:function`` or ``path/to/file.py:function``.
        field: The field that names it, for messages.
        allowed: The functions that are allowed, for messages.

    Raises:
        InputError: if it cannot be imported, or fails.
    """
    module, _, function = source.rpartition(":")
    try:
        with importable(module):
            return getattr(import_source(module), function)()
    except (Exception, SystemExit) as error:  # user code: anything may happen
        got = f"{source!r}, which fails with {cause_of(error)}"
        raise InputError(f"{field} is {got}; allowed: {allowed}") from error
