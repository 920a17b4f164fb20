import pytest
import torch
from torch import nn

from joulewise.errors import DataError, InputError, check_kind


@pytest.mark.parametrize(
    ("value", "kinds", "got"),
    [
        ("3", int, r"'3' \(str\)"),
        (None, int, r"None \(NoneType\)"),
        (True, (int, float), r"True \(bool\)"),
        (nn.ReLU, nn.Module, "the class ReLU"),
        (nn.Sequential(nn.ReLU()), int, "of type Sequential"),
        (torch.ones(3, 3), (int, float), "of type Tensor"),
        ("x" * 5000, int, r"'x{59} \(str\)"),
    ],
)
def test_a_wrong_kind_is_refused_in_one_line(value, kinds, got):
    with pytest.raises(InputError, match=f"^field is {got}; allowed: this$"):
        check_kind("field", value, kinds, "this")


def test_kinds_that_are_allowed_pass():
    check_kind("field", 3, int, "this")
    check_kind("field", True, (int, bool), "this")
    check_kind("field", nn.ReLU(), (str, nn.Module), "this")


def test_the_class_of_the_exception_is_chosen():
    with pytest.raises(DataError):
        check_kind("data", 5, str, "a name", DataError)
