"""Parts of one computation on any ``concurrent.futures`` executor; its data go once to a process.

The data are pickled here and unpickled by workers that this process has given them to. They lie in
a temporary file, which workers of this machine read; a worker that cannot asks for the content.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from joulewise.errors import InputError, ModelError, refuse
from joulewise.user_code import cause_of, import_source, importable, imported_files

__all__ = ["Spread", "check_executor", "spread"]

Part = TypeVar("Part")
Found = TypeVar("Found")


def check_executor(executor: Any) -> None:
    """Refuse anything but an executor, or None.

    Raises:
        InputError: if it is something else.
    """
    if executor is not None and not (hasattr(executor, "submit") and hasattr(executor, "shutdown")):
        allowed = "an Executor of concurrent.futures, or None"
        refuse("executor", f"{type(executor).__name__} {executor!r:.60}", allowed)


@contextmanager
def spread(executor: Executor, shared: Any) -> Iterator[Spread]:
    """Make data available to workers within a block.

    Args:
        executor: Threads, processes, or workers of other machines that can import joulewise.
        shared: Whatever all parts need; anything that pickles.

    Raises:
        ModelError: if it cannot be pickled.
    """
    try:
        content = pickle.dumps(shared, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # anything may happen in a user's classes
        raise ModelError(
            f"the model, the data or the metric cannot be sent to other processes "
            f"({cause_of(error)}); allowed: classes and functions of modules, not lambdas; or no "
            "executor"
        ) from error
    with tempfile.NamedTemporaryFile(prefix="joulewise-", suffix=".parts") as file:
        file.write(content)
        file.flush()
        yield Spread(executor, Path(file.name), content)


class Spread:
    """Data on their way to workers; made by `spread`."""

    def __init__(self, executor: Executor, path: Path, content: bytes) -> None:
        self._executor, self._content = executor, content
        self._begin = functools.partial(
            _work, _digest(content), path, imported_files(), torch.get_num_threads()
        )

    def map(self, work: Callable[[Any, Part], Found], parts: Sequence[Part]) -> Iterator[Found]:
        """Results of all parts, in their order, each as soon as it and those before are there.

        Args:
            work: A function of a module: of the data and a part. It must not write to the data.
            parts: The parts.

        Raises:
            InputError: if a worker was lost.
        """
        pending: list[Future[tuple[Found] | None]] = []
        try:
            pending += [self._executor.submit(self._begin, work, part, None) for part in parts]
            for number, part in enumerate(parts):
                found = pending[number].result()
                while found is None:
                    pending[number] = self._executor.submit(self._begin, work, part, self._content)
                    found = pending[number].result()
                yield found[0]
        except (BrokenExecutor, CancelledError) as error:
            raise InputError(
                f"executor lost a worker ({cause_of(error)}); allowed: one whose workers have the "
                "memory that a copy of the model and the data take"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# The data of the last computation, by digest.
_held: dict[str, Any] = {}


def _work(
    digest: str,
    path: Path,
    files: dict[str, Path],
    threads: int,
    work: Callable[[Any, Part], Found],
    part: Part,
    content: bytes | None,
) -> tuple[Found] | None:
    """Compute a part in a worker; None to ask for the data."""
    shared = _held.get(digest)
    if shared is None:
        if content is None:
            with suppress(OSError):
                content = path.read_bytes()
        if content is None or _digest(content) != digest:
            return None
        shared = _loaded(content, files)
        _held.clear()
        _held[digest] = shared
    # As many threads as in the caller, so that sums are made in the same order.
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        return (work(shared, part),)
    finally:
        if before != threads:
            torch.set_num_threads(before)


def _loaded(content: bytes, files: dict[str, Path]) -> Any:
    """The data, with the user's code that they refer to imported.

    Raises:
        ModelError: if that is not possible in this process.
    """
    try:
        for file in files.values():
            with importable(str(file)):
                import_source(str(file))
        # Not a user's file: the process that gave this worker its task has pickled it.
        return pickle.loads(content)  # noqa: TID251
    except Exception as error:  # a module that is missing here, or anything that it does
        raise ModelError(
            f"the model, the data or the metric cannot be loaded in a worker ({cause_of(error)}); "
            "allowed: classes of modules that the workers can import; or no executor"
        ) from error
