"""The terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["bar", "one_after_another", "print_table", "start", "with_interval"]

_SECONDS_BETWEEN_LINES = 30.0

Update = Callable[[float, float, str], None]
"""Reports steps done, steps expected and a note."""


def start(threads: int = 0) -> None:
    """Prepare a command that computes: allocator and threads."""
    from joulewise.cli.allocator import keep_freed_memory

    keep_freed_memory()
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def bar(description: str) -> Iterator[Update]:
    """A progress bar; a line now and then where standard error is not a terminal.

    Standard output holds the result and nothing else, so progress goes to standard error.
    """
    if not sys.stderr.isatty():
        yield _lines(description)
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        task = progress.add_task(description, total=None, note="")

        def update(done: float, total: float, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def _lines(description: str) -> Update:
    last = time.monotonic()

    def update(done: float, total: float, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            typer.echo(f"{description}: {done:g} of {total:g} {note}".rstrip(), err=True)

    return update


def one_after_another(update: Update, names: Sequence[str]) -> Callable[[str, int, int], None]:
    """Progress of one of several, by name, as that of a bar for all."""
    order = {name: number for number, name in enumerate(names)}

    def report(name: str, done: int, total: int) -> None:
        update(order[name] + done / total, len(names), name)

    return report


def with_interval(figure: str, interval: str) -> str:
    """A figure as a table's cell has it, with its interval if it has one."""
    return f"{figure} [{interval}]" if interval else figure


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    # Piped into a file, a table keeps its full width.
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(table)
