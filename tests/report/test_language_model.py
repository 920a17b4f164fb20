"""The block of language models: figures of the records, text beside that without faults."""

import numpy as np
import pytest

from joulewise.report.blocks import blocks_of, language_model
from joulewise.report.view import View
from joulewise.simulation import mean_interval, mean_value
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from joulewise.units import format_si
from language_models import language_study


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    study = Study(StudyFile.model_validate(language_study(folder)), folder / "study")
    assert study.run() == {}
    return View(study)


def test_perplexities_are_geometric_and_drops_fractions(view):
    (network,) = view.networks
    point = network.points[1]
    assert point.mean == mean_value(point.values.tolist(), geometric=True)
    assert point.interval == mean_interval(point.values.tolist(), geometric=True)
    assert view.metric.drop(0.05) == "5 %"
    (allocated,) = network.allocations
    assert view.goal(allocated) == "drop of 5 %"
    allocated.goal = allocated.goal.model_copy(update={"relative": False})
    assert view.goal(allocated) == "drop of 0.05"
    allocated.goal = allocated.goal.model_copy(update={"relative": True})
    assert view.metric.after(20.0, 0.05) == 21.0
    # A mean loss within that of the drop is a geometric mean within the fraction.
    lost = network.losses().mean(0)
    means = np.array([one.mean for one in network.points])
    assert ((lost <= view.metric.lost_by(0.05)) == (means <= 1.05 * network.ideal)).all()


def test_losses_are_simulated_beside_predicted(view):
    block = language_model(view)
    table, energies, texts = block.tables
    (network,) = view.networks
    assert [row[1] for row in table.rows] == ["eta 1", "eta 0.4", "eta 0.2"]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    low, high = network.points[1].interval
    assert row["perplexity [95 %]"] == f"{network.points[1].mean:.4g} [{low:.4g}, {high:.4g}]"
    forecast = network.record.result["forecasts"][1]
    assert row["predicted KL"] == f"{forecast['divergence']:.2g}"
    assert row["predicted perplexity"] == f"{forecast['perplexity']:.4g}"
    assert row["above 10x [95 %]"] == "0 % [0, 17]"
    spent = network.record.result["tokens_at"][1]["energy"]["generated"]["memory_j"]
    assert energies.rows[2][1] == "eta 0.4"
    assert energies.rows[2][4] == format_si(sum(spent.values()), "J")
    assert "context of 9 tokens" in energies.caption
    assert [row[1] for row in texts.rows][:2] == ["no faults", "eta 1"]
    assert texts.rows[0][2] == network.record.result["tokens"]["text"]
    assert '"abc"' in texts.caption
    assert "a generated token of llama takes" in block.sentence
    assert list(block.charts) == ["Perplexity", "KL divergence"]


def test_the_page_has_the_block_beside_all_others(view):
    names = [block.name for block in blocks_of(view)]
    assert {"language-model", "accuracy-energy", "answer", "plan"} <= {*names}
    assert "prediction-check" not in names  # output errors were not predicted
    first = next(block for block in blocks_of(view) if block.name == "answer")
    assert "5 % of perplexity" in first.sentence


def test_chips_that_collapse_or_fail_are_counted(view):
    (network,) = view.networks
    record = network.record.result["simulations"][2]
    record["values"][:5] = [None, *[1000 * network.ideal] * 4]
    network.__dict__.pop("points", None)
    row = next(row for row in language_model(view).tables[0].rows if row[1] == "eta 0.2")
    assert "25 % [9, 49]" in row


def test_other_metrics_have_no_such_block(study):
    assert language_model(View(study)) is None
