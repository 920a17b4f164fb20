"""What fronts show, in words."""

import pytest

from joulewise.report import front_rows, fronts_answer
from joulewise.report.fronts_summary import accuracy_words, plan_in_words
from report_records import front, front_comparison, tensors


def test_says_who_needs_least_and_what_the_first_needs():
    comparison = front_comparison()
    common, _, fine, _ = front_rows(comparison)
    said = fronts_answer(comparison)
    assert said.sentence == (
        "At half a point below the accuracy of a perfect memory, fine needs least: "
        f"{fine.share} [{fine.interval}] of the memory energy of a reliable memory, common "
        f"{common.share} [{common.interval}]."
    )
    # Half of the way from no loss at all energy to 0.01 at half of it; of 2 nJ.
    assert (common.share, common.memory_energy) == ("75.0 %", "1.5 nJ")
    assert said.details[0].startswith("common: 75.0 %")


def test_shares_of_different_memories_are_not_compared():
    comparison = front_comparison(front("one"), front("other", reliable_j=5e-9))
    said = fronts_answer(comparison).sentence
    assert "plans need from 75.0 to 75.0 % of the memory energy of their reliable" in said
    assert "least" not in said


def test_bounds_and_what_is_not_reached():
    never = front("never", lost=(0.1, 0.2, 0.3))
    edge = front("edge", lost=(0.0, 0.0, 0.0))
    rows = {row.name: row for row in front_rows(front_comparison(never, edge))}
    assert (rows["never"].share, rows["never"].memory_energy) == ("not reached", "")
    assert (rows["edge"].share, rows["edge"].memory_energy) == ("at most 20.0 %", "at most 400 pJ")
    said = fronts_answer(front_comparison(never, edge))
    assert "edge needs least: at most 20.0 %" in said.sentence and "never" not in said.sentence
    assert said.details[0] == "never: not reached."
    assert fronts_answer(front_comparison(never)).sentence.startswith("No plan stays within half")


def test_without_targets_or_drops():
    blind = front_comparison(front("blind", lost=None))
    assert front_rows(blind) == []
    assert "no targets" in fronts_answer(blind).sentence
    undropped = front_comparison(front("one", within=()), drops=())
    assert fronts_answer(undropped).sentence.startswith("No accuracy drop was asked for")


def test_one_chip_has_no_interval():
    one = front("one", chips=1)
    assert accuracy_words(one.front.points[0]) == "99.00 %"
    assert front_rows(front_comparison(one))[0].interval == ""


def test_a_plan_is_listed_and_shortened():
    found = front("one")
    lines = plan_in_words(found, found.front.points[1])
    assert lines[0] == "a.weight: eta 0.500"
    assert lines[1].startswith("b:input: eta 0.500 0.500") and lines[1].endswith("(low bits first)")
    names = tuple(f"layer{k}.weight" for k in range(20))
    point = found.front.points[0]
    long = found.model_copy(update={"tensors": tensors(names)})
    each = point.model_copy(update={"plan": {name: 0.01 * k for k, name in enumerate(names)}})
    assert len(plan_in_words(long, each)) == 8
    assert plan_in_words(long, each)[-1] == "and 13 more tensors"
    alike = point.model_copy(update={"plan": dict.fromkeys(names, 0.5)})
    assert plan_in_words(long, alike) == ["All tensors: eta 0.500"]


@pytest.mark.parametrize("drops", [(0.02, 0.005), (0.005, 0.02)])
def test_the_smallest_drop_is_answered(drops):
    assert "At half a point below" in fronts_answer(front_comparison(drops=drops)).sentence
