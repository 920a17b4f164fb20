"""Checks before the first trial: memories that cannot be built, and levels they do not have."""

import pytest

from joulewise.errors import InputError
from joulewise.study.checks import check_study
from joulewise.study.study_file import StudyFile

MAP = "sram:fault_map=measured,fault_map.path={},fault_map.rows=2,fault_map.columns=8"


@pytest.fixture
def weak(tmp_path):
    path = tmp_path / "weak.csv"
    path.write_text("row,column,bit_error_rate\n0,3,0.1\n")
    return MAP.format(path)


def check(**fields):
    plain = {"models": ["mlp"], "training": ["sgd"], "memories": ["sram"], **fields}
    check_study(StudyFile.model_validate(plain))


def test_levels_where_moments_have_no_gradient(weak):
    check(memories=["sram", weak])  # a curve needs none
    check(memories=["sram", weak], goals=["drop=1pp"], granularities=["tensor:levels=0.4+1"])
    said = r"granularities\[1\].levels is empty; allowed: operating points on eta: the moments of "
    said += r"memories\[1\] \(8-bit SRAM, mask, measured .*\) have no gradient"
    levels = ["network:levels=0.4+1", "tensor"]
    for asked in ({"goals": ["drop=1pp"]}, {"front": 3}):
        with pytest.raises(InputError, match=said):
            check(memories=["sram", weak], granularities=levels, **asked)


def test_levels_are_on_the_knob_of_each_memory():
    both = ["sram", "crossbar:sigma=1e-6"]
    with pytest.raises(InputError, match=r"^granularities\[0\].levels of memories\[1\] .*: g_max"):
        check(memories=both, goals=["drop=1pp"], granularities=["tensor:levels=0.4+1"])
    with pytest.raises(InputError, match=r"^granularities\[0\]: rails is 2, beside levels; allow"):
        check(front=3, granularities=["tensor:levels=0.4+1,rails=2"])


def test_memories_of_ones_own_and_a_common_range(tmp_path):
    (tmp_path / "mine.py").write_text("def make():\n    return 5\n")
    own = f"custom:factory={tmp_path}/mine.py:make"
    with pytest.raises(InputError, match=r"^memories\[0\]: what .* returns is 5 \(int\); allowed"):
        check(memories=[own])
    with pytest.raises(InputError, match=r"^memories\[1\]: place.common_range is true, and the ra"):
        check(memories=["sram", own], place="common_range=true")


def test_accesses_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("name,reads,writes\nfc,x,0\n")
    with pytest.raises(InputError, match=r"^place.accesses: .*a.csv, line 2 is 'fc,x,0'; allowed"):
        check(place={"accesses": str(tmp_path / "a.csv")})
