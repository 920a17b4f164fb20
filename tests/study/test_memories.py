"""Memories as plain data: short forms, refusals, and the devices that they build."""

import pytest
from pydantic import TypeAdapter, ValidationError

from joulewise.devices import (
    DRAM,
    EDRAM,
    PROFILES,
    RERAM,
    SECDED,
    SRAM,
    CorrelatedMap,
    Crossbar,
    FaultMeasurement,
    Flip,
    SpareRows,
)
from joulewise.errors import InputError
from joulewise.study.analog_memories import PROGRAMMING_TABLES
from joulewise.study.memories import Memory
from joulewise.study.word_memories import DRAM_LAWS, LAWS

_ADAPTER = TypeAdapter(Memory)


def memory(value):
    return _ADAPTER.validate_python(value)


def test_laws_are_those_of_the_devices():
    assert {*LAWS, *DRAM_LAWS} == set(PROFILES)


def test_a_short_form_is_the_mapping():
    short = memory("sram:bits=6,fault=flip,fault.zero_to_one=0.5")
    long = {"kind": "sram", "bits": 6, "fault": {"kind": "flip", "zero_to_one": 0.5}}
    assert short == memory(long)
    device = short.build()
    assert isinstance(device, SRAM)
    assert device.bits == 6
    assert device.fault == Flip(zero_to_one=0.5)


def test_a_kind_alone_has_the_defaults():
    assert memory("sram").build() == SRAM()
    assert isinstance(memory("crossbar").build(), Crossbar)


def test_arrays_have_fields_of_their_own():
    assert memory("crossbar:sigma=1e-6,array.rows=128").build().array.rows == 128


def test_a_file_holds_one_memory(tmp_path):
    path = tmp_path / "memory.yaml"
    path.write_text("kind: pcm\ndevices: 2\n")
    assert memory(str(path)).build().devices == 2


def test_a_memory_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import joulewise as jw\ndef make():\n    return jw.SRAM(bits=5)\n")
    own = memory({"kind": "custom", "factory": f"{file}:make"})
    assert own.build().bits == 5
    assert own.name == "make"
    file.write_text("def make():\n    return 5\n")
    with pytest.raises(ValueError, match="returns is 5 .int.; allowed: a joulewise.Device"):
        own.build()


def test_a_plain_dump_gives_the_memory_back():
    texts = ["sram:fault=stuck", "crossbar:levels=15", "pcm:compensate=false", "dram", "edram"]
    texts += ["dram:law=chang2017-ddr3l-c", "edram:lifetime_s=1e-4", "sram:fault_map=correlated"]
    texts += ["sram:fault=flip,protection=secded", "crossbar:programming=milo2021,on_off=4"]
    texts += ["sram:fault_map=spare_rows,fault_map.spares=3"]
    for text in texts:
        assert memory(memory(text).model_dump(mode="json")) == memory(text)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("rram", "rram"),
        ("sram:bits=99", "less than or equal to 16"),
        ("sram:bits", "unclear at 'bits'"),
        ("sram:bits=6,bits=7", "given twice"),
        ("sram:sigma=1e-6", "is not a field; allowed: "),
        ("sram:fault=mask,fault.at_one=1", "is not a field; allowed: "),
        ("sram:law=unknown", "allowed: exponential"),
        ("sram:law=measured", "allowed: that with fault_map.kind measured"),
        ("sram:v_min=0.5", "v_nominal and v_min are those of a table"),
        ("sram:law=chang2017-ddr3l-c", "allowed: exponential"),
        ("dram:law=exponential", "allowed: chang2017-ddr3l-c, or a table FILE.csv"),
        ("edram:refresh_s=1", "is not a field; allowed: "),
        ("sram:protection=secded", "fault is mask beside a protection; allowed: flip or stuck"),
        ("sram:fault=flip,protection=ecc", "secded"),
        ("sram:fault=flip,bits=4,protection=secded,protection.planes=5", "allowed: at most 4"),
        ("crossbar:programming=wan", "allowed: wan2022-1s, "),
        ("crossbar:programming=milo2021,sigma=1e-6", "allowed: one of them"),
        ("crossbar:slices=2", "levels is missing"),
        ("crossbar:on_off=1", "greater than 1"),
        ("crossbar:g_min=1e-6,on_off=9", "g_min stands beside on_off; allowed: one of them"),
        ("crossbar:wire_ohm=1", "the default; allowed: beside wire_ohm, another that ends at"),
        ("crossbar:wire_ohm=1,g_range=1e-5", "g_range is 1e-05; allowed: two, such as 1e-6.1e-4"),
        ("crossbar:wire_ohm=1,g_range=1e-6+1e-4,mapping=offset", "mapping is offset beside wire_o"),
        ("crossbar:wire_ohm=1,g_range=1e-4+1e-6", "two that ascend"),
        ("crossbar:variability=2", "less than or equal to 1"),
        ("sram:knob=v_dd", "allowed: eta or bit_error_rate"),
        ("sram:latency_s=1", "allowed: above 0 for salami2018"),
        ("sram:fault=flip,fault.zero_to_one=0,fault.one_to_zero=0", "allowed: one above 0"),
        ("sram:fault_map=correlated,fault_map.row=0.6,fault_map.column=0.5", "at most 0.9"),
        ("sram:fault_map=spare_rows,fault_map.spares=9,fault_map.rows=9", "below the 9 rows"),
        ("sram:fault_map=measured,fault_map.path=a.csv,fault_map.columns=12", "a multiple of the"),
        ("dram:refresh_s=1", "refresh_s is the knob"),
        ("crossbar:stuck_on=0.7,stuck_off=0.7", "allowed: 1 or less"),
        ("edram:lifetime_s=0", "greater than 0"),
        ("crossbar:sigma=nan", "finite"),
        ("missing.yaml", "cannot be read"),
        (3, "valid dictionary"),
    ],
)
def test_refusals(value, said):
    with pytest.raises(ValidationError, match=said):
        memory(value)


