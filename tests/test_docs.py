"""The documents: README's Python runs, and its commands name options that exist."""

import re
import sys
from pathlib import Path

import pytest

from joulewise.cli import main
from joulewise.cli.arguments import study_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FEATURES = (ROOT / "docs/features.md").read_text()
COMMANDS = (
    *("demo", "init", "run", "results", "train", "simulate", "predict", "allocate", "pareto"),
    *("compare", "compare-training"),
)


@pytest.mark.parametrize(("path", "blocks"), [("README.md", 1), ("docs/guide.md", 11)])
def test_the_python_of_a_document_runs(path, blocks, capsys):
    namespace = {}
    found = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)
    assert len(found) == blocks
    for block in found:
        # Fewer chips: this shows that the text runs, not what it finds.
        exec(re.sub(r"chips=\d+", "chips=20", block), namespace)
    assert "at 50% energy" in capsys.readouterr().out
    assert namespace["result"].chips == 20


def test_the_readme_is_one_screen_and_its_links_lead_somewhere():
    assert len(README.encode()) <= 6000
    for path in ("README.md", "docs/guide.md", "docs/evidence.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / path).read_text()):
            assert "://" in target or (ROOT / path).parent.joinpath(target).exists(), (path, target)


def test_values_of_options_in_the_readme_are_allowed():
    fields = {"memory": "memories", "at": "points", "goal": "goals", "granularity": "granularities"}
    fields |= {"training": "training", "place": "place"}
    found = re.findall(r"--(memory|at|goal|granularity|training|place) (\S+)", README)
    assert len(found) >= 8
    for option, value in found:
        given = value if option == "place" else [value]
        small = {"models": ["mlp"], "training": ["sgd"], "memories": ["sram", "crossbar"]}
        study_file(**{**small, fields[option]: given})


@pytest.mark.parametrize("command", COMMANDS)
def test_options_in_the_readme_exist(command, monkeypatch, capsys):
    lines = [line for line in README.splitlines() if re.search(rf"joulewise {command} ", line)]
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


def test_each_feature_has_its_test():
    """Rows of docs/features.md that are modelled name tests that exist."""
    rows = re.findall(r"^\| ([^|]+) \| ([Yp-]) \| (.+) \|$", FEATURES, flags=re.MULTILINE)
    assert len(rows) > 25
    for feature, mark, text in rows:
        named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", text)
        assert named or mark == "-" or "all tests run in that environment" in text, feature
        for path, test in named:
            assert f"def {test}" in (ROOT / path).read_text(), (feature, path, test)
