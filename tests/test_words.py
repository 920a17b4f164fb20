import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.errors import InputError, WeightsError
from joulewise.words import FixedPoint, Words, decode, encode, from_bit_planes, to_bit_planes

LAW = settings(max_examples=60, derandomize=True, deadline=None)
BIT_PLANE_LAW = settings(max_examples=30, derandomize=True, deadline=None)
WIDTHS = range(2, 17)


def every_code(format, scale, dtype):
    codes = torch.arange(format.lowest, format.highest + 1, dtype=torch.int16)
    return Words(codes=codes, scale=torch.tensor(scale), format=format, dtype=dtype)


@pytest.mark.parametrize("limit", [1.0, 0.3, 7.3e-20, 3.1e30])
@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(bits, dtype) for bits in WIDTHS for dtype in (torch.float32, torch.float64)]
    + [(bits, torch.bfloat16) for bits in range(2, 9)],
    ids=str,
)
def test_every_code_survives_the_round_trip(bits, dtype, limit):
    format = FixedPoint(bits=bits, limit=limit)
    scale = format.scale(torch.ones(1, dtype=dtype))
    words = Words(
        codes=torch.arange(format.lowest, format.highest + 1, dtype=torch.int16),
        scale=scale,
        format=format,
        dtype=dtype,
    )
    again = encode(decode(words), format)
    assert torch.equal(again.codes, words.codes)
    assert torch.equal(again.scale, words.scale)
    assert torch.equal(decode(again), decode(words))


@LAW
@given(st.integers(2, 16), st.floats(1e-30, 1e30), st.sampled_from([torch.float32, torch.float64]))
def test_every_code_survives_at_any_scale(bits, scale, dtype):
    format = FixedPoint(bits=bits)
    words = every_code(format, scale, dtype)
    # Max-abs would give -2**(bits - 1) a step of its own: leave that one word out.
    values = decode(words)[1:]
    assert torch.equal(encode(values, format).codes, words.codes[1:])


@LAW
@given(
    st.integers(2, 16),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_rounding_error_is_half_a_step_at_most(bits, values, dtype):
    tensor = torch.tensor(values, dtype=dtype)
    words = encode(tensor, FixedPoint(bits=bits))
    error = (decode(words) - tensor).abs().double()
    # Half a step, and the rounding of a division and a product of up to 2**15 steps.
    slack = 2 ** (bits - 1) * 2 * torch.finfo(dtype).eps
    assert float(error.max()) <= float(words.scale) * (0.5 + slack)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_the_largest_magnitude_is_the_highest_word_and_the_scale_is_by_hand(bits):
    words = encode(torch.tensor([0.1, -2.5, 0.7]), FixedPoint(bits=bits))
    assert float(words.scale) == pytest.approx(2.5 / (2 ** (bits - 1) - 1), rel=1e-6)
    assert int(words.codes[1]) == -(2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_values_outside_the_limit_saturate(bits):
    format = FixedPoint(bits=bits, limit=1.0)
    codes = encode(torch.tensor([1.0, 1e9, -1e9, 3e38, -3e38]), format).codes.tolist()
    top, bottom = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    assert codes == [top, top, bottom, top, bottom]
    assert (format.highest, format.lowest) == (top, bottom)


def test_rounding_is_to_nearest_with_ties_to_even():
    format = FixedPoint(bits=4, limit=7.0)
    codes = encode(torch.tensor([0.5, 1.5, 2.4, 2.6, -0.5, -1.5]), format).codes
    assert codes.tolist() == [0, 2, 2, 3, 0, -2]


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1])
def test_each_channel_has_its_own_scale(channel_dim):
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    tensor = tensor * torch.logspace(-3, 3, tensor.shape[channel_dim]).reshape(
        [-1 if d == channel_dim % 3 else 1 for d in range(3)]
    )
    format = FixedPoint(bits=8, channel_dim=channel_dim)
    words = encode(tensor, format)
    assert words.scale.shape == tuple(
        tensor.shape[d] if d == channel_dim % 3 else 1 for d in range(3)
    )
    for index in range(tensor.shape[channel_dim]):
        alone = encode(tensor.select(channel_dim, index), FixedPoint(bits=8))
        assert torch.equal(words.codes.select(channel_dim, index), alone.codes)
        assert torch.equal(words.scale.select(channel_dim, index).reshape(()), alone.scale)
    assert torch.equal(encode(decode(words), format).codes, words.codes)


def test_a_vector_gets_one_scale_even_per_channel():
    assert encode(torch.tensor([1.0, 0.2]), FixedPoint(channel_dim=0)).scale.shape == ()


@pytest.mark.parametrize("channel_dim", [None, 0])
def test_zeros_are_stored_as_zeros(channel_dim):
    words = encode(torch.zeros(3, 4), FixedPoint(channel_dim=channel_dim))
    assert not words.codes.any()
    assert not decode(words).any()
    assert bool((words.scale > 0).all())


def test_a_channel_of_zeros_beside_others():
    tensor = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
    assert decode(encode(tensor, FixedPoint(channel_dim=0)))[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("limit", [1e-44, 1e-40, 3e38])
def test_extreme_limits_give_a_usable_step(limit):
    words = encode(torch.tensor([0.0, 1.0, -1.0]), FixedPoint(bits=8, limit=limit))
    assert float(words.scale) > 0
    assert int(words.codes[0]) == 0
    assert bool(torch.isfinite(decode(words)).all())
    if limit < 1:
        assert words.codes.tolist() == [0, 127, -128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(dtype):
    words = encode(torch.tensor([1.0, -0.5], dtype=dtype), FixedPoint(bits=6))
    assert words.codes.dtype == torch.int16
    assert words.dtype == dtype
    assert decode(words).dtype == dtype
    assert words.scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_scalar_is_one_word():
    assert float(decode(encode(torch.tensor(-3.0), FixedPoint(bits=5)))) == -3.0


def test_finite_entries_whose_sum_overflows_are_stored():
    assert encode(torch.full((4,), 3e38), FixedPoint()).codes.tolist() == [127] * 4


@pytest.mark.parametrize("bits", [1, 17, 0, -3])
def test_refuses_a_width_out_of_range(bits):
    with pytest.raises(InputError, match=f"^bits is {bits}; allowed: 2 to 16$"):
        FixedPoint(bits=bits)


@pytest.mark.parametrize("bits", [True, 8.0, "8", None])
def test_refuses_a_width_that_is_no_whole_number(bits):
    with pytest.raises(InputError, match="^bits is .*; allowed: a whole number from 2 to 16$"):
        FixedPoint(bits=bits)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_limit_out_of_range(limit):
    with pytest.raises(InputError, match=r"^limit is .*; allowed: above 0 to 3e\+38$"):
        FixedPoint(limit=limit)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite_by_name(bad):
    tensor = torch.tensor([1.0, bad, 2.0])
    message = "^fc1.weight is NaN or infinite in 1 of 3; allowed: finite entries only$"
    with pytest.raises(WeightsError, match=message):
        encode(tensor, FixedPoint(), "fc1.weight")


def test_refuses_an_empty_tensor():
    with pytest.raises(WeightsError, match="^b is empty; allowed: at least one entry$"):
        encode(torch.zeros(0, 3), FixedPoint(), "b")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_what_is_not_real(dtype):
    message = f"^the dtype of ids is {dtype}; allowed: a floating dtype$"
    with pytest.raises(WeightsError, match=message):
        encode(torch.ones(3, dtype=dtype), FixedPoint(), "ids")


# ---- bit planes


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


@BIT_PLANE_LAW
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
