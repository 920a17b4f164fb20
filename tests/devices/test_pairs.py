import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.devices.pairs import PairFormat
from joulewise.errors import InputError, WeightsError


def store(values, **options):
    return PairFormat(**options).store(torch.tensor(values), limit=None, name="w")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    st.integers(1, 300),
    st.sampled_from(["nearest", "floor"]),
)
def test_rounding_to_levels(values, levels, rounding):
    stored = store(values, levels=levels, rounding=rounding)
    step = float(stored.limit) / levels
    error = stored.weights.double() - torch.tensor(values).double()
    slack = 1e-5 * step + 1e-6
    if rounding == "nearest":
        assert float(error.abs().max()) <= step / 2 + slack
    else:
        assert float(error.max()) <= slack
        assert float(error.min()) >= -step - slack
    assert float(stored.weights.abs().max()) <= float(stored.limit) * (1 + 1e-6)


def test_floor_shifts_by_half_a_step_on_average():
    weights = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    down = PairFormat(levels=8, rounding="floor", limit=1.0).store(weights, limit=None, name="w")
    near = PairFormat(levels=8, limit=1.0).store(weights, limit=None, name="w")
    # The error is uniform over a step: its mean has a standard error of step / sqrt(12 n).
    spread = 5 / 8 / (12 * len(weights)) ** 0.5
    assert float((down.weights - weights).double().mean()) == pytest.approx(-1 / 16, abs=spread)
    assert float((near.weights - weights).double().mean()) == pytest.approx(0, abs=spread)


def test_a_limit_for_each_column():
    stored = store([[1.0, -2.0], [0.0, 0.0], [8.0, 4.0]], channel_dim=0)
    assert stored.limit.tolist() == [[2.0], [1.0], [8.0]]
    assert stored.targets.tolist() == [[0.5, 1.0], [0.0, 0.0], [1.0, 0.5]]


def test_a_given_limit_saturates():
    assert store([3.0, -3.0, 0.5], limit=1.0).weights.tolist() == [1.0, -1.0, 0.5]


def test_points_along_columns():
    stored = store([[1.0, 2.0], [3.0, 4.0]])
    assert stored.along_columns(torch.tensor([1.0, 2.0])).shape == (2, 1)
    with pytest.raises(WeightsError, match=r"g_max is 3 numbers; allowed: one, or 2"):
        stored.along_columns(torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 0}, "levels is 0"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"limit": 0.0}, "limit is 0"),
        ({"limit": 1.0, "channel_dim": 0}, "limit is given beside channel_dim"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        PairFormat(**options)


def test_nan_is_refused_by_name():
    with pytest.raises(WeightsError, match="w is NaN"):
        store([1.0, float("nan")])
