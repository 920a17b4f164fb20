"""Readers of torchvision and Hugging Face datasets: stand-ins everywhere, the real ones if there.

The stand-ins offer what the readers use, no more. Where the libraries are installed, the same files
are read by them too.
"""

from __future__ import annotations

import importlib
import io
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from joulewise.data import load_data
from joulewise.errors import DataError

GENERATOR = np.random.default_rng(5)
PIXELS = {
    "train": GENERATOR.integers(0, 256, (7, 3, 4), dtype=np.uint8),
    "t10k": GENERATOR.integers(0, 256, (4, 3, 4), dtype=np.uint8),
}
LABELS = {"train": np.array([0, 1, 2, 1, 0, 2, 1]), "t10k": np.array([2, 0, 3, 1])}
COLOURS = GENERATOR.integers(0, 256, (7, 3, 4, 3), dtype=np.uint8)


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder):
    folder.mkdir(parents=True)
    for kind, arrays in (("images-idx3", PIXELS), ("labels-idx1", LABELS)):
        for part, array in arrays.items():
            (folder / f"{part}-{kind}-ubyte").write_bytes(idx_bytes(array))
    return folder


# ---- torchvision


def read_idx(path, dims):
    raw = path.read_bytes()
    magic, *shape = struct.unpack(f">{1 + dims}I", raw[: 4 + 4 * dims])
    assert magic == 0x0800 + dims
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


class MNIST:
    def __init__(self, root, train=True, download=False):
        assert not download
        part = "train" if train else "t10k"
        folder = Path(root) / type(self).__name__ / "raw"
        self.images = read_idx(folder / f"{part}-images-idx3-ubyte", 3)
        self.labels = read_idx(folder / f"{part}-labels-idx1-ubyte", 1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index].numpy()), int(self.labels[index])


class FashionMNIST(MNIST):
    pass


class Colours:
    """Named splits and colour images, as SVHN; one of them with a palette if the root says so."""

    def __init__(self, root, split="train"):
        self.palette = root == "palette"
        self.large = root == "large"
        self.length = {"train": 7, "test": 4}[split]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        image = Image.fromarray(COLOURS[index])
        if self.large and index == 1:
            image = image.resize((9, 9))
        return (image.quantize() if self.palette and index == 0 else image), index % 3


@pytest.fixture
def torchvision(monkeypatch):
    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    for member in (MNIST, FashionMNIST, Colours, read_idx):
        setattr(datasets, member.__name__, member)
    for module in (package, datasets):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def real_torchvision():
    try:
        importlib.import_module("torchvision.datasets")
    except Exception as error:  # a torchvision for another torch raises a RuntimeError
        pytest.skip(f"torchvision is not importable: {error}")


def check_mnist(dataset, name):
    assert (dataset.name, dataset.classes, dataset.flips) == (name, 4, False)
    assert dataset.input_shape == (1, 3, 4)
    for split, part in ((dataset.train, "train"), (dataset.test, "t10k")):
        assert split.inputs.dtype == torch.uint8
        np.testing.assert_array_equal(split.inputs[:, 0].numpy(), PIXELS[part])
        np.testing.assert_array_equal(split.targets.numpy(), LABELS[part])
    (inputs, _), *_ = dataset.train.batches(7)
    assert abs(inputs.mean()) < 1e-5
    assert abs(inputs.std(correction=0) - 1) < 1e-5
    assert dataset.test.mean == dataset.train.mean


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("folder", ["FashionMNIST", "FashionMNIST/raw"])
def test_a_folder_of_torchvision(tmp_path, folder):
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    check_mnist(load_data(str(tmp_path / folder)), "FashionMNIST")


@pytest.mark.usefixtures("torchvision")
def test_the_folder_above_mnist(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    check_mnist(load_data(str(tmp_path)), "MNIST")


@pytest.mark.usefixtures("torchvision")
def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write_mnist(tmp_path / "MNIST" / "raw"))
    check_mnist(load_data("."), "MNIST")


@pytest.mark.usefixtures("real_torchvision")
def test_mnist_by_the_real_torchvision(tmp_path):
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    check_mnist(load_data(str(tmp_path / "FashionMNIST")), "FashionMNIST")
    check_mnist(load_data(f"torchvision:FashionMNIST:{tmp_path}"), "FashionMNIST")


@pytest.mark.usefixtures("torchvision")
def test_a_torchvision_data_set_with_an_argument_train(tmp_path):
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    check_mnist(load_data(f"torchvision:FashionMNIST:{tmp_path}"), "FashionMNIST")


