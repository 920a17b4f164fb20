"""The command line as a user meets it: exit codes, one sentence, no traceback, nothing lost."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from joulewise.models import build, save_weights


def assert_refused(result, *parts):
    code, out, err = result
    assert code == 2, (out, err)
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err


def test_help_is_quick_and_does_not_wait_for_torch():
    command = [sys.executable, "-X", "importtime", "-c", "import joulewise.cli.app"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    loaded = {line.rpartition("|")[2].strip() for line in listing.splitlines()}
    assert "joulewise.cli.app" in loaded
    assert not loaded & {"torch", "numpy", "plotly", "sklearn", "scipy"}


def test_every_command_has_help(run):
    for command in ("demo", "train", "simulate", "predict", "compare"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Usage" in out


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("joulewise ")


def test_simulate_as_a_table_and_as_json(run, weights):
    arguments = ["simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--eta", 0.3]
    arguments += ["--chips", 3, "--images", 50, "--target", 50]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "yield at 50 %" in out
    code, out, err = run(*arguments, "--json")
    assert code == 0
    record = json.loads(out)
    assert [result["eta"] for result in record["results"]] == [0.5, 0.3]
    assert record["results"][0]["summary"]["chips"] == 3


def test_one_chip_has_no_interval_and_json_no_infinity(run, weights):
    arguments = ["simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--chips", 1]
    code, out, _ = run(*arguments, "--images", 5)
    assert code == 0
    assert "(one chip)" in out
    code, out, _ = run(*arguments, "--images", 5, "--json")
    assert "Infinity" not in out
    assert json.loads(out)["results"][0]["summary"]["accuracy_interval_95"] is None


def test_simulate_with_every_memory_option(run, weights, tmp_path):
    cells = tmp_path / "map.csv"
    cells.write_text("row,column,bit_error_rate\n0,3,0.0001\n5,8,0.01\n")
    common = ["simulate", "--model", "mlp", "--weights", weights, "--chips", 2, "--images", 20]
    for extra in (
        ["--eta", 0.5, "--fault", "flip", "--zero-to-one", 1.5, "--one-to-zero", 0.5],
        ["--eta", 0.5, "--fault", "stuck", "--stuck-at-one", 1.0, "--store", "both"],
        ["--eta", 0.5, "--row", 0.2, "--column", 0.1, "--cluster", 0.1],
        ["--eta", 0.5, "--fault-map", cells, "--map-rows", 16, "--map-columns", 16],
        ["--v-dd", 0.85, "--profile", "stutz2021-14nm", "--per-channel", "--bits", 4],
        ["--eta", 0.5, "--exclude", "features.1*", "--store", "weights"],
        ["--eta", 0.5, "--common-range"],
        [
            "--g-max",
            25e-6,
            "--device",
            "crossbar",
            "--sigma",
            1e-6,
            "--levels",
            64,
            "--per-channel",
        ],
        ["--g-max", 25e-6, "--device", "crossbar", "--variability", 0.1, "--no-clip"],
        ["--g-max", 25e-6, "--device", "crossbar", "--array-rows", 32, "--output-bits", 8],
        ["--seconds", 86400, "--device", "pcm", "--devices", 2, "--no-compensate"],
        ["--g-max", 25e-6, "--device", "crossbar", "--read-noise", 1e-6, "--common-range"],
    ):
        code, _, err = run(*common, *extra)
        assert code == 0, (extra, err)


def test_memories_side_by_side(run, weights, tmp_path):
    options = ("--chips", 3, "--images", 60, "--eta", 0.5, "--g-max", 2e-5, "--g-max", 1e-5)
    sides = ("--device", "sram", "--device", "crossbar", "--sigma", 1e-6, "--bits", 6)
    code, text, err = run(
        "compare", "--model", f"mlp={weights}", *sides, *options, "--out", tmp_path / "sides"
    )
    assert code == 0, err
    assert "operating point" in text
    record = json.loads((tmp_path / "sides" / "comparison.json").read_text())
    sram, crossbar = record["contenders"]
    assert [sram["name"], crossbar["name"]] == ["mlp on SRAM", "mlp on crossbar"]
    assert (sram["points"], crossbar["points"]) == ([0.5], [2e-5, 1e-5])
    assert (sram["weights_device"]["bits"], crossbar["weights_device"]["sigma"]) == (6, 1e-6)
    assert sram["activations_device"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "sram", "--g-max", 1e-5), "g_max is given, and is no knob of sram"),
        (("--device", "sram", "--device", "sram"), "device is sram, sram; allowed: each device"),
        (("--device", "sram", "--device", "pcm", "--sigma", 1e-6), "nothing with sram or pcm"),
        (("--device", "tape"), "device"),
        (("--drop", 150), "drop is 150; allowed: above 0 to 100"),
        (("--device", "sram", "--device", "crossbar", "--store", "both"), "holds no activations"),
    ],
)
def test_devices_that_cannot_be_compared(run, weights, options, message):
    code, _, err = run("compare", "--model", f"mlp={weights}", *options)
    assert code == 2
    assert message in " ".join(err.split())


def test_train_then_compare_then_read_the_record(run, tmp_path):
    out = tmp_path / "mlp.safetensors"
    code, _, err = run("train", "--model", "mlp", "--out", out, "--epochs", 2)
    assert (code, err) == (0, "")
    folder = tmp_path / "compared"
    code, text, err = run(
        "compare", "--model", f"mlp={out}", "--chips", 3, "--images", 60, "--out", folder
    )
    assert code == 0, err
    assert "mlp" in text
    record = json.loads((folder / "comparison.json").read_text())
    assert record["contenders"][0]["training"]["spec"]["epochs"] == 2
    assert "<html" in (folder / "report.html").read_text()
    assert sorted(p.name for p in folder.iterdir()) == ["comparison.json", "report.html"]


def test_training_for_robustness(run, tmp_path):
    out = tmp_path / "mlp.safetensors"
    base = ("train", "--model", "mlp", "--out", out, "--epochs", 1, "--json")
    code, text, err = run(*base, "--method", "samson2", "--rho", 1.0, "--clip-weights", 2.5)
    assert code == 0, err
    spec = json.loads(text)["spec"]
    assert (spec["method"], spec["rho"], spec["clip"]) == ("samson2", 1.0, 2.5)
    crossbar = ("--device", "crossbar", "--sigma", 1e-6, "--g-max", 2e-5)
    code, text, err = run(*base, *crossbar)
    assert code == 0, err
    (device,) = json.loads(text)["memory"]["devices"]
    assert device["device"] == "crossbar"
    words = ("--bits", 4, "--perfect", "--learn-ranges")
    code, text, err = run(*base, *words)
    assert code == 0, err
    memory = json.loads(text)["memory"]
    assert (memory["devices"][0]["bits"], memory["chips"]) == (4, "perfect")
    assert all(alpha > 0 for alpha in memory["ranges"].values())
    code, text, err = run(*base, "--eta", 0.5, "--learn-ranges")
    assert code == 0, err
    assert json.loads(text)["memory"]["ranges"].keys() == memory["ranges"].keys()


def test_training_learns_points(run, tmp_path):
    out = tmp_path / "mlp.safetensors"
    base = ("train", "--model", "mlp", "--out", out, "--epochs", 2, "--energy", 0.3)
    code, text, err = run(*base, "--store", "both", "--bits", 6)
    assert code == 0, err
    assert "learned: 30.0 % of the energy of a reliable memory" in text
    assert re.search(r"head\.weight +. +weight . +\d+ +. +eta 0\.\d+ . +\S+ nJ", text), text
    code, text, err = run(*base, "--json")
    assert code == 0, err
    memory = json.loads(text)["memory"]
    assert memory["last_energy"] == pytest.approx(0.3, abs=2e-3)
    assert len(set(memory["last_plan"].values())) > 1


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--method", "adam"), "method"),
        (("--rho", 0.1), "joulewise: rho is 0.1; allowed: None with the method sgd"),
        (("--bits", 4), "no point to train it at"),
        (("--eta", 0.5, "--eta", 0.4), "eta is given 2 times; allowed: one point to train at"),
        (("--eta", 0.5, "--g-max", 1e-5), "no operating point, or several kinds"),
        (("--learn-ranges",), "learn_ranges is given, and no memory to train through; allowed:"),
        (("--learn-ranges", "--bits", 4), "learn_ranges is given, and no memory to train through"),
        (("--perfect", "--eta", 0.5), "perfect is given beside an operating point"),
        (
            ("--perfect", "--learn-ranges", "--per-channel"),
            "channel_dim of the memory of features.1.weight is 0; allowed: None",
        ),
        (("--perfect", "--learn-ranges", "--store", "activations"), "the placement has no weights"),
        (("--perfect", "--fault", "flip"), "fault is flip, and does nothing with a perfect memory"),
        (("--perfect", "--device", "crossbar"), "a perfect crossbar that reads weights exactly"),
        (("--device", "crossbar", "--g-max", 2e-5), "a crossbar that reads weights exactly"),
        (("--energy", 0.5, "--device", "crossbar"), "a crossbar that reads weights exactly"),
        (("--eta", 0.4, "--common-range"), "common_range is that of the network as it was"),
        (("--energy", 0.4, "--common-range"), "common_range is that of the network as it was"),
        (("--eta", 0.5, "--energy", 0.4), "energy is given beside an operating point"),
        (("--energy", 1.5), "energy is 1.5; allowed: above 0.05"),
    ],
)
def test_training_that_cannot_be(run, tmp_path, extra, said):
    out = tmp_path / "mlp.safetensors"
    code, _, err = run("train", "--model", "mlp", "--out", out, "--epochs", 1, *extra)
    assert code == 2
    assert said in " ".join(err.split())
    assert not out.exists()


def test_training_twice_gives_the_same_file(run, tmp_path):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        assert run("train", "--model", "mlp", "--out", path, "--epochs", 1, "--seed", 3)[0] == 0
    assert _tensors(paths[0]) == _tensors(paths[1])


def _tensors(path):
    import safetensors.torch

    return {k: v.tolist() for k, v in safetensors.torch.load_file(path).items()}


def test_missing_data_folder(run, weights):
    result = run("simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--data", "/no")
    assert_refused(result, "/no")


def test_empty_data_folder(run, weights, tmp_path):
    result = run(
        "simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--data", tmp_path
    )
    assert_refused(result, str(tmp_path))


def test_truncated_cifar_file(run, weights, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        (folder / name).write_bytes(bytes(3073 * 2))
    (folder / "data_batch_3.bin").write_bytes(bytes(4000))
    result = run(
        "simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--data", tmp_path
    )
    assert_refused(result, "data_batch_3.bin", "4,000", "3,073")


def test_data_pickle_with_code_in_it(run, weights, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    result = run(
        "simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, "--data", tmp_path
    )
    assert_refused(result, "data_batch_1")
    assert not (tmp_path / "ran").exists()


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_weights_pickle_with_code_in_it(run, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": _Bomb(tmp_path / "ran")}, path)
    result = run("simulate", "--model", "mlp", "--weights", path, "--eta", 0.5)
    assert_refused(result, "w.pt", "code")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit(run, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("mlp", (1, 8, 9), 10, seed=0), path, {})
    result = run("simulate", "--model", "mlp", "--weights", path, "--eta", 0.5)
    assert_refused(result, "w.safetensors", "features.1.weight", "72", "64")


def test_nan_weights(run, tmp_path):
    model = build("mlp", (1, 8, 8), 10, seed=0)
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.view(-1)[0] = float("nan")
    save_weights(model, tmp_path / "w.safetensors", {})
    result = run(
        "simulate", "--model", "mlp", "--weights", tmp_path / "w.safetensors", "--eta", 0.5
    )
    assert_refused(result, name)


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--bits", 1], ["bits is 1", "greater than or equal to 2"]),
        (["--bits", 17], ["bits is 17", "less than or equal to 16"]),
        (["--eta", 1.5], ["eta is 1.5; allowed: 0 to 1"]),
        (["--eta", "nan"], ["eta is nan"]),
        (["--device", "dram"], ["device is dram", "'sram'"]),
        (["--fault", "burn"], ["fault is burn", "'mask', 'flip' or 'stuck'"]),
        (["--store", "biases"], ["store is biases", "'both'"]),
        (["--profile", "nowhere"], ["profile is 'nowhere'", "stutz2021-14nm"]),
        (["--profile", "nowhere.csv"], ["nowhere.csv cannot be read"]),
        (["--v-dd", 0.5], ["several kinds"]),
        (["--include", "nothing*"], ["'nothing*', which matches no tensor"]),
        (["--images", 10_000], ["count is 10000"]),
        (["--accesses", "missing.csv"], ["missing.csv cannot be read"]),
        (["--row", 0.9, "--column", 0.9], ["row + column + cluster is 1.8"]),
        (["--sigma", 1e-6], ["sigma is 1e-06, and does nothing with device sram"]),
        (["--device", "crossbar", "--bits", 4], ["bits is 4, and does nothing with device cros"]),
        (["--device", "crossbar", "--store", "both"], ["store is 'both'", "no activations"]),
        (["--device", "crossbar"], ["on a Crossbar, is eta; allowed: g_max"]),
        (["--device", "pcm"], ["on a PCM, is eta; allowed: seconds"]),
        (["--device", "pcm", "--sigma", 1e-6], ["sigma is 1e-06, and does nothing with device pc"]),
        (["--device", "crossbar", "--devices", 2], ["devices is 2, and does nothing"]),
        (["--per-channel", "--common-range"], ["common_range is given beside per_channel"]),
    ],
)
def test_refusals_of_simulate(run, weights, extra, parts):
    result = run("simulate", "--model", "mlp", "--weights", weights, "--eta", 0.5, *extra)
    assert_refused(result, *parts)


def test_malformed_table_names_the_line(run, weights, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("v_dd,energy_per_bit_j,bit_error_rate\n0.5,1e-13,1e-2\n0.6,oops,1e-3\n")
    result = run(
        "simulate", "--model", "mlp", "--weights", weights, "--v-dd", 0.5, "--profile", table
    )
    assert_refused(result, "t.csv, line 3")


def test_v_dd_outside_the_table(run, weights):
    result = run(
        "simulate", "--model", "mlp", "--weights", weights, "--v-dd", 0.2,
        "--profile", "stutz2021-14nm",
    )  # fmt: skip
    assert_refused(result, "0.2", "0.75 to 0.958")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("no.such:thing", "ModuleNotFoundError"),
        ("math:nothing", "AttributeError"),
        ("math:sqrt", "TypeError"),
        ("unknown", "'unknown'"),
        ("missing.py:net", "missing.py"),
    ],
)
def test_model_paths_that_fail(run, path, part):
    assert_refused(run("simulate", "--model", path, "--eta", 0.5), part)


def test_an_untrained_zoo_network_is_refused(run, tmp_path):
    assert_refused(run("simulate", "--model", "mlp", "--eta", 0.5), "untrained", "joulewise train")
    assert_refused(run("compare", "--model", "mlp", "--out", tmp_path / "c"), "untrained")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--out", "w.pt"], ["out is w.pt", ".safetensors"]),
        (["--out", "/no/such/folder/w.safetensors"], ["/no/such/folder"]),
        (["--out", "/proc/w.safetensors"], ["/proc/w.safetensors, where nothing can be written"]),
        (["--epochs", 0], ["epochs is 0"]),
        (["--lr", "nan"], ["lr is nan"]),
        (["--precision", "float8"], ["precision is float8"]),
        (["--model", "rnn"], ["'rnn'"]),
        (["--lr", 100.0], ["try a lower lr"]),
    ],
)
def test_refusals_of_train(run, tmp_path, monkeypatch, extra, parts):
    monkeypatch.chdir(tmp_path)
    base = ["train", "--model", "mlp", "--out", "w.safetensors", "--epochs", 3]
    assert_refused(run(*base, *extra), *parts)
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_file(run, weights, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = run("compare", "--model", f"mlp={weights}", "--out", tmp_path / "out")
    assert_refused(result, "cannot be made a folder")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_users_model_and_data(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def net():\n    return torch.nn.Linear(4, 3)\n"
        "def data():\n    return torch.randn(20, 4), torch.arange(20) % 3\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["simulate", "--model", "mine.py:net", "--data", "mine:data", "--eta", 0.4]
    code, out, err = run(*arguments, "--chips", 2)
    assert code == 0, err
    assert "20 images" in out


def test_a_users_model_that_fails(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Linear(5, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    simulated = run("simulate", "--model", "mine.py:net", "--eta", 0.4)
    assert_refused(simulated, "the model fails on inputs of shape (512, 1, 8, 8)")
    trained = run("train", "--model", "mine.py:net", "--out", "w.safetensors")
    assert_refused(trained, "the model fails on inputs of shape (1, 1, 8, 8)")


def test_ctrl_c_exits_130_and_leaves_no_file(tmp_path):
    out = tmp_path / "w.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "joulewise", "train", "--model", "mlp", "--out", str(out),
         "--epochs", "10000"],
        stderr=subprocess.PIPE, text=True,
        # A suite that runs in the background hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    # Inside the training loop: in the middle of an import (PyTorch's at its first optimizer is
    # late) Python itself ends by the signal, which a shell shows as 130 too.
    maps = Path(f"/proc/{process.pid}/maps")
    for _ in range(120):
        if not maps.exists() or "libtorch" in maps.read_text():
            break
        time.sleep(0.5)
    time.sleep(10)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
