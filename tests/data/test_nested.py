import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from joulewise.data.nested import batch_size, tensors_in, to_device
from joulewise.errors import InputError

ONES, TWOS = torch.ones(2, 3), 2 * torch.ones(2, 3)


def test_a_packed_sequence_is_a_batch():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
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
