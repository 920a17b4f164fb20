"""Progress of long calls: a bar in terminals and notebooks, or a caller's function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from joulewise.errors import check_kind

__all__ = ["Progress", "Report", "reporting", "silent"]

Report = Callable[[str, float, float], None]
"""Called with the name of a step, the work done and the total work, in the same unit."""

Progress = bool | Report
"""True for a bar, False for none, or a function that is called instead."""


def silent(step: str, done: float, expected: float) -> None:
    """Report nothing."""


@contextmanager
def reporting(progress: Progress) -> Iterator[Report]:
    """Set up a progress report.

    Args:
        progress: True for a bar, shown on standard error in terminals and notebooks only; False
            for none; or a function that is called instead.

    Yields:
        The function to call with step, done and expected.

    Raises:
        InputError: if ``progress`` is neither a bool nor a function.
    """
    if callable(progress):
        yield progress
        return
    check_kind("progress", progress, bool, "True, False, or a function of step, done and expected")
    notebook = "ipykernel" in sys.modules
    if progress and (notebook or (sys.stderr is not None and sys.stderr.isatty())):
        with _bar(notebook) as report:
            yield report
    else:
        yield silent


@contextmanager
def _bar(notebook: bool) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    console = None if notebook else Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(step: str, done: float, expected: float) -> None:
            bar.update(task, description=step, completed=done, total=expected)

        yield report
