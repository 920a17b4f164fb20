"""Sphinx: `make docs` builds the site into build/docs, without network."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import typer
import typer.cli

import joulewise
from joulewise.cli.app import app as commands

DOCS = Path(__file__).parent
ROOMS = {
    "placement": "Placement",
    "devices": "Memories",
    "words": "Words",
    "simulation": "Simulation",
    "prediction": "Prediction",
    "allocation": "Allocation",
    "training": "Training",
    "optim": "Optimizers",
    "transforms": "Transforms",
    "contrib": "Methods of others",
    "metrics": "Metrics",
    "data": "Data",
    "models": "Models",
    "mappers": "Mappers",
    "study": "Studies",
    "report": "Pages",
    "results": "Results",
    "errors": "Errors",
}

project = "joulewise"
author = "The joulewise developers"
copyright = "The joulewise developers"
version = release = joulewise.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
# Names in single backticks are links where they are known.
default_role = "py:obj"
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_in_temp = True  # pages write files
nb_execution_cache_path = str(DOCS.parent / "build/notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of packages; errors stop the build

autodoc_typehints = "none"  # signatures have them
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "joulewise"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def reference(room: str, title: str) -> str:
    """A page of the reference: the public names of a room."""
    module = importlib.import_module(f"joulewise.{room}")
    summary = inspect.getdoc(module).split("\n\n")[0]
    lines = [f"# {title}", "", f"`joulewise.{room}`: {summary}", "", "```{eval-rst}"]
    lines += [f".. module:: joulewise.{room}", ""]
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        if inspect.isclass(value):
            lines += [f".. autoclass:: joulewise.{room}.{name}", "   :members:", ""]
        elif callable(value):
            lines += [f".. autofunction:: joulewise.{room}.{name}", ""]
        elif inspect.ismodule(value):
            continue
        else:
            lines += [f".. autodata:: joulewise.{room}.{name}", "   :no-value:", ""]
    return "\n".join([*lines, "```", ""])


def generate(app: Any) -> None:
    """Write the reference and the page of the command line, from the code."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    pages = {room: reference(room, title) for room, title in ROOMS.items()}
    contents = ["# Reference", "", "```{toctree}", *pages, "```", ""]
    pages["index"] = "\n".join(contents)
    for name, text in pages.items():
        write(folder / f"{name}.md", text)
    command = typer.main.get_command(commands)
    context = typer.Context(command, info_name="joulewise")
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="joulewise", title="x")
    write(DOCS / "command-line.md", text.replace("# x", "# Command line", 1))


def write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:  # an unchanged page is not built again
        path.write_text(text)


def setup(app: Any) -> None:
    app.connect("builder-inited", generate)
