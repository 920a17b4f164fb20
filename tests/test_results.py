"""Views that results share: text, HTML that is escaped, frames, figures."""

import sys
from types import SimpleNamespace

import pytest

from joulewise.errors import JoulewiseError
from joulewise.results import Result, format_value, plotted


class Two(Result):
    def _overview(self):
        return "<b>two</b>", {"first": "1 & 2", "the second": "3"}

    def to_dict(self):
        return {"first": [1, 2], "second": 3}


def test_text():
    assert repr(Two()) == "<b>two</b>\n  first       1 & 2\n  the second  3"


def test_html_is_escaped():
    html = Two()._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;two&lt;/b&gt;" in html
    assert "1 &amp; 2" in html


def test_frames_are_of_pandas_if_it_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: rows))
    assert Two().to_frame() == [{"first": [1, 2], "second": 3}]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        JoulewiseError, match=r"pandas is not installed; allowed: pip install .joulewise\[frames\]"
    ):
        Two().to_frame()


def test_values_between_0_and_1_are_percentages():
    assert format_value(0.5, (0.0, 1.0)) == "50.00 %"
    assert format_value(0.5) == "0.5"
    assert format_value(None, (0.0, 1.0)) == "none"


def test_figures_have_titles():
    figure = plotted("bar", "tensor", "error", [("a", 1.0)]).to_dict()
    assert figure["encoding"]["x"]["title"] == "tensor"
    assert figure["encoding"]["y"]["title"] == "error"
    assert list(figure["datasets"].values()) == [[{"x": "a", "y": 1.0}]]
