"""Short forms of settings, as they stand on a command line, and YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from joulewise.errors import InputError, refuse

__all__ = ["read_yaml", "short_form"]


def short_form(text: Any, first: str = "kind") -> Any:
    """A short form as a mapping; anything but text passes through.

    Args:
        text: ``"sram"``, ``"sram:bits=6,fault=flip,fault.zero_to_one=0.5"``, or the path of a YAML
            file with the mapping; with ``first`` empty, ``"store=both,exclude=fc.*"``. Several
            values are joined by ``+``; text with a ``+`` stands in quotes.
        first: Field of the word before the colon; empty for none.

    Raises:
        InputError: if a setting has no value, or stands twice, or the file cannot be read.

    Example:
        >>> short_form("sram:bits=6,fault=flip,fault.zero_to_one=0.5")
        {'kind': 'sram', 'bits': 6, 'fault': {'kind': 'flip', 'zero_to_one': 0.5}}
        >>> short_form("exclude=fc.*+head.*", first="")
        {'exclude': ['fc.*', 'head.*']}
        >>> short_form("accesses='a+b.csv'", first="")
        {'accesses': 'a+b.csv'}
    """
    if not isinstance(text, str):
        return text
    if text.endswith((".yaml", ".yml")):
        return read_yaml(text)
    found: dict[str, Any] = {}
    rest = text
    if first:
        found[first], _, rest = text.partition(":")
    for part in rest.split(",") if rest else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            allowed = f"{first}:name=value,name=value" if first else "name=value,name=value"
            refuse(repr(text), f"unclear at {part!r}", allowed)
        *path, last = key.split(".")
        below = found
        for step in path:
            inner = below.setdefault(step, {})
            # ``fault=flip`` before ``fault.zero_to_one=0.5``: the kind alone, then its settings.
            below[step] = below = inner if isinstance(inner, dict) else {"kind": inner}
        if last in below:
            refuse(f"{key} in {text!r}", "given twice", "each setting once")
        below[last] = _value(value)
    return found


def _value(text: str) -> Any:
    """A number, a boolean or text, or a list of these."""
    if "+" in text[1:] and text[0] not in "'\"" and not _is_number(text):
        return [_value(part) for part in text.split("+")]
    if _is_number(text) and "e" in text.lower():
        return float(text)  # YAML 1.1 takes 1e-6 for text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        refuse("the value", repr(text), "a number, true, false or plain text")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {reason}") from error
