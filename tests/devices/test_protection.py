import itertools
import math

import numpy as np
import pytest
import torch

from joulewise.devices import (
    SECDED,
    SRAM,
    Chip,
    CorrelatedMap,
    Flip,
    IndependentMap,
    MeasuredMap,
    Parity,
    SpareRows,
    Stuck,
    Traffic,
    VoltageTable,
    check_device,
)
from joulewise.devices.fault_kinds import all_codes, planes_of
from joulewise.devices.voltage_table import VoltageRow
from joulewise.errors import InputError

Z = 5.0


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def none(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def decoded(code, words, data_errors=(), check_errors=(), on_detected="zero"):
    """Decoded words of one codeword, with errors as (word, bit) and check bits."""
    codes = torch.tensor(words, dtype=torch.int32)
    read = codes.clone()
    for word, bit in data_errors:
        read[word] ^= 1 << bit
    unused = 32 - code.bits
    read = (read << unused) >> unused
    checks = torch.tensor(sum(1 << bit for bit in check_errors), dtype=torch.int32)
    return code.decode(codes, read, checks, checks, on_detected).tolist()


@pytest.mark.parametrize(
    ("words", "bits", "check"), [(8, 8, 8), (4, 8, 7), (1, 4, 4), (16, 8, 9), (1, 8, 5), (4, 16, 8)]
)
def test_check_bits_are_those_of_hsiaos_codes(words, bits, check):
    """(72, 64), (39, 32), (8, 4), (137, 128), (13, 8) and (72, 64)."""
    code = SECDED(words=words).code(bits)
    assert code.check_bits == check
    assert SECDED(words=words).overhead(bits) == check / (words * bits)
    assert len(set(code.columns)) == words * bits
    assert all(column.bit_count() % 2 and column.bit_count() > 1 for column in code.columns)


@pytest.mark.parametrize("planes", [None, 3])
def test_every_single_error_is_corrected_and_every_double_one_detected(planes):
    code = SECDED(words=4, planes=planes).code(8)
    words = [-128, 127, -3, 55]
    guarded = [(w, b) for w in range(4) for b in range(8 - code.planes, 8)]
    cells = [("data", at) for at in guarded] + [("check", bit) for bit in range(code.check_bits)]
    for kind, at in cells:
        data, check = ([at], []) if kind == "data" else ([], [at])
        assert decoded(code, words, data, check) == words
    for pair in itertools.combinations(cells, 2):
        data = [at for kind, at in pair if kind == "data"]
        check = [at for kind, at in pair if kind == "check"]
        assert decoded(code, words, data, check) == [0, 0, 0, 0]
        kept = decoded(code, words, data, check, "keep")
        assert kept == decoded_raw(words, data)


def decoded_raw(words, errors):
    read = [word & 0xFF for word in words]
    for word, bit in errors:
        read[word] ^= 1 << bit
    return [word - 256 if word >= 128 else word for word in read]


def test_bits_that_are_not_protected_stay_wrong():
    code = SECDED(words=2, planes=2).code(8)
    assert decoded(code, [5, -5], [(0, 0), (1, 5)]) == decoded_raw([5, -5], [(0, 0), (1, 5)])
    assert decoded(code, [5, -5], [(0, 0), (1, 7)]) == decoded_raw([5, -5], [(0, 0)])


def test_parity_detects_odd_errors():
    code = Parity().code(8)
    assert code.check_bits == 1 and not code.corrects
    assert decoded(code, [77]) == [77]
    assert decoded(code, [77], [(0, 3)]) == [0]
    assert decoded(code, [77], [(0, 3)], on_detected="keep") == [77 ^ 8]
    assert decoded(code, [77], [], [0]) == [0]
    assert decoded(code, [77], [(0, 3)], [0]) == [77 ^ 8]
    assert decoded(code, [77], [(0, 3), (0, 4), (0, 5)]) == [0]


def enumerated(code, rates, on_detected):
    """Exact moments of the first word of a codeword over all patterns of wrong cells.

    All words of a codeword hold the same; ``rates`` are those of cells that hold 0 and 1.
    """
    cells = code.words * code.bits + code.check_bits
    codes, patterns = all_codes(code.bits), torch.arange(1 << cells, dtype=torch.int32)[:, None]
    held = codes[:, None].expand(-1, code.words)
    ones = [*[planes_of(codes, code.bits)] * code.words]
    ones.append(planes_of(code._syndrome(held), code.check_bits))
    chance = torch.ones(1 << cells, len(codes), dtype=torch.float64)
    for cell, holds_one in enumerate(torch.cat(ones)):
        rate = rates[0] + (rates[1] - rates[0]) * holds_one
        chance *= torch.where((patterns >> cell & 1).bool(), rate, 1 - rate)
    first = torch.arange(code.words, dtype=torch.int32) * code.bits
    wrong = patterns >> first & ((1 << code.bits) - 1)  # [patterns, words]
    unused, checks = 32 - code.bits, patterns >> (code.words * code.bits)
    read = (held ^ wrong[:, None]) << unused >> unused
    found = code.decode(held.expand_as(read), read, checks, checks, on_detected)
    deviation = (found[..., 0] - codes).double()
    mean, square = ((chance * deviation**power).sum(0) for power in (1, 2))
    return codes + mean, square - mean**2


@pytest.mark.parametrize("on_detected", ["zero", "keep"])
@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.3])
@pytest.mark.parametrize(("words", "planes"), [(1, None), (2, None), (2, 2)])
def test_moments_of_parity_are_exact(words, planes, rate, on_detected):
    code = Parity(words=words, planes=planes).code(4)
    rates = torch.full((2, 4), rate, dtype=torch.float64)
    mean, var = code.moments(rates, on_detected)
    expected = enumerated(code, (rate, rate), on_detected)
    torch.testing.assert_close(mean, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(var, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("protection", [Parity(), Parity(planes=2), SECDED(words=1)])
@pytest.mark.parametrize("rates", [(0.0, 0.01), (0.01, 0.0), (1e-3, 4e-3)])
def test_check_bits_of_a_word_alone_are_known(protection, rates):
    """Zeros and ones fail at different rates; three errors are approximated in SECDED."""
    code = protection.code(4)
    mean, var = code.moments(tensor(rates)[:, None].expand(2, 4), "zero")
    expected = enumerated(code, rates, "zero")
    relative = 0.5 * 6 * max(rates) / 3 if code.corrects else 1e-9
    for found, exact in ((mean - all_codes(4), expected[0] - all_codes(4)), (var, expected[1])):
        assert float((found - exact).abs().sum()) <= relative * float(exact.abs().sum())


@pytest.mark.parametrize("on_detected", ["zero", "keep"])
@pytest.mark.parametrize(("words", "planes"), [(1, None), (2, None), (2, 2)])
def test_moments_of_a_correcting_code_are_exact_up_to_three_errors(words, planes, on_detected):
    """Three errors in n cells are (n - 2) rate / 3 times as likely as two."""
    code = SECDED(words=words, planes=planes).code(4)
    for rate in (1e-4, 1e-3, 1e-2):
        rates = torch.full((2, 4), rate, dtype=torch.float64)
        mean, var = code.moments(rates, on_detected)
        expected = enumerated(code, (rate, rate), on_detected)
        cells = len(code.columns) + code.check_bits
        # Three errors are taken on the average over codes; their whole is off by half, at most.
        relative = 0.5 * (cells - 2) * rate / 3 + 1e-9
        total, exact = (
            float((v + (m - all_codes(4)) ** 2).sum()) for m, v in ((mean, var), expected)
        )
        assert total == pytest.approx(exact, rel=relative)


def test_moments_have_gradients():
    code = SECDED().code(8)
    rate = torch.full((8,), 2e-3, dtype=torch.float64, requires_grad=True)

    def mse(rate):
        rates = torch.stack([rate, rate])
        mean, var = code.moments(rates, "zero")
        return (var + (mean - all_codes(8)) ** 2).sum()

    assert torch.autograd.gradcheck(mse, rate)


def test_rates_of_zero_and_one():
    for protection in (Parity(), SECDED(), SECDED(planes=2)):
        code = protection.code(8)
        nothing = torch.zeros(2, 8, dtype=torch.float64)
        mean, var = code.moments(nothing, "zero")
        assert torch.equal(mean, all_codes(8).double()) and not var.any()
        mean, var = code.moments(nothing + 1, "zero")
        assert mean.isfinite().all() and var.isfinite().all()


# The rates of a law of its own, so that knobs are plain.
LAW = VoltageTable(
    rows=(VoltageRow(0.5, 1e-14, 3e-2), VoltageRow(1.0, 4e-14, 1e-9)), source="made up"
)


def memory(protection, **fields):
    fields = {"fault": Flip(), "law": LAW, "knob": "bit_error_rate", **fields}
    return SRAM(protection=protection, **fields)


@pytest.mark.parametrize(
    ("device", "rate"),
    [
        (memory(SECDED()), 4e-3),
        (memory(SECDED(on_detected="keep")), 4e-3),
        (memory(SECDED(words=4, planes=3), fault=Stuck(at_one=0.5)), 4e-3),
        (memory(Parity()), 4e-3),
        (memory(Parity(planes=1)), 4e-3),
        (memory(Parity(words=4, planes=2), bits=6), 1e-2),
        (memory(Parity(), fault=Stuck(at_one=1.0)), 4e-3),
    ],
    ids=["secded", "keep", "planes", "parity", "sign", "parity of planes", "one-sided parity"],
)
def test_moments_are_those_of_many_chips(device, rate):
    """Sum of squared errors of 4,096 words, over chips; three errors are approximated."""
    generator = torch.Generator().manual_seed(3)
    stored = device.store(torch.randn(4096, generator=generator).clamp(-3, 3))
    ideal, moments = device.ideal(stored), device.moments(stored, rate)
    predicted = float((moments.var + (moments.mean - ideal) ** 2).sum())
    shift = float((moments.mean - ideal).sum())
    squares, shifts = [], []
    for seed in range(500):
        error = device.read(stored, rate, Chip(seed=seed)) - ideal
        squares.append(float(error.square().sum()))
        shifts.append(float(error.sum()))
    code = device.protection.code(device.bits)
    third = (len(code.columns) + code.check_bits) * rate / 3 if code.corrects else 0.0
    for samples, expected in ((squares, predicted), (shifts, shift)):
        error = np.std(samples, ddof=1) / math.sqrt(len(samples))
        assert abs(np.mean(samples) - expected) < Z * error + 0.5 * third * abs(expected)


CLUSTERED = [
    SpareRows(spares=6, rows=64, columns=64),
    CorrelatedMap(cluster=0.6, columns=64),
]


@pytest.mark.parametrize(
    "device",
    [
        *(memory(SECDED(), fault_map=fault_map) for fault_map in CLUSTERED),
        memory(SECDED(), fault=Stuck(at_one=0.0)),
        memory(SECDED(), fault=Flip(zero_to_one=2.0, one_to_zero=0.0)),
    ],
    ids=["spares", "clusters", "stuck at 0", "only zeros fail"],
)
def test_moments_that_depend_on_other_words_are_estimated(device):
    """Half of the words are zero: the fractions of ones and zeros are not equal."""
    assert not device.states_moments and not device.smooth and not device.independent_words
    weights = torch.randn(4096, generator=torch.Generator().manual_seed(3)).clamp(-3, 3)
    weights[:2048] = 0.0
    stored, rate = device.store(weights), 4e-3
    ideal, moments = device.ideal(stored), device.moments(stored, rate)
    squares = [
        float((device.read(stored, rate, Chip(seed=s)) - ideal).square().sum()) for s in range(300)
    ]
    stated = float((moments.var + (moments.mean - ideal) ** 2).sum())
    # The squared error of the estimated means adds one in `moment_chips`, at most.
    error = np.std(squares, ddof=1) * (1 / 300 + 1 / device.moment_chips) ** 0.5
    assert abs(np.mean(squares) - stated) < Z * error + stated / device.moment_chips
    check_device(device, chips=20, shape=(8, 8))


def test_words_of_a_codeword_depend_on_each_other():
    assert not memory(SECDED()).independent_words
    assert memory(SECDED(words=1)).independent_words and memory(Parity()).independent_words
    assert memory(SECDED()).states_moments and memory(SECDED()).smooth


def test_a_codeword_that_is_not_full_has_all_its_cells():
    """Two words of a codeword of eight: errors in the cells of the other six count."""
    device, chips = memory(SECDED()), 8000
    stored = device.store(torch.tensor([0.5, -0.3]))
    ideal, moments = device.ideal(stored), device.moments(stored, 4e-3)
    predicted = float((moments.var + (moments.mean - ideal) ** 2).sum())
    found = np.array(
        [
            float((device.read(stored, 4e-3, Chip(seed=s)) - ideal).square().sum())
            for s in range(chips)
        ]
    )
    third = 72 * 4e-3 / 3  # three errors are approximated
    error = found.std(ddof=1) / math.sqrt(chips)
    assert abs(found.mean() - predicted) < Z * error + 0.5 * third * predicted
    assert Z * error < 0.5 * predicted


def test_correction_helps_where_errors_are_rare_and_not_where_they_cluster():
    """Words of weak rows fail together: a codeword that is zeroed costs more than its errors."""
    stored = memory(None).store(torch.linspace(-1, 1, 512))
    ideal = memory(None).ideal(stored)

    def error(protection, fault_map):
        moments = memory(protection, fault_map=fault_map).moments(stored, 5e-4)
        return float((moments.var + (moments.mean - ideal) ** 2).sum())

    alone, rows = IndependentMap(), CorrelatedMap(row=0.5, columns=64)
    assert error(SECDED(), alone) < 0.5 * error(None, alone)
    assert error(SECDED(), rows) > error(None, rows)


@pytest.mark.parametrize("protection", [SECDED(), Parity(), SECDED(words=4, planes=3)])
def test_self_check(protection):
    check_device(memory(protection, fault=Flip()), seed=3)


def test_activations_are_protected_in_any_layout():
    device = memory(SECDED(on_detected="keep"), bits=8)
    inputs = torch.randn(3, 5, 14, 15)  # 1,050 words: the last codeword is not full
    chip = Chip(seed=2, part="a")
    plain = device.round_trip(inputs, 2e-3, chip, 3.0)
    mixed = device.round_trip(inputs.to(memory_format=torch.channels_last), 2e-3, chip, 3.0)
    assert torch.equal(plain, mixed)
    alone = memory(None).round_trip(inputs, 2e-3, chip, 3.0)
    clean = device.round_trip(inputs, 2e-3, None, 3.0)
    assert (plain != clean).sum() < (alone != clean).sum()


def test_single_faults_of_a_measured_map_are_gone():
    thresholds = np.full((64, 16), np.inf)
    thresholds[5, 3] = 0.01  # one cell of 128 words
    fields = {"fault_map": MeasuredMap.from_thresholds(thresholds)}
    device, plain = memory(SECDED(words=4), **fields), memory(None, **fields)
    stored = device.store(torch.linspace(-1, 1, 100))
    for seed in range(10):
        chip = Chip(seed=seed)
        assert torch.equal(device.read(stored, 0.02, chip), device.ideal(stored))
    assert not torch.equal(plain.read(stored, 0.02, chip), plain.ideal(stored))


def test_energy_has_the_check_cells_and_the_decoder():
    traffic = Traffic(words=160, reads=160, writes=40)
    plain, guarded = memory(None), memory(SECDED(decode_j=1e-12))
    expected = float(plain.energy(traffic, 1e-3)) * 72 / 64 + 200 / 8 * 1e-12
    assert float(guarded.energy(traffic, 1e-3)) == pytest.approx(expected)
    planes = tensor([1e-2] * 7 + [1e-6])
    extra = float(memory(SECDED()).energy(traffic, planes)) - float(plain.energy(traffic, planes))
    top = float(plain.energy(traffic, 1e-6)) / 8
    assert extra == pytest.approx(top)  # one check cell to a word, as reliable as the sign bit


def test_records_name_the_protection():
    described = memory(SECDED(planes=3)).describe()
    assert described["protection"] == "secded"
    assert described["planes"] == 3
    assert "protection" not in memory(None).describe()
    assert memory(SECDED()).knob.channels is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SRAM(protection=SECDED()), r"^fault is Mask\(\); allowed: Flip\(\) or Stuck\(\)"),
        (lambda: SECDED(words=0), "^words is 0; allowed: a whole number, 1 to 4096"),
        (lambda: SECDED(planes=9).code(8), "^planes is 9; allowed: at most the 8 bits of a word"),
        (lambda: SECDED().overhead(0), "^bits is 0; allowed: a whole number, 2 to 16"),
        (lambda: Parity(on_detected="guess"), "^on_detected is 'guess'; allowed: zero or keep"),
        (lambda: Parity(decode_j=-1), "^decode_j is -1; allowed: 0 to 1"),
        (lambda: memory("secded"), "^protection is 'secded' .str.; allowed: Parity"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_one_protected_bit_is_detected_and_not_corrected():
    code = Parity(planes=1).code(8)
    assert not code.corrects
    assert decoded(code, [77], [(0, 7)]) == [0]
    assert decoded(code, [77], [], [0]) == [0]
    assert decoded(code, [77], [(0, 3)]) == [77 ^ 8]


def test_moments_of_a_protected_measured_map_are_estimated():
    """Weak rows: faults cluster in codewords, which moments of single words do not know."""
    thresholds = np.full((64, 64), np.inf)
    thresholds[[3, 20, 41]] = 1e-3
    device = memory(SECDED(), fault_map=MeasuredMap.from_thresholds(thresholds))
    assert not device.states_moments and not device.smooth
    stored = device.store(torch.linspace(-1, 1, 512))
    moments = device.moments(stored, 2e-3)
    assert moments.estimate is not None
    ideal = device.ideal(stored)
    found = [
        float((device.read(stored, 2e-3, Chip(seed=s)) - ideal).square().mean()) for s in range(300)
    ]
    stated = float((moments.var + (moments.mean - ideal) ** 2).mean())
    error = np.std(found, ddof=1) * (1 / 300 + 1 / device.moment_chips) ** 0.5
    assert abs(np.mean(found) - stated) < Z * error
    check_device(device, seed=4)


def test_references_have_the_check_cells():
    law = VoltageTable(rows=LAW.rows, source="made up", v_nominal=1.0)
    traffic = Traffic(words=64, reads=64, writes=0)
    for protection in (None, SECDED(decode_j=1e-12)):
        device = SRAM(fault=Flip(), law=law, knob="v_dd", protection=protection)
        nominal = device.reference_energies(traffic)["nominal supply"]
        assert nominal == pytest.approx(float(device.energy(traffic, 1.0)))
