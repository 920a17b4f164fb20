"""The page of fronts."""

import json

import pytest

from html_page import Page
from joulewise.errors import InputError
from joulewise.report import front_rows, fronts_answer, render_fronts, write_fronts_report
from joulewise.study import FrontComparison
from report_records import SRAM, front, front_comparison


def figures(page):
    """Refuses what JSON does not have, though Python reads it."""
    return json.loads(page.script("joulewise-figures"), parse_constant=pytest.fail)


def test_the_page_holds_the_answer_the_tables_and_the_record():
    comparison = front_comparison()
    page = Page(render_fronts(comparison))
    assert fronts_answer(comparison).sentence in page.text
    for row in front_rows(comparison):
        assert row.share in page.text and row.interval in page.text
    header, *rows = page.tables["within"]
    assert {len(row) for row in rows} == {len(header)} == {7}
    assert len(page.tables["points"]) == 1 + 6
    assert {len(row) for row in page.tables["points"]} == {8}
    assert FrontComparison.model_validate_json(page.script("joulewise-record")) == comparison
    assert set(figures(page)) == {"accuracy", "mse"}


def test_names_cannot_become_markup():
    page = Page(render_fronts(front_comparison(front("<b>one</b>"))))
    assert ("b", {}) not in page.tags
    names = [trace.get("name") for trace in figures(page)["accuracy"]["data"]]
    assert names[0] == "&lt;b&gt;one&lt;/b&gt;"


def test_without_targets_errors_are_shown_and_no_accuracy():
    page = Page(render_fronts(front_comparison(front("blind", lost=None))))
    assert set(figures(page)) == {"mse"}
    assert "within" not in page.tables
    assert not any("data-shows" in attributes for _, attributes in page.tags)
    assert "Error of the outputs against memory energy" in page.text


def test_one_chip_has_no_intervals():
    page = Page(render_fronts(front_comparison(front("one", chips=1))))
    figures(page)
    assert "interval" not in page.text.lower()
    assert {len(row) for row in page.tables["points"]} == {8}


def test_several_memories_are_described_apart():
    other = front("other", device={"device": "crossbar"}, knob="g_max", reliable_j=1e-8)
    page = Page(render_fronts(front_comparison(front("one", device=SRAM), other)))
    assert "Memory of one" in page.text and "Memory of other" in page.text
    assert "different publications" in page.text


def test_writing_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="which is not there"):
        write_fronts_report(front_comparison(), tmp_path / "missing" / "report.html")
    write_fronts_report(front_comparison(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
