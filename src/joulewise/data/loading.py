"""One word, folder or function name, as it comes from a command line, to a data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from joulewise.data import cifar10, idx
from joulewise.data.dataset import Dataset, Split
from joulewise.data.digits import load_digits
from joulewise.errors import DataError, refuse
from joulewise.user_code import cause_of, import_source, importable

__all__ = ["load_data"]

Array = Tensor | NDArray[Any]

ALLOWED = (
    "digits, a folder with CIFAR-10 or IDX (MNIST) files, package.module:function, "
    "or path/to/file.py:function"
)
RETURNS = (
    "a joulewise Dataset, a pair (inputs, targets), a pair of such pairs (train, test), "
    "a torch Dataset, or an iterable of (input batch, target batch)"
)
_BATCH = 256


def load_data(source: str) -> Dataset:
    """The data set that a user names.

    A function may return

    - a ``Dataset``;
    - a pair (inputs, targets) of tensors or arrays, which becomes the test split;
    - a tuple of two such pairs, (train, test);
    - a torch ``Dataset`` of samples, or an iterable of (input batch, target batch), which is read
      to its end and becomes the test split.

    All but the first get as many classes as their largest target demands and are never mirrored;
    double precision arrays become float32. A list of pairs is an iterable of batches.

    Args:
        source: ``"digits"``, a folder, ``package.module:function`` or ``path/to/file.py:function``;
            modules in the current directory can be imported.

    Returns:
        The data set; what a user's function raises, and every unknown source, is refused with
        a ``DataError``.

    Example:
        >>> load_data("digits").classes
        10
    """
    if source == "digits":
        return load_digits()
    if source and Path(source).is_dir():  # an empty path would be the current directory
        return _load_folder(Path(source))
    place, colon, function = source.rpartition(":")
    if not colon or not place or not function.isidentifier():
        refuse("the data source", repr(source), ALLOWED, error=DataError)
    return _load_from_code(source, place, function)


def _load_folder(path: Path) -> Dataset:
    has_cifar10 = cifar10.find_layout(path) is not None
    has_idx = idx.find_idx(path) is not None
    if not has_cifar10 and not has_idx:
        looked_for = f"{cifar10.LOOKED_FOR}, or {idx.LOOKED_FOR}"
        refuse(f"the folder {path}", "without a known layout", looked_for, error=DataError)
    if has_cifar10 and has_idx:
        found = "home to both CIFAR-10 and IDX files"
        refuse(f"the folder {path}", found, "one kind; name its own folder", error=DataError)
    return cifar10.load_cifar10(path) if has_cifar10 else idx.load_idx(path)


def _load_from_code(source: str, place: str, function: str) -> Dataset:
    if place.endswith(".py") and not Path(place).is_file():
        refuse(f"the file {place}", "missing", ALLOWED, error=DataError)
    try:
        with importable(place):
            # Inside, because iterating may import as well.
            return _as_dataset(getattr(import_source(place), function)(), name=source)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # user code: anything may happen
        allowed = f"a function without arguments that returns {RETURNS}"
        raise DataError(f"{source} raised {cause_of(error)}; allowed: {allowed}") from error


def _as_dataset(value: object, *, name: str) -> Dataset:
    if isinstance(value, Dataset):
        return value
    train: Split | None = None
    if _is_array_pair(value):
        test = _as_split(*value)
    elif isinstance(value, tuple) and len(value) == 2 and all(map(_is_array_pair, value)):
        train, test = (_as_split(*pair) for pair in value)
    else:
        test = _from_batches(_batches(value, name), name)
    largest = max(int(split.targets.max()) for split in (train, test) if split is not None)
    return Dataset(name=name, train=train, test=test, classes=1 + largest, flips=False)


def _is_array_pair(value: object) -> TypeGuard[tuple[Array, Array]]:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(item, Tensor | np.ndarray) for item in value)
    )


def _batches(value: object, name: str) -> Iterable[object]:
    if isinstance(value, TorchDataset):
        # A generator of its own, because the loader otherwise draws from the global one.
        return DataLoader(value, batch_size=_BATCH, generator=torch.Generator())
    if not isinstance(value, Iterable) or isinstance(value, Tensor | np.ndarray):
        refuse(f"what {name} returns", f"a {type(value).__name__}", RETURNS, error=DataError)
    return value


def _from_batches(batches: Iterable[object], name: str) -> Split:
    inputs, targets = [], []
    for batch in batches:
        if not _is_array_pair(batch):
            allowed = "a pair (input batch, target batch) of tensors or arrays"
            refuse(f"a batch of {name}", f"a {type(batch).__name__}", allowed, error=DataError)
        inputs.append(_as_inputs(batch[0]))
        targets.append(_as_targets(batch[1]))
    if not inputs:
        refuse(f"what {name} returns", "empty", "at least one batch", error=DataError)
    return Split(inputs=torch.cat(inputs), targets=torch.cat(targets))


def _as_split(inputs: Array, targets: Array) -> Split:
    return Split(inputs=_as_inputs(inputs), targets=_as_targets(targets))


def _as_inputs(value: Array) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    # Double precision is what NumPy makes when nobody chose; a double tensor was chosen.
    dtype = np.float32 if value.dtype == np.float64 else value.dtype
    return torch.from_numpy(np.array(value, dtype=dtype))


def _as_targets(value: Array) -> Tensor:
    targets = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if targets.is_floating_point() or targets.is_complex():
        return targets  # refused by Split, which says what is wanted
    return targets.to(torch.int64)
