"""Command line: parse, call, print.

app        the commands, and how errors become one sentence and an exit code
options    options that several commands share
placing    the options of the Memory and Placement panels
settings   the plans that a command was given: points of one knob, or a file
console    tables, progress bars and figures in the terminal
studies    init, run and results of study files
allocator  memory allocator settings that a CPU run needs
train, simulate, predict, allocate, co_design, pareto, compare, compare_training, demo
           one command each
"""

from joulewise.cli.app import main as main

__all__ = ["main"]
