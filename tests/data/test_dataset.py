from __future__ import annotations

import pytest
import torch

from joulewise.data import Dataset, Split, load_digits
from joulewise.errors import DataError


def images(count=5, channels=3):
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, 4, 4)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def targets(count=5):
    return torch.arange(count) % 2


def floats(count=5):
    return torch.arange(count * 3, dtype=torch.float32).reshape(count, 3)


def test_bytes_are_normalised_per_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    split = Split(inputs=images(), targets=targets(), mean=mean, std=std)
    (got, _), *_ = split.batches(5)
    assert got.dtype == torch.float32
    for channel in range(3):
        plain = (images()[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(got[:, channel].double(), plain, rtol=1e-5, atol=1e-6)


def test_normalise_leaves_its_argument_alone():
    split = Split(inputs=images(), targets=targets(), mean=(0.5,) * 3, std=(0.5,) * 3)
    raw = images()
    split.normalise(raw)
    assert torch.equal(raw, images())


def test_bytes_without_statistics_lie_between_zero_and_one():
    split = Split(inputs=images(), targets=targets())
    assert torch.equal(split.normalise(images()), images().float() / 255)


def test_floats_are_used_as_they_are():
    split = Split(inputs=floats(), targets=targets())
    assert split.normalise(split.inputs) is split.inputs
    assert split.input_shape == (3,)
    assert len(split) == 5


def test_batches_keep_the_order_and_the_rest():
    split = Split(inputs=floats(), targets=targets())
    batches = list(split.batches(2))
    assert [len(batch) for _, batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), floats())
    assert torch.equal(torch.cat([labels for _, labels in batches]), targets())


def test_batch_size_is_refused_at_the_call():
    with pytest.raises(DataError, match="the batch size is 0; allowed: a whole number from 1"):
        Split(inputs=floats(), targets=targets()).batches(0)


def test_subset_takes_the_first():
    split = Split(inputs=images(), targets=targets(), mean=(0.5,) * 3, std=(0.5,) * 3)
    part = split.subset(2)
    assert torch.equal(part.inputs, images()[:2])
    assert part.mean == split.mean


def test_random_subset_depends_on_its_seed_only():
    split = Split(inputs=floats(50), targets=torch.arange(50))
    state = torch.get_rng_state()
    chosen = split.subset(20, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(chosen.targets, split.subset(20, seed=3).targets)
    assert torch.equal(chosen.targets[:10], split.subset(10, seed=3).targets)
    assert not torch.equal(chosen.targets, split.subset(20, seed=4).targets)
    assert len(chosen.targets.unique()) == 20
    assert torch.equal(chosen.inputs, floats(50)[chosen.targets])


@pytest.mark.parametrize("count", [0, 6])
def test_subset_is_refused_outside_the_split(count):
    with pytest.raises(DataError, match=f"count is {count}; allowed: a whole number from 1 to 5"):
        Split(inputs=floats(), targets=targets()).subset(count)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": [[1.0]]}, "inputs is of type list"),
        ({"targets": [1]}, "targets is of type list"),
        ({"inputs": floats(0), "targets": targets(0)}, "inputs is empty"),
        ({"inputs": torch.tensor(1.0)}, "inputs is empty"),
        ({"targets": targets(4)}, r"the shape of targets is \[4\]; allowed: \[5\]"),
        ({"targets": targets()[:, None]}, r"the shape of targets is \[5, 1\]"),
        ({"targets": targets().float()}, "the dtype of targets is torch.float32"),
        ({"targets": targets().int()}, "the dtype of targets is torch.int32"),
        ({"targets": targets() - 1}, "the smallest of the targets is -1"),
        ({"inputs": floats() / 0}, "inputs is not finite everywhere"),
        ({"inputs": floats().long()}, "the dtype of inputs is torch.int64"),
        ({"inputs": images()[:, 0]}, r"the shape of inputs is \[5, 4, 4\]"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean is 1 numbers long; allowed: 0 numbers"),
        ({"inputs": images(), "mean": (0.5,) * 3}, "std is 0 numbers long; allowed: 3 numbers"),
        ({"inputs": images(), "mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "std is .*above 0"),
        ({"inputs": images(), "mean": (float("nan"),) * 3, "std": (1,) * 3}, "mean is .*finite"),
    ],
)
def test_split_refuses(fields, message):
    with pytest.raises(DataError, match=message):
        Split(**{"inputs": floats(), "targets": targets()} | fields)


def test_dataset_knows_its_input_shape():
    split = Split(inputs=images(), targets=targets())
    dataset = Dataset(name="x", train=split, test=split, classes=2, flips=True)
    assert dataset.input_shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 1}, "the largest of the train targets is 1; allowed: 0 to 0, for 1 classes"),
        ({"train": None, "classes": 1}, "the largest of the test targets is 1"),
        (
            {"train": Split(inputs=images(), targets=targets())},
            r"the train input shape is \(3, 4, 4\); allowed: \(3,\), as in the test split",
        ),
        ({"test": None}, "test is None .NoneType.; allowed: a Split"),
        ({"train": (floats(), targets())}, "train is of type tuple; allowed: a Split"),
    ],
)
def test_dataset_refuses(fields, message):
    split = Split(inputs=floats(), targets=targets())
    given = {"name": "x", "train": split, "test": split, "classes": 2, "flips": False} | fields
    with pytest.raises(DataError, match=message):
        Dataset(**given)


# ---- scikit-learn's digits


def test_a_third_of_each_class_is_tested_on():
    digits = load_digits()
    trained, tested = digits.train.targets.bincount(), digits.test.targets.bincount()
    assert (len(digits.train), len(digits.test)) == (1198, 599)
    assert digits.classes == len(tested) == 10
    assert torch.equal(tested, ((trained + tested) / 3).round().long())


def test_training_pixels_are_standardised():
    digits = load_digits()
    assert digits.input_shape == (1, 8, 8)
    assert digits.train.inputs.dtype == torch.float32
    assert abs(digits.train.inputs.mean()) < 1e-5
    assert abs(digits.train.inputs.std(correction=0) - 1) < 1e-5
    assert digits.test.inputs.unique().numel() <= 17


def test_the_split_is_the_same_every_time_and_disjoint():
    digits, again = load_digits(), load_digits()
    assert torch.equal(digits.test.inputs, again.test.inputs)
    assert torch.equal(digits.train.targets, again.train.targets)
    together = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == 1797


def test_the_first_few_are_of_mixed_classes():
    digits = load_digits()
    assert len(digits.test.subset(50).targets.unique()) == 10


def test_digits_do_not_survive_a_mirror():
    assert load_digits().flips is False
