"""Loggers by the libraries' own interfaces, which stand-ins record here."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from joulewise.errors import InputError
from joulewise.study.loggers import logger_of
from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile
from study_figures import SMALL

FILE = {**SMALL, "memories": ["sram"], "goals": [], "chips": 2}


def stand_in(monkeypatch, name, **members):
    module = ModuleType(name)
    for member, value in members.items():
        setattr(module, member, value)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def calls(monkeypatch):
    """Calls of the three libraries, as tuples of the library and the figures' names."""
    found = []

    class Writer:
        def __init__(self, folder):
            found.append(("tensorboard", folder))

        def add_scalar(self, name, value, step):
            found.append(("tensorboard", name, value, step))

        def close(self):
            found.append(("tensorboard", "closed"))

    class Active:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    stand_in(
        monkeypatch,
        "mlflow",
        set_experiment=lambda name: found.append(("mlflow", name)),
        start_run=lambda run_name: found.append(("mlflow", run_name)) or Active(),
        log_params=lambda names: found.append(("mlflow", names)),
        log_metrics=lambda figures, step: found.append(("mlflow", figures, step)),
    )
    run = SimpleNamespace(
        log=lambda figures, step: found.append(("wandb", figures, step)),
        finish=lambda: found.append(("wandb", "finished")),
    )
    stand_in(monkeypatch, "wandb", init=lambda **how: found.append(("wandb", how)) or run)
    return found


def test_each_trial_is_logged(tmp_path, calls):
    loggers = [logger_of(f"tensorboard:{tmp_path}/log"), logger_of("mlflow"), logger_of("wandb:p")]
    assert Study(StudyFile.model_validate(FILE), tmp_path / "study").run(loggers=loggers) == {}
    scalars = {call[1] for call in calls if call[0] == "tensorboard" and len(call) == 4}
    assert any(name.endswith("/curve/mean") for name in scalars)
    assert any(name.endswith("/train/loss") for name in scalars)
    params = [call[1] for call in calls if call[0] == "mlflow" and isinstance(call[1], dict)]
    assert {"model": "mlp", "kind": "curve"}.items() <= params[-3].items()
    assert [call for call in calls if call == ("wandb", "finished")] == [("wandb", "finished")] * 2


def test_a_logger_that_fails_loses_nothing(tmp_path, calls):
    logger = logger_of("mlflow")
    logger.log = lambda names, series: 1 / 0
    study = Study(StudyFile.model_validate(FILE), tmp_path / "study")
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert study.run(loggers=[logger]) == {}
    assert study.workload().done == 2


def test_loggers_that_are_none(monkeypatch):
    with pytest.raises(InputError, match="log is 'csv'; allowed: tensorboard:FOLDER"):
        logger_of("csv")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        logger_of("wandb")
