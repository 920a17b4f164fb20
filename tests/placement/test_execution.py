from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from joulewise.errors import InputError, ModelError
from joulewise.placement import call
from joulewise.placement.execution import batch_size, tensors_in, to_device

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
    ],
    ids=["tensor", "tuple", "list", "logits"],
)
def test_the_output_that_counts(make):
    assert call(Returns(make), ONES) is ONES


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: {"out": x}, "dict"),
        (lambda x: (), "tuple"),
        (lambda x: ("text", x), "str"),
        (lambda x: SimpleNamespace(logits=None), "NoneType"),
    ],
)
def test_an_output_without_a_tensor_is_refused(make, name):
    with pytest.raises(ModelError, match=f"the model returned a {name}; allowed: a tensor"):
        call(Returns(make), ONES)


def test_a_packed_sequence_is_one_input():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    model = nn.GRU(2, 4)
    assert torch.equal(call(Returns(lambda p: model(p)[1]), packed), model(packed)[1])
    assert batch_size(packed) == 2
    assert torch.equal(to_device(packed, torch.device("cpu")).data, packed.data)


def test_the_tensors_of_a_nesting_in_order():
    nested = {"a": [ONES, (TWOS, "text")], "b": None, "c": 3, "d": {"e": ONES}}
    assert [id(tensor) for tensor in tensors_in(nested)] == [id(ONES), id(TWOS), id(ONES)]


@pytest.mark.parametrize(
    "inputs",
    [ONES, (ONES, torch.ones(7)), {"a": None, "b": [ONES]}, (torch.tensor(0.5), ONES)],
    ids=["tensor", "tuple", "nested", "after a scalar"],
)
def test_the_batch_is_the_first_axis_of_the_first_tensor_with_axes(inputs):
    assert batch_size(inputs) == 2


@pytest.mark.parametrize("inputs", [torch.tensor(1.0), {}, ("text", 3), None])
def test_inputs_without_a_batch_axis_are_refused(inputs):
    with pytest.raises(InputError, match="no tensor with a batch axis"):
        batch_size(inputs)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="the batch is empty; allowed: at least one sample"):
        batch_size((torch.ones(0, 3), ONES))


def test_to_device_keeps_the_nesting():
    moved = to_device({"a": [ONES, 3], "b": (TWOS, "text")}, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["b"][0].is_meta
    assert moved["a"][1] == 3 and moved["b"][1] == "text"
