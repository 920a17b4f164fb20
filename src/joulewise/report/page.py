"""The page of a study: one HTML file that opens from disk, without a network, on any screen."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from joulewise.errors import InputError
from joulewise.files import write_atomically
from joulewise.report.blocks import blocks_of
from joulewise.report.theme import CONFIG
from joulewise.report.view import View
from joulewise.study.study import Study

__all__ = ["render_study", "write_study"]


def render_study(study: Study) -> str:
    """The page as HTML; about 1 MB, most of it Vega.

    Args:
        study: A study with one record or more.

    Raises:
        InputError: if it has no record.
    """
    view = View(study)
    if not view.records:
        raise InputError("the study has no record; allowed: one that joulewise run has computed")
    blocks = blocks_of(view)
    data: dict[str, Any] = {}
    specs: dict[str, Any] = {}
    for block in blocks:
        for number, chart in enumerate(block.charts.values()):
            spec = chart.to_dict()
            data.update(spec.pop("datasets", {}))  # named by content, so that charts share them
            specs[f"{block.name}-{number}"] = {**spec, "config": CONFIG}
    environment = Environment(
        loader=PackageLoader("joulewise.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        version=view.version,
        title=blocks[0].title,
        missing=view.trials - view.done,
        trials=view.trials,
        blocks=blocks,
        charts=_script_json({"data": _rounded(data), "specs": specs}),
        vega=Markup(_vega()),  # noqa: S704
    )


def write_study(study: Study, path: str | Path) -> None:
    """Write the page of a study, atomically.

    Raises:
        InputError: if it cannot be written.
    """
    page = render_study(study)
    try:
        write_atomically(path, page)
    except OSError as error:
        raise InputError(f"the page {path} cannot be written: {error}") from error


def _rounded(data: Any) -> Any:
    """Plain data with six significant digits: more than a chart shows, at half the size."""
    return json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.6g}"))


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one module."""
    # Its stub lacks the default.
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")


def _script_json(plain: Any) -> Markup:
    """JSON that may stand in a script element: no ``<`` can end it."""
    return Markup(json.dumps(plain, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704
