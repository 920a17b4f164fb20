"""Splits (inputs with their classes), data sets (a training and a test split), and the digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from joulewise.errors import DataError, check_kind, refuse

__all__ = ["Dataset", "Split", "load_digits"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Split:
    """Inputs with their classes; raw images stay uint8 until a batch is read.

    A malformed split is refused with a ``DataError`` when it is made.

    Args:
        inputs: Either uint8 images [sample, channel, height, width], normalised batch by batch,
            or floating-point numbers [sample, ...], used as they are.
        targets: Class of each sample, int64 [sample], from 0.
        mean: Mean of each channel on the scale [0, 1]; for uint8 images only.
        std: Standard deviation of each channel on the same scale; empty with ``mean`` for none.

    Example:
        >>> pixels = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)
        >>> split = Split(inputs=pixels, targets=torch.tensor([0, 1, 1]), mean=(0.5,), std=(0.25,))
        >>> [(len(targets), inputs.max().item()) for inputs, targets in split.batches(2)]
        [(2, 2.0), (1, 2.0)]
    """

    inputs: Tensor
    targets: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("inputs", "targets"):
            check_kind(field, getattr(self, field), Tensor, "a torch tensor", DataError)
        _check_inputs(self.inputs)
        if self.targets.dtype != torch.int64:
            allowed = "torch.int64, one class number per sample"
            refuse("the dtype of targets", self.targets.dtype, allowed, error=DataError)
        if self.targets.shape != self.inputs.shape[:1]:
            allowed = f"[{len(self.inputs)}], one class number per sample"
            refuse("the shape of targets", list(self.targets.shape), allowed, error=DataError)
        lowest = int(self.targets.min())
        if lowest < 0:
            refuse("the smallest of the targets", lowest, "class numbers from 0", error=DataError)
        _check_statistics(self)

    def __repr__(self) -> str:
        return f"Split of {len(self)} samples of shape {self.input_shape}"

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, for instance ``(3, 32, 32)``."""
        return tuple(self.inputs.shape[1:])

    def normalise(self, inputs: Tensor) -> Tensor:
        """Normalise raw inputs of this split, perhaps augmented, for a model.

        uint8 images [..., channel, height, width] become ``(inputs / 255 - mean) / std`` in
        float32; floating-point numbers are unchanged.
        """
        if inputs.dtype != torch.uint8:
            return inputs
        scaled = inputs.to(torch.float32).div_(255)
        if not self.mean:
            return scaled
        mean = torch.tensor(self.mean, device=inputs.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=inputs.device).view(-1, 1, 1)
        return scaled.sub_(mean).div_(std)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised inputs and targets in order, ``size`` at a time; the last may be fewer."""
        check_kind("the batch size", size, int, "a whole number from 1", DataError)
        if size < 1:
            refuse("the batch size", size, "a whole number from 1", error=DataError)
        spans = (slice(start, start + size) for start in range(0, len(self), size))
        return ((self.normalise(self.inputs[span]), self.targets[span]) for span in spans)

    def subset(self, count: int, *, seed: int | None = None) -> Split:
        """The first ``count`` samples, or a random choice by ``seed``, normalised as before.

        With one seed, a smaller choice is the beginning of a larger one.
        """
        allowed = f"a whole number from 1 to {len(self)}"
        check_kind("count", count, int, allowed, DataError)
        if seed is not None:
            check_kind("seed", seed, int, "a whole number, or None", DataError)
        if not 1 <= count <= len(self):
            refuse("count", count, allowed, error=DataError)
        if seed is None:
            return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=generator)[:count].to(self.inputs.device)
        return replace(self, inputs=self.inputs[chosen], targets=self.targets[chosen])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """A test split and, where there is one, a training split of the same shape and classes.

    A malformed data set is refused with a ``DataError`` when it is made.

    Args:
        name: Name in reports.
        train: Samples to train on, or ``None`` for a data set to test on only.
        test: Samples to measure accuracy on.
        classes: Number of classes; every target is below it.
        flips: True if a mirrored image keeps its class (a ship does, a digit does not).

    Example:
        >>> test = Split(inputs=torch.zeros(2, 5), targets=torch.tensor([0, 1]))
        >>> Dataset(name="zeros", train=None, test=test, classes=2, flips=False).input_shape
        (5,)
    """

    name: str
    train: Split | None
    test: Split
    classes: int
    flips: bool

    def __post_init__(self) -> None:
        check_kind("classes", self.classes, int, "a whole number", DataError)
        check_kind("test", self.test, Split, "a Split", DataError)
        check_kind("train", self.train, Split | None, "a Split", DataError)
        for field, split in (("train", self.train), ("test", self.test)):
            largest = int(split.targets.max()) if split is not None else 0
            if largest >= self.classes:
                allowed = f"0 to {self.classes - 1}, for {self.classes} classes"
                refuse(f"the largest of the {field} targets", largest, allowed, error=DataError)
        if self.train is not None and self.train.input_shape != self.input_shape:
            allowed = f"{self.input_shape}, as in the test split"
            refuse("the train input shape", self.train.input_shape, allowed, error=DataError)

    def __repr__(self) -> str:
        train = "none" if self.train is None else str(len(self.train))
        return (
            f"Dataset {self.name}: {train} training and {len(self.test)} test samples of shape "
            f"{self.input_shape}, {self.classes} classes"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, for instance ``(3, 32, 32)``."""
        return self.test.input_shape


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim == 0 or len(inputs) == 0:
        refuse("inputs", "empty", "at least one sample", error=DataError)
    if inputs.dtype == torch.uint8:
        if inputs.ndim != 4:
            allowed = "[sample, channel, height, width] for uint8 images"
            refuse("the shape of inputs", list(inputs.shape), allowed, error=DataError)
    elif not inputs.is_floating_point():
        allowed = "torch.uint8 for raw images, or a floating type"
        refuse("the dtype of inputs", inputs.dtype, allowed, error=DataError)
    elif not bool(torch.isfinite(inputs).all()):
        refuse("inputs", "not finite everywhere", "numbers without nan and inf", error=DataError)


