"""Folders in the IDX format of MNIST, which Fashion-MNIST, KMNIST and EMNIST share.

References:
    Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File
    formats": a big-endian magic number (0x08 for unsigned bytes, then the number of dimensions),
    one 32-bit length per dimension, then the bytes in row-major order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from joulewise.data.dataset import Dataset, Split
from joulewise.errors import DataError, refuse

__all__ = ["find_idx", "load_idx"]

LOOKED_FOR = (
    "IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    "t10k-labels-idx1-ubyte, each possibly .gz, in the folder, raw or MNIST/raw)"
)
_UNSIGNED_BYTE = 0x0800


def load_idx(folder: str | Path) -> Dataset:
    """A data set in MNIST's format, with the mean and standard deviation of its training pixels.

    A folder without the four files, and a file that is not what its name says, are refused with
    a ``DataError``.

    Args:
        folder: Where the four files are, or torchvision's folder with ``MNIST/raw`` or ``raw``.

    Returns:
        uint8 inputs [sample, 1, height, width]; as many classes as the largest label demands.
    """
    found = find_idx(Path(folder))
    if found is None:
        refuse(f"the folder {folder}", "without IDX files", LOOKED_FOR, error=DataError)
    train_images, train_labels = _read_pair(found, "train")
    test_images, test_labels = _read_pair(found, "t10k")
    mean, std = _statistics(train_images)
    train, test = (
        Split(
            inputs=torch.from_numpy(images[:, None].copy()),
            targets=torch.from_numpy(labels.astype(np.int64)),
            mean=(mean,),
            std=(std,),
        )
        for images, labels in ((train_images, train_labels), (test_images, test_labels))
    )
    classes = 1 + max(int(train_labels.max()), int(test_labels.max()))
    return Dataset(name=_name(found), train=train, test=test, classes=classes, flips=False)


def find_idx(root: Path) -> Path | None:
    """The folder at or below ``root`` that holds IDX files, if there is one.

    Args:
        root: Where to look.

    Returns:
        ``root`` itself, its ``raw``, its ``MNIST/raw``, or ``None``.
    """
    for folder in (root, root / "raw", root / "MNIST" / "raw"):
        if _find_file(folder, "train-images", 3) or _find_file(folder, "t10k-images", 3):
            return folder
    return None


def _find_file(folder: Path, stem: str, dims: int) -> Path | None:
    for name in (f"{stem}-idx{dims}-ubyte", f"{stem}.idx{dims}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _read_pair(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = _read_array(folder, f"{part}-images", 3)
    labels = _read_array(folder, f"{part}-labels", 1)
    if len(images) != len(labels):
        allowed = f"{len(images)}, one for each image"
        refuse(f"the number of {part} labels in {folder}", len(labels), allowed, error=DataError)
    return images, labels


def _read_array(folder: Path, stem: str, dims: int) -> NDArray[np.uint8]:
    path = _find_file(folder, stem, dims)
    if path is None:
        refuse(f"{folder / stem}-idx{dims}-ubyte", "missing", LOOKED_FOR, error=DataError)
    raw = _read_bytes(path)
    shape = _read_header(path, raw, dims)
    start = 4 + 4 * dims
    if len(raw) != start + math.prod(shape):
        dimensions = " x ".join(str(length) for length in shape)
        allowed = f"{start + math.prod(shape):,} bytes for the {dimensions} that its header states"
        refuse(str(path), f"{len(raw):,} bytes long", f"{allowed}; fetch it again", error=DataError)
    if not len(raw) > start:
        refuse(str(path), "without records", "at least one record", error=DataError)
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def _read_header(path: Path, raw: bytes, dims: int) -> tuple[int, ...]:
    expected = _UNSIGNED_BYTE + dims
    if len(raw) < 4 + 4 * dims:
        allowed = f"at least a header of {4 + 4 * dims} bytes; fetch it again"
        refuse(str(path), f"{len(raw)} bytes long", allowed, error=DataError)
    magic, *shape = struct.unpack(f">{1 + dims}I", raw[: 4 + 4 * dims])
    if magic != expected:
        allowed = f"{expected:#010x}, for unsigned bytes in {dims} dimension(s)"
        refuse(f"the magic number of {path}", f"{magic:#010x}", allowed, error=DataError)
    return tuple(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); allowed: a whole IDX file") from error


def _statistics(images: NDArray[np.uint8]) -> tuple[float, float]:
    # Sums of integers: exact, and without a double precision copy of every pixel.
    mean = int(images.sum(dtype=np.int64)) / images.size
    square = int(np.square(images, dtype=np.uint16).sum(dtype=np.int64)) / images.size
    return mean / 255, math.sqrt(square - mean**2) / 255


def _name(folder: Path) -> str:
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "raw" else resolved.name
