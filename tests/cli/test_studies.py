"""``joulewise init``, ``run`` and ``results``."""

import json

import pytest
from typer.testing import CliRunner

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
    assert "1 trainings" in dry.stdout
    assert "1 evaluations; 0 are done" in dry.stdout
    ran = call("run", str(path), "--workers", "1", "--json")
    assert ran.exit_code == 0
    rows = json.loads(ran.stdout)
    assert [row["kind"] for row in rows] == ["train", "curve"]
    folder = str(tmp_path / "study")
    assert json.loads(call("results", folder, "--json").stdout) == rows
    lines = call("results", folder, "--csv").stdout.splitlines()
    assert lines[0].startswith("model,training,memory,seed,trial,kind")
    assert len(lines) == 3
    path.write_text(_SMALL.replace("chips: 2", "chips: 3"))
    again = call("run", str(path), "--workers", "1")
    assert "chips: 2 -> 3" in again.stderr


def test_failed_trials_give_exit_code_1(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(_SMALL.replace("eta=0.5", "v_dd=0.5"))
    ran = call("run", str(path), "--workers", "1")
    assert ran.exit_code == 1
    assert "failed: " in ran.stderr
