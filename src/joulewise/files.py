"""Atomic writing of files."""

from __future__ import annotations

import secrets
from os import fsync
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file atomically: at any moment its path holds the old content or all of the new.

    Args:
        path: The file; an older one of that name is replaced.
        content: Bytes, or text to be written as UTF-8.
    """
    path = Path(path)
    payload = content.encode() if isinstance(content, str) else content
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(payload)
            file.flush()
            fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
