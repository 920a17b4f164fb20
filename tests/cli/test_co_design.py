"""``joulewise co-design``: weights and a plan that belong together."""

import json

QUICK = ("--model", "mlp", "--images", "200", "--samples", "64", "--chips", "20")


def test_weights_and_plan_belong_together(run, trained, tmp_path):
    out = tmp_path / "design"
    code, said, err = run(
        "co-design", *QUICK, "--weights", trained, "--drop", 2, "--rounds", 1, "--out", out
    )
    assert code == 0, err
    assert "as given" in said and "The weights" in said
    assert "co-designed" in said  # beside the network as given, not a tensor twice
    record = json.loads((out / "co-design.json").read_text())
    assert len(record["design"]["rounds"]) == 2
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    last = record["allocations"][-1]
    code, said, err = run(
        "simulate", "--model", "mlp", "--weights", out / "weights.safetensors", "--images", 200,
        "--chips", 20, "--seed", last["simulation"]["seed"], "--plan", out / "plan.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads(said)["results"]
    assert result["simulation"]["accuracy"] == last["simulation"]["accuracy"]


def test_a_goal_that_is_no_accuracy_and_too_few_chips(run, trained):
    for extra, said in ((("--rounds", 0), "rounds is 0"), (("--chips", 5), "chips is 5")):
        code, _, err = run("co-design", *QUICK, "--weights", trained, *extra)
        assert code == 2 and said in err


def test_out_of_reach_is_exit_code_3(run, trained):
    code, said, err = run(
        "co-design", *QUICK, "--weights", trained, "--min-accuracy", 100, "--rounds", 1,
        "--epochs", 1, "--json",
    )  # fmt: skip
    assert code == 3, err
    assert json.loads(said)["allocations"][-1]["holds"] is False
