"""Memories as plain data: short forms, refusals, and the devices that they build."""

import pytest
from pydantic import TypeAdapter, ValidationError

from joulewise.devices import PROFILES, SRAM, Crossbar, Flip
from joulewise.study.memories import LAWS, Memory

_ADAPTER = TypeAdapter(Memory)


def memory(value):
    return _ADAPTER.validate_python(value)


def test_laws_are_those_of_the_devices():
    assert set(LAWS) == set(PROFILES)


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
    for text in ("sram:fault=stuck", "crossbar:levels=15", "pcm:compensate=false"):
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
