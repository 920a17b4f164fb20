from __future__ import annotations

import io
import os
import pickle
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from joulewise.data import load_cifar10
from joulewise.errors import DataError

NAMES = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
RECORDS = {
    name: (
        np.random.default_rng(index).integers(0, 256, (3, 3072), dtype=np.uint8),
        np.array([index, 9, 0]),
    )
    for index, name in enumerate(NAMES)
}
TRAIN, TEST = (
    tuple(np.concatenate(parts) for parts in zip(*(RECORDS[name] for name in names), strict=True))
    for names in (NAMES[:5], NAMES[5:])
)


def write_binary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in RECORDS.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_pickle(path, batch, protocol=2):
    path.write_bytes(pickle.dumps(batch, protocol=protocol))


def write_pickles(folder, encode=str.encode):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in RECORDS.items():
        batch = {encode("data"): pixels, encode("labels"): labels.tolist()}
        write_pickle(folder / name, batch | {encode("batch_label"): encode(name)})
    return folder


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_table(path, pixels, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"bytes": png(image.reshape(3, 32, 32).transpose(1, 2, 0)), "path": None}
        for image in pixels
    ]
    table = pyarrow.table({"img": images, "label": pyarrow.array(labels, pyarrow.int64())})
    pyarrow.parquet.write_table(table, path)


def write_parquet(folder):
    write_table(folder / "train-00000-of-00002.parquet", TRAIN[0][:8], TRAIN[1][:8])
    write_table(folder / "train-00001-of-00002.parquet", TRAIN[0][8:], TRAIN[1][8:])
    write_table(folder / "test-00000-of-00001.parquet", *TEST)
    return folder


def write_text_pickles(folder):
    return write_pickles(folder, encode=str)


@pytest.mark.parametrize(
    ("write", "below"),
    [
        (write_binary, "."),
        (write_binary, "cifar-10-batches-bin"),
        (write_pickles, "."),
        (write_pickles, "cifar-10-batches-py"),
        (write_text_pickles, "."),
        (write_parquet, "."),
        (write_parquet, "plain_text"),
        (write_parquet, "data"),
    ],
)
def test_every_layout_gives_the_same(tmp_path, write, below):
    write(tmp_path / below)
    dataset = load_cifar10(str(tmp_path))
    assert (dataset.name, dataset.classes, dataset.flips) == ("cifar10", 10, True)
    assert dataset.input_shape == (3, 32, 32)
    for split, (pixels, labels) in ((dataset.train, TRAIN), (dataset.test, TEST)):
        assert split.inputs.dtype == torch.uint8
        assert split.mean == (0.4914, 0.4822, 0.4465)
        assert split.std == (0.2470, 0.2435, 0.2616)
        np.testing.assert_array_equal(split.inputs.flatten(1).numpy(), pixels)
        np.testing.assert_array_equal(split.targets.numpy(), labels)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere is missing; allowed: a folder"):
        load_cifar10(tmp_path / "nowhere")


def test_unknown_layout_says_what_was_looked_for(tmp_path):
    message = "without a known layout; .*data_batch_1.bin .*cifar-10-batches-py.*parquet"
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_binary, "data_batch_3.bin"),
        (write_binary, "test_batch.bin"),
        (write_pickles, "data_batch_5"),
        (write_parquet, "test-00000-of-00001.parquet"),
    ],
)
def test_missing_file_is_named(tmp_path, write, name):
    (write(tmp_path) / name).unlink()
    named = "test.parquet" if write is write_parquet else name
    with pytest.raises(DataError, match=f"{named} is missing; allowed: a complete copy"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (bytes(9000), "test_batch.bin is 9,000 bytes long; allowed: whole records of 3,073 bytes"),
        (b"", "test_batch.bin is without records"),
        (b"\x0a" + bytes(3072), "a label in .*test_batch.bin is 10; allowed: 0 to 9"),
    ],
)
def test_broken_binary_is_refused(tmp_path, raw, message):
    (write_binary(tmp_path) / "test_batch.bin").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path)


