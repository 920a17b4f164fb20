import pytest
import torch
from torch import nn

from joulewise.devices import SRAM
from joulewise.placement import loaded, place
from joulewise.placement.precision import full_precision


class OnGPU(nn.Module):
    """Says that it is on a GPU: settings exist without one."""

    def parameters(self, recurse=True):
        class Parameter:
            is_cuda = True

        return iter([Parameter()])


def settings():
    backends = torch.backends
    places = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [place.fp32_precision for place in places]


def older():
    """What models and libraries read, some of it in every forward pass."""
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.fixture(autouse=True)
def put_back():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [True, False])
def test_nothing_is_rounded_inside_and_all_is_put_back(matmul, tf32):
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
    outside, old = settings(), older()
    with full_precision(OnGPU()):
        assert settings() == ["ieee"] * 3
        assert older() == (False, "highest")
        with torch.backends.cudnn.flags(enabled=False):  # reads and writes the older ones
            pass
    assert settings() == outside
    assert older() == old


def test_one_setting_for_everything_is_overruled_inside():
    torch.backends.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "none"  # follows the one for everything
    outside = settings()
    try:
        with full_precision(OnGPU()):
            assert settings() == ["ieee"] * 3
        assert settings() == outside == ["tf32"] * 3
    finally:
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_settings_that_contradict_each_other_are_no_obstacle():
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    outside = settings()
    with full_precision(OnGPU()):
        assert settings() == ["ieee"] * 3
    assert settings() == outside


def test_an_exception_puts_it_back():
    outside = settings()
    with pytest.raises(KeyboardInterrupt), full_precision(OnGPU()):
        raise KeyboardInterrupt
    assert settings() == outside


def test_a_model_on_a_cpu_leaves_all_settings_alone():
    torch.set_float32_matmul_precision("high")
    outside = settings(), older()
    with loaded(place(nn.Linear(4, 3), weights=SRAM())):
        assert (settings(), older()) == outside
