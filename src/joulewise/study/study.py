"""Studies: a study file and the folder of its trials."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from joulewise.errors import InputError, refuse
from joulewise.results import frame
from joulewise.study.engine import Engine, ThisProcess
from joulewise.study.run import Progress, Run, estimated_seconds
from joulewise.study.store import Store
from joulewise.study.study_file import StudyFile
from joulewise.study.trials import Cell, Sources, Train, cells_of, kind_of
from joulewise.user_code import cause_of

if TYPE_CHECKING:
    from joulewise.study.loggers import Logger
    from joulewise.study.record import Record

__all__ = ["Position", "Study", "Workload", "differences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of a study before it is done.

    Args:
        trainings: Number of trainings.
        evaluations: Number of curves, allocations and fronts.
        shared: Trainings that serve several memories, which are done once.
        done: Finished trials.
        seconds: Estimate for one worker, from the trials that are there; None without any.
    """

    trainings: int
    evaluations: int
    shared: int
    done: int
    seconds: float | None


class Position(NamedTuple):
    """A trial's place in a study.

    Args:
        digest: Digest of the trial.
        model: Index of its model in the study file.
        training: Index of its training; None without training.
        memory: Index of its memory.
        seed: Seed of the training.
    """

    digest: str
    model: int
    training: int | None
    memory: int
    seed: int


