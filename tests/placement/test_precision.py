import torch
from torch import nn

from joulewise.devices import SRAM
from joulewise.placement import loaded, place
from joulewise.placement.precision import full_precision


def settings():
    backends = torch.backends
    places = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul)
    return [place.fp32_precision for place in places]


def test_nothing_is_rounded_inside_and_all_is_put_back():
    before = torch.get_float32_matmul_precision()
    try:
        for chosen in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(chosen)
            outside = settings()
            with full_precision():
                assert settings() == ["ieee"] * 4
            assert settings() == outside
            assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_exception_puts_it_back():
    outside = settings()
    try:
        with full_precision():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert settings() == outside


def test_a_loaded_memory_is_read_in_full_precision():
    with loaded(place(nn.Linear(4, 3), weights=SRAM())):
        assert settings() == ["ieee"] * 4
