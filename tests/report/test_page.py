"""The page of a study and its blocks: what they say is what the records hold."""

import json
import re

import pytest

from joulewise.errors import InputError
from joulewise.report.blocks import blocks_of
from joulewise.report.page import render_study, write_study
from joulewise.report.view import View
from joulewise.simulation import mean_interval
from joulewise.study.study import Study
from joulewise.units import format_si


@pytest.fixture(scope="module")
def view(study):
    return View(study)


def test_missing_trials_are_named_on_the_page(study, monkeypatch):
    assert "which failed or were not run" not in render_study(study)
    digest = next(at.digest for at, record in study.records() if record.kind == "allocate")
    read = study.store.read
    monkeypatch.setattr(study.store, "read", lambda one: None if one == digest else read(one))
    assert "Missing: 1 of" in render_study(study)


def test_networks_are_those_of_the_study(view):
    assert [view.name(network) for network in view.networks] == ["plain", "clipped"]
    first = view.networks[0]
    assert [point.point for point in first.points] == [1.0, 0.5, 0.3, 0.15]
    assert first.losses().shape == (20, 4)
    assert first.points[0].energy == 1.0


def test_blocks_have_tables_that_fit(view):
    blocks = blocks_of(view)
    names = [block.name for block in blocks]
    assert names[:5] == ["answer", "best-by-energy", "accuracy-energy", "plan", "savings"]
    view.file = view.file.model_copy(update={"question": ""})
    assert blocks_of(view)[0].name == "plan"  # the study has a goal
    assert {"accuracy-energy", "training-methods", "prediction-check"} < set(names)
    for block in blocks:
        assert block.sentence.endswith(".")
        for table in block.tables:
            assert table.rows
            assert {len(row) for row in table.rows} == {len(table.columns)}
        for chart in block.charts.values():
            json.dumps(chart.to_dict(), allow_nan=False)


def test_the_answer_is_the_least_energy(view):
    block = next(block for block in blocks_of(view) if block.name == "answer")
    network = view.networks[0]
    least = network.least_energy(0.005)
    row = next(row for row in block.tables[0].rows if row[:2] == ["plain", "0.5 pp"])
    assert row[5].startswith(f"{100 * least.energy:.1f} % [")
    # Of an exponential law the energy is proportional to the knob.
    assert row[3] == f"eta {least.energy:.3g}"
    assert row[2] == f"{100 * network.ideal:.2f} %"
    # The sentence holds all networks to the best of them.
    best = max(one.ideal for one in view.networks)
    assert block.sentence.startswith(f"Within 0.5 pp of the best accuracy, {100 * best:.2f} %, ")
    found = [(one.least_energy(0.005, best).energy, one.training) for one in view.networks]
    energy, training = min(pair for pair in found if pair[0] is not None)
    assert f"the memory of {training} needs {100 * energy:.1f} %" in block.sentence


def test_training_methods_are_held_to_the_first(view):
    block = next(block for block in blocks_of(view) if block.name == "training-methods")
    plain, clipped = block.tables[0].rows
    assert plain[2] == "plain"
    assert plain[-2:] == ["", "1.00x"]
    # In joules: fractions of each network's own reliable memory do not compare.
    network = view.networks[0]
    spent = [point.memory_j for point in network.points]
    lost = network.losses(network.original).mean(0)
    last = max(k for k in range(len(lost)) if lost[k] <= view.drop)
    part = (view.drop - lost[last]) / (lost[last + 1] - lost[last])
    least = spent[last] + part * (spent[last + 1] - spent[last])
    assert plain[4] == format_si(least, "J")
    assert clipped[2] == "clipped"


def test_the_page_is_one_file_without_requests(study, tmp_path):
    path = tmp_path / "page.html"
    write_study(study, path)
    text = path.read_text()
    assert path.stat().st_size < 1_500_000
    # No source or link leads outside; the policy of the page forbids requests, too.
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?http', text)
    assert not outside
    assert "default-src 'none'" in text
    assert "Which &lt;network&gt;?" in text
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])
    shown = set(re.findall(r'data-chart="([^"]+)"', text))
    assert shown == set(charts["specs"])
    # Charts of the same rows share them.
    assert 0 < len(charts["data"]) < len(charts["specs"]) + 2


def test_an_empty_study_has_no_page(study, tmp_path):
    empty = Study(study.file, tmp_path)
    with pytest.raises(InputError, match="no record"):
        render_study(empty)


def test_a_page_that_cannot_be_written_is_named(study, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_study(study, tmp_path / "missing/page.html")


def test_intervals_over_seeds_stay_above_0():
    low, high = mean_interval([0.2, 0.4], geometric=True)
    assert 0 < low < 0.2 < 0.4 < high
    assert mean_interval([0.2, 0.4]).low < 0


def test_failed_chips_and_unbounded_metrics_have_a_page(study, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "failed"
    shutil.copytree(study.store.folder, folder)
    one = Study.open(folder)
    for path in (folder / "trials").iterdir():
        record = one.store.read(path.stem)
        for number, simulation in enumerate(record["result"].get("simulations", ())):
            simulation["metric"] = {
                "name": "nll",
                "higher_is_better": False,
                "bounds": [0.0, None],
            }
            lost = {1: 3, 2: 20}.get(number, 0)
            simulation["values"] = [None] * lost + simulation["values"][lost:]
        one.store.write(path.stem, record)
    page = render_study(one)
    assert "all chips failed" in page
    assert "NaN" not in re.search(r'id="charts">(.*?)</script>', page)[1]
    check = next(b for b in blocks_of(View(one)) if b.name == "prediction-check")
    assert all(row[-2:] == ["", ""] for row in check.tables[0].rows)  # accuracy is no nll


def test_a_missing_baseline_leaves_the_block_out(study, tmp_path):
    import shutil

    folder = tmp_path / "missing"
    shutil.copytree(study.store.folder, folder)
    one = Study.open(folder)
    first = next(at for at, record in one.records() if record.kind == "curve")
    (folder / "trials" / f"{first.digest}.json").unlink()
    assert "training-methods" not in [block.name for block in blocks_of(View(one))]
