from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from joulewise.data import load_idx
from joulewise.errors import DataError

GENERATOR = np.random.default_rng(5)
PIXELS = {
    "train": GENERATOR.integers(0, 256, (7, 3, 4), dtype=np.uint8),
    "t10k": GENERATOR.integers(0, 256, (4, 3, 4), dtype=np.uint8),
}
LABELS = {"train": np.array([0, 1, 2, 1, 0, 2, 1]), "t10k": np.array([2, 0, 3, 1])}


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, name="{part}-{kind}-idx{dims}-ubyte"):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, dims, arrays in (("images", 3, PIXELS), ("labels", 1, LABELS)):
        for part, array in arrays.items():
            path = folder / name.format(part=part, kind=kind, dims=dims)
            raw = idx_bytes(array)
            path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return folder


@pytest.mark.parametrize("below", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("name", ["{part}-{kind}-idx{dims}-ubyte", "{part}-{kind}.idx{dims}-ubyte"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_all_places_and_spellings(tmp_path, below, name, end):
    write_idx(tmp_path / "MyData" / below, name + end)
    dataset = load_idx(tmp_path / "MyData")
    assert (dataset.name, dataset.classes, dataset.flips) == (
        "MNIST" if "MNIST" in below else "MyData",
        4,
        False,
    )
    assert dataset.input_shape == (1, 3, 4)
    for split, part in ((dataset.train, "train"), (dataset.test, "t10k")):
        np.testing.assert_array_equal(split.inputs[:, 0].numpy(), PIXELS[part])
        np.testing.assert_array_equal(split.targets.numpy(), LABELS[part])


def test_training_pixels_come_out_standardised(tmp_path):
    dataset = load_idx(str(write_idx(tmp_path)))
    (inputs, _), *_ = dataset.train.batches(7)
    assert abs(inputs.mean()) < 1e-5
    assert abs(inputs.std(correction=0) - 1) < 1e-5
    assert dataset.test.mean == dataset.train.mean
    assert dataset.train.inputs.dtype == torch.uint8


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("train-images-idx3-ubyte", b"\0\0", "is 2 bytes long; allowed: at least a header of 16"),
        (
            "train-images-idx3-ubyte",
            idx_bytes(PIXELS["train"])[:-1],
            "is 99 bytes long; allowed: 100 bytes for the 7 x 3 x 4 that its header states",
        ),
        (
            "t10k-images-idx3-ubyte",
            idx_bytes(PIXELS["t10k"]) + b"x",
            "is 65 bytes long; allowed: 64 bytes",
        ),
        (
            "t10k-labels-idx1-ubyte",
            idx_bytes(PIXELS["t10k"]),
            "magic number of .*t10k-labels-idx1-ubyte is 0x00000803; allowed: 0x00000801",
        ),
        (
            "train-labels-idx1-ubyte",
            idx_bytes(LABELS["t10k"]),
            "the number of train labels in .* is 4; allowed: 7, one for each image",
        ),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((0, 3, 4))), "is without records"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, raw, message):
    (write_idx(tmp_path) / name).write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_idx(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 30])
def test_truncated_gzip_is_refused(tmp_path, keep):
    path = write_idx(tmp_path, "{part}-{kind}-idx{dims}-ubyte.gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        load_idx(tmp_path)


def test_garbled_gzip_is_refused(tmp_path):
    path = write_idx(tmp_path, "{part}-{kind}-idx{dims}-ubyte.gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:10] + b"\xff" * 40)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load_idx(tmp_path)


def test_missing_file_is_named(tmp_path):
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing; allowed: IDX files"):
        load_idx(tmp_path)


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_folder_without_idx_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="is without IDX files; allowed: IDX files"):
        load_idx(tmp_path / name)
