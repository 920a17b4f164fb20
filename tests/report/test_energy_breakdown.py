"""Breakdown of the energy: parts that sum to it, converters where there are any."""

import pytest

from joulewise.report.blocks import energy_breakdown
from joulewise.report.view import View
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from joulewise.units import format_si

_FILE = {
    "data": {"source": "digits", "images": 200},
    "models": ["mlp"],
    "training": [{"method": "sgd", "epochs": 2, "lr": 0.1}],
    "memories": ["crossbar:sigma=1e-6"],
    "points": ["g_max=1e-3", "g_max=1e-5"],
    "drops": [0.05],
    "chips": 5,
}


@pytest.fixture(scope="module")
def crossbars(tmp_path_factory):
    study = Study(StudyFile.model_validate(_FILE), tmp_path_factory.mktemp("study"))
    assert study.run() == {}
    return View(study)


def bars_of(block, name):
    (rows,) = block.charts["Energy"].to_dict()["datasets"].values()
    return {row["part"]: row["x"] for row in rows if row["name"] == name}


def test_converters_cost_the_same_at_all_points(crossbars):
    block = energy_breakdown(crossbars)
    (table,) = block.tables
    assert table.columns[1:4] == ["weights", "converters", "activations"]
    (network,) = crossbars.networks
    reliable = network.record.result["reliable"]
    parts = [bars_of(block, row[0]) for row in table.rows]
    assert len(parts) == 2
    for row, one in zip(table.rows, parts, strict=True):
        assert one["converters"] == reliable["converters_j"]
        assert row[2] == format_si(one["converters"], "J")
        assert row[-1] == format_si(sum(one.values()), "J")
    most, less = (one["weights"] + one["converters"] for one in parts)
    assert most == pytest.approx(reliable["memory_reliable_j"])
    assert less == pytest.approx(most * network.least_energy(0.05).energy)


def test_words_have_no_converters(study):
    (table,) = energy_breakdown(View(study)).tables
    assert table.columns == [
        "network",
        "weights",
        "activations",
        "other memory",
        *table.columns[-2:],
    ]
