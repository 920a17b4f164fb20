import json

import pytest

from html_page import Page
from joulewise.errors import InputError
from joulewise.report import arm_rows, arms_answer, render_arms, write_arms_report
from joulewise.report.arms_figure import arms_figure
from joulewise.study import (
    ArmComparison,
    ArmRecord,
    ArmSaving,
    EnergyRecord,
    Environment,
    NetworkRecord,
    SimulationRecord,
)

POINTS = (0.6, 0.4, 0.3)


def simulation(clean, accuracy, eta, reliable_j=1e-9):
    return SimulationRecord(
        plan={"w": eta},
        seed=0,
        images=100,
        float_accuracy=clean,
        ideal_accuracy=clean,
        accuracy=(accuracy - 0.01, accuracy + 0.01),
        mse=(0.1, 0.1),
        ideal_mse=0.0,
        energy=EnergyRecord(
            memory_j={"w": 1e-9 * eta},
            memory_reliable_j=reliable_j,
            unplaced_j=0.0,
            arithmetic_j=0.0,
        ),
    )


def saving(**fields):
    known = {"drop": 0.01, "point": 0.4, "low": 0.38, "high": 0.42, "at_edge": False}
    known |= {"memory_j": 4e-10, "saved": 0.6, "saved_low": 0.58, "saved_high": 0.62}
    return ArmSaving(**(known | {"against_first": None} | fields))


NONE = {
    **dict.fromkeys(["point", "low", "high", "memory_j", "saved", "saved_low", "saved_high"]),
    "against_first": None,
}


def arm(name, savings, seeds=3, clean=0.9, **energy):
    networks = tuple(
        NetworkRecord(
            name=f"{name}-{seed}",
            training=None,
            simulations=tuple(
                simulation(clean + 0.001 * seed, clean - 0.02 * k, eta, **energy)
                for k, eta in enumerate(POINTS)
            ),
        )
        for seed in range(seeds)
    )
    recipe = f"recipe of <{name}>"
    return ArmRecord(name=name, recipe=recipe, points=POINTS, networks=networks, savings=savings)


def made(*arms):
    return ArmComparison(
        command="joulewise compare-training",
        data="digits",
        model="mlp",
        arithmetic={"mac_j": 3e-13},
        chips=2,
        seed=0,
        images=100,
        knob="eta",
        rising=True,
        device={"device": "sram", "bits": 8},
        stored=("weight",),
        arms=arms,
        environment=Environment.now(),
        seconds=1.0,
    )


@pytest.fixture
def comparison():
    better = saving(point=0.3, memory_j=3e-10, saved=0.7, against_first=0.25, at_edge=True)
    return made(
        arm("plain", (saving(),)),
        arm("<b>flat</b>", (better,)),
        arm("lost", (saving(**NONE),), clean=0.7),
    )


def test_says_who_needs_least(comparison):
    said = arms_answer(comparison)
    assert "<b>flat</b> needs the least memory energy: at least 70.0 % less" in said.sentence
    assert "at least 25.0 % less than plain" in said.sentence
    assert said.details[2] == "lost: below that at all points simulated."


def test_says_if_nobody_stays_above():
    said = arms_answer(made(arm("plain", (saving(**NONE),))))
    assert said.sentence.startswith("No network reaches one point below")


def test_says_if_a_method_needs_more_than_the_first():
    worse = saving(memory_j=5e-10, saved=0.5, against_first=-0.25)
    said = arms_answer(made(arm("plain", (saving(),)), arm("worse", (worse,))))
    assert "plain needs the least memory energy" in said.sentence
    assert "25.0 % more than the first" in said.details[1]


def test_a_bound_is_said_as_one():
    edge = {"at_edge": True, "low": None, "high": None, "saved_low": None, "saved_high": None}
    better = saving(point=0.3, memory_j=3e-10, saved=0.7, against_first=0.25, **edge)
    one = made(arm("plain", (saving(),)), arm("better", (better,)))
    assert "at least 25.0 % less than plain" in arms_answer(one).sentence
    assert "at least 25.0 % less than the first" in arms_answer(one).details[1]
    row = arm_rows(one)[1]
    assert (row.against_first, row.memory_energy) == ("at least +25.0 %", "at most 300 pJ")
    worse = saving(memory_j=5e-10, saved=0.5, against_first=-0.25, **edge)
    said = arms_answer(made(arm("plain", (saving(),)), arm("worse", (worse,))))
    assert said.details[1].endswith("at most 25.0 % more than the first.")


