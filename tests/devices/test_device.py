import pytest
import torch

from joulewise.devices import (
    PCM,
    SRAM,
    Array,
    Chip,
    CorrelatedMap,
    Crossbar,
    Device,
    ExponentialLaw,
    Flip,
    MeasuredMap,
    Stuck,
    VoltageTable,
    check_device,
)
from joulewise.errors import InputError


def test_a_device_that_does_not_hold_activations_says_so():
    with pytest.raises(NotImplementedError, match="^SRAM does not hold activations$"):
        Device.round_trip(SRAM(), torch.zeros(1, 2), 0.5, None, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SRAM(fault="flip"), "fault is 'flip' .str.; allowed: Mask"),
        (lambda: SRAM(fault=Flip), "fault is the class Flip; allowed: Mask"),
        (lambda: SRAM(law="x.csv"), "law is 'x.csv' .str.; allowed: ExponentialLaw"),
        (lambda: SRAM(fault_map=None), "fault_map is None .NoneType.; allowed: Independ"),
        (lambda: SRAM(bits="8"), "bits is '8'; allowed: a whole number, 2 to 16"),
        (lambda: SRAM(bits=True), "bits is True; allowed: a whole number"),
        (lambda: SRAM(limit="1"), "limit is '1' .str.; allowed: a number, above 0"),
        (lambda: SRAM(channel_dim=0.5), "channel_dim is 0.5 .float.; allowed: an axis"),
        (lambda: ExponentialLaw(a="12"), "a is '12' .str.; allowed: a number, above 0"),
        (lambda: VoltageTable(rows=((0.5, 1e-14, 0.1),) * 2, source=""), "a row is of type tuple"),
        (lambda: VoltageTable.from_csv(5), "the path of the voltage table is 5 .int."),
        (lambda: CorrelatedMap(row="0.2"), "row is '0.2' .str.; allowed: a number, 0 to"),
        (lambda: CorrelatedMap(columns=64.5), "columns is 64.5; allowed: a whole number"),
        (
            lambda: MeasuredMap(rows=1, columns=8, cells=0.1, thresholds=(0.1,)),
            "cells is 0.1",
        ),
        (lambda: Stuck(at_one=None), "at_one is None .NoneType.; allowed: a number"),
        (lambda: Crossbar(sigma="1e-6"), "sigma is '1e-6' .str.; allowed: a number"),
        (lambda: Crossbar(clip="no"), "clip is 'no' .str.; allowed: True or False"),
        (lambda: Crossbar(g_range=1e-5), "g_range is 1e-05 .float.; allowed: two numbers"),
        (lambda: Crossbar(g_range=(1e-7, "1e-3")), "g_range is '1e-3' .str.; allowed: a"),
        (lambda: Crossbar(array=64), "array is 64 .int.; allowed: an Array"),
        (lambda: Crossbar(readout="isaac"), "readout is 'isaac' .str.; allowed: ISAAC"),
        (lambda: Crossbar(levels="16"), "levels is '16'; allowed: a whole number, 1 to"),
        (lambda: Array(rows="64"), "rows is '64'; allowed: a whole number, 1 to"),
        (lambda: PCM(drift=1), "drift is 1 .int.; allowed: True or False"),
        (lambda: PCM(devices=True), "devices is True; allowed: a whole number, 1 to 1000"),
        (lambda: PCM(time_range=(1.0,)), r"time_range is \(1.0,\); allowed: two numbers of sec"),
        (lambda: Chip(seed="0"), "seed is '0' .str.; allowed: a number, 0 to"),
        (lambda: check_device(SRAM(), chips="5"), "chips is '5' .str.; allowed: a number"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(make, message):
    with pytest.raises(InputError, match=f"^{message}") as refusal:
        make()
    assert "\n" not in str(refusal.value)
