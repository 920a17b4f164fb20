"""Loggers: finished trials to TensorBoard, MLflow or Weights & Biases, by their own libraries."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from joulewise.errors import InputError, refuse
from joulewise.study.record import Record

__all__ = ["Logger", "MLflow", "TensorBoard", "WandB", "logger_of"]


class Logger(ABC):
    """Takes each trial when it is kept; a failure to log never loses it."""

    @abstractmethod
    def log(self, names: Mapping[str, Any], series: Sequence[Mapping[str, float]]) -> None:
        """Log one trial.

        Args:
            names: What it is of: model, training, memory, seed, kind.
            series: Figures of each epoch, point or plan, in order.
        """

    def close(self) -> None:  # noqa: B027
        """Flush what was logged."""


def series_of(record: Record) -> list[dict[str, float]]:
    """Figures of a record: of each epoch of a training, of each row of other trials."""
    rows: list[Mapping[str, Any]] = list(record.rows())
    if record.kind == "train":
        rows = [*record.result["training"]["history"], *rows]
    numbers = (int, float)
    return [
        {k: float(v) for k, v in row.items() if isinstance(v, numbers) and not isinstance(v, bool)}
        for row in rows
    ]


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the logger needs {package}, which is not installed; allowed: pip install {package}"
        ) from error


def _title(names: Mapping[str, Any]) -> str:
    return "/".join(str(value) for value in names.values() if value != "")


class TensorBoard(Logger):
    """Scalars of a TensorBoard log folder.

    Args:
        target: The folder.

    Raises:
        InputError: if tensorboard is not installed.
    """

    def __init__(self, target: str = "runs") -> None:
        self._writer = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(target)

    def log(self, names: Mapping[str, Any], series: Sequence[Mapping[str, float]]) -> None:
        """See `Logger`."""
        for step, figures in enumerate(series):
            for name, value in figures.items():
                self._writer.add_scalar(f"{_title(names)}/{name}", value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class MLflow(Logger):
    """A run for each trial in an MLflow experiment.

    Args:
        target: Name of the experiment.

    Raises:
        InputError: if mlflow is not installed.
    """

    def __init__(self, target: str = "joulewise") -> None:
        self._mlflow = _library("mlflow", "mlflow")
        self._mlflow.set_experiment(target)

    def log(self, names: Mapping[str, Any], series: Sequence[Mapping[str, float]]) -> None:
        """See `Logger`."""
        with self._mlflow.start_run(run_name=_title(names)):
            self._mlflow.log_params(dict(names))
            for step, figures in enumerate(series):
                self._mlflow.log_metrics(dict(figures), step=step)


class WandB(Logger):
    """A run for each trial in a Weights & Biases project.

    Args:
        target: Name of the project.

    Raises:
        InputError: if wandb is not installed.
    """

    def __init__(self, target: str = "joulewise") -> None:
        self._wandb, self._project = _library("wandb", "wandb"), target

    def log(self, names: Mapping[str, Any], series: Sequence[Mapping[str, float]]) -> None:
        """See `Logger`."""
        run = self._wandb.init(
            project=self._project, name=_title(names), config=dict(names), reinit=True
        )
        for step, figures in enumerate(series):
            run.log(dict(figures), step=step)
        run.finish()


def logger_of(text: str) -> Logger:
    """The logger of ``tensorboard:FOLDER``, ``mlflow:EXPERIMENT`` or ``wandb:PROJECT``.

    Raises:
        InputError: if there is none of that name, or its library is not installed.
    """
    kinds: dict[str, type[Any]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    kind, _, target = text.partition(":")
    if kind not in kinds:
        refuse("log", repr(text), "tensorboard:FOLDER, mlflow:EXPERIMENT or wandb:PROJECT")
    made: Logger = kinds[kind](target) if target else kinds[kind]()
    return made
