"""The command line as a user meets it: exit codes, one sentence, no traceback, nothing lost."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from joulewise.models import build, save_weights

COMMANDS = (
    *("demo", "init", "run", "results", "train", "simulate", "predict", "allocate", "pareto"),
    *("compare", "compare-training"),
)


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
    assert not loaded & {"torch", "numpy", "altair", "sklearn", "scipy"}


def test_threads_are_told_not_to_spin_before_torch_starts_them():
    code = (
        "import os, sys; from joulewise.cli import console; console.start(); "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["PASSIVE", "False"]


def test_every_command_has_help(run):
    for command in COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Usage" in out
        assert len(set(re.findall(r"--[a-z][a-z-]+", out)) - {"--help"}) <= (
            24 if command == "train" else 18
        )


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("joulewise ")


def test_shells_complete_commands():
    asked = {
        "_JOULEWISE_COMPLETE": "complete_bash",
        "COMP_WORDS": "joulewise al",
        "COMP_CWORD": "1",
    }
    program = "import sys; sys.argv = ['joulewise']; import joulewise.cli; joulewise.cli.main()"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked)
    assert found.stdout.split() == ["allocate"]


def test_simulate_as_a_table_and_as_json(run, weights):
    arguments = ["simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--at", "eta=0.3"]
    arguments += ["--chips", 3, "--images", 50, "--limit", 0.5]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "yield" in out
    assert "eta 0.3" in out
    code, out, err = run(*arguments, "--json")
    assert code == 0
    record = json.loads(out)
    assert [result["at"] for result in record["results"]] == ["eta 0.5", "eta 0.3"]
    first = record["results"][0]
    assert first["chips"] == 3
    assert first["low"] <= first["mean"] <= first["high"]


def test_one_chip_has_no_interval_and_json_no_infinity(run, weights):
    arguments = ["simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--chips", 1]
    code, out, _ = run(*arguments, "--images", 5)
    assert code == 0
    assert "one chip" in out
    code, out, _ = run(*arguments, "--images", 5, "--json")
    assert json.loads(out)["results"][0]["low"] is None


def test_piped_tables_are_plain_and_whole(run, weights):
    arguments = ["simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--chips", 2]
    _, out, _ = run(*arguments, "--images", 5)
    assert out.isascii()
    assert len(out.strip().splitlines()) == 3


def test_simulate_with_every_kind_of_memory(run, weights, tmp_path):
    cells = tmp_path / "map.csv"
    cells.write_text("row,column,bit_error_rate\n0,3,0.0001\n5,8,0.01\n")
    common = ["simulate", "--model", f"mlp={weights}", "--chips", 2, "--images", 20]
    measured = f"fault_map=measured,fault_map.path={cells},fault_map.rows=16,fault_map.columns=16"
    for at, memory, *extra in (
        ("eta=0.5", "sram:fault=flip,fault.zero_to_one=1.5,fault.one_to_zero=0.5"),
        ("eta=0.5", "sram:fault=stuck,fault.at_one=1", "--place", "store=both"),
        ("eta=0.5", "sram:fault_map=correlated,fault_map.row=0.2,fault_map.column=0.1"),
        ("eta=0.5", f"sram:{measured}"),
        ("v_dd=0.85", "sram:law=stutz2021-14nm,knob=v_dd,per_channel=true,bits=4"),
        ("bit_error_rate=0.01", "sram:knob=bit_error_rate"),
        ("eta=0.5", "sram", "--place", "exclude=features.1*+head*"),
        ("eta=0.5", "sram", "--place", "common_range=true"),
        ("g_max=2.5e-5", "crossbar:sigma=1e-6,levels=64,per_channel=true"),
        ("g_max=2.5e-5", "crossbar:variability=0.1,clip=false"),
        ("g_max=2.5e-5", "crossbar:array.rows=32,array.output_bits=8"),
        ("seconds=86400", "pcm:devices=2,compensate=false"),
        ("g_max=2.5e-5", "crossbar:read_noise=1e-6", "--place", "common_range=true"),
    ):
        code, out, err = run(*common, "--at", at, "--memory", memory, *extra)
        assert code == 0, (memory, err)
        assert ("Converters take" in out) == memory.startswith(("crossbar", "pcm"))


def test_predict_beside_chips(run, weights):
    arguments = ["predict", "--model", f"mlp={weights}", "--at", "eta=0.5", "--at", "eta=0.4"]
    arguments += ["--images", 40, "--check", 3]
    code, out, err = run(*arguments, "--place", "store=both")
    assert (code, err) == (0, "")
    assert "predicted by first-order" in out
    assert "features.1:input" in out
    code, out, err = run(*arguments, "--method", "second-order", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["results"][1]["simulation"]["chips"] == 3
    assert record["results"][0]["mse"] > 0
    names = {tensor["name"] for tensor in record["tensors"]}
    assert set(record["results"][0]["variance"]) == names


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("third-order", "method is 'third-order'; allowed: first-order"),
        ("first-order:steps=3", "the setting of first-order is 'steps'"),
        ("first-order:probes", "unclear at 'probes'"),
        ("corrected:chips=0", "chips"),
    ],
)
def test_methods_that_are_none(run, weights, method, said):
    arguments = ["predict", "--model", f"mlp={weights}", "--at", "eta=0.5", "--images", 20]
    assert_refused(run(*arguments, "--method", method), said)


def test_training_for_robustness(run, tmp_path):
    out = tmp_path / "mlp.safetensors"
    base = ("train", "--model", "mlp", "--out", out, "--epochs", 1, "--json")
    code, text, err = run(*base, "--training", "samson2:rho=1.0,clip=2.5")
    assert code == 0, err
    spec = json.loads(text)["spec"]
    assert (spec["method"], spec["rho"], spec["clip"]) == ("samson2", 1.0, 2.5)
    code, text, err = run(*base, "--memory", "crossbar:sigma=1e-6", "--at", "g_max=2e-5")
    assert code == 0, err
    (device,) = json.loads(text)["memory"]["devices"]
    assert device["device"] == "crossbar"
    code, text, err = run(*base, "--memory", "sram:bits=4", "--perfect", "--learn-ranges")
    assert code == 0, err
    memory = json.loads(text)["memory"]
    assert (memory["devices"][0]["bits"], memory["chips"]) == (4, "perfect")
    assert all(alpha > 0 for alpha in memory["ranges"].values())
    code, text, err = run(*base, "--at", "eta=0.5", "--learn-ranges")
    assert code == 0, err
    assert json.loads(text)["memory"]["ranges"].keys() == memory["ranges"].keys()


def test_training_learns_points(run, tmp_path):
    out = tmp_path / "mlp.safetensors"
    base = ("train", "--model", "mlp", "--out", out, "--epochs", 2, "--energy", 0.3)
    code, text, err = run(*base, "--place", "store=both", "--memory", "sram:bits=6")
    assert code == 0, err
    assert "learned: 30.0 % of the energy of a reliable memory" in text
    assert re.search(r"head\.weight +weight +\d+ +eta 0\.\d+ +\S+ nJ", text), text
    code, text, err = run(*base, "--json")
    assert code == 0, err
    memory = json.loads(text)["memory"]
    assert memory["last_energy"] == pytest.approx(0.3, abs=2e-3)
    assert len(set(memory["last_plan"].values())) > 1


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--training", "adam"), "training[0].method is 'adam'"),
        (("--training", "sgd:rho=0.1"), "rho is 0.1; allowed: None with the method sgd"),
        (("--memory", "sram:bits=4"), "--memory is given without a point to train at"),
        (("--place", "store=both"), "--place is given without a point to train at"),
        (("--at", "eta"), "the point is 'eta'"),
        (("--at", "g_max=1e-5"), "exactly one on eta, the knob of 8-bit SRAM"),
        (("--learn-ranges",), "learn_ranges is true; allowed: only with at or perfect"),
        (("--perfect", "--at", "eta=0.5"), "at and perfect are given; allowed: one of them"),
        (
            ("--perfect", "--learn-ranges", "--memory", "sram:per_channel=true"),
            "channel_dim of the memory of features.1.weight is 0; allowed: None",
        ),
        (
            ("--perfect", "--learn-ranges", "--place", "store=activations"),
            "the placement has no weights",
        ),
        (("--perfect", "--memory", "crossbar"), "the memory reads every weight exactly"),
        (("--memory", "crossbar", "--at", "g_max=2e-5"), "the memory reads every weight exactly"),
        (
            ("--at", "eta=0.4", "--place", "common_range=true"),
            "place.common_range is true for training",
        ),
        (("--at", "eta=0.5", "--energy", 0.4), "at and energy are given; allowed: one of them"),
        (("--energy", 1.5), "training[0].energy is 1.5"),
        (("--energy", 0.01), "energy is 0.01; allowed: above 0.05"),
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
    result = run("simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--data", "/no")
    assert_refused(result, "/no")


def test_empty_data_folder(run, weights, tmp_path):
    result = run("simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--data", tmp_path)
    assert_refused(result, str(tmp_path))


def test_truncated_cifar_file(run, weights, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        (folder / name).write_bytes(bytes(3073 * 2))
    (folder / "data_batch_3.bin").write_bytes(bytes(4000))
    result = run("simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--data", tmp_path)
    assert_refused(result, "data_batch_3.bin", "4,000", "3,073")


def test_data_pickle_with_code_in_it(run, weights, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    result = run("simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", "--data", tmp_path)
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
    result = run("simulate", "--model", f"mlp={path}", "--at", "eta=0.5")
    assert_refused(result, "w.pt", "code")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit(run, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("mlp", (1, 8, 9), 10, seed=0), path, {})
    result = run("simulate", "--model", f"mlp={path}", "--at", "eta=0.5")
    assert_refused(result, "w.safetensors", "features.1.weight", "72", "64")


def test_nan_weights(run, tmp_path):
    model = build("mlp", (1, 8, 8), 10, seed=0)
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.view(-1)[0] = float("nan")
    save_weights(model, tmp_path / "w.safetensors", {})
    result = run("simulate", "--model", f"mlp={tmp_path / 'w.safetensors'}", "--at", "eta=0.5")
    assert_refused(result, name)


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--memory", "sram:bits=1"], ["memories[0].bits is 1; allowed: 2 or more"]),
        (["--memory", "sram:bits=17"], ["memories[0].bits is 17; allowed: 16 or less"]),
        (["--at", "eta=1.5"], ["eta is 1.5; allowed: 0 to 1"]),
        (["--at", "eta=nan"], ["the point is 'eta=nan'"]),
        (["--at", "eta"], ["the point is 'eta'"]),
        (
            ["--memory", "flash"],
            ["memories[0] is 'flash'; allowed: sram, dram, edram, crossbar, pcm"],
        ),
        (["--memory", "sram:fault=burn"], ["memories[0].fault is 'burn'; allowed: mask, flip"]),
        (["--place", "store=biases"], ["place.store is 'biases'", "'both'"]),
        (["--memory", "sram:law=nowhere"], ["law is 'nowhere'", "stutz2021-14nm"]),
        (["--memory", "sram:law=nowhere.csv"], ["nowhere.csv cannot be read"]),
        (["--place", "include=nothing*"], ["'nothing*', which matches no tensor"]),
        (["--images", 0], ["data.images is 0"]),
        (["--place", "accesses=missing.csv"], ["missing.csv cannot be read"]),
        (
            ["--memory", "sram:fault_map=correlated,fault_map.row=0.9,fault_map.column=0.9"],
            ["row + column + cluster is 1.8"],
        ),
        (["--memory", "sram:sigma=1e-6"], ["memories[0]: sigma is not a field; allowed: label"]),
        (["--memory", "crossbar:bits=4"], ["memories[0]: bits is not a field; allowed: label"]),
        (["--memory", "crossbar"], ["points[0] is of eta; allowed: g_max"]),
        (["--memory", "pcm"], ["points[0] is of eta; allowed: seconds"]),
        (["--chips", 0], ["chips is 0"]),
        (["--seed", -1], ["seed is -1"]),
        (["--metric", "f1"], ["'f1' is no metric; allowed: accuracy"]),
        (["--half-width", -1], ["half_width is -1"]),
        (["--plan", "missing.json"], ["--at is given beside --plan"]),
    ],
)
def test_refusals_of_simulate(run, weights, extra, parts):
    result = run("simulate", "--model", f"mlp={weights}", "--at", "eta=0.5", *extra)
    assert_refused(result, *parts)


def test_malformed_table_names_the_line(run, weights, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("v_dd,energy_per_bit_j,bit_error_rate\n0.5,1e-13,1e-2\n0.6,oops,1e-3\n")
    memory = f"sram:law={table},knob=v_dd"
    result = run("simulate", "--model", f"mlp={weights}", "--at", "v_dd=0.5", "--memory", memory)
    assert_refused(result, "t.csv, line 3")


def test_v_dd_outside_the_table(run, weights):
    memory = "sram:law=stutz2021-14nm,knob=v_dd"
    result = run("simulate", "--model", f"mlp={weights}", "--at", "v_dd=0.2", "--memory", memory)
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
    assert_refused(run("simulate", "--model", path, "--at", "eta=0.5"), part)


def test_an_untrained_zoo_network_is_refused(run, tmp_path):
    assert_refused(
        run("simulate", "--model", "mlp", "--at", "eta=0.5"), "untrained", "joulewise train"
    )
    assert_refused(run("compare", "--model", "mlp", "--out", tmp_path / "c"), "untrained")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--out", "w.pt"], ["out is w.pt", ".safetensors"]),
        (["--out", "/no/such/folder/w.safetensors"], ["/no/such/folder"]),
        (["--out", "/proc/w.safetensors"], ["/proc/w.safetensors, where nothing can be written"]),
        (["--epochs", 0], ["training[0].epochs is 0"]),
        (["--lr", "nan"], ["training[0].lr is nan"]),
        (["--precision", "float8"], ["training[0].precision is 'float8'"]),
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
    assert_refused(result, "cannot be used")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_users_model_and_data(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def net():\n    return torch.nn.Linear(4, 3)\n"
        "def data():\n    return torch.randn(20, 4), torch.arange(20) % 3\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["simulate", "--model", "mine.py:net", "--data", "mine:data", "--at", "eta=0.4"]
    code, out, err = run(*arguments, "--chips", 2)
    assert code == 0, err
    assert "20 test samples" in out


def test_a_users_model_that_fails(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Linear(5, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    simulated = run("simulate", "--model", "mine.py:net", "--at", "eta=0.4")
    assert_refused(simulated, "the model fails on inputs of shape (512, 1, 8, 8)")
    trained = run("train", "--model", "mine.py:net", "--out", "w.safetensors")
    assert_refused(trained, "the model fails on inputs of shape (1, 1, 8, 8)")


def test_ctrl_c_exits_130_and_leaves_no_file(tmp_path):
    began, source, out = tmp_path / "began", tmp_path / "mine.py", tmp_path / "w.safetensors"
    # Writes a file in the second step: in the middle of an import (PyTorch's at its first optimizer
    # is late) Python itself ends by the signal, which a shell shows as 130 too.
    source.write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    steps = 0\n"
        "    def forward(self, inputs):\n"
        "        self.steps += self.training\n"
        "        if self.steps == 2:\n"
        f"            open({str(began)!r}, 'w').close()\n"
        "        return super().forward(inputs)\n"
        "def net():\n"
        "    return Net(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "joulewise", "train", "--model", f"{source}:net", "--out", str(out),
         "--epochs", "10000"],
        stderr=subprocess.PIPE, text=True,
        # A suite that runs in the background hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not began.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["began", "mine.py"]
