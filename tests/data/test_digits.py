from __future__ import annotations

import torch

from joulewise.data import load_digits


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