class Study:
    """A study and its folder.

        study = joulewise.Study.create("study.yaml", "results")
        study.run()
        study.to_frame()

    Args:
        file: The study file.
        folder: Folder of the trials, made if it is missing.

    Attributes:
        file: As given.
        store: The folder.
        changes: Differences to the study file that the folder was made by, a line each. Trials of
            the old one stay in the folder; those of the new one are other trials.

    Raises:
        InputError: if the folder holds anything but a study, or cannot be written to.
    """

    def __init__(self, file: StudyFile, folder: str | Path) -> None:
        self.file = file
        self.store = Store(folder)
        before = self.store.read_study()
        now = file.model_dump(mode="json")
        self.changes = list(differences(before.get("study", now), now))

    @classmethod
    def create(cls, path: str | Path, folder: str | Path | None = None) -> Study:
        """The study of a YAML file.

        Args:
            path: The file.
            folder: The folder; None for one beside the file, of its name.
        """
        return cls(StudyFile.read(path), Path(path).with_suffix("") if folder is None else folder)

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study of a folder.

        Raises:
            InputError: if there is none.
        """
        if not (Path(folder) / "study.json").is_file():
            raise InputError(
                f"the folder {folder} has no study.json; allowed: one that joulewise run made"
            )
        stored = Store(folder).read_study()
        if not {"study", "cells"} <= set(stored):
            refuse(f"the study in {folder}", "one that was never run", "joulewise run FILE first")
        return cls(StudyFile.model_validate(stored["study"]), folder)

    @cached_property
    def sources(self) -> Sources:
        """The content that the study names; weights files are copied into the folder."""
        from joulewise.study.sources import sources_of

        return sources_of(self.file, self.store.write_weights)

    @cached_property
    def cells(self) -> list[Cell]:
        """All trials, each with its place in the study."""
        return cells_of(self.file, self.sources)

    def workload(self) -> Workload:
        """Number of trials, work that is shared, and an estimate."""
        trials = {cell.trial.digest: cell.trial for cell in self.cells}
        known = {digest: self.store.read(digest) for digest in trials}
        there = {digest: record for digest, record in known.items() if record is not None}
        uses = Counter(cell.trial.digest for cell in self.cells if isinstance(cell.trial, Train))
        seconds: dict[str, list[float]] = {}
        for digest, record in there.items():
            seconds.setdefault(kind_of(trials[digest]), []).append(record["seconds"])
        left = [kind_of(trials[digest]) for digest in trials.keys() - there.keys()]
        trainings = sum(isinstance(trial, Train) for trial in trials.values())
        return Workload(
            trainings=trainings,
            evaluations=len(trials) - trainings,
            shared=sum(count > 1 for count in uses.values()),
            done=len(there),
            seconds=estimated_seconds(seconds, left),
        )

    def run(
        self,
        engine: Engine | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
        loggers: Sequence[Logger] = (),
    ) -> dict[str, str]:
        """Compute the trials that are not in the folder.

        Args:
            engine: Where to compute; None for the calling process.
            report: Called with the progress.
            loggers: Told of each trial that is kept.

        Returns:
            The error of each trial that failed, by digest; they are tried again in the next run.

        Raises:
            InputError: if a memory cannot be built, data, a model or weights cannot be loaded, or a
                result cannot be written.
        """
        self._keep_index()
        budget = self.file.budget
        run = Run(
            store=self.store,
            cells=self.cells,
            engine=engine or ThisProcess(),
            report=report,
            kept=lambda cell, record: self._log(cell, record, loggers),
            deadline=None if budget is None else time.monotonic() + 3600 * budget.hours,
        )
        run.run()
        return run.failed

    def _log(self, cell: Cell, record: dict[str, Any], loggers: Sequence[Logger]) -> None:
        """Tell loggers of a record; one that fails is reported and does not end the study."""
        from joulewise.study.loggers import series_of
        from joulewise.study.record import Record

        if not loggers:
            return
        found = Record.of(record)
        names = self._names(cell) | {"kind": found.kind}
        for logger in loggers:
            try:
                logger.log(names, series_of(found))
            except Exception as error:  # a library of others, perhaps without its server
                warnings.warn(f"a logger failed with {cause_of(error)}", stacklevel=2)

    def positions(self) -> list[Position]:
        """Positions of all trials; from the folder if it is of this study, without the data."""
        stored, now = self.store.read_study(), self.file.model_dump(mode="json")
        if "cells" not in self.__dict__ and stored.get("study") == now:
            return [Position(*entry) for entry in stored["cells"]]
        return [
            Position(cell.trial.digest, cell.model, cell.training, cell.memory, cell.seed)
            for cell in self.cells
        ]

    def _names(self, at: Position | Cell) -> dict[str, Any]:
        """Names of what a trial is of."""
        training = "" if at.training is None else self.file.training[at.training].name
        return {
            "model": self.file.models[at.model].name,
            "training": training,
            "memory": self.file.memories[at.memory].name,
            "seed": at.seed,
        }

    def name_of(self, cell: Cell) -> str:
        """A trial in a few words, such as ``curve of mlp, sgd, 8-bit SRAM, mask, seed 0``."""
        names = [f"{value}" for key, value in self._names(cell).items() if value and key != "seed"]
        return f"{kind_of(cell.trial)} of {', '.join(names)}, seed {cell.seed}"

    def _keep_index(self) -> None:
        """Write the study file and its trials, so that the folder is whole without the data."""
        _ = self.cells  # of the data as they are now
        cells = [list(position) for position in self.positions()]
        self.store.write_study({"study": self.file.model_dump(mode="json"), "cells": cells})

    def records(self) -> list[tuple[Position, Record]]:
        """The trials that are there, in the order of the study.

        A training that serves several memories stands once for each.
        """
        from joulewise.study.record import Record

        found = []
        for position in self.positions():
            plain = self.store.read(position.digest)
            if plain is not None:
                found.append((position, Record.of(plain)))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row for each simulated point, allocation and plan of a front, with plain values."""
        found = []
        for at, record in self.records():
            names = self._names(at) | {"trial": at.digest}
            found += [names | row for row in record.rows()]
        return found

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``.

        Raises:
            InputError: if pandas is not installed.
        """
        return frame(self.rows(), "rows()")


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Differences of plain data, a line each, by the path of the field.

    Example:
        >>> list(differences({"training": [{"epochs": 1}]}, {"training": [{"epochs": 2}]}))
        ['training[0].epochs: 1 -> 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            where = f"{path}.{key}" if path else key
            yield from differences(old.get(key), new.get(key), where)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{number}]")
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    return f"{value!r:.60}"
