"""Words of different ages in memories that fade between refreshes."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from joulewise.devices import DRAM, EDRAM, SECDED, SRAM, Alternatives, Chip, Flip, Retention, law
from joulewise.devices.aged_memory import AgedMemory
from joulewise.devices.spare_rows import SpareRows
from joulewise.errors import InputError

RETENTION = Retention(median_s=1e-3, log_std=0.5, source="made up")
MEMORY = EDRAM(retention=RETENTION, fault=Flip(), step_s=1e-4)
AGES = torch.tensor([0.0, 3e-4, 5e-4, 8e-4, 2e-3], dtype=torch.float64)
AGED = AgedMemory(memory=MEMORY, ages_s=AGES)


def wrong_cells(device, point, *, words=4000, chip=3, held=None):
    """Cells that read wrongly, ``[rows, words, bits]``, where all words are 0."""
    read = device.round_trip(
        torch.zeros(1, len(AGES), words), point, Chip(seed=chip), 127.0, words=held
    )
    return (read[0].round().long()[..., None] >> torch.arange(8)) & 1


@pytest.mark.parametrize(
    "memory",
    [MEMORY, DRAM(retention=RETENTION, fault=Flip(), step_s=1e-4, refresh_range=(1e-4, 1e-2))],
    ids=["EDRAM", "DRAM"],
)
@pytest.mark.parametrize("interval", [4e-4, 1e-3])
def test_rates_are_those_of_the_age_up_to_the_interval(memory, interval):
    aged = AgedMemory(memory=memory, ages_s=AGES)
    found = wrong_cells(aged, interval).double().mean((1, 2))
    for rate, age in zip(found, AGES, strict=True):
        expected = stats.lognorm.cdf(min(float(age), interval), s=0.5, scale=1e-3)
        error = (expected * (1 - expected) / (4000 * 8)) ** 0.5
        assert float(rate) == pytest.approx(expected, abs=4 * error)


def test_a_lost_bit_stays_lost():
    """Older rows of the same cells, and longer intervals, lose more of the same bits."""
    for longer, shorter in ((1e-3, 1e-3), (9e-4, 5e-4)):
        last = None
        for step in (1.0, 1.5, 4.0):
            aged = replace(AGED, ages_s=AGES * step)
            now = wrong_cells(aged, longer)
            assert (now >= wrong_cells(aged, shorter)).all()
            assert last is None or (now >= last).all()
            last = now


def test_each_row_reads_as_a_memory_with_that_lifetime():
    inputs = torch.randn(2, len(AGES), 50, generator=torch.Generator().manual_seed(0))
    chip, point = Chip(seed=1), torch.linspace(3e-4, 1e-3, 8, dtype=torch.float64)
    for at in (6e-4, point):  # one interval, and one for each bit plane
        read = AGED.round_trip(inputs, at, chip, 3.0)
        for row, age in enumerate(AGES):
            same = replace(MEMORY, lifetime_s=max(float(age), 1e-12))
            expected = same.round_trip(inputs, at, chip, 3.0)
            assert torch.equal(read[:, row], expected[:, row])
        first = AGED.round_trip(inputs[:, :3], at, chip, 3.0, words=inputs[0].numel())
        assert torch.equal(first, read[:, :3])


@pytest.mark.parametrize("size", [0.1, 1.0])
def test_moments_are_those_of_reads(size):
    """Also where no value comes near the limit."""
    inputs = torch.randn(2, len(AGES), 30, generator=torch.Generator().manual_seed(0)).double()
    inputs *= size
    stored, at = AGED.store(inputs, limit=3.0), torch.tensor(7e-4, dtype=torch.float64)
    found = AGED.moments(stored, at)
    chips = 2000
    reads = torch.stack([AGED.read(stored, at, Chip(seed=seed)) for seed in range(chips)])
    error = (found.var / chips).sqrt()
    assert ((reads.mean(0) - found.mean).abs() <= 5 * error + 1e-12).all()
    var, mean = reads.var(0).mean((0, 2)), found.var.mean((0, 2))
    # Rows of 60 words; a word's variance has a kurtosis of up to some tens.
    assert torch.allclose(var, mean, rtol=5 * (40 / (60 * chips)) ** 0.5, atol=1e-15)


def test_gradients_are_finite_at_age_0():
    stored = AGED.store(torch.ones(1, len(AGES), 3), limit=3.0)
    at = torch.tensor(7e-4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(AGED.moments(stored, at).var.sum(), at)
    assert torch.isfinite(found) and found != 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DRAM(step_s=0.1, knob="v_dd", law=law("chang2017-ddr3l-c")),
            "^step_s is given beside the knob v_dd",
        ),
        (lambda: EDRAM(step_s=0.0), "^step_s is 0; allowed: above 0"),
        (lambda: EDRAM(step_s=1e-3, fault_map=SpareRows()), "^step_s is given beside a prot"),
        (
            lambda: DRAM(step_s=0.1, protection=SECDED(), fault=Flip()),
            "^step_s is given beside a prot",
        ),
        (
            lambda: Alternatives(memories=((EDRAM(step_s=1e-3), (1e-4,)), (SRAM(), (0.5,)))),
            "^step_s of a memory is 0.001; allowed: None",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_described_where_it_is_given():
    assert MEMORY.describe()["step_s"] == 1e-4
    assert "step_s" not in EDRAM().describe()
