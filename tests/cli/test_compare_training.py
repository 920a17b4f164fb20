import json

import pytest

from joulewise.models import build, save_weights

BASE = ("compare-training", "--model", "mlp", "--epochs", 1, "--chips", 2, "--images", 60)
OTHER = "other.safetensors"
PRODUCT = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(64, 10))

    def forward(self, x):
        return x.flatten(1) @ self.weight
"""
POINTS = ("--eta", 0.6, "--eta", 0.4)


def test_trains_compares_and_goes_on_where_it_was(run, tmp_path):
    asked = (*BASE, "--seeds", 2, *POINTS, "--out", tmp_path)
    arms = ("--arm", "sgd", "--arm", "robust=sgd+clip+memory:0.4")
    code, text, err = run(*asked, *arms)
    assert code == 0, err
    assert "robust" in text and "saved against sgd" in " ".join(text.split())
    files = {path.name for path in tmp_path.iterdir()}
    networks = {
        f"{stem}-{seed}.safetensors" for stem in ("sgd", "sgd-clip-memory-0.4") for seed in (0, 1)
    }
    assert files == networks | {"comparison.json", "report.html"}
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert [len(arm["networks"]) for arm in record["arms"]] == [2, 2]
    assert record["arms"][1]["networks"][1]["training"]["memory"]["devices"][0]["device"] == "sram"
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in networks}
    code, text, _ = run(*asked, *arms, "--json")
    assert code == 0
    assert [arm["points"] for arm in json.loads(text)["arms"]] == [[0.6, 0.4]] * 2
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in networks}


def test_takes_networks_that_are_there(run, tmp_path):
    trained = tmp_path / "net-0.safetensors"
    assert run("train", "--model", "mlp", "--epochs", 1, "--out", trained)[0] == 0
    pattern = f"plain={tmp_path / 'net-*.safetensors'}"
    crossbar = ("--device", "crossbar", "--sigma", 1e-6, "--g-max", 5e-5, "--g-max", 2e-5)
    out = tmp_path / "out"
    code, text, err = run(*BASE, "--arm", pattern, *crossbar, "--out", out, "--json")
    assert code == 0, err
    record = json.loads(text)
    assert record["knob"] == "g_max"
    assert [network["name"] for network in record["arms"][0]["networks"]] == ["net-0"]
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "report.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arm", "adam"), "no method 'adam'"),
        (("--arm", "sgd", "--arm", "sgd"), "names all different"),
        (("--arm", "sgd+clip:-1"), "cannot be followed"),
        (("--arm", "x=missing-*.safetensors"), "has no files"),
        (("--eta", 0.5, "--g-max", 1e-5), "no operating point, or several kinds"),
        (("--drop", 0.0), "drop is 0"),
        (("--epochs", 0), "epochs"),
        (("--data", "nowhere"), "nowhere"),
        (("--arm", "sgd", "--arm", "sgd+memory:40"), "eta is 40; allowed"),
        (("--eta", 5), "eta is 5; allowed"),
        (("--images", 5000), "count is 5000; allowed: a whole number from 1 to 599"),
        (("--exclude", "nothing*"), "nothing*"),
        (("--g-max", 1e-5), "g_max"),
        (("--arm", "sgd", "--arm", "sgd+perfect+ranges", "--per-channel"), "channel_dim"),
        (("--arm", "sgd", "--arm", "sgd+memory:0.5", "--common-range"), "common_range"),
        (("--arm", "sgd", "--arm", f"x={OTHER}"), "weights file other.safetensors is without"),
        # What only a pass through the memory tells.
        (("--model", "mine.py:Net", "--device", "crossbar", "--output-bits", 6), "not simulated"),
    ],
)
def test_refuses_in_a_sentence_before_training(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    save_weights(build("cnn", (1, 8, 8), 10, seed=0), tmp_path / OTHER, {})
    (tmp_path / "mine.py").write_text(PRODUCT)
    code, _, err = run(*BASE, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == [OTHER]


def test_patterns_of_files_may_have_folders_that_match(run, tmp_path, monkeypatch):
    for seed in range(2):
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        save_weights(build("mlp", (1, 8, 8), 10, seed=seed), folder / "net.safetensors", {})
    monkeypatch.chdir(tmp_path / "run-0")
    arms = [f"here={tmp_path / 'run-*' / 'net.safetensors'}", "there=../run-*/net.safetensors"]
    asked = [part for arm in arms for part in ("--arm", arm)]
    code, text, err = run(*BASE, *asked, *POINTS, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert [len(arm["networks"]) for arm in json.loads(text)["arms"]] == [2, 2]
