"""CIFAR-10 on disk as binary records, pickles or Parquet.

References:
    A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. File formats:
    https://www.cs.toronto.edu/~kriz/cifar.html, sections "Python" and "Binary version".
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from joulewise.data.dataset import Dataset, Split
from joulewise.data.safe_pickle import read_pickle
from joulewise.errors import DataError, check_kind, refuse

__all__ = ["Layout", "find_layout", "load_cifar10"]

# Mean and standard deviation of each channel over the 50,000 training images.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)
_CLASSES = 10
_IMAGE_SHAPE = (3, 32, 32)
_IMAGE_BYTES = 3 * 32 * 32

LOOKED_FOR = (
    "CIFAR-10 as data_batch_1.bin ... test_batch.bin (also in cifar-10-batches-bin), as "
    "data_batch_1 ... test_batch (also in cifar-10-batches-py), or as .parquet files named "
    "train and test (also in a subfolder)"
)

# Pixels [record, 3,072] and labels [record].
Records = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Layout(NamedTuple):
    """Files of CIFAR-10 in one layout, and the reader of a file."""

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    read: Callable[[Path], Records]


def load_cifar10(folder: str | Path) -> Dataset:
    """CIFAR-10, or part of it in the same layout, normalised with its published statistics.

    Args:
        folder: The folder of the layout (``cifar-10-batches-bin``, ``cifar-10-batches-py``, or
            one with Parquet files), or the folder above it.

    Returns:
        uint8 inputs [sample, 3, 32, 32] in ten classes. A missing folder, an unknown layout, a
        truncated file and labels out of range are refused with a ``DataError``.
    """
    check_kind("the folder", folder, (str, Path), "a path", DataError)
    root = Path(folder)
    if not root.is_dir():
        refuse(f"the folder {root}", "missing", "a folder; unpack archives first", error=DataError)
    layout = find_layout(root)
    if layout is None:
        refuse(f"the folder {root}", "without a known layout", LOOKED_FOR, error=DataError)
    train, test = (_read_split(layout, paths) for paths in (layout.train, layout.test))
    return Dataset(name="cifar10", train=train, test=test, classes=_CLASSES, flips=True)


def find_layout(root: Path) -> Layout | None:
    """First layout of CIFAR-10 at or below ``root``, with files unread and perhaps missing."""
    for name, suffix, read in (
        ("cifar-10-batches-bin", ".bin", _read_binary),
        ("cifar-10-batches-py", "", _read_pickled),
    ):
        for folder in (root, root / name):
            train = tuple(folder / f"data_batch_{index}{suffix}" for index in range(1, 6))
            test = folder / f"test_batch{suffix}"
            if any(path.is_file() for path in (*train, test)):
                return Layout(name, train, (test,), read)
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        files = sorted(folder.glob("*.parquet"))
        found = {
            split: tuple(path for path in files if split in path.name)
            # A placeholder for an absent split, so that it is reported like any missing file.
            or (folder / f"{split}.parquet",)
            for split in ("train", "test")
        }
        if any(path in files for paths in found.values() for path in paths):
            return Layout("Parquet", found["train"], found["test"], _read_parquet)
    return None


def _read_split(layout: Layout, paths: tuple[Path, ...]) -> Split:
    for path in paths:
        if not path.is_file():
            allowed = f"a complete copy of the {layout.name} layout, training and test files"
            refuse(str(path), "missing", allowed, error=DataError)
    records = [(path, *layout.read(path)) for path in paths]
    for path, pixels, labels in records:
        if len(labels) == 0:
            refuse(str(path), "without records", "at least one record", error=DataError)
        if len(pixels) != len(labels):
            allowed = f"{len(pixels)}, one per image"
            refuse(f"the number of labels in {path}", len(labels), allowed, error=DataError)
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label < _CLASSES:
                refuse(f"a label in {path}", label, f"0 to {_CLASSES - 1}", error=DataError)
    inputs = np.concatenate([pixels for _, pixels, _ in records]).reshape(-1, *_IMAGE_SHAPE)
    targets = torch.from_numpy(np.concatenate([labels for *_, labels in records]))
    return Split(inputs=torch.from_numpy(inputs), targets=targets, mean=_MEAN, std=_STD)


def _read_binary(path: Path) -> Records:
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); allowed: a readable file") from error
    size = 1 + _IMAGE_BYTES  # the label, then the pixels channel by channel
    if raw.size % size:
        allowed = f"whole records of {size:,} bytes; fetch or unpack it again"
        refuse(str(path), f"{raw.size:,} bytes long", allowed, error=DataError)
    records = raw.reshape(-1, size)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_pickled(path: Path) -> Records:
    batch = read_pickle(path)
    if not isinstance(batch, dict):
        allowed = "a dict with data and labels"
        refuse(f"the pickle in {path}", f"a {type(batch).__name__}", allowed, error=DataError)
    pixels, labels = (_field(batch, name) for name in ("data", "labels"))
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _IMAGE_BYTES:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        allowed = f"uint8 of shape (records, {_IMAGE_BYTES:,})"
        refuse(f"data in {path}", found, allowed, error=DataError)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        found = f"{labels.dtype} of shape {labels.shape}"
        refuse(f"labels in {path}", found, "a list of whole numbers", error=DataError)
    return pixels, labels.astype(np.int64)


def _field(batch: dict[Any, Any], name: str) -> NDArray[Any]:
    # Bytes in the official files, which Python 2 wrote; text in copies saved again since.
    try:
        return np.asarray(batch.get(name.encode(), batch.get(name)))
    except ValueError:  # a ragged list
        return np.asarray(None)


def _read_parquet(path: Path) -> Records:
    try:
        import pyarrow.parquet as parquet
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f'{path} needs two more packages; install them with: pip install "joulewise[frames]"'
        ) from error
    try:
        rows = parquet.read_table(path, columns=["img", "label"]).to_pylist()
        images = [Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB") for row in rows]
        labels = np.asarray([row["label"] for row in rows], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        allowed = "Parquet with columns img (a struct with the bytes of a PNG) and label"
        raise DataError(f"{path} cannot be read ({reason}); allowed: {allowed}") from error
    for image in images:
        if image.size != _IMAGE_SHAPE[1:]:
            found = f"{image.width} x {image.height} pixels large"
            refuse(f"an image in {path}", found, "32 x 32 pixels", error=DataError)
    pixels = np.asarray([np.asarray(image).transpose(2, 0, 1) for image in images], dtype=np.uint8)
    return pixels.reshape(-1, _IMAGE_BYTES), labels
