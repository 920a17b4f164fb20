"""The page of allocations: what the terminal says and more, for every record."""

import json

import pytest

from html_page import Page
from joulewise.allocation import Granularity
from joulewise.errors import InputError
from joulewise.report import allocation_answer, render_allocation, write_allocation_report
from joulewise.study import AllocationRecord
from report_records import allocation, allocation_record

ERROR = {"goal": "ErrorGoal", "mse": 0.25}
NAMES = ("<b>a</b>.weight", "b:input")


def figures(page):
    """Refuses what JSON does not have, though Python reads it."""
    return json.loads(page.script("joulewise-figures"), parse_constant=pytest.fail)


def test_the_page_holds_the_answer_the_evidence_and_the_record():
    record = allocation_record()
    page = Page(render_allocation(record))
    assert allocation_answer(record).sentence in page.text
    header, first, last = page.tables["allocations"]
    assert first[:3] == ["one point", "1 nJ", "50.0 %"]
    assert last[2:6] == ["30.0 %", "+40.0 %", "+40.0 %[+39.1 to +40.8]", "yes2 chips"]
    assert len({len(row) for row in (header, first, last)}) == 1
    assert [row[0] for row in page.tables["attempts"]] == [
        "A point for each",
        "one point",
        "tensor",
    ]
    assert len(page.tables["tensors"]) == 1 + 2 * len(record.tensors)
    assert AllocationRecord.model_validate_json(page.script("joulewise-record")) == record
    assert set(figures(page)) == {"plan-0", "plan-1"}
    # The last plan is shown first.
    slots = [attributes for tag, attributes in page.tags if "data-figure" in attributes]
    assert [slot["data-figure"] for slot in slots] == ["plan-1"]


def test_not_shown_is_in_the_tables_too():
    found = allocation(0.4, 0.3, holds=False)
    lost = found.attempts[0].model_copy(update={"holds": False})
    record = allocation_record(found.model_copy(update={"attempts": (lost,)}))
    page = Page(render_allocation(record))
    assert page.text.count("NOT SHOWN") == 3
    assert ("strong", {}) in page.tags


def test_names_cannot_become_markup():
    record = allocation_record(names=NAMES, network="<b>net</b>", data="<b>data</b>")
    page = Page(render_allocation(record))
    assert ("b", {}) not in page.tags
    drawn = json.dumps(figures(page))
    assert "&lt;b&gt;a&lt;/b&gt;.weight" in drawn and "<b>a</b>" not in drawn


def test_one_allocation_without_targets_or_chips():
    for record in (
        allocation_record(allocation(0.4, 0.3, accuracy=(), goal=ERROR)),
        allocation_record(allocation(0.4, 0.3, simulated=False, goal=ERROR)),
    ):
        page = Page(render_allocation(record))
        figures(page)
        assert "Mean accuracy" not in page.tables["allocations"][0]
        assert not any("data-shows" in attributes for _, attributes in page.tags)
    assert "attempts" not in page.tables and "predicted, not simulated" in page.text


def test_an_energy_goal_says_that_no_chance_is_in_it():
    goal = {"goal": "EnergyGoal", "energy": 0.3}
    found = allocation(0.4, 0.3, goal=goal, at_goal=None, attempts=())
    text = Page(render_allocation(allocation_record(found))).text
    assert "least predicted output error within the energy" in text and "one-sided" not in text
    page = Page(render_allocation(allocation_record(found, found)))
    header, *rows = page.tables["allocations"]
    assert not [cell for cell in header if "Saved" in cell]
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("planes", [False, True])
def test_sixty_tensors_on_three_rails(planes):
    names = tuple(f"net.blocks.{k}.conv.weight" for k in range(60))
    points = [(0.2,) * 4 + (0.5,) * 4, (0.8,) * 8] if planes else [0.2, 0.5, 0.8]
    granularity = Granularity(rails=3, bit_planes=planes)
    record = allocation_record(allocation(points, 0.3, names, granularity=granularity), names=names)
    page = Page(render_allocation(record))
    figures(page)
    assert len(page.tables["tensors"]) == 61
    said = (
        "eta is 0.200 for 120, 0.500 for 120, 0.800 for 240 of the 480 bit planes"
        if planes
        else "eta is 0.200 for 20, 0.500 for 20, 0.800 for 20 of the 60 tensors"
    )
    assert said in page.text


def test_writing_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="which is not there"):
        write_allocation_report(allocation_record(), tmp_path / "missing" / "report.html")
    write_allocation_report(allocation_record(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
