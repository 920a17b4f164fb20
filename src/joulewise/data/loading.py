"""Data sets by name, folder or function, as they come from a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeGuard, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from joulewise.data import cifar, libraries
from joulewise.data.batches import Batches, check_entries
from joulewise.data.dataset import Dataset, Split, load_digits
from joulewise.errors import DataError, check_kind, refuse
from joulewise.user_code import cause_of, import_source, importable

__all__ = ["load_data"]

Array = Tensor | NDArray[Any]

ALLOWED = (
    "digits, a folder with CIFAR-10 or MNIST, torchvision:NAME:FOLDER, "
    "huggingface:NAME, package.module:function, or path/to/file.py:function"
)
RETURNS = (
    "a joulewise Dataset, a pair (inputs, targets), a pair of such pairs (train, test), "
    "a torch Dataset, or an iterable of (input batch, target batch) or of mappings with labels"
)
_BATCH = 256


@overload
def load_data(source: Literal["digits"]) -> Dataset: ...
@overload
def load_data(source: str) -> Dataset | Batches: ...
def load_data(source: str) -> Dataset | Batches:
    """Load the data set that a user names.

    A function may return

    - a ``Dataset``;
    - a pair (inputs, targets) of tensors or arrays, which becomes the test split;
    - a tuple of two such pairs, (train, test);
    - a torch ``Dataset`` of samples, or an iterable of (input batch, target batch), which is read
      to its end and becomes the test split;
    - an iterable of mappings such as ``{"input_ids": ids, "labels": ids}``, or one such mapping,
      for language models.

    All but the first get as many classes as their largest target demands and are never mirrored;
    double-precision arrays become float32. A list of pairs is an iterable of batches.

    Args:
        source: ``"digits"``; a folder with CIFAR-10 (binary, Python or Parquet files) or with
            torchvision's MNIST, KMNIST, ... (``MNIST/raw``); ``torchvision:NAME:FOLDER`` or
            ``huggingface:NAME``, read by these libraries; ``package.module:function`` or
            ``path/to/file.py:function``, where modules in the current folder can be imported.

    Returns:
        The data set; `Batches` of mappings. An unknown source, and whatever a user's function
        raises, is refused with a ``DataError``.

    Example:
        >>> load_data("digits").classes
        10
    """
    check_kind("the data source", source, str, ALLOWED, DataError)
    if source == "digits":
        return load_digits()
    if source and Path(source).is_dir():  # an empty path would be the current folder
        return _load_folder(Path(source))
    library, _, rest = source.partition(":")
    if library == "huggingface" and rest:
        return libraries.load_huggingface(rest)
    if library == "torchvision":
        name, _, root = rest.partition(":")
        if name == "CIFAR10" and root:  # torchvision would run the pickles
            return cifar.load_cifar10(root)
        if name and root:
            return libraries.load_torchvision(name, root)
    place, colon, function = source.rpartition(":")
    if library == "torchvision" or not (colon and place and function.isidentifier()):
        refuse("the data source", repr(source), ALLOWED, error=DataError)
    return _load_from_code(source, place, function)


def _load_folder(path: Path) -> Dataset:
    has_cifar10 = cifar.find_layout(path) is not None
    # torchvision's place for MNIST and its relatives is ROOT/NAME/raw.
    places = [path.resolve() / below for below in (".", "raw", "MNIST/raw")]
    raw = next((place for place in places if place.name == "raw" and place.is_dir()), None)
    if not has_cifar10 and raw is None:
        looked_for = f"{cifar.LOOKED_FOR}, or torchvision's folder MNIST/raw"
        refuse(f"the folder {path}", "without a known layout", looked_for, error=DataError)
    if has_cifar10 and raw is not None:
        found = "with both CIFAR-10 and MNIST"
        refuse(f"the folder {path}", found, "one kind; name its own folder", error=DataError)
    if raw is not None:
        return libraries.load_torchvision(raw.parent.name, raw.parent.parent)
    return cifar.load_cifar10(path)


def _load_from_code(source: str, place: str, function: str) -> Dataset | Batches:
    if place.endswith(".py") and not Path(place).is_file():
        refuse(f"the file {place}", "missing", ALLOWED, error=DataError)
    try:
        with importable(place):
            # Inside the block, because iterating may import as well.
            return _as_dataset(getattr(import_source(place), function)(), name=source)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # user code: anything may happen
        allowed = f"a function without arguments that returns {RETURNS}"
        raise DataError(f"{source} raised {cause_of(error)}; allowed: {allowed}") from error


def _as_dataset(value: object, *, name: str) -> Dataset | Batches:
    if isinstance(value, Dataset | Batches):
        return value
    if isinstance(value, Mapping):
        value = [value]
    train: Split | None = None
    if _is_array_pair(value):
        test = _as_split(*value)
    elif isinstance(value, tuple) and len(value) == 2 and all(map(_is_array_pair, value)):
        train, test = (_as_split(*pair) for pair in value)
    else:
        batches = list(_iterated(value, name))
        if batches and isinstance(batches[0], Mapping):
            return Batches(name=name, test=[_as_mapping(batch, name) for batch in batches])
        test = _from_batches(batches, name)
    largest = max(int(split.targets.max()) for split in (train, test) if split is not None)
    return Dataset(name=name, train=train, test=test, classes=1 + largest, flips=False)


def _is_array_pair(value: object) -> TypeGuard[tuple[Array, Array]]:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(item, Tensor | np.ndarray) for item in value)
    )


def _iterated(batches: object, name: str) -> Iterable[Any]:
    if isinstance(batches, TorchDataset):
        # With its own generator, because the loader otherwise draws from the global one.
        batches = DataLoader(batches, batch_size=_BATCH, generator=torch.Generator())
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor | np.ndarray):
        refuse(f"the value that {name} returns", f"a {type(batches).__name__}", RETURNS, DataError)
    return batches


def _as_mapping(batch: object, name: str) -> dict[str, Any]:
    """A batch of named tensors, from tensors, arrays or lists."""
    if not isinstance(batch, Mapping):
        got = f"a {type(batch).__name__} beside mappings"
        refuse(f"a batch of {name}", got, "mappings alone", error=DataError)
    check_entries(batch, f"of a batch of {name}")
    found = dict(batch)
    for key, value in found.items():
        with suppress(TypeError, ValueError, RuntimeError):  # `Batches` refuses it by name
            found[key] = torch.as_tensor(value)
    return found


def _from_batches(batches: Iterable[Any], name: str) -> Split:
    inputs, targets = [], []
    for batch in batches:
        if not _is_array_pair(batch):
            allowed = "a pair (input batch, target batch) of tensors or arrays"
            refuse(f"a batch of {name}", f"a {type(batch).__name__}", allowed, error=DataError)
        inputs.append(_as_inputs(batch[0]))
        targets.append(_as_targets(batch[1]))
    if not inputs:
        refuse(f"the value that {name} returns", "empty", "at least one batch", error=DataError)
    return Split(inputs=torch.cat(inputs), targets=torch.cat(targets))


def _as_split(inputs: Array, targets: Array) -> Split:
    return Split(inputs=_as_inputs(inputs), targets=_as_targets(targets))


def _as_inputs(value: Array) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    # Double precision is NumPy's default and hardly a choice; in a tensor it is one.
    dtype = np.float32 if value.dtype == np.float64 else value.dtype
    return torch.from_numpy(np.array(value, dtype=dtype))


def _as_targets(value: Array) -> Tensor:
    targets = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if targets.is_floating_point() or targets.is_complex():
        return targets  # refused by Split, with the dtype that is allowed
    return targets.to(torch.int64)
