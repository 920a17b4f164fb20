"""Each kind against an oracle in plain Python, written from the definitions."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.devices import SRAM, Chip, ExponentialLaw, Flip, Mask, Stuck
from joulewise.devices.fault_kinds import all_codes
from joulewise.errors import InputError

LAW = settings(max_examples=300, derandomize=True, deadline=None)


def codes_of(bits):
    return range(-(2 ** (bits - 1)), 2 ** (bits - 1))


def bits_of(code, bits):
    """Least significant first."""
    return [int(character) for character in reversed(format(code % 2**bits, f"0{bits}b"))]


def value_of(word):
    """Two's complement of a list of bits, least significant first."""
    *rest, sign = word
    return sum(bit * 2**k for k, bit in enumerate(rest)) - sign * 2 ** len(rest)


def masked(word, fails):
    """A fault on the sign bit zeroes the value; any other faulty bit reads as the sign bit."""
    if fails[-1]:
        return 0
    return value_of([word[-1] if fail else bit for bit, fail in zip(word, fails, strict=True)])


def oracle(read, probability, code, bits):
    """Mean and variance by full enumeration of per-cell outcomes.

    ``probability(k, bit)`` lists the outcomes of cell k that holds ``bit`` with their probability,
    ``read(word, outcomes)`` is the code that is read.
    """
    word = bits_of(code, bits)
    cells = [probability(k, bit) for k, bit in enumerate(word)]
    first, second = [], []
    for outcome in itertools.product(*cells):
        chance = math.prod(p for _, p in outcome)
        change = read(word, [o for o, _ in outcome]) - code
        first.append(chance * change)
        second.append(chance * change**2)
    shift = math.fsum(first)
    return code + shift, math.fsum(second) - shift**2


def planes(bits, spread):
    """A rate for each bit plane: one for all, or different ones from 1e-3 to 0.6."""
    if spread:
        return [10 ** (-3 + 2.78 * (k * 0.618 % 1)) for k in range(bits)]
    return [0.07] * bits


def point_of(rates):
    return torch.tensor([-math.log(rate) / 12.8 for rate in rates], dtype=torch.float64)


def compare(kind, bits, rates, read, probability):
    mean, var = SRAM(bits=bits, fault=kind).code_moments(point_of(rates))
    expected = [oracle(read, probability, code, bits) for code in codes_of(bits)]
    assert mean.tolist() == pytest.approx([m for m, _ in expected], rel=1e-11, abs=1e-12)
    assert var.tolist() == pytest.approx([v for _, v in expected], rel=1e-9, abs=1e-12)


WIDTHS = pytest.mark.parametrize("bits", range(2, 7))
SPREAD = pytest.mark.parametrize("spread", [False, True], ids=["one rate", "a rate per plane"])


@WIDTHS
@SPREAD
def test_mask_moments_are_those_of_all_patterns(bits, spread):
    rates = planes(bits, spread)

    def outcomes(k, bit):
        return [(False, 1 - rates[k]), (True, rates[k])]

    compare(Mask(), bits, rates, masked, outcomes)


@WIDTHS
@SPREAD
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.7, 0.3), (0.0, 2.0)])
def test_flip_moments_are_those_of_all_patterns(bits, spread, factors):
    rates = planes(bits, spread)

    def outcomes(k, bit):
        p = min(1.0, factors[bit] * rates[k])
        return [(False, 1 - p), (True, p)]

    def read(word, fails):
        return value_of([bit ^ fail for bit, fail in zip(word, fails, strict=True)])

    compare(Flip(zero_to_one=factors[0], one_to_zero=factors[1]), bits, rates, read, outcomes)


@WIDTHS
@SPREAD
@pytest.mark.parametrize("at_one", [0.0, 0.2, 0.5, 1.0])
def test_stuck_moments_are_those_of_all_patterns(bits, spread, at_one):
    rates = planes(bits, spread)

    def outcomes(k, bit):
        p = rates[k]
        return [(None, 1 - p), (0, p * (1 - at_one)), (1, p * at_one)]

    def read(word, stuck):
        return value_of([bit if s is None else s for bit, s in zip(word, stuck, strict=True)])

    compare(Stuck(at_one=at_one), bits, rates, read, outcomes)