def _check_statistics(split: Split) -> None:
    if not split.mean and not split.std:
        return
    channels = split.inputs.shape[1] if split.inputs.dtype == torch.uint8 else 0
    for field, values in (("mean", split.mean), ("std", split.std)):
        check_kind(field, values, tuple, "a tuple of numbers, one per channel", DataError)
        for value in values:
            check_kind(f"a number in {field}", value, Real, "a number", DataError)
        if len(values) != channels:
            allowed = f"{channels} numbers, one per channel of uint8 images"
            refuse(field, f"{len(values)} numbers long", allowed, error=DataError)
    if not bool(torch.isfinite(torch.tensor(split.mean)).all()):
        refuse("mean", split.mean, "finite numbers", error=DataError)
    if not all(0 < value < float("inf") for value in split.std):
        refuse("std", split.std, "numbers above 0", error=DataError)


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits: 1,198 to train and 599 to test on, always the same.

    A third of each class is tested on, so one image moves the accuracy by only 0.17 pp.
    Pixels are scaled to [0, 1], then standardised with the mean and standard deviation of the
    training pixels.

    Returns:
        float32 inputs [sample, 1, 8, 8] in ten classes.

    Example:
        >>> digits = load_digits()
        >>> len(digits.train), len(digits.test), digits.input_shape
        (1198, 599, (1, 8, 8))
    """
    # Its file alone: importing scikit-learn would take a second.
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    table = np.loadtxt(path, dtype=np.float32, delimiter=",")
    pixels, labels = table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].astype(np.int64)
    # A mask rather than a list of indices: samples keep their order, so that the first few of a
    # split are of mixed classes.
    generator, tested = np.random.default_rng(2009), np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        tested[members[: round(len(members) / 3)]] = True
    mean, std = pixels[~tested].mean(), pixels[~tested].std()
    inputs = (pixels - mean) / std
    train, test = (
        Split(inputs=torch.from_numpy(inputs[chosen]), targets=torch.from_numpy(labels[chosen]))
        for chosen in (~tested, tested)
    )
    return Dataset(name="digits", train=train, test=test, classes=10, flips=False)
