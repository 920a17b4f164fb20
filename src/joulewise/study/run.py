"""One run of a study: its trials on any executor, each kept as soon as it is done.

The process that runs a study is the only one that writes to its folder. Workers get a trial and the
weights that it needs, and give back an outcome.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import BaseFileLock

from joulewise.errors import InputError, JoulewiseError, WorkerLostError
from joulewise.files import write_atomically
from joulewise.study.engine import Engine
from joulewise.study.store import Store, content_digest
from joulewise.study.trials import Cell, Evaluate, kind_of
from joulewise.user_code import cause_of

if TYPE_CHECKING:
    from joulewise.study.compute import Outcome

__all__ = ["Progress", "Run", "estimated_seconds"]

# Attempts at a trial whose worker was lost; seconds between looks at the trials of other runs.
_ATTEMPTS, _POLL = 3, 0.5
_FAILED = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a run.

    Args:
        done: Trials that are there, those of earlier runs included.
        failed: Trials that failed.
        total: All trials.
        left_s: Estimated seconds to the end; None before a trial was computed.
    """

    done: int
    failed: int
    total: int
    left_s: float | None


def estimated_seconds(known: Mapping[str, Sequence[float]], missing: Iterable[str]) -> float | None:
    """Estimate of the seconds that trials take in all.

    Args:
        known: Seconds of trials that are done, by kind.
        missing: The kinds of the others. A kind that is not known takes the mean of all.

    Returns:
        None if nothing is known.
    """
    every = [seconds for some in known.values() for seconds in some]
    if not every:
        return None
    mean = {kind: sum(some) / len(some) for kind, some in known.items()}
    return sum(mean.get(kind, sum(every) / len(every)) for kind in missing)


def _work(trial: Any, weights: str, folder: Path, content: bytes | None) -> Outcome | None:
    """Compute a trial in a worker.

    Args:
        trial: The trial.
        weights: Digest of the weights of its network; empty for none.
        folder: Folder with the weights, where the worker can read it.
        content: The weights, where the worker has asked for them.

    Returns:
        None to ask for the weights.
    """
    from joulewise.study.compute import compute

    path = None
    if weights:
        path = folder / f"{weights}.safetensors"
        if not path.is_file():  # another machine; weights are kept there for the next trial
            path = Path(tempfile.gettempdir()) / f"joulewise-{weights}.safetensors"
            if content is not None:
                write_atomically(path, content)
            if not path.is_file() or content_digest(path.read_bytes()) != weights:
                return None
    return compute(trial, path)