@pytest.mark.parametrize("bits", [5, 8])
def test_mask_mean_at_one_rate_is_its_closed_form(bits):
    p = 0.03
    mean, _ = SRAM(bits=bits).code_moments(-math.log(p) / 12.8)
    for code, got in zip(codes_of(bits), mean.tolist(), strict=True):
        shift = -p * (1 - p) if code < 0 else 0.0
        assert got == pytest.approx((1 - p) ** 2 * code + shift, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("bits", range(2, 9))
def test_masked_reads_are_as_defined_and_never_grow_nor_change_sign(bits):
    codes = all_codes(bits)[:, None]
    patterns = torch.arange(2**bits, dtype=torch.int32)[None]
    read = Mask().read(codes, patterns, patterns, bits)
    assert bool((read.abs() <= codes.abs()).all())
    assert bool((read.sign() * codes.sign() >= 0).all())
    if bits <= 6:
        expected = [
            [masked(bits_of(code, bits), bits_of(pattern, bits)) for pattern in range(2**bits)]
            for code in codes_of(bits)
        ]
        assert read.tolist() == expected


@LAW
@given(st.data(), st.integers(8, 16))
def test_masked_reads_never_grow_nor_change_sign_in_wide_words(data, bits):
    code = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    pattern = data.draw(st.integers(0, 2**bits - 1))
    hit = torch.tensor(pattern, dtype=torch.int32)
    read = int(Mask().read(torch.tensor(code, dtype=torch.int32), hit, hit, bits))
    assert read == masked(bits_of(code, bits), bits_of(pattern, bits))
    assert abs(read) <= abs(code)
    assert read * code >= 0


@LAW
@given(st.data(), st.sampled_from([Flip(), Stuck()]), st.integers(2, 16))
def test_flipped_reads_are_as_defined(data, kind, bits):
    code = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    on_zero, on_one = (data.draw(st.integers(0, 2**bits - 1)) for _ in range(2))
    read = kind.read(*(torch.tensor(x, dtype=torch.int32) for x in (code, on_zero, on_one)), bits)
    fails = (bits_of(on_zero, bits), bits_of(on_one, bits))
    word = [bit ^ fails[bit][k] for k, bit in enumerate(bits_of(code, bits))]
    assert int(read) == value_of(word)


def test_sign_bit_and_fixed_bit_flips():
    """After the tests of MRFI."""
    one = torch.ones(8, dtype=torch.int32)
    pattern = torch.tensor([1 << k for k in range(8)], dtype=torch.int32)
    assert Flip().read(one, pattern, pattern, 8).tolist() == [0, 3, 5, 9, 17, 33, 65, -127]


def mean_square(memory, point):
    mean, var = memory.code_moments(point)
    return float((var + (mean - all_codes(memory.bits)) ** 2).mean())


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("p", [1e-3, 0.02, 0.5])
def test_flips_cost_p_times_4_to_the_bits_over_3(bits, p):
    got = mean_square(SRAM(bits=bits, fault=Flip()), -math.log(p) / 12.8)
    assert got == pytest.approx(p * (4**bits - 1) / 3, rel=1e-9)
    if (bits, p) == (8, 1e-3):
        assert got == pytest.approx(21.85, abs=0.01)


def test_the_highest_bit_carries_three_quarters():
    memory = SRAM(bits=8, fault=Flip(), law=ExponentialLaw(a=1e3))
    reliable = torch.full((8,), 1.0, dtype=torch.float64)  # a rate of exp(-1000) = 0
    p = 1e-3
    low = torch.tensor(-math.log(p) / 1e3, dtype=torch.float64)
    only_msb = reliable.clone()
    only_msb[7] = low
    share = mean_square(memory, only_msb) / mean_square(memory, low)
    assert share == pytest.approx(4**7 * 3 / (4**8 - 1), rel=1e-9)
    assert share == pytest.approx(0.75, abs=1e-4)


def test_flips_by_sampling_agree_with_the_reference():
    p, words, chips = 1e-3, 65536, 40
    memory = SRAM(bits=8, fault=Flip(), limit=127.0)
    tensor = torch.arange(words, dtype=torch.float32) % 256 - 128
    stored = memory.store(tensor)
    draws = [
        float(((memory.read(stored, -math.log(p) / 12.8, Chip(seed=seed)) - tensor) ** 2).mean())
        for seed in range(chips)
    ]
    expected = p * (4**8 - 1) / 3
    # d^2 is near 4^k with probability p: its variance is at most p sum 16^k (1 + a little).
    error = math.sqrt(1.05 * p * (16**8 - 1) / 15 / (words * chips))
    assert abs(sum(draws) / chips - expected) < 5 * error
    assert error < 0.02 * expected


def test_symmetric_kinds_err_alike_on_zeros_and_ones():
    assert Flip().symmetric and Stuck().symmetric
    assert not Flip(zero_to_one=2.0, one_to_zero=0.0).symmetric
    assert not Stuck(at_one=0.0).symmetric


@pytest.mark.parametrize("at_one", [0.0, 0.3, 1.0])
def test_a_stuck_cell_shows_one_value_whatever_is_written(at_one):
    memory = SRAM(bits=8, fault=Stuck(at_one=at_one), limit=127.0)
    chip = Chip(seed=4)
    reads = [
        memory.read(memory.store(torch.full((4000,), value)), 0.2, chip).int() & 255
        for value in (0.0, -1.0, 85.0, -86.0)
    ]
    zeros, ones, odd, even = reads
    stuck_at_one, stuck_at_zero = zeros, ones ^ 255
    assert not (stuck_at_one & stuck_at_zero).any()
    for read, word in ((odd, 85), (even, 170)):
        assert torch.equal(read, (word | stuck_at_one) & ~stuck_at_zero)
    # The share at one is binomial over the failing cells.
    high, low = (
        sum(int((cells >> k & 1).sum()) for k in range(8))
        for cells in (stuck_at_one, stuck_at_zero)
    )
    spread = math.sqrt(max(at_one * (1 - at_one) / (high + low), 1e-18))
    assert abs(high / (high + low) - at_one) < 5 * spread + 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(zero_to_one=2.1), "^zero_to_one is 2.1; allowed: 0 to 2$"),
        (lambda: Flip(one_to_zero=-0.1), "^one_to_zero is -0.1; allowed: 0 to 2$"),
        (lambda: Flip(one_to_zero=math.nan), "^one_to_zero is nan; allowed: 0 to 2$"),
        (lambda: Stuck(at_one=1.5), "^at_one is 1.5; allowed: 0 to 1$"),
        (lambda: Stuck(at_one=math.nan), "^at_one is nan; allowed: 0 to 1$"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()
