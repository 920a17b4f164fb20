"""Study files: short forms, goals, and one sentence with the path of a wrong field."""

import subprocess
import sys

import pytest
import yaml

import joulewise as jw
from joulewise.allocation import Granularity
from joulewise.errors import InputError
from joulewise.study.study_file import GoalEntry, StudyFile

_SMALL = {"models": ["mlp=mlp.safetensors"], "memories": ["sram"]}


def read(tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return StudyFile.read(path)


def test_short_forms(tmp_path):
    study = read(
        tmp_path,
        {
            "models": ["mlp"],
            "memories": ["sram"],
            "data": "digits",
            "training": ["sgd", {"method": "sam", "at": {"eta": 0.5}}],
            "points": ["eta=0.5"],
            "granularities": ["network", {"per": "tensor", "bit_planes": True}],
        },
    )
    assert study.data.source == "digits"
    assert study.models[0].name == "mlp"
    assert [entry.through_memory for entry in study.training] == [False, True]
    assert study.points == ({"eta": 0.5},)
    assert study.granularities[1].build() == Granularity(bit_planes=True)


def test_points_to_train_at_fit_every_memory(tmp_path):
    both = {"at": {"eta": 0.5, "g_max": 2e-5}}
    content = {"models": ["mlp"], "memories": ["sram", "crossbar:sigma=1e-6"], "training": [both]}
    assert read(tmp_path, content).training[0].at == both["at"]
    content["training"] = [{"at": {"eta": 0.5}}]
    with pytest.raises(InputError, match=r"training\[0\].at is of eta; allowed: exactly one on g_"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("drop=0.5pp", jw.MetricDrop(0.005)),
        ("drop=2%", jw.MetricDrop(0.02, relative=True)),
        ("target=90%", jw.MetricTarget(0.9)),
        ("error=1e-3", jw.OutputError(1e-3)),
        ("energy=0.4", jw.EnergyBudget(0.4)),
        ("drop=1pp,chips=95%", jw.Yield(0.95, of=jw.MetricDrop(0.01))),
    ],
)
def test_goals(text, goal):
    assert GoalEntry.model_validate(text).build() == goal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": []}, "models is empty; allowed: at least 1"),
        ({"models": "mlp"}, "models is 'mlp'; allowed: a list"),
        ({"memories": ["sram:bits=99"]}, r"memories\[0\].bits is 99; allowed: 16 or less"),
        (
            {"memories": ["sram", {"kind": "sram", "fault": "flop"}]},
            r"memories\[1\].fault is 'flop'",
        ),
        (
            {"memories": ["rram"]},
            r"memories\[0\] is 'rram'; allowed: sram, dram, edram, crossbar, pcm, custom",
        ),
        (
            {"memories": ["sram:bit=8"]},
            r"memories\[0\]: bit is not a field; allowed: label, bits",
        ),
        (
            {"memories": ["sram:fault_map=measured,fault_map.path=a+b.csv"]},
            r"memories\[0\].fault_map.path is \['a', 'b.csv'\]; allowed: a path, in quotes where",
        ),
        ({"memories": ["sram:law=a+b.csv"]}, r"law is .*; allowed: text, in quotes where it has a"),
        ({"chips": "many"}, "chips is 'many'"),
        ({"chips": 1}, "chips is 1; allowed: 2 or more"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"goals": ["drop=0.5pp,target=1"]}, r"goals\[0\]: drop and target are given"),
        ({"goals": ["drop"]}, r"goals\[0\]: the goal is 'drop'"),
        ({"goals": ["drop=x"]}, r"goals\[0\].drop is 'x'"),
        ({"goals": ["drop=1pct"]}, r"drop is '1pct'; allowed: a number, such as 0.005, 0.5pp or"),
        ({"goals": ["drop=%"]}, r"drop is '%'; allowed: a number"),
        ({"points": ["eta"]}, r"points\[0\]: the point is 'eta'"),
        ({"training": [{"epochs": 0}]}, r"training\[0\].epochs is 0"),
        ({"training": [{"seed": 1}], "models": ["mlp"]}, r"training\[0\].seed is not a field"),
        ({"training": [{"learn_ranges": True}]}, r"training\[0\]: learn_ranges is true"),
        ({"training": [{"method": "sgd", "rho": 0.1}]}, r"training\[0\]: rho is 0.1"),
        ({"granularities": ["word"]}, r"granularities\[0\].per is 'word'"),
        ({"seeds": []}, "seeds is empty"),
        ({"drops": [0.0]}, r"drops\[0\] is 0.0; allowed: more than 0"),
        ({"metric": "f1"}, "metric: 'f1' is no metric; .* tokens, nll, perplexity, kl, mse"),
        ({"generation": {"prompt": "a"}}, "generation: prompt is text without a tokenizer; all"),
        ({"generation": {"prompt": [1, "a"]}}, r"generation.prompt: \[1, 'a'\]; allowed: text, or"),
        ({"generation": {"prompt": [-1]}}, r"generation.prompt: \[-1\]; allowed: text, or a list"),
        ({"generation": {"prompt": []}}, r"generation.prompt: \[\]; allowed"),
        ({"generation": {"prompt": 3}}, "generation.prompt: 3; allowed"),
        (
            {"generation": {"prompt": "a", "tokenizer": "gpt2"}},
            "generation: tokenizer is 'gpt2'; allowed: package.module:function",
        ),
        ({"generation": {"prompt": [1], "new_tokens": 0}}, "generation.new_tokens is 0; allowed"),
        ({"generation": {}}, "generation.prompt is missing"),
        ({"place": {"kv_cache": 3}}, "place.kv_cache is 3; allowed: true or false"),
        ({"models": ["mlp"]}, r"models\[0\] \(mlp\) has neither weights nor training"),
        ({"training": ["sgd"]}, r"models\[0\].weights is given beside training"),
        ({"memories": ["sram", "sram"]}, "memories has '8-bit SRAM, mask' twice; allowed: a label"),
        ({"points": ["g_max=1e-5"]}, r"points\[0\] is of g_max; allowed: eta, v_dd"),
        ({"goals": ["drop=1pp"], "chips": 10}, "chips is 10; allowed: 20 or more"),
        ({"goals": ["drop=1pp,chips=95%"], "chips": 139}, "chips is 139; allowed: 140 or more"),
        (
            {"goals": ["drop=1pp,chips=95%"], "chips": 170, "confidence": 0.99},
            "chips is 170; allowed: 171 or more",
        ),
        ({"colour": "red"}, "colour is not a field"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(tmp_path, change, said):
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, {**_SMALL, **change})
    assert "\n" not in str(caught.value)
    assert "https://" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a\n", "models: [\n", "just text", "\x00"])
def test_files_that_are_no_study(tmp_path, content):
    with pytest.raises(InputError, match="study.yaml"):
        read(tmp_path, content)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match="none.yaml cannot be read"):
        StudyFile.read(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        StudyFile.read(tmp_path)


def test_reading_imports_no_torch():
    """Errors appear within a second, and torch alone takes several to import."""
    code = "import sys, joulewise.study.study_file; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fields_have_descriptions_for_editors():
    schema = StudyFile.model_json_schema()
    assert schema["properties"]["chips"]["minimum"] == 2
    assert "SRAMMemory" in schema["$defs"]
