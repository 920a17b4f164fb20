"""The documents: README's Python runs, and its commands name options that exist."""

import re
import sys
from pathlib import Path

import pytest

from joulewise.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = (
    "demo",
    "train",
    "simulate",
    "predict",
    "allocate",
    "co-design",
    "pareto",
    "compare",
    "compare-training",
)
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(capsys):
    namespace = {}
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        # Fewer chips: this shows that the text runs, not what it finds.
        exec(re.sub(r"chips=\d+", "chips=20", block), namespace)
    assert "at 50% energy" in capsys.readouterr().out
    assert namespace["result"].chips == 20


@pytest.mark.parametrize("command", COMMANDS)
def test_options_in_the_readme_exist(command, monkeypatch, capsys):
    lines = [line for line in README.splitlines() if f"joulewise {command} " in line]
    used = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    monkeypatch.setattr(sys, "argv", ["joulewise", command, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    offered = capsys.readouterr().out
    assert {option for option in used if option not in offered} == set()


def test_every_command_and_room_is_in_the_documents():
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    for room in (ROOT / "src/joulewise").iterdir():
        if (room / "__init__.py").exists():
            assert re.search(rf"\b{room.name}\b", architecture), room.name
    for command in COMMANDS:
        assert f"joulewise {command}" in README
