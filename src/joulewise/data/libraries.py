"""Image data sets read by torchvision or Hugging Face datasets, where these are installed.

Neither is a dependency: a library is imported when one of its data sets is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from joulewise.data.dataset import Dataset, Split
from joulewise.errors import DataError, refuse
from joulewise.user_code import cause_of

__all__ = ["load_huggingface", "load_torchvision"]

# Images [sample, channel, height, width] as uint8, and labels [sample] as int64.
Samples = tuple[Tensor, Tensor]


def load_torchvision(name: str, root: str | Path) -> Dataset:
    """Image data set of torchvision from files on disk; nothing is downloaded.

    torchvision itself unpickles CIFAR-100, after a check of the MD5 digests of the official files.

    Args:
        name: A class of ``torchvision.datasets`` with the argument ``train`` or ``split``, for
            instance ``"FashionMNIST"``.
        root: The folder that torchvision keeps the data in.

    Returns:
        uint8 images, normalised by the mean and standard deviation of each channel of the training
        images, with as many classes as the largest label demands. Missing or unusable data is
        refused with a ``DataError``.
    """
    datasets = _import("torchvision.datasets", "torchvision")
    maker: Any = getattr(datasets, name, None)
    parameters = inspect.signature(maker).parameters if inspect.isclass(maker) else {}
    values = {"train": (True, False), "split": ("train", "test")}
    argument = next((argument for argument in values if argument in parameters), None)
    if argument is None:
        allowed = "a class of torchvision.datasets with the argument train or split"
        refuse("the torchvision data set", repr(name), allowed, error=DataError)
    with _reading(f"torchvision's {name} in {root}"):
        parts = [maker(str(root), **{argument: value}) for value in values[argument]]
        train, test = (_stack(name, (part[i] for i in range(len(part)))) for part in parts)
    classes = 1 + max(int(labels.max()) for _, labels in (train, test))
    return _normalised(name, train, test, classes)


def load_huggingface(name: str) -> Dataset:
    """Image data set of Hugging Face datasets, which downloads what this machine lacks.

    Args:
        name: Argument of ``datasets.load_dataset``: ``"ylecun/mnist"``, or a folder of files.

    Returns:
        uint8 images from the first column of images, and classes from the first of class labels,
        normalised as by `load_torchvision`. Missing or unusable data is refused with a
        ``DataError``.
    """
    datasets = _import("datasets", "datasets pillow")
    field = f"Hugging Face's {name}"
    with _reading(field):
        parts = datasets.load_dataset(name)
    if "test" not in parts:
        found = f"with the splits {', '.join(parts)}"
        refuse(field, found, "a split test, and one train if there is any", error=DataError)
    features = parts["test"].features
    image, label = (
        next((column for column, kind in features.items() if isinstance(kind, wanted)), None)
        for wanted in (datasets.Image, datasets.ClassLabel)
    )
    if image is None or label is None:
        allowed = "a column of images and a column of class labels"
        refuse(field, f"with the columns {', '.join(features)}", allowed, error=DataError)
    with _reading(field):
        samples = {
            part: _stack(name, ((row[image], row[label]) for row in parts[part]))
            for part in ("train", "test")
            if part in parts
        }
    train, test = samples.get("train"), samples["test"]
    return _normalised(name, train, test, features[label].num_classes)


def _import(module: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        raise DataError(
            f"{module} is not importable ({cause_of(error)}); allowed: an installation that matches"
            f" torch's: pip install {packages}"
        ) from error


@contextmanager
def _reading(field: str) -> Iterator[None]:
    """Turn what a library raises for missing or damaged files into a refusal.

    Raises:
        DataError: in place of any other exception.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{field} cannot be read ({cause_of(error)}); allowed: data that is whole and in the"
            " place where the library expects it"
        ) from error


def _stack(name: str, samples: Iterable[tuple[Any, Any]]) -> Samples:
    images, labels = [], []
    for image, label in samples:
        # Other modes have palettes, transparency and the like.
        images.append(np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB")))
        labels.append(int(label))
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        allowed = "one shape; images of several can be resized in a function"
        refuse(f"the number of image shapes in {name}", len(shapes), allowed, error=DataError)
    pixels = torch.from_numpy(np.stack(images))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(labels)


def _normalised(name: str, train: Samples | None, test: Samples, classes: int) -> Dataset:
    pixels, values = (train or test)[0].numpy(), np.arange(256) / 255
    statistics = []
    for channel in range(pixels.shape[1]):
        # From counts of the 256 values: exact, and without a floating-point copy of every pixel.
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        fractions = counts / counts.sum()
        mean = float(fractions @ values)
        statistics.append((mean, math.sqrt(fractions @ (values - mean) ** 2)))
    means, stds = zip(*statistics, strict=True)
    normalised = partial(Split, mean=means, std=stds)
    return Dataset(
        name=name,
        train=normalised(inputs=train[0], targets=train[1]) if train else None,
        test=normalised(inputs=test[0], targets=test[1]),
        classes=classes,
        flips=False,  # unknown; a function may return a Dataset with True
    )