@pytest.mark.usefixtures("torchvision")
def test_a_torchvision_data_set_with_an_argument_split():
    dataset = load_data("torchvision:Colours:anywhere")
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (7, 4, 3)
    np.testing.assert_array_equal(dataset.train.inputs.numpy(), COLOURS.transpose(0, 3, 1, 2))
    (inputs, _), *_ = dataset.train.batches(7)
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.usefixtures("torchvision")
def test_an_image_with_a_palette_becomes_colours():
    dataset = load_data("torchvision:Colours:palette")
    expected = torch.from_numpy(COLOURS[0].transpose(2, 0, 1).copy())
    assert torch.equal(dataset.train.inputs[0], expected)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:Colours:large", "image shapes in Colours is 2; allowed: one shape"),
        (
            "torchvision:read_idx:x",
            "torchvision data set is 'read_idx'; allowed: a class .* train or split",
        ),
        ("torchvision:Nowhere:x", "torchvision data set is 'Nowhere'; allowed: a class"),
        ("torchvision:FashionMNIST:x", "torchvision's FashionMNIST in x cannot be read .*FileNot"),
        ("torchvision:FashionMNIST", "the data source is .*; allowed: .*torchvision:NAME:FOLDER"),
        ("torchvision::x", "the data source is"),
    ],
)
def test_what_torchvision_cannot_give_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        load_data(source)


@pytest.mark.usefixtures("torchvision")
def test_a_broken_file_is_refused(tmp_path):
    path = write_mnist(tmp_path / "MNIST" / "raw") / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="torchvision's MNIST in .* cannot be read .ValueError"):
        load_data(str(tmp_path))


@pytest.mark.usefixtures("real_torchvision")
def test_a_missing_file_is_refused_by_the_real_torchvision(tmp_path):
    (write_mnist(tmp_path / "MNIST" / "raw") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="torchvision's MNIST in .* cannot be read .RuntimeError"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("error", [ImportError("not there"), RuntimeError("no operator nms")])
def test_without_torchvision_the_refusal_gives_the_command(tmp_path, monkeypatch, error):
    def fail(name):
        raise error

    write_mnist(tmp_path / "MNIST" / "raw")
    monkeypatch.setattr(importlib, "import_module", fail)
    for source in (str(tmp_path), f"torchvision:MNIST:{tmp_path}"):
        with pytest.raises(DataError, match=f"{error}.*; allowed: .*pip install torchvision"):
            load_data(source)


# ---- Hugging Face datasets


class Column:
    """A feature type."""


class Rows:
    def __init__(self, rows, features):
        self.rows, self.features = rows, features

    def __iter__(self):
        return iter(self.rows)


@pytest.fixture
def huggingface(monkeypatch):
    """A library whose data sets are set by the test, as ``{name: {split: rows}}``."""
    library = ModuleType("datasets")
    library.Image = type("Image", (Column,), {})
    library.ClassLabel = type("ClassLabel", (Column,), {"num_classes": 5})
    library.known = {}
    library.features = {"id": Column(), "img": library.Image(), "fine": library.ClassLabel()}
    library.load_dataset = lambda name: {
        part: Rows(rows, library.features) for part, rows in library.known[name].items()
    }
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


ROWS = [{"id": i, "img": Image.fromarray(c), "fine": i % 3} for i, c in enumerate(COLOURS)]


def test_a_hugging_face_data_set(huggingface):
    huggingface.known["someone/colours"] = {"train": ROWS, "test": ROWS[:2], "extra": []}
    dataset = load_data("huggingface:someone/colours")
    assert (dataset.name, dataset.classes, dataset.flips) == ("someone/colours", 5, False)
    assert (len(dataset.train), len(dataset.test)) == (7, 2)
    np.testing.assert_array_equal(dataset.train.inputs.numpy(), COLOURS.transpose(0, 3, 1, 2))
    assert dataset.train.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_hugging_face_data_set_without_training_images(huggingface):
    huggingface.known["x"] = {"test": ROWS}
    assert load_data("huggingface:x").train is None


def test_what_hugging_face_cannot_give_is_refused(huggingface):
    huggingface.known = {"a": {"train": ROWS, "valid": ROWS}, "b": {"test": ROWS}}
    with pytest.raises(DataError, match="Hugging Face's a is with the splits train, valid"):
        load_data("huggingface:a")
    huggingface.features = {"text": Column()}
    with pytest.raises(DataError, match="with the columns text; allowed: a column of images"):
        load_data("huggingface:b")
    with pytest.raises(DataError, match="Hugging Face's c cannot be read .KeyError.*; allowed:"):
        load_data("huggingface:c")


def test_without_hugging_face_the_refusal_gives_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="datasets is not importable .*pip install datasets pillow"):
        load_data("huggingface:ylecun/mnist")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_folder_of_parquet_by_the_real_hugging_face(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=5)}
    for part, count in (("train", 7), ("test", 4)):
        rows = {"image": [{"bytes": png(c), "path": None} for c in COLOURS[:count]]}
        rows["label"] = [index % 3 for index in range(count)]
        whole = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        whole.to_parquet(tmp_path / "data" / f"{part}.parquet")
    dataset = load_data(f"huggingface:{tmp_path / 'data'}")
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (7, 4, 5)
    np.testing.assert_array_equal(dataset.train.inputs.numpy(), COLOURS.transpose(0, 3, 1, 2))
