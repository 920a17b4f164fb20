import pytest
import torch

from joulewise.data import load_digits
from joulewise.devices import SRAM
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.placement import place
from joulewise.study.placed import placed_records


@pytest.mark.parametrize("name", ["resnet8", "transformer"])
def test_each_tensor_once_in_the_order_of_the_modules_inputs_first(name):
    digits = load_digits()
    model = build(name, digits.input_shape, digits.classes, seed=0)
    memory = SRAM(bits=6)
    placement = place(
        model, weights=memory, activations=memory, example_inputs=digits.test.inputs[:2]
    ).trace(digits.test.inputs[:2])
    records = placed_records(placement)
    names = [record.name for record in records]
    assert sorted(names) == sorted(tensor.name for tensor in placement.placed)
    assert names.index("head:input") + 1 == names.index("head.weight") == len(names) - 1
    weights = [record.name for record in records if record.role == "weight"]
    assert weights == [t.name for t in placement.placed if t.role == "weight"]


def test_figures_are_those_of_the_placement():
    net = torch.nn.Linear(4, 3, bias=False)
    placement = place(net, weights=SRAM(bits=6), example_inputs=torch.ones(1, 4))
    (record,) = placed_records(placement)
    assert (record.role, record.words, record.bits) == ("weight", 12, 6)
    assert (record.reads, record.writes) == (12, 0)
    assert record.reliable_j == pytest.approx(12 * 6 * 20e-12 / 64)


def test_an_untraced_placement_is_refused():
    with pytest.raises(InputError, match="need access counts"):
        placed_records(place(torch.nn.Linear(4, 3), weights=SRAM()))
