import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.errors import InputError, WeightsError
from joulewise.words import FixedPoint, check_storable

LAW = settings(max_examples=60, derandomize=True, deadline=None)
WIDTHS = range(2, 17)


def every_code(format):
    return torch.arange(format.lowest, format.highest + 1)


@pytest.mark.parametrize("limit", [1.0, 0.3, 7.3e-20, 3.1e30])
@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(bits, dtype) for bits in WIDTHS for dtype in (torch.float32, torch.float64)]
    + [(bits, torch.bfloat16) for bits in range(2, 9)],
    ids=str,
)
def test_every_code_survives_the_round_trip(bits, dtype, limit):
    format = FixedPoint(bits=bits, limit=limit)
    codes, scale = every_code(format), format.scale(torch.ones(1, dtype=dtype))
    values = (codes * scale).to(dtype)
    again = format.encode(values)
    assert torch.equal(again.codes, codes)
    assert torch.equal(again.scale, scale)
    assert torch.equal(again.values.to(dtype), values)


@LAW
@given(st.integers(2, 16), st.floats(1e-30, 1e30), st.sampled_from([torch.float32, torch.float64]))
def test_every_code_survives_at_any_scale(bits, scale, dtype):
    format = FixedPoint(bits=bits)
    # Max-abs would give -2**(bits - 1) a step of its own: leave that one word out.
    codes = every_code(format)[1:]
    values = (codes * torch.tensor(scale)).to(dtype)
    assert torch.equal(format.encode(values).codes, codes)


