"""Savings of plans: against every reference that is known, from the records."""

import pytest

from joulewise.report.blocks import savings
from joulewise.report.blocks.savings import saving_at_goal
from joulewise.report.view import View
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile

_FILE = {
    "data": {"source": "digits", "images": 200},
    "models": ["mlp"],
    "training": [{"method": "sgd", "epochs": 2, "lr": 0.1}],
    "memories": ["sram:law=stutz2021-14nm"],
    "points": ["eta=1", "eta=0.7"],
    "drops": [0.02],
    "goals": ["drop=2pp"],
    "granularities": ["network", "tensor"],
    "chips": 20,
    "samples": 100,
}


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    study = Study(StudyFile.model_validate(_FILE), tmp_path_factory.mktemp("study"))
    assert study.run() == {}
    return View(study)


def test_each_reference_has_a_column(view):
    block = savings(view)
    (table,) = block.tables
    assert table.columns == ["network", "plan", "vs V_min", "vs reliable", "vs common"]
    (network,) = view.networks
    reliable = network.record.result["reliable"]["memory_reliable_j"]
    v_min = network.record.result["reference_energies_j"]["V_min"]
    assert v_min == pytest.approx(reliable / 0.918402778, rel=1e-3)
    spent = [one.memory_j for one in network.allocations]
    for row, joules in zip(table.rows, spent, strict=True):
        expected = [f"{100 * (1 - joules / one):.1f} %" for one in (v_min, reliable)]
        assert row[2:4] == expected
    assert table.rows[0][4] == ""  # the common point itself
    common, finer = (one.found["at_goal"] for one in network.allocations)
    assert table.rows[1][4] == saving_at_goal(common, finer) != ""
    assert "against V_min" in block.sentence
    rows = block.charts["Energy"].to_dict()
    assert str(rows).count("'V_min'") >= 2


def test_the_curve_stands_in_for_a_common_plan(view, tmp_path):
    file = {
        **_FILE,
        "memories": ["sram"],
        "granularities": ["tensor"],
        "points": ["eta=1", "eta=0.5", "eta=0.3", "eta=0.2", "eta=0.1"],
    }
    study = Study(StudyFile.model_validate(file), tmp_path)
    assert study.run() == {}
    found = View(study)
    (network,), (table,) = found.networks, savings(found).tables
    assert table.columns[2:] == ["vs reliable", "vs curve"]
    least = network.least_energy(0.02).energy
    energy = network.allocations[0].energy
    assert table.rows[0][3] == f"{100 * (1 - energy / least):.1f} %"


def test_no_block_without_plans(study):
    found = View(study)
    found.networks = []
    assert savings(found) is None
