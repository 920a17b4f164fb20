"""One small study, which the tests of its page share."""

import pytest

from joulewise.study.study import Study
from joulewise.study.study_file import StudyFile

_FILE = {
    "question": "Which <network>?",
    "data": {"source": "digits", "images": 200},
    "models": ["mlp"],
    "training": [
        {"method": "sgd", "epochs": 2, "lr": 0.1, "label": "plain"},
        {"method": "sgd", "epochs": 2, "lr": 0.1, "clip": 2.0, "label": "clipped"},
    ],
    "memories": ["sram"],
    "points": ["eta=1", "eta=0.5", "eta=0.3", "eta=0.15"],
    "goals": ["error=0.05"],
    "chips": 20,
    "samples": 100,
}


@pytest.fixture(scope="package")
def study(tmp_path_factory):
    one = Study(StudyFile.model_validate(_FILE), tmp_path_factory.mktemp("study"))
    assert one.run() == {}
    return one
