"""The documents: README's Python runs, and its commands name options that exist."""

import re
import subprocess
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


PAGES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "docs").rglob("*.md")
    if "reference" not in path.parts
)
NOTEBOOKS = [path for path in PAGES if "file_format: mystnb" in (ROOT / path).read_text()]


def shortened(code):
    """Fewer chips: tests show that the text runs, not what it finds."""
    return re.sub(r"chips=\d+", "chips=20", code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_the_cells_of_a_page_run(path, capsys, tmp_path, monkeypatch):
    """Without the cells that run a command line, which other tests do."""
    monkeypatch.chdir(tmp_path)  # pages write files
    namespace = {"__name__": "page"}
    cells = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    assert len(cells) > 4
    for cell in cells:
        if not cell.startswith(":tags: [remove-input]"):
            exec(shortened(cell), namespace)
    assert capsys.readouterr().out


GUIDE = [path for path in PAGES if "guide" in path.parts]


@pytest.mark.parametrize("path", [Path("README.md"), *GUIDE], ids=str)
def test_the_python_of_a_page_runs(path):
    namespace = {}
    found = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)
    assert found
    for block in found:
        exec(shortened(block), namespace)


def test_tables_of_the_evidence_are_those_of_the_records():
    command = [sys.executable, str(ROOT / "benchmarks/evidence.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = (ROOT / "docs/evidence.md").read_text().splitlines()
    marked = {i + 2 for i, line in enumerate(lines) if line.startswith("<!-- table: ")}
    tables = {i for i, line in enumerate(lines) if line[:1] == "|" and lines[i - 1][:1] != "|"}
    assert tables == marked and len(tables) > 25


def test_the_readme_is_one_screen():
    assert len(README.encode()) <= 6000


@pytest.mark.parametrize("path", [Path("README.md"), *PAGES], ids=str)
def test_links_lead_somewhere(path):
    """To files, to pages by their name without ``.md``, or to pages made from the code."""
    folder = (ROOT / path).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / path).read_text()):
        made = target in ("command-line", "command-line.md") or "reference/" in target
        exists = made or any(folder.joinpath(name).exists() for name in (target, f"{target}.md"))
        assert "://" in target or exists, (path, target)


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