def test_unreadable_binary_is_refused(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError("Permission denied")

    write_binary(tmp_path)
    monkeypatch.setattr(np, "fromfile", forbidden)
    with pytest.raises(DataError, match="data_batch_1.bin cannot be read .Permission denied"):
        load_cifar10(tmp_path)


PIXELS, LABELS = RECORDS["test_batch"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "the pickle in .*test_batch is a list; allowed: a dict with data and labels"),
        ({b"labels": [1]}, "data in .*test_batch is object of shape"),
        ({b"data": PIXELS}, "labels in .*test_batch is object of shape"),
        ({b"data": PIXELS[:, :9], b"labels": [1]}, r"data in .*test_batch is uint8 of .*\(3, 9\)"),
        ({b"data": PIXELS.astype(float), b"labels": [1]}, "data in .*test_batch is float64"),
        ({b"data": PIXELS, b"labels": [1, 2.5, 3]}, "labels in .*test_batch is float64"),
        ({b"data": PIXELS, b"labels": [[1], [2, 3], 4]}, "labels in .*test_batch is object"),
        ({b"data": PIXELS, b"labels": [1]}, "number of labels in .*test_batch is 1; allowed: 3"),
        ({b"data": PIXELS, b"labels": [1, 2, -1]}, "a label in .*test_batch is -1"),
        ({b"data": PIXELS[:0], b"labels": []}, "test_batch is without records"),
    ],
)
def test_broken_pickle_is_refused(tmp_path, batch, message):
    write_pickle(write_pickles(tmp_path) / "test_batch", batch, protocol=4)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path)


def test_truncated_pickle_is_refused(tmp_path):
    path = write_pickles(tmp_path) / "test_batch"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="test_batch cannot be read"):
        load_cifar10(tmp_path)


def test_pickle_that_asks_to_run_something_is_refused(tmp_path):
    write_pickle(write_pickles(tmp_path) / "test_batch", {b"data": print})
    with pytest.raises(DataError, match="test_batch asks to run __builtin__.print"):
        load_cifar10(tmp_path)


def parquet_columns(**columns):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"not Parquet", "cannot be read"),
        (parquet_columns(pixels=[1], label=[1]), "cannot be read .*allowed: Parquet with columns"),
        (parquet_columns(img=[1], label=[1]), "cannot be read"),
        (parquet_columns(img=[{"bytes": None}], label=[1]), "cannot be read"),
        (parquet_columns(img=[{"bytes": b"no PNG"}], label=[1]), "cannot be read"),
        (
            parquet_columns(img=[{"bytes": png(np.zeros((32, 32, 3), np.uint8))}], label=["ship"]),
            "cannot be read",
        ),
        (
            parquet_columns(img=[{"bytes": png(np.zeros((8, 9, 3), np.uint8))}], label=[1]),
            "an image in .* is 9 x 8 pixels large; allowed: 32 x 32 pixels",
        ),
        (
            parquet_columns(img=[{"bytes": png(np.zeros((32, 32, 3), np.uint8))}], label=[10]),
            "a label in .* is 10",
        ),
    ],
)
def test_broken_parquet_is_refused(tmp_path, raw, message):
    (write_parquet(tmp_path) / "test-00000-of-00001.parquet").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("absent", ["pyarrow.parquet", "PIL"])
def test_absent_extra_is_refused_with_the_command(tmp_path, monkeypatch, absent):
    write_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DataError, match=r'pip install "joulewise\[frames\]"'):
        load_cifar10(tmp_path)


@pytest.mark.cifar
@pytest.mark.skipif(
    "JOULEWISE_CIFAR10" not in os.environ, reason="set JOULEWISE_CIFAR10 to a folder with CIFAR-10"
)
def test_the_real_one():
    dataset = load_cifar10(os.environ["JOULEWISE_CIFAR10"])
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert dataset.train.targets.bincount().tolist() == [5000] * 10
    # Channel by channel, because all pixels in double precision would take 1.2 GB.
    for channel in range(3):
        pixels = dataset.train.inputs[:, channel].numpy()
        assert abs(pixels.mean() / 255 - dataset.train.mean[channel]) < 1e-3
        assert abs(pixels.std() / 255 - dataset.train.std[channel]) < 1e-3