def test_names_are_short():
    assert memory("sram").name == "8-bit SRAM, mask"
    assert memory({"kind": "sram", "label": "mine"}).name == "mine"


def test_broken_yaml_is_named(tmp_path):
    path = tmp_path / "memory.yaml"
    path.write_text("kind: [sram")
    with pytest.raises(ValueError, match="is not YAML"):
        memory(str(path))


def test_dynamic_memories():
    assert memory("dram").build() == DRAM()
    assert memory("edram").build() == EDRAM()
    device = memory("dram:law=chang2017-ddr3l-c,refresh_s=0.2,bits=4").build()
    assert device == DRAM(bits=4, law=PROFILES["chang2017-ddr3l-c"], knob="v_dd", refresh_s=0.2)
    assert memory("edram:lifetime_s=1e-4,latency_s=1").build() == EDRAM(
        lifetime_s=1e-4, latency_s=1.0
    )
    assert memory("dram").knobs == (DRAM().knob.name,)
    assert memory("dram:law=chang2017-ddr3l-c").knobs == (device.knob.name,)
    assert (
        memory("edram:lifetime_s=1e-4").name == "8-bit eDRAM, stuck, at one 0.0, lifetime s 0.0001"
    )


def test_correlated_columns_of_interleaved_words():
    entry = memory(
        "sram:fault_map=correlated,fault_map.column=0.5,fault_map.rows=512,fault_map.words=2,"
        "fault_map.layout=interleaved"
    )
    assert entry.build().fault_map == CorrelatedMap(
        column=0.5, rows=512, columns=16, cluster_columns=2, layout="interleaved"
    )


def test_a_measurement_gives_map_and_law(tmp_path):
    file = tmp_path / "cells.csv"
    file.write_text("row,column,v_dd,array\n0,3,0.6,0\n1,0,0.5,1\n")
    with pytest.raises(InputError, match=r"missing.csv cannot be read"):
        memory("sram:fault_map=measured,fault_map.path=missing.csv").build()
    text = (
        f"sram:law=measured,knob=v_dd,v_nominal=1.0,fault_map=measured,fault_map.path={file},"
        "fault_map.rows=2,fault_map.columns=8,fault_map.arrays=2"
    )
    entry = memory(text)
    found = FaultMeasurement.from_csv(file, rows=2, columns=8, arrays=2)
    law = found.law(v_nominal=1.0)
    assert entry.build() == SRAM(law=law, fault_map=found.fault_map(), knob="v_dd")
    assert entry.files == (file,)
    file.write_text("row,column,bit_error_rate\n0,3,0.1\n")
    with pytest.raises(ValueError, match=r"states no supplies; allowed: a file with the column"):
        entry.build()
    for setting in ("law=measured,", "knob=v_dd,", "v_nominal=1.0,"):
        text = text.replace(setting, "")
    assert memory(text).build().fault_map.arrays == 2


def test_a_path_with_a_plus_stands_in_quotes(tmp_path):
    file = tmp_path / "a+b.csv"
    file.write_text("row,column,bit_error_rate\n0,3,0.1\n")
    entry = memory(f"sram:fault_map=measured,fault_map.path='{file}'")
    assert entry.build().fault_map.cells == (3,)


def test_block_rams_of_a_folder(tmp_path):
    for volts, first in (("0.55", "FEFE"), ("0.54", "FCFC")):
        (tmp_path / f"board-{volts}.bin").write_text(first + "F" * 4092)
    device = memory(f"sram:law=measured,fault_map=measured,fault_map.path={tmp_path}").build()
    assert device.law.ends("v_dd") == (0.54, 0.55)
    assert device.fault_map.layout == "interleaved"


def test_protections_and_repairs():
    entry = memory("sram:fault=flip,protection=secded,protection.words=4,protection.planes=3")
    assert entry.build() == SRAM(fault=Flip(), protection=SECDED(words=4, planes=3))
    assert entry.name == "8-bit SRAM, flip, secded planes 3, words 4"
    repaired = memory("sram:fault_map=spare_rows,fault_map.rows=64,fault_map.words=4").build()
    assert repaired.fault_map == SpareRows(rows=64, columns=32)


def test_crossbars_of_real_devices(tmp_path):
    text = "crossbar:levels=3,slices=2,stuck_on=0.01,on_off=20,mapping=offset"
    assert memory(text).build() == Crossbar(
        levels=3, slices=2, stuck_on=0.01, on_off=20.0, mapping="offset"
    )
    wired = memory("crossbar:sigma=1e-6,wire_ohm=1,g_range=1e-6+1e-4").build()
    assert wired == Crossbar(sigma=1e-6, wire_ohm=1.0, g_range=(1e-6, 1e-4))
    assert set(PROGRAMMING_TABLES) == set(RERAM)
    published = memory("crossbar:programming=wan2022-1day")
    assert published.build().programming is RERAM["wan2022-1day"]
    assert published.files == ()
    file = tmp_path / "mine.csv"
    file.write_text("target_siemens,mean_siemens,std_siemens\n0,1e-7,1e-7\n1e-5,9e-6,5e-7\n")
    own = memory(f"crossbar:programming={file}")
    assert own.build().programming.stds == (1e-7, 5e-7)
    assert own.files == (str(file),)
