"""Import of users' code: ``package.module`` or ``path/to/file.py``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["cause_of", "import_source", "importable", "imported_files"]


# Files that were imported here, by the names of their modules.
_imported: dict[str, Path] = {}


def imported_files() -> dict[str, Path]:
    """Files of users' code that were imported, by the names of their modules."""
    return dict(_imported)


@contextmanager
def importable(source: str) -> Iterator[None]:
    """Put the current folder, and the folder of a file, first on the import path within a block.

    Args:
        source: ``package.module`` or ``path/to/file.py``.
    """
    folders = [str(Path.cwd())]
    if source.endswith(".py"):
        folders.insert(0, str(Path(source).resolve().parent))
    before = list(sys.path)
    sys.path[:0] = folders
    # The import system caches folder listings and would miss a file written a moment ago.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def import_source(source: str) -> ModuleType:
    """Import a module, which runs its code; exceptions of the code pass through.

    Args:
        source: ``package.module`` or ``path/to/file.py``.
    """
    if not source.endswith(".py"):
        return importlib.import_module(source)
    file = Path(source)
    # A prefix, so that a user's random.py does not replace the standard library's.
    name = f"_joulewise_user_{file.stem}"
    loader = _WithoutCache(name, str(file.resolve()))
    spec = importlib.util.spec_from_file_location(name, file.resolve(), loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look their module up here while it is still being executed.
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _imported[name] = file.resolve()
    return module


class _WithoutCache(SourceFileLoader):
    """Compiles a file each time: a cached one is told from it by seconds and size alone."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def cause_of(error: BaseException) -> str:
    """Type and message of an exception, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
