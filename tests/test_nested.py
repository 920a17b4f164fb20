from collections import UserDict, namedtuple

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from joulewise.errors import InputError
from joulewise.nested import batch_size, map_tensors, tensors_in

ONES, TWOS = torch.ones(2, 3), 2 * torch.ones(2, 3)


def test_a_packed_sequence_is_a_batch():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert batch_size(packed) == 2
    doubled = map_tensors(lambda tensor: 2 * tensor, packed)
    assert torch.equal(doubled.data, 2 * packed.data)
    assert torch.equal(doubled.batch_sizes, packed.batch_sizes)


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


def test_a_map_keeps_the_nesting():
    Pair = namedtuple("Pair", ["left", "right"])
    nested = UserDict(a=[ONES, 3], b=(TWOS, "text"), c=Pair(ONES, None))
    found = map_tensors(torch.negative, nested)
    assert type(found) is dict and type(found["a"]) is list and type(found["b"]) is tuple
    assert torch.equal(found["a"][0], -ONES) and torch.equal(found["b"][0], -TWOS)
    assert found["a"][1] == 3 and found["b"][1] == "text"
    assert type(found["c"]) is Pair and torch.equal(found["c"].left, -ONES)
    assert nested["a"][0] is ONES
