"""Malformed study files and command lines: one sentence, exit code 2, no traceback, at once."""

import itertools
import subprocess
import sys

import pytest

BAD_FILES = [
    "", "- a\n", "text", "models: [\n", "\x00", "{}", "models: [mlp]\n", "memories: [sram]\n",
    "models: mlp\nmemories: [sram]\n", "models: []\nmemories: [sram]\n",
    "models: [mlp]\nmemories: []\n", "models: [mlp]\nmemories: sram\n",
    "models: [mlp]\nmemories: [sram]\n", "models: [{weights: a}]\nmemories: [sram]\n",
    "models: [5]\nmemories: [sram]\n", "models: [null]\nmemories: [sram]\n",
]  # fmt: skip
GOOD = {"models": "[mlp]", "training": "[sgd]", "memories": "[sram]"}
BAD_FIELDS = [
    ("memories", "[flash]"), ("memories", "[{bits: 8}]"), ("memories", "[{kind: sram, bits: 99}]"),
    ("memories", "['sram:bits']"), ("memories", "['sram:bits=6,bits=7']"), ("memories", "[5]"),
    ("memories", "['sram:bits=[']"), ("memories", "['sram:law=x']"), ("memories", "[sram, sram]"),
    ("memories", "['sram:fault=burn']"), ("memories", "['sram:faulty=1']"),
    ("memories", "['crossbar:sigma=.nan']"), ("memories", "['crossbar:sigma=-1']"),
    ("memories", "['crossbar:bits=8']"), ("memories", "['pcm:devices=0']"), ("memories", "[null]"),
    ("memories", "['custom']"), ("memories", "['missing.yaml']"),
    ("training", "[{epochs: 0}]"), ("training", "[{epochs: many}]"), ("training", "[adam]"),
    ("training", "[{method: sgd, rho: 0.1}]"), ("training", "[{seed: 1}]"), ("training", "[5]"),
    ("training", "[{perfect: true, at: {eta: 0.5}}]"), ("training", "[{learn_ranges: true}]"),
    ("training", "[{lr: .inf}]"), ("training", "[sgd, sgd]"), ("training", "[{noise_ramp: 0.5}]"),
    ("points", "[eta]"), ("points", "[eta=x]"), ("points", "[{}]"), ("points", "[g_max=1e-5]"),
    ("points", "eta=0.5"), ("goals", "[drop]"), ("goals", "[drop=x]"), ("goals", "[drop=-1]"),
    ("goals", "['drop=1pp,target=1']"), ("goals", "[energy=2]"), ("goals", "[{chips: 0.5}]"),
    ("goals", "[{energy: 0.5, chips: 0.5}]"), ("goals", "[{drop: .nan}]"),
    ("granularities", "[word]"), ("granularities", "[]"), ("granularities", "['tensor:rails=0']"),
    ("drops", "[0]"), ("drops", "[]"), ("drops", "[x]"), ("front", "-1"), ("metric", "f1"),
    ("metric", "accuracy:0"), ("chips", "1"), ("chips", "many"), ("chips", "2.5"),
    ("samples", "0"), ("confidence", "2"), ("confidence", ".nan"), ("seeds", "[]"),
    ("seeds", "[-1]"), ("seeds", "[x]"), ("chip_seed", "-1"), ("budget", "{hours: 0}"),
    ("budget", "{minutes: 5}"), ("budget", "5"), ("data", "{images: 0}"), ("data", "{rows: 1}"),
    ("data", "[digits]"), ("place", "{store: biases}"), ("place", "['*']"), ("colour", "red"),
    ("models", "[mlp, mlp]"), ("models", "['mlp=w.pt']"), ("curve_chips", "1"),
]  # fmt: skip

