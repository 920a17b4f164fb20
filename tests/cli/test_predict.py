"""``joulewise predict`` as a user meets it."""

import json
import re

import pytest


@pytest.fixture
def predict(run, weights):
    def call(*arguments):
        return run("predict", "--model", "mlp", "--weights", weights, "--images", 40, *arguments)

    return call


def test_tables_of_points_and_of_layers(predict):
    code, out, err = predict("--eta", 0.5, "--eta", 0.4, "--store", "both")
    assert (code, err) == (0, "")
    assert "predicted by first-order" in out
    assert "simulated" not in out
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    points = [row for row in rows if row[0].strip() in {"0.5", "0.4"}]
    assert len(points) == 2
    names = [row[0].strip() for row in rows if row not in points]
    assert names[:2] == ["features.1:input", "features.1.weight"]
    assert names[-1].startswith("mean shift")
    for column in (-1, -2):
        cells = [row[column] for row in rows if row not in points]
        assert sum("*" in cell for cell in cells) == 1
        shares = [float(re.search(r"[\d.]+", cell)[0]) for cell in cells]
        assert sum(shares) == pytest.approx(100, abs=0.5)


def test_check_prints_the_ratio_and_both_accuracies(predict):
    code, out, err = predict("--eta", 0.4, "--check", 3)
    assert (code, err) == (0, "")
    assert "beside 3 simulated chips, with 95 % intervals" in out
    for column in ("predicted / simulated", "predicted accuracy", "simulated accuracy"):
        assert column in out


def test_json_holds_everything_and_nothing_else(predict):
    code, out, err = predict("--eta", 0.5, "--eta", 0.4, "--check", 4, "--seed", 5, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["command"].startswith("joulewise predict --model mlp")
    assert record["placement"]["store"] == "weights"
    assert record["environment"]["torch"]
    names = [tensor["name"] for tensor in record["tensors"]]
    assert {"words", "bits", "role", "reliable_j"} <= set(record["tensors"][0])
    assert [result["eta"] for result in record["results"]] == [0.5, 0.4]
    for result in record["results"]:
        forecast, check = result["forecast"], result["check"]
        assert set(forecast["variance"]) == set(names) == set(result["energy"]["memory_j"])
        assert result["energy"]["normalised"] == pytest.approx(result["eta"])
        assert check["simulation"]["seed"] == 5
        ratio = forecast["mse"] / check["summary"]["mean_mse"]
        assert check["mse_ratio"]["ratio"] == pytest.approx(ratio)
        assert check["mse_ratio"]["low"] < ratio
        lost = record["ideal_accuracy"] - forecast["accuracy"]["mean"]
        assert result["accuracy_loss"] == pytest.approx(lost)


def test_the_same_seed_gives_the_same_forecast_and_checking_changes_nothing(predict):
    first = json.loads(predict("--eta", 0.4, "--json")[1])
    again = json.loads(predict("--eta", 0.4, "--check", 2, "--json")[1])
    assert first["ideal_accuracy"] == again["ideal_accuracy"]
    assert first["results"][0]["forecast"] == again["results"][0]["forecast"]
    assert first["results"][0]["check"] is None


def test_no_accuracy_is_the_quick_way(predict):
    code, out, err = predict("--eta", 0.4, "--no-accuracy", "--probes", 2)
    assert (code, err) == (0, "")
    assert "accuracy" not in out
    code, out, _ = predict("--eta", 0.4, "--no-accuracy", "--check", 2, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["ideal_accuracy"] is None
    assert record["results"][0]["forecast"]["accuracy"] is None


def test_other_methods(predict):
    code, out, err = predict("--eta", 0.4, "--method", "corrected", "--images", 10)
    assert (code, err) == (0, "")
    assert "predicted by corrected" in out


def test_deep_networks_are_summed_up(run, tmp_path, monkeypatch):
    (tmp_path / "deep.py").write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(25)))\n"
        "def data():\n    return torch.randn(20, 4), torch.arange(20) % 4\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = run("predict", "--model", "deep.py:net", "--data", "deep:data", "--eta", 0.5)
    assert code == 0, err
    assert "5 others, each less" in out
    assert len(re.findall(r"\d+\.weight", out)) == 20


def test_points_of_a_voltage_table(predict):
    code, out, err = predict("--v-dd", 0.85, "--profile", "stutz2021-14nm", "--bits", 4)
    assert (code, err) == (0, "")
    assert "v_dd" in out


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--eta", 0.4, "--method", "guess"], ["method is 'guess'", "first-order, second-order"]),
        (["--eta", 0.4, "--check", 1], ["check is 1; allowed: 2 to"]),
        (["--eta", 0.4, "--probes", 0], ["probes is 0"]),
        (["--eta", 0.4, "--method", "corrected", "--probes", 2], ["does nothing", "corrected"]),
        (["--eta", 0.4, "--method", "corrected", "--no-accuracy"], ["accuracy is False"]),
        (["--eta", 1.5], ["eta is 1.5; allowed: 0 to 1"]),
        ([], ["no operating point"]),
    ],
)
def test_refusals(predict, extra, parts):
    code, out, err = predict(*extra)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err


def test_an_untrained_zoo_network_is_refused(run):
    code, _, err = run("predict", "--model", "mlp", "--eta", 0.5)
    assert code == 2
    assert "untrained" in err
