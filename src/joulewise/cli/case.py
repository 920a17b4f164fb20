"""A network on a memory at some plans, from the options of a command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from joulewise.cli import arguments, console
from joulewise.units import format_point

if TYPE_CHECKING:
    from joulewise.placement import Placement
    from joulewise.prediction import Fisher, Forecast, LossForecast, Method
    from joulewise.simulation import Simulation
    from joulewise.study.study_file import StudyFile

__all__ = ["Case"]


def _kept_in(path: Path) -> dict[str, Any]:
    """Memory and place that a plan was allocated with, where its file has them.

    Not a memory of the user's own, whose code would run by a file that may be of another origin.
    A file that is no plan is refused where it is read.
    """
    try:
        note = json.loads(path.read_text(encoding="utf-8"))["note"]
        kept = {name: note[name] for name in ("memory", "place")}
        return kept if kept["memory"]["kind"] != "custom" else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


class Case:
    """A network on a memory at some plans, from the options; torch is imported by `load`."""

    placement: Placement
    test: Any
    plans: list[Any]
    metric: Any

    def __init__(
        self, file: StudyFile, names: list[str], plan: Path | None, workers: int | None
    ) -> None:
        self.file, self.names, self._plan, self._workers = file, names, plan, workers

    @classmethod
    def of(
        cls,
        *,
        model: str,
        data: str,
        images: int | None,
        memory: str | None,
        place: str | None,
        at: list[str] | None,
        plan: Path | None,
        metric: str | None,
        seed: int,
        chips: int,
        workers: int | None,
    ) -> Case:
        """Check the options.

        Raises:
            InputError: naming the first that is not allowed.
        """
        from joulewise.errors import check_count, refuse

        check_count("chips", chips, 1, 10**7)
        check_count("seed", seed, 0)
        if workers is not None:
            check_count("workers", workers, 0, 4096)
        if (plan is None) == (not at):
            got = "given beside --plan" if at else "missing"
            refuse("--at", got, "--at eta=0.5, repeated, or --plan FILE")
        arguments.check_trained([model])
        if plan is not None and plan.is_dir():
            plan /= "plan.json"
        kept = {} if plan is None else _kept_in(plan)
        file = arguments.study_file(
            data={"source": data, "images": images},
            models=[model],
            memories=[memory or kept.get("memory", "sram")],
            place=place or kept.get("place"),
            points=at,
            metric=metric,
        )
        if plan is not None and not plan.is_file():
            refuse("--plan", str(plan), "a file that joulewise allocate wrote, or its folder")
        names = ["plan"]
        if at:
            names = [
                ", ".join(f"{knob} {format_point(knob, value)}" for knob, value in point.items())
                for point in file.points
            ]
        return cls(file, names, plan, workers)

    @property
    def name(self) -> str:
        """The network's name."""
        return self.file.models[0].name

    def load(self, torch_device: str | None) -> None:
        """Load data and model, and place it.

        Raises:
            InputError: if that is not possible, or a point is out of range.
        """
        console.start(torch_device)
        from joulewise.data import load_data
        from joulewise.placement import Plan
        from joulewise.study.messages import named
        from joulewise.study.networks import metric_of, place_network, test_split

        (entry,), (memory,) = self.file.models, self.file.memories
        data = load_data(self.file.data.source)
        self.placement = place_network(
            entry.source, entry.weights, 0, data, memory, self.file.place
        )
        self.test = test_split(data, self.file.data.images)
        self.metric = metric_of(self.file.metric)
        if self._plan is not None:
            self.plans = [Plan.read(self._plan)]
            with named("the plan needs the --memory and --place of its allocation"):
                self.placement.points(self.plans[0])
            if not self.plans[0].is_for_weights_of(self.placement):
                typer.echo("joulewise: the plan was chosen for other weights than these", err=True)
        else:
            self.plans = [self.placement.plan(point) for point in self.file.points]

    @contextmanager
    def _executor(self) -> Iterator[Executor | None]:
        """Worker processes, with one thread in this process too; None without ``--workers``."""
        import torch

        from joulewise.study.engine import LocalProcesses

        if self._workers is None:
            yield None
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        engine = LocalProcesses(self._workers or os.cpu_count() or 1)
        try:
            yield engine.executor()
        finally:
            engine.close()
            torch.set_num_threads(threads)

    def predict(self, method: Method | Fisher) -> list[Forecast | LossForecast]:
        """Predict at each plan, with a progress bar."""
        from joulewise.prediction import predict as predict_one

        found: list[Forecast | LossForecast] = []
        with self._executor() as executor, console.bar("predict") as update, console.users_code():
            for number, plan in enumerate(self.plans):

                def report(_: str, done: float, expected: float, number: int = number) -> None:
                    update(number + done / expected, len(self.plans), "")

                found.append(
                    predict_one(
                        self.placement,
                        self.test,
                        at=plan,
                        method=method,
                        progress=report,
                        executor=executor,
                    )
                )
        return found

    def simulate(
        self, label: str, chips: int, seed: int, half_width: float | None = None
    ) -> Sequence[Simulation]:
        """Simulate chips at each plan, with a progress bar."""
        from joulewise.simulation import sweep

        with self._executor() as executor, console.bar(label) as update, console.users_code():
            return sweep(
                self.placement,
                self.test,
                at=self.plans,
                chips=chips,
                seed=seed,
                metric=self.metric,
                half_width=half_width,
                progress=lambda _, done, expected: update(done, expected, ""),
                executor=executor,
            )
