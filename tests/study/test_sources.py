"""Content behind names: files with new content are other trials, whatever their names."""

import pytest

from joulewise.devices import fault_measurement
from joulewise.errors import DataError
from joulewise.study.compute import compute
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from study_figures import SMALL

CELLS = "row,column,v_dd\n0,0,0.5\n{},1,0.6\n"


def study(folder, **changes):
    return Study(StudyFile.model_validate({**SMALL, "goals": [], **changes}), folder)


def measured(path, **own):
    at = {"kind": "measured", "path": str(path), "rows": 2, "columns": 8}
    return {"kind": "sram", "fault_map": at, **own}


def law(path, content):
    text = "v_dd,energy_per_bit_j,bit_error_rate\n0.5,1e-14,{}\n1,2e-14,1e-6\n"
    path.write_text(text.format((0.1, 0.2)[content]))
    return {"memories": [{"kind": "sram", "law": str(path)}]}


def cells(path, content):
    path.write_text(CELLS.format(content))
    return {"memories": [measured(path)]}


def block_rams(path, content):
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    (folder / "b-0.54.bin").write_text(("FEFE", "FDFD")[content] + "F" * 4092)
    return {"memories": [measured(folder)]}


def programming(path, content):
    text = "target_siemens,mean_siemens,std_siemens\n0,1e-7,1e-7\n1e-5,9e-6,{}e-7\n"
    path.write_text(text.format(5 + content))
    return {"memories": [{"kind": "crossbar", "programming": str(path)}], "points": []}


def accesses(path, content):
    path.write_text(f"name,reads,writes\nfeatures.1.weight,{content + 1}e5,0\n")
    return {"place": {"accesses": str(path)}}


@pytest.mark.parametrize("named", [law, cells, block_rams, programming, accesses])
def test_a_colon_in_a_path_makes_it_no_code(tmp_path, named):
    (tmp_path / "C:").mkdir()
    digests = [
        [
            cell.trial.digest
            for cell in study(
                tmp_path / "out", **named(tmp_path / "C:" / "m:v1.csv", content)
            ).cells
            if cell.trial.kind == "evaluate"
        ]
        for content in (0, 1)
    ]
    assert digests[0]
    assert not {*digests[0]} & {*digests[1]}


def test_files_that_change_during_a_study_are_refused(tmp_path):
    file = tmp_path / "m.csv"
    one = study(tmp_path / "out", **cells(file, 0), training=[{"perfect": True}])
    trial = one.cells[0].trial
    file.write_text(CELLS.format(1))
    with pytest.raises(DataError, match="the files of 8-bit SRAM, .* have changed; run the study"):
        compute(trial)


def test_files_are_parsed_once_for_a_study(tmp_path, monkeypatch):
    calls, read = [], fault_measurement.read_cells
    monkeypatch.setattr(
        fault_measurement, "read_cells", lambda *a, **k: calls.append(a) or read(*a, **k)
    )
    file = tmp_path / "m.csv"
    own = {"law": "measured", "knob": "v_dd"}
    more = {"place": {"store": "both"}, "points": ["v_dd=0.55"]}
    for content in (0, 1):
        file.write_text(CELLS.format(content))
        one = study(tmp_path / "out", memories=[measured(file, **own)], **more)
        assert one.run() == {}
    assert len(calls) == 2
