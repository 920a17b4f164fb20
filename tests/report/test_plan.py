"""Plans of a report: shares of chips, bit planes, and what a goal out of reach fell short of."""

import pytest

from joulewise.report.blocks import answer, plan
from joulewise.report.view import View
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile

_FILE = {
    "data": {"source": "digits", "images": 100},
    "models": ["mlp"],
    "training": [{"method": "sgd", "epochs": 2, "lr": 0.1}],
    "memories": ["sram", "sram:bits=4"],
    "points": ["eta=1", "eta=0.5", "eta=0.2"],
    "drops": ["2pp"],
    "samples": 64,
    "chips": 140,
}


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    file = {"goals": ["drop=5pp,chips=50%"], "granularities": ["tensor:bit_planes=true"]}
    study = Study(StudyFile.model_validate(_FILE | file), tmp_path_factory.mktemp("study"))
    assert study.run() == {}
    return View(study)


def test_bits_have_a_column_each_and_yields_their_share(view):
    block = plan(view)
    for network, row in zip(view.networks, block.tables[0].rows, strict=True):
        (one,) = network.allocations
        values = one.found["simulation"]["values"]
        share = sum(value >= one.found["limit"] for value in values) / len(values)
        assert row[3] == f"yes, {100 * share:.1f} % of chips"
    wide, narrow = (table for table in block.tables if "the sign first" in table.caption)
    assert (len(wide.columns), len(narrow.columns)) == (9, 5)
    assert wide.columns[1] == "7"
    found = view.networks[0].allocations[0].found["plan"]["features.1.weight"]["eta"]
    assert wide.rows[0][1:] == [f"{value:.4g}" for value in reversed(found)]


def test_a_common_point_has_no_table_of_bits(view, monkeypatch):
    """It is returned where a plan of many points is dearer."""
    for network in view.networks:
        found = network.allocations[0].found
        common = {name: {"eta": 0.5} for name in found["plan"]}
        monkeypatch.setitem(found, "plan", common)
    assert not [table for table in plan(view).tables if "the sign first" in table.caption]


def test_memories_of_one_network_are_told_apart(view):
    assert [view.name(one)[:12] for one in view.networks] == ["mlp, 8-bit S", "mlp, 4-bit S"]
    assert answer(view).sentence.endswith(" less, and the least of all memories.")


def test_a_goal_out_of_reach_says_by_how_much(tmp_path):
    goals = ["error=1e-30", "target=100%"]  # the first is no goal of the metric
    file = {**_FILE, "memories": ["sram"], "goals": goals, "granularities": ["network"]}
    study = Study(StudyFile.model_validate(file), tmp_path)
    assert study.run() == {}
    found = View(study)
    (network,) = found.networks
    last = network.allocations[1].found["attempts"][-1]
    assert plan(found).sentence == (
        "No goal was shown to hold: with 100.0 % of the energy of reliable memory mlp has a mean "
        f"of {100 * last['mean']:.2f} % on {last['chips']} chips; the limit is 100.00 %."
    )
