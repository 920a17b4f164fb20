"""Sources of executors for the trials of a study: this process, or processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait as wait_for
from typing import Any

from joulewise.study.malloc import keep_freed_memory

__all__ = ["Engine", "LocalProcesses", "ThisProcess"]


class Engine(ABC):
    """A source of executors."""

    @abstractmethod
    def executor(self) -> Executor:
        """An executor that works: the same as before, or a new one if that is broken."""

    @abstractmethod
    def width(self) -> int:
        """Number of trials to submit at a time."""

    def workers(self) -> int:
        """Number of workers that chips and batches of one trial may be spread over."""
        return self.width()

    def close(self) -> None:  # noqa: B027
        """End the workers."""


class _Immediate(Executor):
    """Computes what is submitted at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ThisProcess(Engine):
    """The calling process: no workers to start, for studies of a few short trials."""

    def executor(self) -> Executor:
        """See `Engine`."""
        return _Immediate()

    def width(self) -> int:
        """See `Engine`."""
        return 1


class LocalProcesses(Engine):
    """Processes of this machine.

    Args:
        workers: Their number.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def executor(self) -> Executor:
        """See `Engine`."""
        self.close()
        # Not forked: a child of a process with threads of torch can hang.
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_begin_worker)
        return self._pool

    def width(self) -> int:
        """See `Engine`."""
        return self._workers

    def close(self) -> None:
        """See `Engine`."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """End with the parent, however it ends; prints go to standard error; freed memory is kept."""
    sys.stdout = sys.stderr
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
