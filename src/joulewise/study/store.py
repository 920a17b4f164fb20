"""The folder of a study: finished trials by the digest of their spec, weights by their content.

    study.json                the study file, as it was read
    trials/<digest>.json      one record each, with a checksum
    weights/<digest>.safetensors
    locks/<digest>            trials that some process is computing

Files are written atomically. Records and weights that were damaged are named and computed again.
Several processes may share a folder: a trial is computed by the one that holds its lock, which the
operating system releases when that process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from joulewise.errors import InputError
from joulewise.files import write_atomically

__all__ = ["Store", "canonical", "content_digest", "digest_of"]

FORMAT = 2
# Seconds after which a temporary file belongs to no living writer.
_STALE = 3600.0
# Fields that say how something is called or where it lies, but not what it is.
_NAMES = frozenset({"label", "path"})


def canonical(plain: Any) -> str:
    """JSON of plain data, the same for equal data."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_digest(content: bytes) -> str:
    """16 hexadecimal digits of the SHA-256 of some content."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_of(plain: Any) -> str:
    """Digest of plain data without labels and paths, wherever they stand.

    Example:
        >>> digest_of({"a": 1, "label": "x"}) == digest_of({"label": "y", "a": 1})
        True
    """
    return content_digest(canonical(_without_names(plain)).encode())


def _without_names(plain: Any) -> Any:
    if isinstance(plain, Mapping):
        return {k: _without_names(v) for k, v in plain.items() if k not in _NAMES}
    return [_without_names(v) for v in plain] if isinstance(plain, (list, tuple)) else plain


class Store:
    """Records and weights in a folder.

    Args:
        folder: The folder; it is made if it is missing.

    Attributes:
        folder: As given.
        damaged: Files that could not be used, with the reason.

    Raises:
        InputError: if it cannot be made or written to, or holds anything but a study.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged: dict[str, str] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = sorted(p.name for p in self.folder.iterdir() if not _is_temporary(p))
            if content and not {"study.json", "locks"} & set(content):
                raise InputError(
                    f"the folder {self.folder} holds {content[0]} but no study.json; allowed: an "
                    "empty folder, or one that joulewise run made"
                )
            for name in ("locks", "trials", "weights"):
                (self.folder / name).mkdir(exist_ok=True)
            # Several processes may open a new folder at once.
            with FileLock(self.folder / "locks" / "study", thread_local=False):
                if not (self.folder / "study.json").exists():
                    self.write_study({})
            self._remove_stale()
        except OSError as error:
            raise InputError(f"the folder {self.folder} cannot be used: {error}") from error

    def _remove_stale(self) -> None:
        """Remove temporary files that writers left behind when they were killed."""
        for path in self.folder.rglob(".*.tmp"):
            with suppress(FileNotFoundError):  # its writer has just renamed it
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()

    def read_study(self) -> dict[str, Any]:
        """The study that the folder was made by; empty for a new folder.

        Raises:
            InputError: if it cannot be read.
        """
        path = self.folder / "study.json"
        found = self._checked(path)
        if found is None:
            raise InputError(
                f"{path} is damaged ({self.damaged[path.name]}); allowed: this folder without that "
                "file, which the next run writes anew"
            )
        return found

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Keep the study file."""
        self._write(self.folder / "study.json", study)

    def read(self, digest: str) -> dict[str, Any] | None:
        """A record; None if it is missing or damaged."""
        path = self.folder / "trials" / f"{digest}.json"
        found = self._checked(path) if path.exists() else None
        if found is not None and digest_of(found.get("trial")) != digest:
            self.damaged[path.name] = "it is the record of another trial"
            return None
        return found

    def write(self, digest: str, record: Mapping[str, Any]) -> None:
        """Keep a record."""
        self._write(self.folder / "trials" / f"{digest}.json", record)

    def weights_path(self, digest: str) -> Path:
        """Path of the weights of that content."""
        return self.folder / "weights" / f"{digest}.safetensors"

    def has_weights(self, digest: str) -> bool:
        """True if they are there and undamaged."""
        path = self.weights_path(digest)
        try:
            found = content_digest(path.read_bytes())
        except OSError:
            return False
        if found != digest:
            self.damaged[path.name] = "its SHA-256 does not match its name"
        return found == digest

    def write_weights(self, content: bytes) -> str:
        """Keep weights; their digest."""
        digest = content_digest(content)
        if not self.has_weights(digest):
            write_atomically(self.weights_path(digest), content)
        return digest

    def claim(self, digest: str) -> FileLock | None:
        """A lock on a trial, to be released; None if another process has it.

        Read the record again after claiming: another process may have just written it.
        """
        lock = FileLock(self.folder / "locks" / digest, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        checked = {"format": FORMAT, "content": content, "sha256": content_digest(_bytes(content))}
        write_atomically(path, json.dumps(checked, indent=1, allow_nan=False))

    def _checked(self, path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            reason = ""
            if found["format"] != FORMAT:
                reason = f"format {found['format']}, and this joulewise writes {FORMAT}"
            elif content_digest(_bytes(found["content"])) != found["sha256"]:
                reason = "its checksum is wrong"
        except (OSError, ValueError, KeyError, TypeError) as error:
            found, reason = {}, " ".join(f"{type(error).__name__}: {error}".split())
        if reason:
            self.damaged[path.name] = reason
            return None
        content: dict[str, Any] = found["content"]
        return content


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _bytes(content: Any) -> bytes:
    return canonical(content).encode()
