"""CIFAR-10 on disk as binary records, pickles or Parquet.

References:
    A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. File formats:
    https://www.cs.toronto.edu/~kriz/cifar.html, sections "Python" and "Binary version".
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_RECORD_BYTES = 1 + _IMAGE_BYTES  # the label, then the pixels channel by channel

LOOKED_FOR = (
    "CIFAR-10 as data_batch_1.bin ... test_batch.bin (also in cifar-10-batches-bin), as "
    "data_batch_1 ... test_batch (also in cifar-10-batches-py), or as .parquet files named "
    "train and test (also in a subfolder)"
)

# Pixels [record, 3,072] and labels [record].
Records = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files of CIFAR-10 in one layout, and their reader.

    Args:
        name: Name in messages.
        train: Files of the training set, in order.
        test: Files of the test set, in order.
        read: Reader of one file.
    """

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
    return (
        _find_batches(root, "cifar-10-batches-bin", suffix=".bin", read=_read_binary)
        or _find_batches(root, "cifar-10-batches-py", suffix="", read=_read_pickled)
        or _find_parquet(root)
    )


def _find_batches(
    root: Path, name: str, *, suffix: str, read: Callable[[Path], Records]
) -> Layout | None:
    train_names = [f"data_batch_{index}{suffix}" for index in range(1, 6)]
    test_name = f"test_batch{suffix}"
    for folder in (root, root / name):
        train = tuple(folder / train_name for train_name in train_names)
        test = (folder / test_name,)
        if any(path.is_file() for path in train + test):
            return Layout(name=name, train=train, test=test, read=read)
    return None


def _find_parquet(root: Path) -> Layout | None:
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        files = sorted(folder.glob("*.parquet"))
        train = tuple(path for path in files if "train" in path.name)
        test = tuple(path for path in files if "test" in path.name)
        if train or test:
            # A placeholder for an absent split, so that it is reported like any missing file.
            return Layout(
                name="Parquet",
                train=train or (folder / "train.parquet",),
                test=test or (folder / "test.parquet",),
                read=_read_parquet,
            )
    return None


def _read_split(layout: Layout, paths: tuple[Path, ...]) -> Split:
    for path in paths:
        if not path.is_file():
            allowed = f"a complete copy of the {layout.name} layout, training and test files"
            refuse(str(path), "missing", allowed, error=DataError)
    records = [_checked(path, layout.read(path)) for path in paths]
    pixels = np.concatenate([pixels for pixels, _ in records]).reshape(-1, *_IMAGE_SHAPE)
    targets = np.concatenate([labels for _, labels in records])
    return Split(
        inputs=torch.from_numpy(pixels), targets=torch.from_numpy(targets), mean=_MEAN, std=_STD
    )


def _checked(path: Path, records: Records) -> Records:
    pixels, labels = records
    if len(labels) == 0:
        refuse(str(path), "without records", "at least one record", error=DataError)
    if len(pixels) != len(labels):
        allowed = f"{len(pixels)}, one per image"
        refuse(f"the number of labels in {path}", len(labels), allowed, error=DataError)
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < _CLASSES:
            refuse(f"a label in {path}", label, f"0 to {_CLASSES - 1}", error=DataError)
    return pixels, labels


def _read_binary(path: Path) -> Records:
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); allowed: a readable file") from error
    if raw.size % _RECORD_BYTES:
        allowed = f"whole records of {_RECORD_BYTES:,} bytes; fetch or unpack it again"
        refuse(str(path), f"{raw.size:,} bytes long", allowed, error=DataError)
    records = raw.reshape(-1, _RECORD_BYTES)
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
            f'{path} needs two more packages; install them with: pip install "joulewise[parquet]"'
        ) from error
    try:
        table = parquet.read_table(path, columns=["img", "label"])
        encoded = [image["bytes"] for image in table["img"].to_pylist()]
        labels = np.asarray(table["label"].to_pylist(), dtype=np.int64)
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        allowed = "Parquet with columns img (a struct with the bytes of a PNG) and label"
        raise DataError(f"{path} cannot be read ({reason}); allowed: {allowed}") from error
    return _stacked(path, images), labels


def _stacked(path: Path, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    _, height, width = _IMAGE_SHAPE
    for image in images:
        if image.shape != (height, width, 3):
            found = f"{image.shape[1]} x {image.shape[0]} pixels large"
            refuse(f"an image in {path}", found, f"{width} x {height} pixels", error=DataError)
    pixels = np.asarray(images, dtype=np.uint8).reshape(-1, height, width, 3)
    return pixels.transpose(0, 3, 1, 2).reshape(-1, _IMAGE_BYTES)
