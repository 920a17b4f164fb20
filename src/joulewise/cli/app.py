"""The command line itself: its commands, and how errors become one sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Never

import typer
from pydantic import ValidationError

from joulewise import __version__
from joulewise.cli.allocate import allocate, pareto
from joulewise.cli.compare import compare, compare_training, demo
from joulewise.cli.evaluate import predict, simulate
from joulewise.cli.studies import init, results, run
from joulewise.cli.train import train
from joulewise.errors import JoulewiseError

__all__ = ["app", "main"]

app = typer.Typer(
    name="joulewise",
    help="Energy that neural networks save on unreliable memory, and the accuracy they keep.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# Base of what Typer raises for options that are wrong or missing: ClickException.
_UsageError: Any = typer.BadParameter.__mro__[2]


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Say what Ctrl-C left behind; Typer would exit with the right code and no word."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            typer.echo("joulewise: interrupted; no file was left half-written", err=True)
            raise typer.Exit(130) from stop

    return run


for command in (
    *(demo, init, run, results),
    *(train, simulate, predict, allocate, pareto, compare, compare_training),
):
    app.command()(_interruptible(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"joulewise {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    """Options of joulewise itself."""


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 2 the input is not allowed, said in one sentence on standard error;
    3 `allocate` could not show its goal to hold; 130 interrupted.
    """
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except JoulewiseError as error:
        _refuse(str(error))
    except ValidationError as error:
        from joulewise.study.messages import sentence

        _refuse(sentence(error))
    except _UsageError as error:
        _refuse(error.format_message())
    except OSError as error:  # a full disk, or a pipe that nobody reads
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _refuse(f"the output cannot be written: {error}")
    sys.exit(code)


def _refuse(sentence: str) -> Never:
    if sentence:  # none after the help of a command without arguments
        typer.echo(f"joulewise: {' '.join(sentence.split())}", err=True)
    sys.exit(2)
