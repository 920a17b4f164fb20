"""Messages on what a validation refused: the field's path, what arrived, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from joulewise.errors import InputError

__all__ = ["named", "sentence"]


# Kinds of memories, faults and maps stand in the path of an error beside the field's name.
_MEMORIES = ("sram", "dram", "edram", "crossbar", "pcm", "custom")
_TAGS = {*_MEMORIES, "mask", "flip", "stuck", "independent", "correlated", "measured"}
_TAGS |= {"spare_rows", "parity", "secded"}


def sentence(error: ValidationError) -> str:
    """The first error of a validation: the field's path, what arrived, what is allowed."""
    detail: dict[str, Any] = dict(error.errors()[0])
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in detail["loc"]
        if part not in _TAGS
    ).lstrip(".")
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return f"{path} is missing"
    if kind == "extra_forbidden":
        return f"{path} is not a field"
    if kind == "too_short":
        return f"{path} is empty; allowed: at least {context['min_length']}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = context.get("expected_tags", ", ".join(_MEMORIES))
        got = repr(context["tag"]) if "tag" in context else "without kind"
        return (
            f"{path or 'the memory'} is {got}; allowed: {allowed}".replace("', '", ", ")
            .replace("allowed: '", "allowed: ")
            .rstrip("'")
        )
    message = str(detail["msg"]).removeprefix("Input should be ")
    if kind == "value_error":  # a sentence of its own, with what is allowed
        text = message.removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    allowed = _ALLOWED.get(kind, message).format(**context)
    if kind in ("path_type", "string_type") and isinstance(given, list):
        allowed += ", in quotes where it has a +"
    return f"{path} is {given!r:.60}; allowed: {allowed}"


@contextmanager
def named(field: str) -> Iterator[None]:
    """A block whose errors begin with the name of a field.

    Raises:
        InputError: for a ValueError in the block.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(f"{field}: {error}") from error


# By pydantic's kind of error.
_ALLOWED = {
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "tuple_type": "a list",
    "model_type": "fields and values",
    "model_attributes_type": "fields and values",
    "dict_type": "fields and values",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "finite_number": "a finite number",
    "string_type": "text",
    "path_type": "a path",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}
