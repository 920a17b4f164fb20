import threading

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from joulewise.devices import SRAM
from joulewise.placement import loaded, place
from joulewise.placement.process_state import Exact, Opened, SameDraws, guarded


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
    """Settings that models and libraries read, some of them in every forward pass."""
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
    with Exact(OnGPU()):
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
        with Exact(OnGPU()):
            assert settings() == ["ieee"] * 3
        assert settings() == outside == ["tf32"] * 3
    finally:
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_settings_that_contradict_each_other_are_no_obstacle():
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    outside = settings()
    with Exact(OnGPU()):
        assert settings() == ["ieee"] * 3
    assert settings() == outside


def test_an_exception_puts_it_back():
    outside = settings()
    with pytest.raises(KeyboardInterrupt), Exact(OnGPU()):
        raise KeyboardInterrupt
    assert settings() == outside


def test_a_model_on_a_cpu_leaves_all_settings_alone():
    torch.set_float32_matmul_precision("high")
    outside = settings(), older()
    with loaded(place(nn.Linear(4, 3), weights=SRAM()), at={"eta": 0.5}):
        assert (settings(), older()) == outside


def test_switches_are_held_as_long_as_any_block_wants_them():
    enabled = torch.backends.mha.get_fastpath_enabled
    first, second = Exact(None), Exact(None)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not enabled()
    second.__exit__(None, None, None)
    second.__exit__(None, None, None)  # any number of times
    assert enabled()


def test_what_an_interrupt_left_behind_is_put_back():
    """A block that was entered, and whose ``__exit__`` never began."""

    @guarded
    def interrupted():
        Exact(None).__enter__()
        Opened().__enter__()
        SameDraws(3).__enter__()
        torch.set_grad_enabled(False)
        torch.rand(1)
        TorchFunctionMode().__enter__()
        TorchDispatchMode().__enter__()
        raise KeyboardInterrupt

    state = torch.get_rng_state()
    sdp = torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() is sdp
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
    done = []

    def draw():
        with SameDraws():
            done.append(1)

    thread = threading.Thread(target=draw)
    thread.start()  # nobody holds the lock
    thread.join(10)
    assert done


def test_the_same_draws_leave_the_generator_alone():
    state = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with SameDraws(7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), state)


def test_inference_mode_is_left_while_a_guarded_function_runs():
    @guarded
    def made():
        return torch.ones(2)

    with torch.inference_mode():
        assert not made().is_inference() and torch.is_inference_mode_enabled()