def test_two_at_the_edge_are_not_compared():
    edge = {"point": 0.3, "at_edge": True, "low": None, "high": None}
    edge |= {"saved_low": None, "saved_high": None, "saved": 0.7, "memory_j": 3e-10}
    both = made(arm("plain", (saving(**edge),)), arm("flat", (saving(**edge),)))
    assert arms_answer(both).sentence.endswith("needs the least memory energy is open.")
    # A crossbar may spend more at its edge than another one at its point.
    above = saving(**(edge | {"memory_j": 5e-10}))
    assert arms_answer(made(arm("plain", (saving(),)), arm("edge", (above,)))).sentence.endswith(
        "needs the least memory energy is open."
    )


def test_rows_have_intervals_where_there_are_some(comparison):
    plain, flat, lost = arm_rows(comparison)
    assert (plain.point, plain.point_interval) == ("0.400", "0.380 to 0.420")
    assert (plain.saved, plain.saved_interval) == ("60.0 %", "58.0 to 62.0")
    assert plain.clean == "90.10 %" and plain.clean_interval == "89.85 to 90.35"
    assert plain.against_first == ""
    assert (flat.point, flat.point_interval) == ("at most 0.300", "")
    assert flat.against_first == "at least +25.0 %"
    assert (lost.point, lost.saved, lost.against_first) == ("not reached", "", "")


def test_one_network_has_no_interval():
    (row,) = arm_rows(made(arm("plain", (saving(low=None, high=None),), seeds=1)))
    assert row.clean_interval == row.point_interval == ""


def test_the_page_holds_every_figure_of_the_terminal(comparison):
    page = Page(render_arms(comparison))
    text = page.text.replace("µJ", "uJ")
    for row in arm_rows(comparison):
        for figure in (row.name, row.clean, row.point, row.saved, row.memory_energy):
            assert figure in text
    assert len(page.tables["points"]) == 1 + 3 * len(POINTS)
    record = next(code for name, code in page.scripts if name == "joulewise-record")
    assert ArmComparison.model_validate_json(record) == comparison


def test_names_cannot_become_markup(comparison):
    page = Page(render_arms(comparison))
    assert ("b", {}) not in page.tags
    figures = json.loads(next(code for name, code in page.scripts if name == "joulewise-figures"))
    names = [trace["name"] for trace in figures["accuracy"]["data"] if "name" in trace]
    assert names == ["plain", "&lt;b&gt;flat&lt;/b&gt;", "lost"]


def test_the_chart_is_drawn_where_the_first_arm_is(comparison):
    figure = arms_figure(comparison)
    low, high = figure.layout.yaxis.range
    assert low == pytest.approx(90.1 - 12) and high == pytest.approx(90.6)
    line = figure.data[0]
    assert list(line.x) == pytest.approx([60.0, 40.0, 30.0])
    assert list(line.y) == pytest.approx([90.0, 88.0, 86.0])


def test_energies_of_all_are_over_that_of_the_first():
    made_of = made(arm("plain", (saving(),)), arm("clipped", (saving(),), reliable_j=2e-9))
    lines = [t for t in arms_figure(made_of).data if t.mode == "lines+markers"]
    assert list(lines[1].x) == pytest.approx(list(lines[0].x))
    rows = Page(render_arms(made_of)).tables["points"]
    assert [row[3] for row in rows] == [
        "Over reliable plain",
        *["0.60000", "0.40000", "0.30000"] * 2,
    ]


def test_more_arms_than_colours_differ_by_dashes():
    arms = [arm(f"arm {k}", (saving(),)) for k in range(8)]
    figure = arms_figure(made(*arms))
    looks = {(t.line.color, t.line.dash) for t in figure.data if t.mode == "lines+markers"}
    assert len(looks) == 8


def test_many_arms_are_drawn_without_intervals_which_would_cover_each_other():
    few, many = (made(*(arm(f"arm {k}", (saving(),)) for k in range(n))) for n in (4, 5))
    assert [t.mode for t in arms_figure(few).data] == ["lines+markers", "markers"] * 4
    assert all(t.error_y.array is not None for t in arms_figure(few).data[::2])
    assert "error bars their 95" in Page(render_arms(few)).text
    figure = arms_figure(many)
    assert [(t.mode, t.error_y.array) for t in figure.data] == [("lines+markers", None)] * 5
    assert "95 % interval 90.00 to" in figure.data[0].text[0]
    text = Page(render_arms(many)).text
    assert "error bars" not in text and "are in the tables" in text


def test_writing_needs_a_folder(comparison, tmp_path):
    with pytest.raises(InputError, match="which is not there"):
        write_arms_report(comparison, tmp_path / "missing" / "report.html")
    write_arms_report(comparison, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
