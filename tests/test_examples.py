"""The examples run, and the memory in one of them keeps the contract of every memory."""

import importlib.util
import sys
from pathlib import Path

import pytest

from contracts import check_device
from joulewise.errors import OperatingPointError

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_memory_of_your_own_keeps_the_contract():
    check_device(example("reram").ReRAM(), [4.0, 16.0])


def test_a_memory_of_your_own_refuses_other_knobs():
    with pytest.raises(OperatingPointError, match="given eta; allowed: pulses"):
        example("reram").ReRAM().point(eta=0.5)


def test_reram_runs(capsys):
    example("reram").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["1 pulses", "4 pulses", "16 pulses"]


def test_robust_training_runs(capsys):
    example("robust_training").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["by_sgd", "by_samson", "through_a_memory"]
    intervals = [line.split("[")[1].split("]")[0].split(", ") for line in lines]
    plain, _, through = ([float(end) for end in interval] for interval in intervals)
    assert through[0] > plain[1]