@LAW
@given(
    st.integers(2, 16),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_rounding_error_is_half_a_step_at_most(bits, values, dtype):
    tensor = torch.tensor(values, dtype=dtype)
    words = FixedPoint(bits=bits).encode(tensor)
    error = (words.values - tensor).abs().double()
    # Half a step, and the rounding of a division and a product of up to 2**15 steps.
    slack = 2 ** (bits - 1) * 2 * torch.finfo(dtype).eps
    assert float(error.max()) <= float(words.scale) * (0.5 + slack)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_the_largest_magnitude_is_the_highest_word_and_the_scale_is_by_hand(bits):
    words = FixedPoint(bits=bits).encode(torch.tensor([0.1, -2.5, 0.7]))
    assert float(words.scale) == pytest.approx(2.5 / (2 ** (bits - 1) - 1), rel=1e-6)
    assert int(words.codes[1]) == -(2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_values_outside_the_limit_saturate(bits):
    format = FixedPoint(bits=bits, limit=1.0)
    codes = format.encode(torch.tensor([1.0, 1e9, -1e9, 3e38, -3e38])).codes.tolist()
    top, bottom = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    assert codes == [top, top, bottom, top, bottom]
    assert (format.highest, format.lowest) == (top, bottom)


def test_rounding_is_to_nearest_with_ties_to_even():
    format = FixedPoint(bits=4, limit=7.0)
    codes = format.encode(torch.tensor([0.5, 1.5, 2.4, 2.6, -0.5, -1.5])).codes
    assert codes.tolist() == [0, 2, 2, 3, 0, -2]


@pytest.mark.parametrize("channel_dim", [0, 1, 2, -1])
def test_each_channel_has_its_own_scale(channel_dim):
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    tensor = tensor * torch.logspace(-3, 3, tensor.shape[channel_dim]).reshape(
        [-1 if d == channel_dim % 3 else 1 for d in range(3)]
    )
    format = FixedPoint(bits=8, channel_dim=channel_dim)
    words = format.encode(tensor)
    assert words.scale.shape == tuple(
        tensor.shape[d] if d == channel_dim % 3 else 1 for d in range(3)
    )
    for index in range(tensor.shape[channel_dim]):
        alone = FixedPoint(bits=8).encode(tensor.select(channel_dim, index))
        assert torch.equal(words.codes.select(channel_dim, index), alone.codes)
        assert torch.equal(words.scale.select(channel_dim, index).reshape(()), alone.scale)
    assert torch.equal(format.encode(words.values).codes, words.codes)


def test_a_vector_gets_one_scale_even_per_channel():
    assert FixedPoint(channel_dim=0).encode(torch.tensor([1.0, 0.2])).scale.shape == ()


@pytest.mark.parametrize("channel_dim", [None, 0])
def test_zeros_are_stored_as_zeros(channel_dim):
    words = FixedPoint(channel_dim=channel_dim).encode(torch.zeros(3, 4))
    assert not words.codes.any()
    assert not words.values.any()
    assert bool((words.scale > 0).all())


def test_a_channel_of_zeros_beside_others():
    tensor = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
    assert FixedPoint(channel_dim=0).encode(tensor).values[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("limit", [1e-44, 1e-40, 3e38])
def test_extreme_limits_give_a_usable_step(limit):
    words = FixedPoint(bits=8, limit=limit).encode(torch.tensor([0.0, 1.0, -1.0]))
    assert float(words.scale) > 0
    assert int(words.codes[0]) == 0
    assert bool(torch.isfinite(words.values).all())
    if limit < 1:
        assert words.codes.tolist() == [0, 127, -128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(dtype):
    words = FixedPoint(bits=6).encode(torch.tensor([1.0, -0.5], dtype=dtype))
    assert words.dtype == dtype
    assert words.values.dtype == words.scale.dtype
    assert words.scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_scalar_is_one_word():
    assert float(FixedPoint(bits=5).encode(torch.tensor(-3.0)).values) == -3.0


def test_finite_entries_whose_sum_overflows_are_stored():
    tensor = torch.full((4,), 3e38)
    check_storable(tensor)
    assert FixedPoint().encode(tensor).codes.tolist() == [127] * 4


@pytest.mark.parametrize("bits", [1, 17, 0, -3])
def test_refuses_a_width_out_of_range(bits):
    with pytest.raises(InputError, match=f"^bits is {bits}; allowed: a whole number, 2 to 16$"):
        FixedPoint(bits=bits)


@pytest.mark.parametrize("bits", [True, 8.0, "8", None])
def test_refuses_a_width_that_is_no_whole_number(bits):
    with pytest.raises(InputError, match="^bits is .*; allowed: a whole number, 2 to 16$"):
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
        check_storable(tensor, "fc1.weight")


def test_refuses_an_empty_tensor():
    with pytest.raises(WeightsError, match="^b is empty; allowed: at least one entry$"):
        check_storable(torch.zeros(0, 3), "b")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_what_is_not_real(dtype):
    message = f"^the dtype of ids is {dtype}; allowed: a floating dtype$"
    with pytest.raises(WeightsError, match=message):
        check_storable(torch.ones(3, dtype=dtype), "ids")


@pytest.mark.parametrize("channel_dim", [0, 1, -1])
@pytest.mark.parametrize("group_size", [1, 4, 5, 100])
def test_groups_by_hand(channel_dim, group_size):
    """Each group is stored as a tensor of its own; the last of a channel may be short."""
    tensor = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    format = FixedPoint(bits=4, channel_dim=channel_dim, group_size=group_size)
    found = format.encode(tensor)
    assert found.scale.shape == tensor.shape
    values = found.values.movedim(channel_dim, 0).flatten(1)
    for row, read in zip(tensor.movedim(channel_dim, 0).flatten(1), values, strict=True):
        for group, stored in zip(row.split(group_size), read.split(group_size), strict=True):
            assert torch.equal(stored, FixedPoint(bits=4).encode(group).values)


@pytest.mark.parametrize("bits", range(3, 9))
def test_weights_on_the_grid_of_their_groups_are_stored_exactly(bits):
    """Symmetric grids whose largest code each group reaches."""
    generator = torch.Generator().manual_seed(0)
    highest = 2 ** (bits - 1) - 1
    codes = torch.randint(-highest, highest + 1, (10, 64), generator=generator)
    codes[:, ::32] = highest
    scale = torch.rand(10, 2, generator=generator).repeat_interleave(32, 1)
    found = FixedPoint(bits=bits, channel_dim=0, group_size=32).encode(codes * scale)
    assert torch.equal(found.codes, codes)
    assert torch.allclose(found.values, codes * scale, rtol=1e-6, atol=0)


def test_what_groups_need():
    with pytest.raises(InputError, match="^group_size is given without channel_dim"):
        FixedPoint(group_size=32)
    with pytest.raises(InputError, match="^group_size is 0"):
        FixedPoint(group_size=0, channel_dim=0)
