"""``joulewise init``, ``run`` and ``results``."""

import json

import pytest
from typer.testing import CliRunner

import joulewise as jw
from joulewise.cli import running
from joulewise.cli.app import app
from joulewise.errors import InputError
from joulewise.study.study_file import StudyFile

_SMALL = """\
data: {source: digits, images: 40}
models: [mlp]
training: [{method: sgd, epochs: 1, lr: 0.1}]
memories: [sram]
points: [eta=0.5]
chips: 2
"""


def call(*arguments):
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_init_writes_a_study_that_is_valid(tmp_path):
    path = tmp_path / "study.yaml"
    assert call("init", str(path)).exit_code == 0
    study = StudyFile.read(path)
    assert study.training[1].name == "SAMSON"
    with pytest.raises(InputError, match="is one that exists"):
        call("init", str(path))


def test_init_writes_a_schema_that_allows_the_example(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    path, schema = tmp_path / "study.yaml", tmp_path / "schema.json"
    assert call("init", str(path), "--schema", str(schema)).exit_code == 0
    assert path.read_text().startswith(f"# yaml-language-server: $schema={schema}")
    rules = json.loads(schema.read_text())
    assert rules["properties"]["chips"]["minimum"] == 2
    plain = StudyFile.read(path).model_dump(mode="json", exclude_none=True)
    jsonschema.validate(plain, rules)


def test_run_then_results(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(_SMALL)
    dry = call("run", str(path), "--dry-run")
    assert "trainings: 1 (0 for several memories); evaluations: 1; done: 0;" in dry.stdout
    assert [one.name for one in tmp_path.iterdir()] == ["study.yaml"]
    ran = call("run", str(path), "--workers", "1", "--json")
    assert ran.exit_code == 0
    rows = json.loads(ran.stdout)
    assert [row["kind"] for row in rows] == ["train", "curve"]
    folder = str(tmp_path / "study")
    assert json.loads(call("results", folder, "--json").stdout) == rows
    lines = call("results", folder, "--csv").stdout.splitlines()
    assert lines[0].startswith("model,training,memory,seed,trial,kind")
    assert len(lines) == 3
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert call("results", folder, "--parquet", str(tmp_path / "rows.parquet")).exit_code == 0
    assert len(pandas.read_parquet(tmp_path / "rows.parquet")) == 2
    path.write_text(_SMALL.replace("chips: 2", "chips: 3"))
    again = call("run", str(path), "--workers", "1")
    assert "chips: 2 -> 3" in again.stderr


def test_failed_trials_give_exit_code_1(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(_SMALL.replace("eta=0.5", "v_dd=0.5"))
    ran = call("run", str(path), "--workers", "1")
    assert ran.exit_code == 1
    assert "failed: " in ran.stderr
    assert "Missing: 1 of 2 trials" in ran.stdout


def test_json_is_alone_on_standard_output(tmp_path, capsys):
    (tmp_path / "loud.py").write_text(
        "import torch\n"
        "print('imported')\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        print('forward')\n"
        "        return super().forward(x.flatten(1))\n"
        "def net():\n    return Net(64, 10)\n"
    )
    path = tmp_path / "study.yaml"
    path.write_text(_SMALL.replace("[mlp]", f"['{tmp_path}/loud.py:net']"))
    ran = call("run", str(path), "--workers", "2", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert [row["kind"] for row in json.loads(ran.stdout)] == ["train", "curve"]
    dry = call("run", str(path), "--dry-run", "--json")
    assert json.loads(dry.stdout)["done"] == 2


def test_allocate_with_and_without_a_folder(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    assert call("train", "--model", "mlp", "--epochs", "1", "--out", str(weights)).exit_code == 0
    network = ("--model", f"mlp={weights}")
    allocate = ("allocate", *network, "--goal", "error=0.05", "--workers", "1")
    allocate += ("--granularity", "tensor:levels=0.3+0.5+1", "--chips", "20", "--images", "60")
    allocate += ("--memory", "sram:per_channel=true")
    ran = call(*allocate)
    assert ran.exit_code == 0, ran.stderr
    assert "Operating points of w" in ran.stdout
    assert "on 20 held-out chips" in ran.stdout

    def cut(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(running, "present", cut)
    with pytest.raises(BrokenPipeError):
        call(*allocate, "--out", str(tmp_path / "kept"))
    plan = tmp_path / "kept/plan.json"
    assert len(jw.Plan.read(plan)) == 3
    own = json.loads(plan.read_text())["note"]["memory"]
    ran = call("simulate", *network, "--plan", str(plan.parent), "--chips", "2", "--images", "60")
    assert ran.exit_code == 0, ran.stderr
    assert "w on 8-bit SRAM, mask, per channel, 60 test samples" in ran.stdout
    assert own["per_channel"] is True
    # Code that a file names is not run: without a memory of its own, the plan is for another one.
    content = json.loads(plan.read_text())
    content["note"]["memory"] = {"kind": "custom", "factory": "evil.py:memory"}
    plan.write_text(json.dumps(content))
    with pytest.raises(InputError, match="needs the --memory and --place of its allocation: chann"):
        call("simulate", *network, "--plan", str(plan))
    with pytest.raises(InputError, match="needs the --memory and --place of its allocation: chann"):
        call("simulate", *network, "--plan", str(plan), "--memory", "sram:bits=8")
