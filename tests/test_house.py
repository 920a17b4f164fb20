"""The house: what is public is documented, the table of lazy names is whole, sizes stay human."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import joulewise

SOURCE = Path(joulewise.__file__).parent
ROOMS = [
    "allocation",
    "cli",
    "contrib",
    "data",
    "devices",
    "mappers",
    "metrics",
    "models",
    "optim",
    "placement",
    "prediction",
    "report",
]
ROOMS += ["simulation", "study", "training", "words"]


def test_every_public_name_loads_and_is_in_the_stub_once():
    tree = ast.parse((SOURCE / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    listed = [alias.asname for node in imports for alias in node.names]
    assert sorted(joulewise.__all__) == sorted([*listed, "__version__"])
    for name in joulewise.__all__:
        assert getattr(joulewise, name) is not None


def test_functions_win_over_rooms_of_a_like_name():
    """Whatever was imported first: a room named as a function would shadow it."""
    code = "import joulewise.study, joulewise as jw; assert callable(jw.simulate)"
    subprocess.run([sys.executable, "-c", code], check=True)
    rooms = {"contrib", "mappers", "metrics", "optim", "transforms"}
    assert not (set(joulewise.__all__) - rooms) & {p.stem for p in SOURCE.iterdir()}


def test_importing_joulewise_imports_nothing_heavy():
    code = "import joulewise, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_say_what_they_offer(room):
    module = importlib.import_module(f"joulewise.{room}")
    assert module.__all__ == sorted(module.__all__, key=_ruffs_order)
    files = {p.stem for p in (SOURCE / room).glob("*.py")} - {"__init__"}
    missing = {name for name in files if name not in module.__doc__}
    assert not missing, f"the docstring of {room} does not mention {missing}"
    for name in module.__all__:
        public = getattr(module, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert inspect.getdoc(public), f"{room}.{name} has no docstring"


def _ruffs_order(name):
    """Constants, then classes, then the rest, as ruff's RUF022 sorts ``__all__``."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_sizes(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and "cli" not in path.parts:
            docstring = 1 if ast.get_docstring(node) else 0
            body = node.body[docstring:]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{path.name}: {node.name} has {lines} lines"
