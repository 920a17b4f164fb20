import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.errors import InputError
from joulewise.words import from_bit_planes, to_bit_planes

LAW = settings(max_examples=30, derandomize=True, deadline=None)


def all_codes(bits):
    return torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))


@pytest.mark.parametrize("bits", range(2, 17))
def test_taking_apart_and_putting_together_is_exact_for_every_code(bits):
    codes = all_codes(bits)
    planes = to_bit_planes(codes, bits)
    assert planes.shape == (bits, 2**bits)
    assert planes.dtype == torch.bool
    back = from_bit_planes(planes)
    assert back.dtype == torch.int16
    assert torch.equal(back.long(), codes)


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_planes_are_python_bits_of_the_twos_complement_word(bits):
    codes = all_codes(bits)[:: max(1, 2**bits // 64)]
    planes = to_bit_planes(codes.to(torch.int16), bits)
    for column, code in enumerate(codes.tolist()):
        word = code & (2**bits - 1)
        assert planes[:, column].tolist() == [bool(word >> k & 1) for k in range(bits)]


def test_the_last_plane_is_the_sign():
    assert to_bit_planes(torch.tensor([-4, -1, 0, 3]), 3)[-1].tolist() == [True, True, False, False]


@LAW
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(2, 16), st.integers(0, 2**32))
def test_any_shape(shape, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, generator=generator)
    planes = to_bit_planes(codes, bits)
    assert planes.shape == (bits, *shape)
    assert torch.equal(from_bit_planes(planes).long(), codes)


@pytest.mark.parametrize("count", [1, 17])
def test_refuses_a_width_that_is_no_word(count):
    with pytest.raises(
        InputError, match=rf"^the number of bit planes is {count}; allowed: 2 to 16"
    ):
        from_bit_planes(torch.zeros(count, 3, dtype=torch.bool))
