"""Command line: parse, call, print.

app        the commands, and how errors become one sentence and an exit code
arguments  options that several commands share
case       a network on a memory at some plans
evaluate   simulate and predict: one network at given operating points
studies    init, run and results of study files
compare    compare, compare-training and demo
allocate   allocate and pareto
running    runs of studies: engine, progress, tables and page
train      one training
console    tables and progress in the terminal
"""

from joulewise.cli.app import main

__all__ = ["main"]
