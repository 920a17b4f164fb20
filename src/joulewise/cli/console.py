"""The terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Update", "bar", "print_table", "start", "users_code"]

_SECONDS_BETWEEN_LINES = 30.0

Update = Callable[[float, float, str], None]
"""Reports steps done, steps expected and a note."""


def start(torch_device: str | None = None) -> None:
    """Prepare a command that computes: threads, allocator and device.

    Raises:
        InputError: if the device is none, or not there.
    """
    from joulewise.errors import refuse
    from joulewise.study.malloc import keep_freed_memory

    # Threads that wait for one another spin by default: ten times slower beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    keep_freed_memory()
    if torch_device is None:
        return
    if torch_device not in ("cpu", "cuda"):
        refuse("torch_device", repr(torch_device), "cpu or cuda")
    if torch_device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks; workers inherit it
        return
    import torch

    if not torch.cuda.is_available():
        refuse("torch_device", "cuda, and there is none", "cpu")


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
    start = last = time.monotonic()

    def update(done: float, total: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            line = f"{description}: {done:g} of {total:g} after {now - start:.0f} s"
            typer.echo(f"{line}, {note}" if note else line, err=True)

    return update


@contextmanager
def users_code() -> Iterator[None]:
    """A block in which users' code runs: what it prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        yield


def print_table(title: str, columns: list[str], rows: list[list[str]], words: int = 1) -> None:
    """A table on standard output; plain and of full width when piped.

    Args:
        title: A line above it; empty for none.
        columns: Headers.
        rows: Cells.
        words: Number of columns of text, on the left.
    """
    terminal = sys.stdout.isatty()
    table = Table(
        box=None,
        header_style="underline" if terminal else "none",
        show_header=any(columns),
        pad_edge=False,
    )
    for number, column in enumerate(columns):
        # In a narrow terminal text is wrapped, and figures stay whole.
        text = number < words
        justify: Literal["left", "right"] = "left" if text else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=not text)
    for row in rows:
        table.add_row(*row)
    # Piped, no cell is folded.
    cells = zip(columns, *rows, strict=True)
    width = None if terminal else sum(max(map(len, column)) + 2 for column in cells)
    if title:
        typer.echo(title)
    Console(highlight=False, width=width).print(table)