def _in_thread(trial: Evaluate, weights: Path | None, executor: Executor) -> Future[Outcome | None]:
    """Compute a trial here, its chips and batches in workers that would have nothing to do."""
    future: Future[Outcome | None] = Future()

    def run() -> None:
        from joulewise.study.compute import compute

        try:
            future.set_result(compute(trial, weights, executor=executor))
        except BaseException as error:
            future.set_exception(error)

    # A daemon: Ctrl-C does not wait for it.
    threading.Thread(target=run, daemon=True).start()
    return future


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """One run of a study, which computes the trials that its folder lacks.

    Args:
        store: The folder.
        cells: The trials, trainings before what needs them.
        engine: The engine.
        report: Called with the progress after each change.
        kept: Called with each record that was written.
        deadline: No trial begins after this ``time.monotonic()``; None for no limit.

    Attributes:
        failed: The error of each trial that failed, by digest.
    """

    store: Store
    cells: Sequence[Cell]
    engine: Engine
    report: Callable[[Progress], None]
    kept: Callable[[Cell, dict[str, Any]], None] = lambda cell, record: None
    deadline: float | None = None
    failed: dict[str, str] = field(init=False, default_factory=dict)
    _pending: dict[str, Cell] = field(init=False, default_factory=dict)
    _running: dict[Future[Outcome | None], tuple[Cell, BaseFileLock, Executor]] = field(
        init=False, default_factory=dict
    )
    _executor: Executor | None = field(init=False, default=None)
    _weights: dict[str, str] = field(init=False, default_factory=dict)
    _lost: dict[str, int] = field(init=False, default_factory=dict)
    _seconds: dict[str, list[float]] = field(init=False, default_factory=dict)

    def run(self) -> None:
        """Compute until every trial is there or has failed, or the time is over.

        Raises:
            InputError: if a result cannot be written.
        """
        cells = {cell.trial.digest: cell for cell in self.cells}
        self._pending = {d: cell for d, cell in cells.items() if not self._is_there(d)}
        try:
            while self._pending or self._running:
                self._tell(len(cells))
                others = self._submit()
                if not self._running and not others:
                    break
                if self._running:
                    done, _ = wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._collect(future)
                else:  # all that is left is being computed by other runs
                    time.sleep(_POLL)
            self._tell(len(cells))
        finally:
            for _, lock, _ in self._running.values():
                lock.release()

    def _tell(self, total: int) -> None:
        missing = [*self._pending.values(), *(cell for cell, *_ in self._running.values())]
        left = estimated_seconds(self._seconds, [kind_of(cell.trial) for cell in missing])
        if left is not None:
            left /= max(1, min(self.engine.width(), len(missing)))
        done = total - len(missing) - len(self.failed)
        self.report(Progress(done=done, failed=len(self.failed), total=total, left_s=left))

    def _is_there(self, digest: str) -> bool:
        """True if a trial has a record, and weights if it is a training."""
        record = self.store.read(digest)
        if record is None:
            return False
        if "weights" not in record:
            return True
        if not self.store.has_weights(record["weights"]):
            return False
        self._weights[digest] = record["weights"]
        return True

    def _submit(self) -> bool:
        """Submit trials up to the width of the engine; True if other runs compute some of them."""
        others = False
        late = self.deadline is not None and time.monotonic() >= self.deadline
        for digest, cell in list(self._pending.items()):
            # A trial whose worker was lost may be the reason: it runs alone from then on.
            alone = any(one.trial.digest in self._lost for one, *_ in self._running.values())
            if late or alone or len(self._running) >= self.engine.width():
                break
            if digest in self._lost and self._running:
                continue
            if cell.needs in self.failed:
                self.failed[digest] = f"its training {cell.needs} failed"
                del self._pending[digest]
                continue
            if cell.needs and cell.needs not in self._weights:  # its training is not done
                continue
            lock = self.store.claim(digest)
            if lock is None:
                others = True
                continue
            if self._is_there(digest):  # another run has just written it
                lock.release()
                del self._pending[digest]
                continue
            del self._pending[digest]
            self._start(cell, lock)
        return others

    def _start(self, cell: Cell, lock: BaseFileLock, content: bytes | None = None) -> None:
        """Submit one trial; ``content`` is that of its weights, if the worker asked for them."""
        if self._executor is None:
            self._executor = self.engine.executor()
        folder = self.store.folder.resolve() / "weights"
        try:
            weights = self._weights_of(cell)
            unfinished = len(self._pending) + len(self._running) + 1
            if isinstance(cell.trial, Evaluate) and 2 * unfinished <= self.engine.workers():
                path = self.store.weights_path(weights) if weights else None
                future = _in_thread(cell.trial, path, self._executor)
            else:
                future = self._executor.submit(_work, cell.trial, weights, folder, content)
        except BrokenExecutor:
            self._executor = None
            self._pending[cell.trial.digest] = cell
            lock.release()
            return
        except BaseException:
            lock.release()
            raise
        self._running[future] = cell, lock, self._executor

    def _weights_of(self, cell: Cell) -> str:
        """Digest of the weights that a trial needs; empty for none."""
        if not isinstance(cell.trial, Evaluate):
            return ""
        return cell.trial.network.weights or self._weights.get(cell.needs, "")

    def _collect(self, future: Future[Outcome | None]) -> None:
        """Keep the outcome of a trial.

        Raises:
            InputError: if it cannot be written.
        """
        cell, lock, executor = self._running.pop(future)
        outcome = self._outcome(cell, future, executor)
        if outcome is None:
            path = self.store.weights_path(self._weights_of(cell))
            self._start(cell, lock, path.read_bytes())
            return
        try:
            if outcome is not _FAILED:
                self._keep(cell, outcome)
        finally:
            lock.release()

    def _outcome(self, cell: Cell, future: Future[Outcome | None], executor: Executor) -> Any:
        """The outcome of a trial, None to send its weights, or `_FAILED`."""
        digest = cell.trial.digest
        try:
            return future.result()
        except (BrokenExecutor, CancelledError, WorkerLostError) as error:
            if executor is self._executor:  # not one that has taken its place already
                self._executor = None
            self._lost[digest] = self._lost.get(digest, 0) + 1
            if self._lost[digest] < _ATTEMPTS:
                self._pending[digest] = cell
            else:
                self.failed[digest] = f"its worker was lost {_ATTEMPTS} times: {cause_of(error)}"
        except JoulewiseError as error:
            self.failed[digest] = str(error)
        except Exception as error:  # users' code in a worker: anything may happen
            self.failed[digest] = cause_of(error)
        return _FAILED

    def _keep(self, cell: Cell, outcome: Outcome) -> None:
        """Write a record, its weights first.

        Raises:
            InputError: if they cannot be written.
        """
        digest = cell.trial.digest
        record: dict[str, Any] = {"trial": cell.trial.model_dump(mode="json")}
        try:
            if outcome.weights is not None:
                self._weights[digest] = record["weights"] = self.store.write_weights(
                    outcome.weights
                )
            record |= {"seconds": outcome.seconds, "environment": outcome.environment}
            record["result"] = outcome.result
            self.store.write(digest, record)
        except ValueError as error:  # a figure that is not finite
            self.failed[digest] = cause_of(error)
            return
        except OSError as error:
            raise InputError(
                f"the trial {digest} is computed and cannot be written to {self.store.folder}: "
                f"{error}; trials that were written are kept: run again to go on"
            ) from error
        self._seconds.setdefault(kind_of(cell.trial), []).append(outcome.seconds)
        self.kept(cell, record)
