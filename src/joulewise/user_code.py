"""Users' own Python: ``package.module`` or ``path/to/file.py``, imported from where they stand."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["cause_of", "import_source", "importable"]


@contextmanager
def importable(source: str) -> Iterator[None]:
    """Let imports find the current folder, as ``python -m`` would, and the folder of a file.

    Args:
        source: ``package.module`` or ``path/to/file.py``.
    """
    folders = [str(Path.cwd())]
    if source.endswith(".py"):
        folders.insert(0, str(Path(source).resolve().parent))
    before = list(sys.path)
    sys.path[:0] = folders
    # The import system caches folder listings, and would miss a file written a moment ago.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def import_source(source: str) -> ModuleType:
    """The module that a source names; its code runs.

    Args:
        source: ``package.module`` or ``path/to/file.py``.

    Raises:
        ImportError: if nothing can load the file; anything that the code raises passes through.
    """
    if not source.endswith(".py"):
        return importlib.import_module(source)
    file = Path(source)
    # A name of our own, so that a user's random.py does not replace the library's.
    name = f"_joulewise_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {file}")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look their module up here, while it is still being executed.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def cause_of(error: BaseException) -> str:
    """An exception of the user's in one line: its type and message."""
    return " ".join(f"{type(error).__name__}: {error}".split())
