"""Studies from end to end: equal figures on any engine, resuming, changes, failures."""

import json

import pytest

from joulewise.errors import InputError
from joulewise.study import engine as engine_module
from joulewise.study.engine import LocalProcesses, ThisProcess
from joulewise.study.study import Study, differences
from joulewise.study.study_file import StudyFile
from study_figures import SMALL, figures


def study(folder, **changes):
    return Study(StudyFile.model_validate({**SMALL, **changes}), folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    one = study(folder)
    assert one.run() == {}
    return folder


def test_shared_trainings_are_done_once(done):
    one = study(done)
    assert len(one.cells) == 6
    workload = one.workload()
    assert (workload.trainings, workload.shared, workload.evaluations) == (1, 1, 4)
    assert (workload.done, workload.seconds) == (5, 0.0)
    assert len(list((done / "weights").iterdir())) == 1


def test_rows_name_what_they_are_of(done):
    rows = Study.open(done).rows()
    kinds = [row["kind"] for row in rows]
    assert kinds == ["train", "curve", "curve", "allocate"] * 2
    assert {row["memory"] for row in rows} == {"8-bit SRAM, mask", "6-bit SRAM, mask"}
    curve = rows[1]
    assert (curve["knob"], curve["point"], curve["chips"]) == ("eta", 0.6, 20)
    assert curve["low"] <= curve["mean"] <= curve["high"]
    assert rows[3]["goal"] == "output error of 0.01"
    json.dumps(rows, allow_nan=False)


def test_processes_give_the_same_figures_bit_for_bit(done, tmp_path):
    engine = LocalProcesses(2)
    try:
        assert study(tmp_path).run(engine) == {}
    finally:
        engine.close()
    assert figures(tmp_path) == figures(done)


def test_running_again_computes_what_is_missing(done, tmp_path, monkeypatch):
    one = study(tmp_path)
    one.run()
    trials = sorted((tmp_path / "trials").iterdir())
    trials[0].write_text("{")
    trials[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in trials[2:]}
    computed = []
    work = engine_module._work
    monkeypatch.setattr(
        engine_module, "_work", lambda trial, *rest: computed.append(trial) or work(trial, *rest)
    )
    again = study(tmp_path)
    assert again.run() == {}
    assert len(computed) == 2
    assert {path: path.stat().st_mtime_ns for path in trials[2:]} == before
    assert figures(tmp_path) == figures(done)


def test_lost_weights_are_trained_again(tmp_path):
    one = study(tmp_path, goals=[])
    one.run()
    (weights,) = (tmp_path / "weights").iterdir()
    weights.write_bytes(b"damaged")
    next((tmp_path / "trials").glob("*.json"))
    again = study(tmp_path, goals=["error=0.02"])
    assert again.run() == {}
    assert again.workload().done == 5


def test_a_changed_study_is_other_trials(done, tmp_path):
    study(tmp_path).run()
    before = figures(tmp_path)
    changed = study(tmp_path, chips=21)
    assert changed.changes == ["chips: 20 -> 21"]
    changed.run()
    after = figures(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 4


def test_differences_name_the_path():
    old = StudyFile.model_validate(SMALL).model_dump(mode="json")
    new = StudyFile.model_validate(
        {**SMALL, "training": [{"method": "sgd", "epochs": 2, "lr": 0.1}]}
    ).model_dump(mode="json")
    assert list(differences(old, new)) == ["training[0].epochs: 1 -> 2"]


def test_failures_are_told_and_tried_again(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.fc = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        raise OSError('no such device')\n"
        "def net():\n    return Net()\n"
    )
    one = study(tmp_path / "out", models=[f"{file}:net"])
    failed = one.run()
    assert len(failed) == 5
    assert any("no such device" in reason for reason in failed.values())
    assert sum("its training" in reason for reason in failed.values()) == 4
    assert not list((tmp_path / "out/trials").iterdir())


def test_models_need_weights_or_training(tmp_path):
    with pytest.raises(InputError, match=r"models\[0\] \(mlp\) has neither weights nor training"):
        study(tmp_path, training=[]).run()


def test_weights_of_a_file_are_copied(done, tmp_path):
    (weights,) = (done / "weights").iterdir()
    one = study(tmp_path, training=[], models=[f"mlp={weights}"], goals=[])
    assert one.run() == {}
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [weights.name]


def test_no_trial_begins_after_the_budget(tmp_path):
    one = study(tmp_path, budget={"hours": 1e-9})
    assert one.run(ThisProcess()) == {}
    assert one.workload().done == 0


def test_opening_needs_a_study_that_was_run(tmp_path):
    with pytest.raises(InputError, match="has no study.json"):
        Study.open(tmp_path)
