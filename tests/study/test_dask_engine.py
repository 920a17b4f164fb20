"""Dask workers: the figures of any other engine, weights shipped once, addresses refused."""

import pytest

from joulewise.errors import InputError
from joulewise.study.dask_engine import DaskWorkers
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from study_figures import SMALL, figures


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_figures_are_those_of_this_process(tmp_path):
    file = StudyFile.model_validate(SMALL)
    Study(file, tmp_path / "here").run()
    engine = DaskWorkers(workers=1)
    try:
        assert Study(file, tmp_path / "dask").run(engine) == {}
    finally:
        engine.close()
    assert figures(tmp_path / "dask") == figures(tmp_path / "here")


def test_a_scheduler_that_is_not_there_is_named():
    with pytest.raises(InputError, match="tcp://127.0.0.1:1 cannot be reached"):
        DaskWorkers("tcp://127.0.0.1:1")
