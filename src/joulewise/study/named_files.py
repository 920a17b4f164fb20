"""Content of the files that a study names."""

from __future__ import annotations

from pathlib import Path

from joulewise.errors import InputError

__all__ = ["content_of"]


def content_of(path: str | Path) -> bytes:
    """Content of a file, or the names and content of the files ``*.bin`` of a folder.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        if Path(path).is_dir():  # the files of a measurement
            parts = sorted(Path(path).glob("*.bin"))
            return b"".join(part.name.encode() + part.read_bytes() for part in parts)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(f"{path} cannot be read: {error}") from error