_MODELS = ["mlp=w.safetensors", "mlp", "no.such:thing", "missing.py:net", "math:nothing", "rnn=w"]
_WRONG = [
    ["--at", "eta"], ["--at", "eta=x"], ["--at", "g_max=1e-5"], ["--memory", "flash"],
    ["--memory", "sram:bits=99"], ["--memory", "sram:bits=["], ["--memory", "crossbar:clip=8"],
    ["--memory", "missing.yaml"], ["--place", "store=biases"], ["--place", "store"],
    ["--images", "0"], ["--images", "x"], ["--seed", "-1"], ["--chips", "0"], ["--chips", "1e9"],
    ["--data", "/no/such/folder"], ["--nonsense"], ["--torch-device", "tpu"],
]  # fmt: skip
_LINES = [
    [command, "--model", model, *wrong]
    for command, wrong in itertools.product(("simulate", "predict", "compare"), _WRONG)
    for model in _MODELS[:1]
]
_LINES += [
    [command, "--model", model, "--at", "eta=0.5"]
    for command in ("simulate", "predict", "compare")
    for model in _MODELS
]
_LINES += [["allocate", "--model", "mlp=w.safetensors", *wrong] for wrong in _WRONG[3:]]
_LINES += [
    ["allocate", "--model", "mlp=w.safetensors", "--goal", goal]
    for goal in ("drop", "drop=x", "drop=-1", "drop=1pp,target=2", "energy=7", "yield=3", "")
]
_LINES += [
    ["allocate", "--model", "mlp=w.safetensors", "--granularity", granularity]
    for granularity in ("word", "tensor:rails=0", "tensor:levels", "channel:colour=1")
]
_LINES += [["pareto", "--model", "mlp=w.safetensors", *wrong] for wrong in _WRONG[3:]]
_LINES += [["pareto", "--model", "mlp=w.safetensors", "--plans", n] for n in ("1", "x", "1e99")]
_LINES += [
    ["compare-training", "--model", "mlp", *wrong]
    for wrong in (*_WRONG, ["--seeds", "0"], ["--seeds", "x"], ["--training", "adam"])
]
_LINES += [
    ["compare-training", "--model", "mlp", "--training", text]
    for text in ("sam:rho=-1", "sam:rho=nan", "sgd:rho=0.5", "sgd:clip=0", "sgd:epochs=0", "sgd:x")
]
_LINES += [["train", "--model", "mlp", *wrong] for wrong in (["--out", "w.pt"], [], *_WRONG)]
_LINES += [
    ["train", "--model", "mlp", "--out", "w.safetensors", *wrong]
    for wrong in (
        *(["--epochs", "0"], ["--epochs", "x"], ["--lr", "nan"], ["--precision", "float8"]),
        *(["--training", "adam"], ["--at", "eta=2"], ["--perfect", "--at", "eta=0.5"]),
        *(["--energy", "7"], ["--learn-ranges"], ["--memory", "sram:bits=4"]),
    )
]
_LINES += [
    ["run"], ["run", "missing.yaml"], ["run", "."], ["results"], ["results", "missing"],
    ["results", "."], ["init", "/no/such/folder/study.yaml"], ["demo", "--chips", "0"],
    ["demo", "--epochs", "0"], ["unknown"], ["--unknown"], ["run", "study.yaml", "--engine", "x"],
    ["run", "study.yaml", "--workers", "-1"], ["run", "study.yaml", "--log", "csv"],
    ["run", "study.yaml", "--address", "tcp://x"], ["run", "study.yaml", "--gpu"],
    ["run", "study.yaml", "study.yaml"], ["results", "missing", "--csv", "x.csv"],
    ["simulate"], ["predict"], ["allocate"], ["pareto"], ["compare"], ["train"], ["init"],
    ["simulate", "--model", "mlp=w.safetensors"], ["simulate", "--at", "eta=0.5"],
    ["simulate", "--model", "mlp=w.safetensors", "--plan", "missing.json"],
    ["predict", "--model", "mlp=w.safetensors", "--at", "eta=0.5", "--check", "1"],
]  # fmt: skip


