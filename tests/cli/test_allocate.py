"""``joulewise allocate``: a plan that another command can use, and honest exit codes."""

import json
import re

import pytest

from html_page import Page

QUICK = ("--model", "mlp", "--images", "200", "--samples", "64", "--chips", "30")


def test_a_plan_is_made_and_simulated(run, trained, tmp_path):
    out = tmp_path / "plan"
    code, said, err = run(
        "allocate", *QUICK, "--weights", trained, "--drop", 2, "--bit-planes", "--out", out
    )
    assert code == 0, err
    assert "against one point" in said and "The plan" in said
    assert f"The report, for a browser: {out / 'report.html'}" in " ".join(said.split())
    assert {path.name for path in out.iterdir()} == {"plan.json", "allocation.json", "report.html"}
    record = json.loads((out / "allocation.json").read_text())
    assert [found["granularity"]["per"] for found in record["allocations"]] == ["network", "tensor"]
    plan = json.loads((out / "plan.json").read_text())
    assert plan["note"]["holds"] is True
    page = Page((out / "report.html").read_text())
    assert json.loads(page.script("joulewise-record")) == record
    json.loads(page.script("joulewise-figures"), parse_constant=pytest.fail)
    assert "was shown to hold on 30 fresh chips" in page.text
    last = record["allocations"][-1]
    code, said, err = run(
        "simulate", "--model", "mlp", "--weights", trained, "--images", 200, "--chips", 30,
        "--plan", out / "plan.json", "--seed", last["simulation"]["seed"], "--json",
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads(said)["results"]
    expected = sum(last["energy"]["memory_j"].values()) / last["energy"]["memory_reliable_j"]
    assert abs(result["summary"]["memory_energy_normalised"] - expected) < 1e-9
    assert result["simulation"]["accuracy"] == last["simulation"]["accuracy"]


def test_a_plan_of_output_channels_is_made_and_simulated(run, trained, tmp_path):
    code, said, err = run(
        "allocate", *QUICK, "--weights", trained, "--max-mse", 2, "--per", "channel",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert re.search(r"channel +│? *[0-9.]+ nJ", said) and "10 channels" in said
    last = json.loads((tmp_path / "allocation.json").read_text())["allocations"][-1]
    plan = json.loads((tmp_path / "plan.json").read_text())
    for tensor in plan["tensors"]:
        weight = tensor["role"] == "weight"
        assert not weight or [len(row) for row in tensor["point"]] == [1] * tensor["shape"][0]
        assert weight or isinstance(tensor["point"], float)
    code, said, err = run(
        "simulate", "--model", "mlp", "--weights", trained, "--images", 200, "--chips", 30,
        "--plan", tmp_path / "plan.json", "--seed", last["simulation"]["seed"], "--json",
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads(said)["results"]
    assert result["simulation"]["mse"] == last["simulation"]["mse"]
    assert result["simulation"]["energy"] == last["energy"]
    code, said, err = run(
        "predict", "--model", "mlp", "--weights", trained, "--images", 200,
        "--plan", tmp_path / "plan.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    (predicted,) = json.loads(said)["results"]
    assert predicted["plan"] == result["plan"]
    assert predicted["energy"]["memory_j"] == result["simulation"]["energy"]["memory_j"]
    mse = result["simulation"]["mse"]
    assert predicted["forecast"]["mse"] == pytest.approx(sum(mse) / len(mse), rel=0.4)
    code, said, err = run(
        "predict", "--model", "mlp", "--weights", trained, "--plan", tmp_path / "plan.json",
        "--eta", 0.5,
    )  # fmt: skip
    assert (code, said) == (2, "")
    assert "plan is given beside eta; allowed: one of the two" in " ".join(err.split())


def test_json_and_a_budget_of_energy(run, trained):
    code, said, err = run(
        "allocate", *QUICK, "--weights", trained, "--max-energy", 40, "--no-common", "--json"
    )
    assert code == 0, err
    (found,) = json.loads(said)["allocations"]
    assert found["goal"] == {"goal": "EnergyGoal", "energy": 0.4}


def test_rails_are_counted(run, trained):
    code, said, err = run(
        "allocate", *QUICK, "--weights", trained, "--max-mse", 0.5, "--rails", 2, "--bit-planes",
        "--no-common", "--json",
    )  # fmt: skip
    assert code == 0, err
    (found,) = json.loads(said)["allocations"]
    assert len({point for points in found["plan"].values() for point in points}) == 2


def test_out_of_reach_is_exit_code_3_with_the_best_plan(run, trained, tmp_path):
    code, said, err = run(
        "allocate", *QUICK, "--weights", trained, "--max-mse", 1e-9, "--no-common",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 3, err
    assert "NOT SHOWN" in said
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {tensor["point"] for tensor in plan["tensors"]} == {1.0}
    assert "NOT SHOWN to hold: output MSE" in Page((tmp_path / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--drop", 1, "--max-mse", 1), "the goal is drop and max_mse"),
        (("--drop", 0), "drop is 0; allowed: above 0 to 100"),
        (("--per", "layer"), "per is 'layer'"),
        (("--per", "channel", "--bit-planes"), "bit_planes is True, beside per='channel'"),
        (("--rails", 0), "rails is 0"),
        (("--point", 1.5), "eta is 1.5"),
        (("--device", "crossbar", "--sigma", 1e-6, "--bit-planes"), "which has no bit planes"),
        (("--confidence", 100), "confidence is 1"),
        (("--out", "README"), "out is README"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(run, trained, tmp_path, monkeypatch, extra, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("a file")
    code, out, err = run("allocate", *QUICK, "--weights", trained, *extra)
    assert (code, out) == (2, ""), err
    assert said in err and len(err.strip().splitlines()) == 1


def test_a_plan_for_another_network_is_refused_by_name(run, trained, tmp_path):
    code, _, err = run(
        "allocate", *QUICK, "--weights", trained, "--max-energy", 50, "--no-common",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    code, out, err = run(
        "train", "--model", "cnn", "--epochs", 1, "--out", tmp_path / "c.safetensors"
    )
    assert code == 0, err
    code, out, err = run(
        "simulate", "--model", "cnn", "--weights", tmp_path / "c.safetensors",
        "--plan", tmp_path / "plan.json",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "the plan is for another network" in err
    code, out, err = run(
        "simulate", "--model", "mlp", "--weights", trained, "--eta", 0.5,
        "--plan", tmp_path / "plan.json",
    )  # fmt: skip
    assert (code, out) == (2, "") and "plan is given beside eta" in err
