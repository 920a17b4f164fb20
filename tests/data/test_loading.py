from __future__ import annotations

import random
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from joulewise.data import load_data
from joulewise.errors import DataError


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Write a user's file into the current directory; the source names its function ``data``."""
    monkeypatch.chdir(tmp_path)

    def write(body, name="my_data.py"):
        code = "import numpy as np\nimport torch\n\n\ndef data():\n" + textwrap.indent(body, "    ")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return f"{name}:data"

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write_cifar10(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        (folder / f"{name}.bin").write_bytes(bytes(3073))


def test_digits():
    assert load_data("digits").name == "digits"


def test_folders_are_recognised(tmp_path):
    write_cifar10(tmp_path / "a" / "cifar-10-batches-bin")
    assert load_data(str(tmp_path / "a")).name == "cifar10"


def test_cifar10_of_torchvision_is_read_without_it(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    dataset = load_data(f"torchvision:CIFAR10:{tmp_path}")
    assert (dataset.name, dataset.flips) == ("cifar10", True)


def test_folder_with_both_is_refused(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match="with both .*; allowed: one kind; name its own folder"):
        load_data(str(tmp_path))


def test_folder_with_neither_is_refused(tmp_path):
    with pytest.raises(DataError, match="without a known layout; allowed: CIFAR-10 .*MNIST/raw"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("source", ["", "cifar", "no/such/folder", ":data", "module:", "a:b c"])
def test_unknown_source_lists_what_is_allowed(source):
    allowed = "digits, a folder .*, package.module:function, or path/to/file.py:function"
    with pytest.raises(DataError, match=f"the data source is '{source}'; allowed: {allowed}"):
        load_data(source)


def test_missing_file(user):
    with pytest.raises(DataError, match="the file nowhere.py is missing"):
        load_data("nowhere.py:data")


def test_function_that_makes_a_dataset(user):
    source = user(
        "from joulewise.data import Dataset, Split\n"
        "split = Split(inputs=torch.zeros(2, 3), targets=torch.tensor([0, 1]))\n"
        "return Dataset(name='mine', train=None, test=split, classes=7, flips=True)\n"
    )
    dataset = load_data(source)
    assert (dataset.name, dataset.classes, dataset.flips) == ("mine", 7, True)


@pytest.mark.parametrize(
    "body",
    [
        "return torch.ones(4, 3), torch.tensor([0, 1, 2, 1])",
        "return [torch.ones(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 1]).int()]",
        "return np.ones((4, 3)), np.array([0, 1, 2, 1], dtype=np.uint8)",
        "return np.broadcast_to(np.float32(1), (4, 3)), torch.tensor([0, 1, 2, 1])",
        "return [(torch.ones(2, 3), torch.tensor([0, 1])), (torch.ones(2, 3), [2, 1])][:1] + [\n"
        "    [np.ones((2, 3)), np.array([2, 1])]]",
        "for pair in ((0, 1), (2, 1)):\n    yield torch.ones(2, 3), torch.tensor(pair)",
        "return torch.utils.data.TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 2, 1]))",
        "pairs = torch.utils.data.TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 2, 1]))\n"
        "return torch.utils.data.DataLoader(pairs, batch_size=3)",
    ],
)
def test_all_forms_of_a_test_split(user, body):
    source = user(body)
    dataset = load_data(source)
    assert (dataset.name, dataset.train, dataset.classes) == (source, None, 3)
    assert dataset.flips is False
    assert torch.equal(dataset.test.inputs, torch.ones(4, 3))
    assert dataset.test.targets.tolist() == [0, 1, 2, 1]
    assert not dataset.test.inputs.requires_grad


def test_two_pairs_are_training_and_test(user):
    pair = "(np.zeros(({0}, 1, 4, 4), np.uint8), np.arange({0}))"
    dataset = load_data(user(f"return {pair.format(5)}, {pair.format(3)}"))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (5, 3, 5)
    assert dataset.test.inputs.dtype == torch.uint8


def test_a_double_tensor_stays_double(user):
    dataset = load_data(user("return torch.ones(1, 3).double(), torch.tensor([0])"))
    assert dataset.test.inputs.dtype == torch.float64


def test_torch_datasets_leave_the_global_generator_alone(user):
    source = user("return torch.utils.data.TensorDataset(torch.ones(4, 3), torch.arange(4))")
    state = torch.get_rng_state()
    load_data(source)
    assert torch.equal(state, torch.get_rng_state())


def test_modules_of_the_current_directory_can_be_imported(user):
    user("return torch.ones(1, 3), torch.tensor([0])", name="jw_pack/inner.py")
    user("from jw_pack.inner import data\nreturn data()", name="jw_outer.py")
    path = list(sys.path)
    assert len(load_data("jw_pack.inner:data").test) == 1
    assert len(load_data("jw_outer.py:data").test) == 1
    assert sys.path == path


def test_a_file_may_be_called_as_a_library_and_hold_dataclasses(user):
    source = user("return torch.ones(1, 3), torch.tensor([0])", name="folder/random.py")
    with Path("folder/random.py").open("a") as file:
        file.write("\nimport dataclasses\n\n@dataclasses.dataclass\nclass Point:\n    x: 'int'\n")
    assert len(load_data(source).test) == 1
    assert not hasattr(random, "Point")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('first\\nsecond')", "raised RuntimeError: first second; allowed: a"),
        ("return 1 / 0", "raised ZeroDivisionError"),
        ("raise SystemExit('usage')", "raised SystemExit: usage"),
        ("import no_such_module", "raised ModuleNotFoundError"),
        ("return [np.array([object()]), np.array([0])]", "raised TypeError"),
    ],
)
def test_what_user_code_raises_becomes_a_sentence(user, body, message):
    with pytest.raises(DataError, match=message) as refusal:
        load_data(user(body))
    assert refusal.value.__cause__ is not None
    assert "\n" not in str(refusal.value)


def test_a_refusal_inside_user_code_stays_as_it_is(user):
    source = user("from joulewise.data import load_cifar10\nreturn load_cifar10('nowhere')")
    with pytest.raises(DataError, match="^the folder nowhere is missing"):
        load_data(source)


def test_missing_function_and_module(user):
    source = user("return None")
    with pytest.raises(DataError, match="raised AttributeError: .*'other'"):
        load_data(source.replace(":data", ":other"))
    with pytest.raises(DataError, match="raised ModuleNotFoundError"):
        load_data("no_such_package.module:data")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return None",
            "the value that my_data.py:data returns is a NoneType; allowed: a joulewise Dataset",
        ),
        ("return torch.ones(3)", "the value that my_data.py:data returns is a Tensor"),
        (
            "return []",
            "the value that my_data.py:data returns is empty; allowed: at least one batch",
        ),
        ("return ['text']", "a batch of my_data.py:data is a str; allowed: a pair"),
        ("return torch.ones(2, 3), torch.ones(2)", "the dtype of targets is torch.float32"),
        ("return torch.ones(2, 3), torch.tensor([0])", r"the shape of targets is \[1\]"),
        ("return np.ones((2, 3), int), torch.tensor([0, 1])", "the dtype of inputs is torch.int64"),
    ],
)
def test_what_cannot_be_used_is_refused(user, body, message):
    with pytest.raises(DataError, match=message):
        load_data(user(body))
