"""Spread a computation over any ``concurrent.futures`` executor; each process loads its data once.

The data are pickled into a temporary file, which workers on this machine read; a worker that cannot
read it asks for the content. A worker unpickles only what the process that gave it a task pickled.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from joulewise.errors import ModelError, WorkerLostError, refuse
from joulewise.user_code import cause_of, import_source, importable, imported_files

__all__ = ["Workers", "check_executor", "shared_with"]

Part = TypeVar("Part")
Found = TypeVar("Found")

# Parts in flight: enough for any machine, and few before workers elsewhere have the data.
_AHEAD = 64


def check_executor(executor: Any) -> None:
    """Refuse anything but an executor, or None.

    Raises:
        InputError: if it is something else, or within ``torch.autocast``, which workers are not in.
    """
    if executor is None:
        return
    if not (hasattr(executor, "submit") and hasattr(executor, "shutdown")):
        allowed = "an Executor of concurrent.futures, or None"
        refuse("executor", f"{type(executor).__name__} {executor!r:.60}", allowed)
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        refuse("executor", "given within torch.autocast", "None, or outside of it")


@contextmanager
def shared_with(executor: Executor, data: Any) -> Iterator[Workers]:
    """Make data available to the workers of an executor within a block.

    Args:
        executor: Threads, processes, or workers of other machines that can import joulewise.
        data: Whatever all parts need; anything that pickles.

    Raises:
        ModelError: if it cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(data)
    except Exception as error:  # anything may happen in a user's classes
        raise ModelError(
            f"the model, the data or the metric cannot be sent to other processes "
            f"({cause_of(error)}); allowed: classes and functions of modules, not lambdas; or no "
            "executor"
        ) from error
    content = stream.getvalue()
    digest, path = _digest(content), None
    try:
        with suppress(OSError):  # a full disk: workers ask for the content
            handle, name = tempfile.mkstemp(prefix="joulewise-", suffix=".parts")
            path = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        yield Workers(executor, digest, path, content)
    finally:
        _held.pop(digest, None)  # of threads of this process
        if path is not None:
            path.unlink(missing_ok=True)


class Workers:
    """Workers that can load some data; made by `shared_with`."""

    def __init__(self, executor: Executor, digest: str, path: Path | None, content: bytes) -> None:
        self._executor, self._content = executor, content
        # Of all files that were imported, those that the data refer to.
        files = {n: file for n, file in imported_files().items() if n.encode() in content}
        self._begin = functools.partial(_work, digest, path, files, torch.get_num_threads())

    def map(
        self, work: Callable[[Any, Part], Found], parts: Sequence[Part]
    ) -> Generator[Found, None, None]:
        """Yield the result of each part, in order, as soon as it and all before it are computed.

        Args:
            work: A module-level function of the data and a part, which must not write to the data.
            parts: The parts.

        Raises:
            WorkerLostError: if a worker was lost, or the executor takes no work.
        """
        running: dict[Future[tuple[Found] | None], int] = {}
        results: dict[int, Found] = {}
        following = 0
        try:
            for number in range(len(parts)):
                while number not in results:
                    while following < len(parts) and len(running) < _AHEAD:
                        running[self._submit(work, parts[following], None)] = following
                        following += 1
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        done, found = running.pop(future), future.result()
                        if found is None:  # the worker asks for the data
                            running[self._submit(work, parts[done], self._content)] = done
                        else:
                            results[done] = found[0]
                yield results.pop(number)
        except Exception as error:
            if not isinstance(error, (BrokenExecutor, CancelledError)) and not _is_dask_s(error):
                raise
            raise WorkerLostError(
                f"executor lost a worker ({cause_of(error)}); allowed: workers with memory for a "
                "copy of the model and the data"
            ) from error
        finally:
            for future in running:
                future.cancel()

    def _submit(
        self, work: Callable[[Any, Part], Found], part: Part, content: bytes | None
    ) -> Future[tuple[Found] | None]:
        try:
            return self._executor.submit(self._begin, work, part, content)
        except BrokenExecutor:
            raise
        except RuntimeError as error:
            allowed = "one that was not shut down"
            raise WorkerLostError(
                f"executor takes no work ({error}); allowed: {allowed}"
            ) from error


class _Pickler(pickle.Pickler):
    """Pickles views of tensors without the rest of their storage."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.layout != torch.strided:
            return NotImplemented
        whole = obj.untyped_storage().nbytes() == obj.numel() * obj.element_size()
        reduce: Any = (obj if whole else obj.clone()).__reduce_ex__
        return reduce(pickle.HIGHEST_PROTOCOL)


def _is_dask_s(error: Exception) -> bool:
    """True for the error of a lost Dask worker, whose class may not be importable."""
    return type(error).__name__ == "KilledWorker"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# The data of the last computation, by digest; modules are imported by one thread at a time.
_held: dict[str, Any] = {}
_loading = threading.Lock()


def _work(
    digest: str,
    path: Path | None,
    files: dict[str, Path],
    threads: int,
    work: Callable[[Any, Part], Found],
    part: Part,
    content: bytes | None,
) -> tuple[Found] | None:
    """Compute a part in a worker; None to ask for the data."""
    with _loading:
        data = _held.get(digest)
        if data is None:
            if content is None and path is not None:
                with suppress(OSError):
                    content = path.read_bytes()
            if content is None or _digest(content) != digest:
                return None
            data = _loaded(content, files)
            _held.clear()
            _held[digest] = data
    # As many threads as in the caller, so that sums are made in the same order.
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        return (work(data, part),)
    finally:
        if before != threads:
            torch.set_num_threads(before)


def _loaded(content: bytes, files: dict[str, Path]) -> Any:
    """The data, with the user's code that they refer to imported.

    Raises:
        ModelError: if that is not possible in this process.
    """
    try:
        for name, file in files.items():
            if name not in sys.modules:
                with importable(str(file)):
                    import_source(str(file))
        with importable(""):  # modules of the current folder
            # Not a user's file: the process that gave this worker its task has pickled it.
            return pickle.loads(content)  # noqa: TID251
    except Exception as error:  # a module that is missing here, or anything that it does
        raise ModelError(
            f"the model, the data or the metric cannot be loaded in a worker ({cause_of(error)}); "
            "allowed: classes of modules that the workers can import; or no executor"
        ) from error
