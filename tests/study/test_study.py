"""Studies from end to end: equal figures on any engine, resuming, changes, failures."""

import json
import os
from concurrent.futures import BrokenExecutor

import pytest

from joulewise.errors import InputError
from joulewise.models import build, save_weights
from joulewise.study import run as run_module
from joulewise.study.engine import LocalProcesses, ThisProcess
from joulewise.study.run import estimated_seconds
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


def test_an_estimate_is_by_kind():
    known = {"train": [1.0, 3.0], "curve": [10.0]}
    assert estimated_seconds(known, ["train", "curve", "curve"]) == 22.0
    assert estimated_seconds(known, ["front"]) == pytest.approx(14 / 3)
    assert estimated_seconds({}, ["front"]) is None


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
    allocated = rows[3]
    assert allocated["goal"] == "output error of 0.01"
    assert all(0 < point["eta"] < 1 for point in json.loads(allocated["plan"]).values())
    low, high = allocated["energy_at_goal_low"], allocated["energy_at_goal_high"]
    assert low <= allocated["energy_at_goal"] <= high
    json.dumps(rows, allow_nan=False)


def test_processes_give_the_same_figures_bit_for_bit(done, tmp_path):
    engine = LocalProcesses(2)
    try:
        assert study(tmp_path).run(engine) == {}
    finally:
        engine.close()
    assert figures(tmp_path) == figures(done)


class Wide(LocalProcesses):
    """A pool of two that counts as wide: every evaluation is spread over its workers."""

    def __init__(self):
        super().__init__(2)
        self.executors = []

    def workers(self):
        return 100

    def executor(self):
        self.executors.append(super().executor())
        return self.executors[-1]


def test_chips_and_batches_of_a_trial_are_spread(done, tmp_path, monkeypatch):
    spread = []
    begun = run_module._in_thread
    monkeypatch.setattr(
        run_module,
        "_in_thread",
        lambda trial, *rest: spread.append(trial.ask.kind) or begun(trial, *rest),
    )
    engine = Wide()
    try:
        assert study(tmp_path).run(engine) == {}
    finally:
        engine.close()
    assert sorted(spread) == ["allocate", "allocate", "curve", "curve"]
    assert figures(tmp_path) == figures(done)


def test_a_spread_trial_survives_lost_workers(done, tmp_path, monkeypatch):
    engine, begun = Wide(), run_module._in_thread

    def lose(trial, weights, executor):
        if len(engine.executors) == 1:
            with pytest.raises(BrokenExecutor):
                executor.submit(os._exit, 1).result()
        return begun(trial, weights, executor)

    monkeypatch.setattr(run_module, "_in_thread", lose)
    try:
        assert study(tmp_path).run(engine) == {}
    finally:
        engine.close()
    assert len(engine.executors) == 2
    assert figures(tmp_path) == figures(done)


def test_running_again_computes_what_is_missing(done, tmp_path, monkeypatch):
    one = study(tmp_path)
    one.run()
    trials = sorted((tmp_path / "trials").iterdir())
    trials[0].write_text("{")
    trials[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in trials[2:]}
    computed = []
    work = run_module._work
    monkeypatch.setattr(
        run_module, "_work", lambda trial, *rest: computed.append(trial) or work(trial, *rest)
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
    with pytest.raises(ValueError, match=r"models\[0\] \(mlp\) has neither weights nor training"):
        study(tmp_path, training=[])


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


@pytest.mark.parametrize("kind", ["law", "fault map", "memory", "model", "data", "accesses"])
def test_files_with_new_content_are_other_trials(tmp_path, kind):
    file = tmp_path / ("mine.py" if kind in ("memory", "model", "data") else "mine.csv")
    rates = (1e-6, 0.3)
    contents = {
        "law": [
            f"v_dd,energy_per_bit_j,bit_error_rate\n0.5,1e-14,{p}\n1,2e-14,{p}\n"
            for p in (1e-6, 0.3)
        ],
        "fault map": [f"row,column,bit_error_rate\n0,0,{p}\n0,1,{p}\n" for p in rates],
        "memory": [f"import joulewise as jw\ndef f(): return jw.SRAM(bits={b})\n" for b in (8, 3)],
        "model": [
            "import torch\n"
            "class Net(torch.nn.Sequential):\n"
            f"    def forward(self, x): return {k} * super().forward(x)\n"
            "def f(): return Net(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
            for k in (1, -3)
        ],
        "data": [
            "import torch, joulewise as jw\n"
            f"def f(): return torch.linspace(0, {k}, 640).reshape(10, 64), torch.arange(10)\n"
            for k in (1, 2)
        ],
        "accesses": [
            "name,reads,writes\nfeatures.1.weight,1e5,0\n",
            "layer,tensor,component,action,count,joules\nfeatures.1,weights,sram,read,9e5,\n",
        ],
    }
    changes = {
        "law": {"memories": [f"sram:law={file},knob=v_dd"], "points": ["v_dd=0.6"]},
        "fault map": {
            "memories": [
                f"sram:fault_map=measured,fault_map.path={file},fault_map.rows=1,fault_map.columns=8"
            ]
        },
        "memory": {"memories": [f"custom:factory={file}:f"]},
        "model": {"models": [f"{file}:f"]},
        "data": {"data": {"source": f"{file}:f"}, "models": ["mlp"], "training": []},
        "accesses": {"place": {"accesses": str(file), "include": ["features.1*"]}},
    }[kind]
    if kind == "data":
        weights = tmp_path / "w.safetensors"
        model = build("mlp", (64,), 10, seed=0)
        save_weights(model, weights, {})
        changes["models"] = [f"mlp={weights}"]
    common = {"points": ["eta=0.5"], "goals": [], "chips": 2} | changes
    found = []
    for content in contents[kind]:
        file.write_text(content)
        one = study(tmp_path / "out", **({"memories": ["sram"]} | common))
        assert one.run() == {}
        (row, *_) = [row for row in one.rows() if row["kind"] == "curve"]
        found.append((row["trial"], row["output_error"], row["memory_j"]))
    assert found[0][0] != found[1][0]
    assert found[0][1:] != found[1][1:]


def test_rows_are_of_the_study_that_was_asked(done, tmp_path):
    study(tmp_path, memories=["sram", "sram:bits=3"], goals=[]).run()
    other = study(tmp_path, memories=["sram:bits=4", "sram"], goals=[])
    curves = [row for row in other.rows() if row["kind"] == "curve"]
    assert {row["memory"] for row in curves} == {"8-bit SRAM, mask"}


def test_figures_that_are_not_finite_fail_one_trial(tmp_path, monkeypatch):
    work = run_module._work

    def infinite(trial, *rest):
        outcome = work(trial, *rest)
        if trial.kind == "evaluate":
            outcome.result["simulations"][0]["ideal_mse"] = float("nan")
        return outcome

    monkeypatch.setattr(run_module, "_work", infinite)
    failed = study(tmp_path, goals=[], memories=["sram"]).run()
    (reason,) = failed.values()
    assert "not JSON compliant" in reason


def test_a_full_disk_loses_nothing_and_frees_the_trial(tmp_path, monkeypatch):
    one = study(tmp_path, goals=[], memories=["sram"])
    write = one.store.write

    def full(digest, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.store, "write", full)
    with pytest.raises(InputError, match="No space left") as kept:
        one.run()
    monkeypatch.setattr(one.store, "write", write)
    assert one.run() == {}
    assert kept.value is not None
