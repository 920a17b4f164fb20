"""Progress: a bar where somebody looks, silence elsewhere, or the caller's function."""

import io
import sys

import pytest

from joulewise.errors import InputError
from joulewise.progress import reporting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with reporting(True) as report:
        for done in range(3):
            report("simulating", done, 2)
    assert "simulating" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()


@pytest.mark.parametrize("progress", [True, False])
def test_silence_where_nobody_looks(monkeypatch, progress):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with reporting(progress) as report:
        report("simulating", 1, 2)
    assert sys.stderr.getvalue() == ""


def test_a_function_is_called_instead():
    seen = []
    with reporting(lambda *said: seen.append(said)) as report:
        report("predicting", 1.0, 4.0)
    assert seen == [("predicting", 1.0, 4.0)]


@pytest.mark.parametrize("progress", ["yes", None, 1])
def test_anything_else_is_refused(progress):
    said = "progress is .*; allowed: True, False, or a function"
    with pytest.raises(InputError, match=said), reporting(progress):
        pass


def test_the_bar_ends_with_an_exception(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt), reporting(True) as report:
        report("verifying", 1, 2)
        raise KeyboardInterrupt
    with reporting(True) as report:  # a second bar may begin
        report("verifying", 2, 2)
