"""Files of mappers: found, read and validated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from joulewise.errors import TableError, check_kind, refuse

__all__ = ["Nonnegative", "check_roles", "files_of", "read_text", "validated"]

Nonnegative = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False, strict=True)]
"""A count or an energy in a file."""

_Model = TypeVar("_Model", bound=BaseModel)


def check_roles(roles: Mapping[Any, str], known: Collection[Any]) -> None:
    """Refuse roles of tensors that a mapping does not have.

    Args:
        roles: Role of a tensor by its name.
        known: Names of the tensors.

    Raises:
        TableError: naming the first one.
    """
    for tensor, role in roles.items():
        if tensor not in known or not isinstance(role, str):
            listed = ", ".join(str(name) for name in [*known][:8]) + ", ..." * (len(known) > 8)
            refuse("tensors", f"{tensor!r:.60}: {role!r:.60}", f"a role of {listed}", TableError)


def files_of(path: str | Path, pattern: str, kind: str) -> list[Path]:
    """The file of a path, or those in a folder that match a pattern.

    Args:
        path: The file or folder.
        pattern: The pattern, see `pathlib.Path.glob`.
        kind: The kind of file, for error messages.

    Raises:
        TableError: if a folder has none of them, or cannot be read.
    """
    check_kind(f"the path of the {kind}", path, str | PathLike, "a path", TableError)
    try:
        if not Path(path).is_dir():
            return [Path(path)]
        found = sorted(Path(path).glob(pattern))
    except OSError as error:
        raise TableError(f"{kind} {str(path):.200} cannot be read: {error.strerror}") from error
    if not found:
        refuse(str(path), f"a folder without {pattern}", f"one of {kind}", TableError)
    return found


def read_text(path: str | Path, kind: str) -> str:
    """Text of a UTF-8 file.

    Args:
        path: The file.
        kind: The kind of file, for error messages.

    Raises:
        TableError: if it cannot be read.
    """
    check_kind(f"the path of the {kind}", path, str | PathLike, "a path", TableError)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the path
        raise TableError(f"{kind} {path} cannot be read: {error}") from error


def validated(model: type[_Model], data: Any, where: str) -> _Model:
    """Data of a file as a model of it.

    Args:
        model: The model; fields that it does not name are ignored.
        data: JSON text, or plain data.
        where: The file, for error messages.

    Raises:
        TableError: naming the first wrong field, what arrived, and what is allowed.
    """
    try:
        if isinstance(data, str):
            return model.model_validate_json(data)
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        given = first["input"]
        # The text of an integer, or of nested aliases in YAML, may be too long to build.
        short = given is None or isinstance(given, (str, float))
        short |= isinstance(given, int) and abs(given) < 1e30
        got = f"{given!r:.40}" if short else f"of type {type(given).__name__}"
        allowed = str(first["msg"]).removeprefix("Input should be ")
        if first["type"] == "missing":
            got, allowed = "missing", "a value"
        refuse(f"{where}: {place}", got, allowed, TableError)