def assert_refused(result, line):
    code, out, err = result
    assert code == 2, (line, code, out, err)
    assert "Traceback" not in err, (line, err)
    assert len(err.strip().splitlines()) == 1, (line, err)
    assert not out, (line, out)


@pytest.mark.parametrize("content", BAD_FILES)
def test_files_that_are_no_study(run, tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_text(content)
    assert_refused(run("run", path), content)
    assert [one.name for one in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_fields_that_are_wrong(run, tmp_path, field, value):
    path = tmp_path / "study.yaml"
    lines = {**GOOD, field: value}
    path.write_text("".join(f"{name}: {text}\n" for name, text in lines.items()))
    result = run("run", path)
    assert_refused(result, (field, value))
    assert field.removesuffix("s") in result[2] or "training" in result[2]
    assert [one.name for one in tmp_path.iterdir()] == ["study.yaml"]


CELLS = {
    "bad.csv": "garbage\n1,2\n",
    "rates.csv": "row,column,bit_error_rate\n0,3,0.1\n",
    "one.csv": "row,column,v_dd\n0,3,0.5\n",
    "two.csv": "row,column,v_dd\n0,3,0.5\n9,3,0.6\n",
}
BAD_MEMORIES = [
    ("path: bad.csv", "", "memories[0]: fault_map: bad.csv, line 1: the header is garbage"),
    ("path: missing.csv", "", "memories[0]: fault_map: missing.csv cannot be read"),
    ("path: empty", "", "memories[0]: fault_map: empty is without files *.bin"),
    ("path: rams", "bits: 6", "memories[0]: columns of the fault map is 16"),
    ("path: one.csv", "", "memories[0]: law: the voltage table is 1 row(s)"),
    ("path: rates.csv", "", "memories[0]: law is measured, and rates.csv states no supplies"),
    ("path: two.csv, rows: 4", "", "memories[0]: fault_map: two.csv, line 3: row is 9"),
    ("path: two.csv", "v_nominal: 0.1", "memories[0]: law: v_nominal is 0.1; allowed: 0.5 to"),
]


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in CELLS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "rams").mkdir()
    for v_dd, first in (("0.55", "FEFE"), ("0.54", "FCFC")):
        (tmp_path / "rams" / f"board-{v_dd}.bin").write_text(first + "F" * 4092)
    return tmp_path


@pytest.mark.parametrize(("fault_map", "more", "said"), BAD_MEMORIES)
def test_memories_that_cannot_be_built(run, measurements, fault_map, more, said):
    text = f"{{kind: sram, law: measured, fault_map: {{kind: measured, {fault_map}}}, {more}}}"
    (measurements / "study.yaml").write_text(
        f"models: [mlp]\ntraining: [sgd]\nmemories: [{text}]\n"
    )
    for line in (["run", "study.yaml", "--dry-run"], ["run", "study.yaml"]):
        result = run(*line)
        assert_refused(result, line)
        assert said in result[2]
        assert not list(measurements.glob("study/trials/*"))


@pytest.mark.parametrize("command", ["allocate", "pareto"])
def test_plans_on_a_measured_map_need_levels(run, measurements, command):
    memory = "sram:fault_map=measured,fault_map.path=rates.csv"
    result = run(command, "--model", "mlp=w.safetensors", "--memory", memory)
    assert_refused(result, command)
    assert "granularities[0].levels is empty; allowed: operating points on eta" in result[2]


def test_there_are_as_many_as_were_asked_for():
    assert len(BAD_FILES) + len(BAD_FIELDS) >= 60
    assert len(_LINES) >= 200


@pytest.mark.parametrize("line", _LINES, ids=" ".join)
def test_command_lines_that_are_wrong(run, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("models: [mlp]\ntraining: [sgd]\nmemories: [sram]\n")
    assert_refused(run(*line), line)


def test_refusals_do_not_wait_for_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['joulewise', 'simulate', '--model', 'mlp=w', '--at', 'eta']\n"
        "from joulewise.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: sys.exit(stop.code if 'torch' not in sys.modules else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 2
