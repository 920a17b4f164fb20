"""Dask workers: the figures of any other engine, weights shipped once, addresses refused."""

import os

import pytest

import joulewise as jw
from joulewise.data import load_digits
from joulewise.errors import InputError
from joulewise.models import build
from joulewise.study import dask_engine
from joulewise.study.dask_engine import DaskWorkers
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from study_figures import SMALL, figures


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_figures_are_those_of_this_process(tmp_path):
    file = StudyFile.model_validate(SMALL)
    Study(file, tmp_path / "here").run()
    digits = load_digits()
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    placement = jw.place(model, weights=jw.SRAM(bits=8))
    given = {"at": {"eta": 0.4}, "chips": 20}
    engine = DaskWorkers(workers=1)
    try:
        assert Study(file, tmp_path / "dask").run(engine) == {}
        assert engine.executor().submit(os.getenv, "MALLOC_MMAP_MAX_").result() == "0"
        spread = jw.simulate(placement, digits.test, executor=engine.executor(), **given)
    finally:
        engine.close()
    assert figures(tmp_path / "dask") == figures(tmp_path / "here")
    assert spread.values == jw.simulate(placement, digits.test, **given).values


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_clusters_at_once():
    """Neither warns of a port of the other's."""
    engines = [DaskWorkers(workers=1) for _ in range(2)]
    try:
        found = [engine.executor().submit(abs, -number) for number, engine in enumerate(engines)]
        assert [one.result() for one in found] == [0, 1]
    finally:
        for engine in engines:
            engine.close()


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(dask_engine, "_CONNECT_S", 1)
    with pytest.raises(InputError, match="tcp://127.0.0.1:1 cannot be reached"):
        DaskWorkers("tcp://127.0.0.1:1")
