"""The self-check accepts every device of ours, and refuses planted errors by name."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gaussian_memory import GaussianMemory
from joulewise.devices import (
    DRAM,
    EDRAM,
    PCM,
    SRAM,
    Array,
    CorrelatedMap,
    Crossbar,
    Flip,
    ReadMoments,
    Stuck,
    check_device,
)
from joulewise.errors import DeviceError, InputError

DEVICES = {
    "mask": SRAM(bits=8),
    "flip": SRAM(bits=8, fault=Flip()),
    "stuck": SRAM(bits=6, fault=Stuck()),
    "channels": SRAM(bits=8, channel_dim=0),
    "correlated": SRAM(bits=8, fault_map=CorrelatedMap(row=0.2, column=0.2, cluster=0.2)),
    "crossbar": Crossbar(sigma=1e-6),
    "variability": Crossbar(variability=0.1, clip=False),
    "array": Crossbar(sigma=1e-6, array=Array(rows=16, output_bits=8)),
    "pcm": PCM(),
    "dram": DRAM(),
    "edram": EDRAM(),
}


@pytest.mark.parametrize("name", DEVICES)
def test_our_devices_pass(name):
    found = check_device(DEVICES[name], seed=11)
    assert found.moments and found.largest < 5
    assert "standard errors" in repr(found)


def test_a_right_device_is_refused_no_more_often_than_chance():
    """In 40 runs with 2 x 8 x 6 comparisons none beyond 5 standard errors, and a normal spread."""
    values = [
        check.standard_errors
        for seed in range(40)
        for check in check_device(Crossbar(sigma=1e-6), chips=50, seed=1000 * seed).moments
    ]
    assert len(values) > 2000
    assert abs(np.std(values) - 1) < 0.1
    assert abs(np.mean(values)) < 0.1


@dataclass(frozen=True)
class Scaled(SRAM):
    """Variances of a tenth."""

    def moments(self, stored, point):
        moments = super().moments(stored, point)
        return ReadMoments(mean=moments.mean, var=0.1 * moments.var)


@dataclass(frozen=True)
class Inherited(SRAM):
    """Reads of its own, and the moments of a masked SRAM."""

    def read(self, stored, point, chip):
        return SRAM(bits=8, fault=Flip()).read(stored, point, chip)


@dataclass(frozen=True)
class Restless(SRAM):
    def read(self, stored, point, chip) -> Tensor:
        return stored.values + torch.rand(())


@dataclass(frozen=True)
class Free(SRAM):
    def energy(self, traffic, point):
        return torch.tensor(-1.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Scaled(bits=8), r"the variance of Scaled at eta .* standard errors apart"),
        (Inherited(bits=8), r"the (mean|variance) of Inherited at eta .* standard errors apart"),
        (Restless(bits=8), "a read of Restless .* is another one when it is repeated"),
        (Free(bits=8), r"the energy of Free at eta .* is -1\.0; allowed: one finite number"),
    ],
    ids=["variance", "inherited", "not repeatable", "negative energy"],
)
def test_wrong_devices_are_refused_by_name(device, said):
    with pytest.raises(DeviceError, match=said):
        check_device(device)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(InputError, match="device is 'sram' .str.; allowed: a Device"):
        check_device("sram")
    with pytest.raises(InputError, match="chips is 3; allowed: 20 to"):
        check_device(SRAM(), chips=3)


def test_noise_that_is_drawn_anew_has_to_be_declared():
    class Telegraph(GaussianMemory):
        def read(self, stored, point, chip):
            signs = chip.fresh("telegraph").integers(0, 2, stored.shape)
            return stored + 0.01 * torch.from_numpy(2.0 * signs - 1)

    class Declared(Telegraph):
        fresh = True

    with pytest.raises(DeviceError, match="fresh of Telegraph is False, and reads differ"):
        check_device(Telegraph(), chips=20)
    check_device(Declared(), chips=20)
