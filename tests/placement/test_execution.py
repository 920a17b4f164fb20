from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from joulewise.errors import ModelError
from joulewise.placement import call

ONES, TWOS = torch.ones(2, 3), 2 * torch.ones(2, 3)


class Subtract(nn.Module):
    def forward(self, left, right):
        return left - right


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, inputs):
        return self.make(inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        (ONES, TWOS),
        [ONES, TWOS],
        {"right": TWOS, "left": ONES},
        UserDict(left=ONES, right=TWOS),
        namedtuple("Batch", "left right")(ONES, TWOS),
    ],
    ids=["tuple", "list", "dict", "user dict", "named tuple"],
)
def test_several_inputs(inputs):
    assert torch.equal(call(Subtract(), inputs), ONES - TWOS)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: (x, None),
        lambda x: [x, x + 1],
        lambda x: SimpleNamespace(logits=x, loss=x.sum()),
        lambda x: {"aux": x + 1, "out": x},
        lambda x: {"features": x, "more": None},
        lambda x: {"loss": x.sum(), "logits": x},
    ],
    ids=["tensor", "tuple", "list", "logits", "out", "first", "logits of a dict"],
)
def test_the_output_that_counts(make):
    assert call(Returns(make), ONES) is ONES


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: {"out": None}, "dict"),
        (lambda x: [{"boxes": x}], "list"),
        (lambda x: (), "tuple"),
        (lambda x: ("text", x), "tuple"),
        (lambda x: SimpleNamespace(logits=None), "NoneType"),
    ],
)
def test_an_output_without_a_tensor_is_refused(make, name):
    with pytest.raises(ModelError, match=f"the model returned a {name} without a tensor of"):
        call(Returns(make), ONES)


def test_a_packed_sequence_is_one_input():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    model = nn.GRU(2, 4)
    assert torch.equal(call(Returns(lambda p: model(p)[1]), packed), model(packed)[1])
